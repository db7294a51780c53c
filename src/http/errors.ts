import type { FastifyError } from 'fastify';
import { type ErrorCode, SpillwayError } from '../core/errors.ts';

/** Errors as HTTP answers: `{"error":{"code","message","next"}}` with a status. */

/** Codes that only HTTP has. */
export const HTTP_ERRORS = {
  REQUEST_INVALID: { status: 400, next: 'Correct the request; docs/api.md shows its form.' },
  BODY_TOO_LARGE: { status: 413, next: 'Send less, or raise http.bodyBytesMax.' },
  URL_TOO_LONG: { status: 414, next: 'Ask for fewer devices and metrics in one query.' },
  CONTENT_TYPE: { status: 415, next: 'Send `Content-Type: application/json`.' },
  HEADERS_TOO_LARGE: { status: 431, next: 'Send fewer or shorter headers.' },
  DEVICE_OFFLINE: { status: 409, next: 'Send the command again when the device is connected.' },
  INTERNAL: { status: 500, next: 'Look at the log of Spillway; it holds the request id.' },
  NOT_OFFERED: { status: 501, next: 'Ask a process that has the role.' },
  BUSY: { status: 503, next: 'Ask again in a few seconds, or for less.' },
  TIMEOUT: { status: 503, next: 'Ask for less, or raise http.requestTimeout.' },
} as const satisfies Record<string, { status: number; next: string }>;

export type HttpErrorCode = keyof typeof HTTP_ERRORS;

const STATUS: Partial<Record<ErrorCode, number>> = {
  QUERY_INVALID: 400,
  NAME_INVALID: 400,
  UNAUTHORIZED: 401,
  FORBIDDEN: 403,
  NOT_FOUND: 404,
  DEVICE_UNKNOWN: 404,
  REPLAY_RUNNING: 409,
  // The request is well-formed, its answer is what is too large.
  QUERY_TOO_LARGE: 422,
};

export class HttpError extends Error {
  readonly code: HttpErrorCode;
  constructor(code: HttpErrorCode, message: string) {
    super(message);
    this.name = 'HttpError';
    this.code = code;
  }
}

export interface ErrorAnswer {
  status: number;
  body: { error: { code: string; message: string; next: string } };
}

function answer(status: number, code: string, message: string, next: string): ErrorAnswer {
  return { status, body: { error: { code, message, next } } };
}

const BY_STATUS: Readonly<Record<number, HttpErrorCode>> = {
  413: 'BODY_TOO_LARGE',
  414: 'URL_TOO_LONG',
  415: 'CONTENT_TYPE',
  431: 'HEADERS_TOO_LARGE',
  503: 'BUSY',
};

/** What an error says to a client. Of an unexpected one it says nothing but that it happened. */
export function errorAnswer(error: unknown, requestId: string): ErrorAnswer {
  if (error instanceof SpillwayError) {
    const status = STATUS[error.code] ?? (error.retryable ? 503 : 500);
    return answer(status, error.code, error.message, error.next);
  }
  if (error instanceof HttpError) return httpAnswer(error.code, error.message);
  const { code = '', statusCode, name } = error as Partial<FastifyError>;
  if (code === 'FST_ERR_HANDLER_TIMEOUT' || name === 'TimeoutError') {
    return httpAnswer('TIMEOUT', 'The answer took too long.');
  }
  if (statusCode !== undefined && (statusCode < 500 || statusCode === 503)) {
    const known = BY_STATUS[statusCode] ?? 'REQUEST_INVALID';
    return httpAnswer(known, (error as Error).message);
  }
  return httpAnswer('INTERNAL', `Something went wrong; request ${requestId}.`);
}

function httpAnswer(code: HttpErrorCode, message: string): ErrorAnswer {
  return answer(HTTP_ERRORS[code].status, code, message, HTTP_ERRORS[code].next);
}
