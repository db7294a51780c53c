/** Latencies in buckets that grow by STEP, so that those of many seconds and processes can be put together. */
const STEP = 1.02;
const LEAST_MS = 0.1;
const BUCKETS_MAX = 800;

/** Counts by bucket; only those that are not 0. */
export type SparseCounts = [bucket: number, count: number][];

export class Latencies {
  private readonly counts = new Uint32Array(BUCKETS_MAX);

  add(ms: number): void {
    const bucket = ms <= LEAST_MS ? 0 : Math.ceil(Math.log(ms / LEAST_MS) / Math.log(STEP));
    const index = Math.min(bucket, BUCKETS_MAX - 1);
    this.counts[index] = (this.counts[index] ?? 0) + 1;
  }

  merge(counts: SparseCounts): this {
    for (const [bucket, count] of counts) this.counts[bucket] = (this.counts[bucket] ?? 0) + count;
    return this;
  }

  /** What was added since the last call. */
  take(): SparseCounts {
    const sparse: SparseCounts = [];
    for (const [bucket, count] of this.counts.entries())
      if (count > 0) sparse.push([bucket, count]);
    this.counts.fill(0);
    return sparse;
  }

  get count(): number {
    return this.counts.reduce((sum, count) => sum + count, 0);
  }

  /** To 2 %, ms; 0 where there is none. */
  quantile(q: number): number {
    const all = this.count;
    if (all === 0) return 0;
    let seen = 0;
    for (const [bucket, count] of this.counts.entries()) {
      seen += count;
      if (seen >= all * q) return LEAST_MS * STEP ** bucket;
    }
    return LEAST_MS * STEP ** BUCKETS_MAX;
  }
}
