import { HttpError } from '@influxdata/influxdb-client';
import { SpillwayError } from '../../core/errors.ts';

/**
 * InfluxDB cannot be reached, is overloaded or does not let us in. The same call may succeed later; no
 * part of it is lost, and repeating it is harmless.
 */
export class InfluxUnavailableError extends SpillwayError {
  constructor(message: string, options?: { cause?: unknown }) {
    super('STORE_UNAVAILABLE', message, options);
    this.name = 'InfluxUnavailableError';
  }
}

/** InfluxDB understood the query and refused it: its own words. */
export class InfluxQueryError extends Error {
  constructor(message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = 'InfluxQueryError';
  }
}

/** What a failed request asks for. */
export type Verdict =
  /** The data or query itself: 400, 413, 422. */
  | 'refused'
  /** Credentials, organization or bucket: waiting a moment does not help, an operator does. */
  | 'denied'
  /** Network, overload, restart: the same request again. */
  | 'again';

export function verdictOf(error: unknown): Verdict {
  const status = statusOf(error);
  if (status === 413) return 'refused';
  // Only in the database's own form: what a proxy dislikes must not become a heap of dead letters.
  if (status === 400 || status === 422) return isFromDatabase(error) ? 'refused' : 'again';
  if (status === 401 || status === 403 || status === 404) return 'denied';
  return 'again';
}

function isFromDatabase(error: unknown): boolean {
  return error instanceof HttpError && typeof error.json?.code === 'string';
}

export function statusOf(error: unknown): number | undefined {
  return error instanceof HttpError ? error.statusCode : undefined;
}

/**
 * How long the server asks us to stay away, ms: `Retry-After` in seconds or as a date (RFC 9110,
 * 10.2.3). The client's own `retryAfter()` takes the seconds for milliseconds.
 */
export function retryAfterMs(error: unknown, now: number): number | undefined {
  if (!(error instanceof HttpError)) return undefined;
  const header = error.headers?.['retry-after'];
  const text = Array.isArray(header) ? header[0] : header;
  if (text === undefined) return undefined;
  if (/^\d+$/.test(text.trim())) return Number(text) * 1_000;
  const at = Date.parse(text);
  return Number.isNaN(at) ? undefined : Math.max(0, at - now);
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
