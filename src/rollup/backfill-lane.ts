import type { LogBatch } from '../log/contract.ts';

/**
 * The budget of the lane of old readings. Each of them opens a window that is long final, so the lane costs
 * the store more than live readings do; it gets so many readings and windows a second and no more, and less
 * while live records are behind. Live readings are never waited for, nor do they wait: between two
 * batches of the lane there are turns for all that has come.
 */
export interface BackfillPace {
  readingsPerSecond: number;
  windowsPerSecond: number;
}

export interface BackfillStats {
  /** Readings, and windows that they opened, since the start. */
  readings: number;
  windows: number;
  /** Readings a second since the stats before. */
  perSecond: number;
  /** Offsets between what is in the store and the end of the lane. */
  lagOffsets: number;
  /** How long ago the last batch was appended, at the time of its processing, ms; 0 when none waits. */
  lagMs: number;
  /** The least event time of the last batch, ms; undefined when none waits. */
  ts: number | undefined;
}

/** Live records that are this old when they are processed are behind, ms. */
const BEHIND_MS = 2_000;
/** How often the lane has a batch even so, ms. */
const LEAST_MS = 1_000;
/** What was not used is kept for so long, ms. */
const SAVED_MS = 100;

export class BackfillLane {
  readings = 0;
  windows = 0;
  private readonly pace: BackfillPace;
  private readonly now: () => number;
  /** Until when the lane waits. */
  private freeAt = Number.NEGATIVE_INFINITY;
  private lastAt = Number.NEGATIVE_INFINITY;
  private liveLagMs = 0;
  private lagMs = 0;
  private ts: number | undefined;
  private reported = { at: 0, readings: 0 };

  /** `now`: monotonic, ms. */
  constructor(pace: BackfillPace, now: () => number) {
    this.pace = pace;
    this.now = now;
  }

  /** True while the lane has no turn. */
  waits(): boolean {
    const now = this.now();
    if (now < this.freeAt) return true;
    return this.liveLagMs > BEHIND_MS && now - this.lastAt < LEAST_MS;
  }

  /** Live records were this old when they were processed, ms. */
  live(lagMs: number): void {
    this.liveLagMs = lagMs;
  }

  /** A batch was processed. `windows`: how many it opened; `lagMs`: how old it was. */
  took({ records }: LogBatch, windows: number, lagMs: number): void {
    const now = this.now();
    const { readingsPerSecond, windowsPerSecond } = this.pace;
    const seconds = Math.max(records.length / readingsPerSecond, windows / windowsPerSecond);
    this.freeAt = Math.max(this.freeAt, now - SAVED_MS) + seconds * 1_000;
    this.lastAt = now;
    this.readings += records.length;
    this.windows += windows;
    this.lagMs = lagMs;
    let least: number | undefined;
    for (const record of records) {
      if (record.kind === 'reading') least = Math.min(least ?? record.ts, record.ts);
    }
    this.ts = least ?? this.ts;
  }

  stats(lagOffsets: number): BackfillStats {
    const { readings, windows, reported } = this;
    const at = this.now();
    const perSecond = ((readings - reported.readings) / Math.max(1, at - reported.at)) * 1_000;
    this.reported = { at, readings };
    const isIdle = lagOffsets === 0;
    return {
      ...{ readings, windows, perSecond, lagOffsets },
      lagMs: isIdle ? 0 : this.lagMs,
      ts: isIdle ? undefined : this.ts,
    };
  }
}
