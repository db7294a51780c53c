import type { RateLimit } from '../../core/units.ts';
import { Bucket } from './buckets.ts';

/** What is left of the rates of a tenant or device. */
export interface Left {
  messages: number;
  bytes: number;
}

/** The rate that is used up. */
export interface Exceeded {
  what: 'messages' | 'bytes';
  limit: RateLimit;
  /** Until it allows something again. */
  waitMs: number;
}

/**
 * What is used up rests until it allows what it gains in so long, where that is more than one message: devices of a
 * tenant that floods then get some messages in a turn. With a turn for each, turns cost the gateway three times what
 * the messages do.
 */
const REST_MS = 30;

const NO_LIMIT: Left = { messages: Number.MAX_SAFE_INTEGER, bytes: Number.MAX_SAFE_INTEGER };

/** All windows of the rates of one tenant or device. */
export class Rates {
  private readonly messages: Bucket[];
  private readonly bytes: Bucket[];
  private readonly limited: boolean;

  constructor(
    limits: { messages: readonly RateLimit[]; bytes: readonly RateLimit[] },
    now: number,
  ) {
    this.messages = limits.messages.map((limit) => new Bucket(limit, now));
    this.bytes = limits.bytes.map((limit) => new Bucket(limit, now));
    this.limited = this.messages.length > 0 || this.bytes.length > 0;
  }

  left(now: number): Left {
    if (!this.limited) return NO_LIMIT;
    return {
      messages: least(this.messages, now),
      bytes: least(this.bytes, now),
    };
  }

  take(messages: number, bytes: number): void {
    if (!this.limited) return;
    for (const bucket of this.messages) bucket.take(messages);
    for (const bucket of this.bytes) bucket.take(bytes);
  }

  /** The one that makes wait for longest, as it was at the last {@link left}. */
  exceeded(): Exceeded | undefined {
    let worst: Exceeded | undefined;
    for (const what of ['messages', 'bytes'] as const) {
      for (const bucket of this[what]) {
        const waitMs = bucket.waitMs(Math.max(1, bucket.perMs * REST_MS));
        if (waitMs > (worst?.waitMs ?? 0)) worst = { what, limit: bucket.limit, waitMs };
      }
    }
    return worst;
  }

  /** True when nothing is lost by forgetting it. */
  isFull(now: number): boolean {
    return [...this.messages, ...this.bytes].every((bucket) => bucket.isFull(now));
  }
}

function least(buckets: readonly Bucket[], now: number): number {
  let left = Number.MAX_SAFE_INTEGER;
  for (const bucket of buckets) left = Math.min(left, bucket.left(now));
  return left;
}
