import type { LogStats } from '../log/contract.ts';

/**
 * Part of the log's disk budget that holds what is not yet processed: what everybody has consumed is kept
 * for a while, but gives way when the room is needed.
 */
export class Backlog {
  private readonly stats: () => LogStats;
  /** What is before it is processed. */
  position: number;

  constructor(stats: () => LogStats) {
    this.stats = stats;
    this.position = stats().firstOffset;
  }

  /** Whoever processes the log has so many records before it now. */
  told(lagRecords: number): void {
    this.position = this.stats().endOffset - lagRecords;
  }

  /** From 0 to 1. */
  share(): number {
    const { diskBytes, diskBytesMax, firstOffset, endOffset } = this.stats();
    const kept = endOffset - firstOffset;
    if (kept <= 0) return 0;
    const waiting = Math.min(1, Math.max(0, (endOffset - this.position) / kept));
    return (diskBytes / diskBytesMax) * waiting;
  }
}
