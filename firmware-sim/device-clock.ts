/**
 * A device's own idea of the time: ms since the epoch, wrong by an offset and by a drift, and never the
 * same twice, as two readings of one device at one time would be one reading.
 */
export class DeviceClock {
  readonly #offsetMs: number;
  readonly #drift: number;
  readonly #bootedAt: number;
  #last = Number.NEGATIVE_INFINITY;

  /**
   * @param offsetMs how far ahead the clock is (negative: behind)
   * @param driftPpm how much faster it runs, in parts per million (86.4 ms a day each)
   * @param bootedAt true time at boot, ms since the epoch
   */
  constructor(offsetMs: number, driftPpm: number, bootedAt: number) {
    this.#offsetMs = offsetMs;
    this.#drift = driftPpm / 1e6;
    this.#bootedAt = bootedAt;
  }

  /** The device's time at the true time `now`, whole ms, strictly rising. */
  read(now: number): number {
    const shown = Math.round(now + this.#offsetMs + (now - this.#bootedAt) * this.#drift);
    this.#last = Math.max(shown, this.#last + 1);
    return this.#last;
  }
}
