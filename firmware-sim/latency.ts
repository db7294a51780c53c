const LOWEST_MS = 0.05;
const GROWTH = 1.05;
/** 0.05 ms * 1.05^320 is about 300 s: whatever took longer counts as that. */
const BUCKETS = 320;

/** Latencies in buckets that grow by 5 %, so a percentile is right within 2.5 % at 2.5 kB for ever. */
export class LatencyHistogram {
  readonly #buckets = new Float64Array(BUCKETS);
  count = 0;
  maxMs = 0;

  record(ms: number): void {
    const place = ms <= LOWEST_MS ? 0 : Math.ceil(Math.log(ms / LOWEST_MS) / Math.log(GROWTH));
    const bucket = Math.min(BUCKETS - 1, place);
    this.#buckets[bucket] = (this.#buckets[bucket] ?? 0) + 1;
    this.count++;
    if (ms > this.maxMs) this.maxMs = ms;
  }

  /** @param share 0.5 for the median; @returns ms, null when nothing was recorded */
  percentile(share: number): number | null {
    if (this.count === 0) return null;
    const rank = Math.max(1, Math.ceil(share * this.count));
    let seen = 0;
    for (let i = 0; i < BUCKETS; i++) {
      seen += this.#buckets[i] ?? 0;
      if (seen >= rank) return Math.min(this.maxMs, LOWEST_MS * GROWTH ** (i - 0.5));
    }
    return this.maxMs;
  }
}
