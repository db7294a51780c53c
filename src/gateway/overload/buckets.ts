import type { RateLimit } from '../../core/units.ts';

/**
 * A token bucket: holds `amount`, and fills within `windowMs`. It is charged after the fact and may go into
 * debt, which has to be paid off before it allows anything again; so the sustained rate is exact, whatever
 * the size of what is charged. Times are monotonic, ms.
 */
export class Bucket {
  readonly limit: RateLimit;
  readonly perMs: number;
  private tokens: number;
  private at: number;

  constructor(limit: RateLimit, now: number) {
    this.limit = limit;
    this.perMs = limit.amount / limit.windowMs;
    this.tokens = limit.amount;
    this.at = now;
  }

  /** What may be taken now; 0 or less: nothing. */
  left(now: number): number {
    if (now > this.at) {
      this.tokens = Math.min(this.limit.amount, this.tokens + (now - this.at) * this.perMs);
      this.at = now;
    }
    return this.tokens;
  }

  take(amount: number): void {
    this.tokens -= amount;
  }

  /** ms until `amount` can be taken (or all that it ever holds), as it was at the last {@link left}. */
  waitMs(amount: number): number {
    return Math.max(0, (Math.min(amount, this.limit.amount) - this.tokens) / this.perMs);
  }

  /** True when it has forgotten everything: nothing is lost by dropping it. */
  isFull(now: number): boolean {
    return this.tokens + (now - this.at) * this.perMs >= this.limit.amount;
  }
}
