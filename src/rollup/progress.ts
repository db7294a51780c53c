import type { LogConsumer } from '../log/contract.ts';
import type { PartitionState } from './partition-state.ts';
import { isRetryable } from './retry.ts';

type Partitions = ReadonlyMap<number, PartitionState>;

/** How far a worker is behind the end of the log. */
export class Progress {
  private readonly consumer: LogConsumer;
  private bounds: Awaited<ReturnType<LogConsumer['bounds']>> = new Map();
  /** Gateway time, ms: what the log got before is within {@link bounds}. */
  private boundsAt = Number.NEGATIVE_INFINITY;

  constructor(consumer: LogConsumer) {
    this.consumer = consumer;
  }

  known(bounds: Awaited<ReturnType<LogConsumer['bounds']>>): void {
    this.bounds = bounds;
  }

  /**
   * Looks where the log ends. While it is away what was seen last stands: nothing waits for figures. `now`:
   * gateway time, ms.
   */
  async look(now: number): Promise<void> {
    try {
      this.bounds = await this.consumer.bounds();
      this.boundsAt = now;
    } catch (error) {
      if (!isRetryable(error)) throw error;
    }
  }

  isBackfill(partition: number): boolean {
    return this.consumer.isBackfill?.(partition) === true;
  }

  /**
   * What the log got before this was taken, gateway time, ms; undefined where that can't be said. The lane
   * of old readings may be behind: a device that sends them is connected, and connections are live records.
   */
  takenUntil(partitions: Partitions): number | undefined {
    let until: number | undefined;
    for (const [partition, { next, appendedAt }] of partitions) {
      if (this.isBackfill(partition)) continue;
      const { end = Number.POSITIVE_INFINITY } = this.bounds.get(partition) ?? {};
      const its = next >= end ? this.boundsAt : appendedAt;
      if (its === undefined) return undefined;
      until = Math.min(until ?? its, its);
    }
    return until !== undefined && Number.isFinite(until) ? until : undefined;
  }

  /**
   * Offsets between what is in the store and the end of the log. `isShared`: partitions that are not in
   * `partitions` are other workers', who report on them.
   */
  lags(partitions: Partitions, isShared: boolean): { live: number; backfill: number } {
    const lags = { live: 0, backfill: 0 };
    for (const [partition, { first, end }] of this.bounds) {
      const state = partitions.get(partition);
      if (state === undefined && isShared) continue;
      lags[this.isBackfill(partition) ? 'backfill' : 'live'] += end - (state?.committed ?? first);
    }
    return lags;
  }
}
