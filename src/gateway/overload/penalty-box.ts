import type { RateLimit } from '../../core/units.ts';
import { Bucket } from './buckets.ts';

interface Entry {
  buckets: Bucket[];
  /** Until when it waits, and for how long it will the next time. */
  until: number;
  nextMs: number;
}

interface PenaltyOptions {
  limits: readonly RateLimit[];
  firstMs: number;
  maxMs: number;
  entriesMax: number;
  now: () => number;
}

/**
 * Who does something too often waits: for `firstMs`, then for twice as long each time, up to `maxMs`; from
 * the beginning after a quiet time as long as the longest window. Attempts while waiting don't count, so
 * that the wait ends. Of more than `entriesMax` the one that was quiet for longest is forgotten.
 */
export class PenaltyBox {
  private readonly options: PenaltyOptions;
  private readonly quietMs: number;
  private readonly entries = new Map<string, Entry>();

  constructor(options: PenaltyOptions) {
    this.options = options;
    this.quietMs = Math.max(0, ...options.limits.map(({ windowMs }) => windowMs));
  }

  /** How long it still has to wait, ms; 0: it may go on. */
  waitMs(key: string): number {
    const entry = this.entries.get(key);
    return entry === undefined ? 0 : Math.max(0, entry.until - this.options.now());
  }

  /** It did it once more; true when it has to wait from now on. */
  count(key: string): boolean {
    const { limits, firstMs, maxMs, entriesMax } = this.options;
    const now = this.options.now();
    if (limits.length === 0 || this.waitMs(key) > 0) return false;
    const entry = this.entries.get(key) ?? { buckets: this.fresh(now), until: 0, nextMs: firstMs };
    if (now - entry.until > this.quietMs) entry.nextMs = firstMs;
    this.entries.delete(key);
    this.entries.set(key, entry);
    for (const oldest of this.entries.keys()) {
      if (this.entries.size <= entriesMax) break;
      this.entries.delete(oldest);
    }
    let exceeded = false;
    for (const bucket of entry.buckets) {
      exceeded ||= bucket.left(now) < 1;
      bucket.take(1);
    }
    if (!exceeded) return false;
    entry.until = now + entry.nextMs;
    entry.nextMs = Math.min(maxMs, entry.nextMs * 2);
    entry.buckets = this.fresh(now);
    return true;
  }

  private fresh(now: number): Bucket[] {
    return this.options.limits.map((limit) => new Bucket(limit, now));
  }
}
