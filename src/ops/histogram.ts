import type { MetricObjectWithValues, MetricValue } from 'prom-client';

/**
 * A histogram for hot paths: an observation is a search in a short array and three additions, where
 * prom-client's hashes labels each time. It is read in prom-client's own form.
 */
export class PlainHistogram {
  private readonly bounds: readonly number[];
  /** Observations at or below each bound, and above the last; not cumulative. */
  private readonly counts: number[];
  private sum = 0;
  private count = 0;

  /** `bounds` ascending, in the unit of what is observed. */
  constructor(bounds: readonly number[]) {
    this.bounds = bounds;
    this.counts = new Array<number>(bounds.length + 1).fill(0);
  }

  observe(value: number): void {
    let i = 0;
    while (i < this.bounds.length && value > (this.bounds[i] as number)) i += 1;
    this.counts[i] = (this.counts[i] as number) + 1;
    this.sum += value;
    this.count += 1;
  }

  /** The values of a Prometheus histogram: cumulative buckets, sum and count. */
  values(name: string): (MetricValue<string> & { metricName: string })[] {
    const values: (MetricValue<string> & { metricName: string })[] = [];
    let below = 0;
    this.bounds.forEach((le, i) => {
      below += this.counts[i] ?? 0;
      values.push({ metricName: `${name}_bucket`, labels: { le }, value: below });
    });
    values.push({ metricName: `${name}_bucket`, labels: { le: '+Inf' }, value: this.count });
    values.push({ metricName: `${name}_sum`, labels: {}, value: this.sum });
    values.push({ metricName: `${name}_count`, labels: {}, value: this.count });
    return values;
  }
}

/** One metric as prom-client writes it to JSON and reads it for the text form. */
export type Snapshot = MetricObjectWithValues<MetricValue<string>>[];

/** From 0.1 ms to 30 s: a commit takes 0.6 ms at best; a PUBACK may wait for seconds under braking. */
export const LATENCY_BOUNDS_S: readonly number[] = [
  0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10,
  30,
];
