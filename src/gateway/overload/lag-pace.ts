/** How far the rollup worker of this process is behind. */
export interface RollupLag {
  /**
   * How late reports are, or will be by what waits, ms; 0 while it isn't the CPU that the worker lacks: a store that
   * doesn't answer fills the log, and holds up nobody.
   */
  ms: number;
  /** Offsets when it last came to a flush: where the log ended, and what was in the store. Absent before the first. */
  flush?: { arrived: number; processed: number } | undefined;
}

/** Before any worker, and where there is none. */
export const NO_LAG: RollupLag = { ms: 0 };

/** A flush comes about once a second, later where the CPU is full; with less than some of them it is noise. */
const WINDOW_MS = 4_000;
/** Of what the worker does: so that it catches up. */
const PART = 0.9;
/** With a slower gateway the worker is faster, so that the first look makes it too slow. */
const CUT_MOST = 0.5;
const RAISE_MOST = 1.25;

/**
 * What the gateway may take so that a rollup worker that is behind catches up: a little less than the worker gets
 * done, both as measured between flushes. The lag itself can't steer: it says what came a minute ago.
 */
export class LagPace {
  private begun: { at: number; arrived: number; processed: number; takenCost: number } | undefined;

  /**
   * Call it about once a second. `takenCost`: all that was ever taken; `rate`: the pace as it is, cost per ms.
   * Returns what it should be; undefined: as it is.
   */
  look(options: {
    now: number;
    lag: RollupLag;
    takenCost: number;
    rate: number | undefined;
  }): number | undefined {
    const { now, lag, takenCost, rate } = options;
    const { begun } = this;
    if (lag.flush === undefined) return;
    const { arrived, processed } = lag.flush;
    if (begun !== undefined && (now - begun.at < WINDOW_MS || arrived === begun.arrived)) return;
    this.begun = { at: now, arrived, processed, takenCost };
    if (begun === undefined) return;
    const wanted = (PART * (processed - begun.processed)) / (arrived - begun.arrived);
    if (rate === undefined && wanted >= 1) return;
    const perMs = (takenCost - begun.takenCost) / (now - begun.at);
    return perMs * Math.min(RAISE_MOST, Math.max(CUT_MOST, wanted));
  }
}
