/**
 * What a signal is on this machine when nothing is wrong: a slow mean of its values while the level is
 * normal, so that thresholds can be multiples of it. It follows a disk that is slower than another, not a
 * load that creeps up: no more than `max`, and only by WEIGHT of the difference for each value. It begins
 * with nothing, so that the first moments of a process, which are slow, count for little.
 */
const WEIGHT = 0.01;

export class Baseline {
  private readonly max: number;
  private mean = 0;

  constructor(options: { max: number }) {
    this.max = options.max;
  }

  get value(): number {
    return this.mean;
  }

  /** A value that was measured while the level was normal. */
  learn(value: number): void {
    if (!Number.isFinite(value) || value < 0) return;
    this.mean += (Math.min(value, this.max) - this.mean) * WEIGHT;
  }
}
