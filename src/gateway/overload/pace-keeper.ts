import type { Signals } from './levels.ts';
import type { Pace } from './pace.ts';

/**
 * What fills slowly (the disk, the memory) is not helped by sharing what comes fairly: less has to come.
 * While such a signal is at its brake and grows, the pace of admission is cut a little each second; while
 * it falls, the pace stays and lets it fall. So the gateway goes as fast as what is behind it.
 */
const NAMES = ['backlog', 'memory'] as const;
const CUT = 0.8;
/** Below this part of the first pace it is not cut: something must go on coming, or nobody would notice. */
const LEAST = 0.02;
/** Part of its brake threshold below which a signal lets go of the pace. */
const RELEASE = 0.8;

type Name = (typeof NAMES)[number];

export class PaceKeeper {
  private readonly pace: Pace;
  private last: Record<Name, number> = { backlog: 0, memory: 0 };
  private least = 0;
  private takenCost = 0;
  private lookedAt = performance.now();

  constructor(pace: Pace) {
    this.pace = pace;
  }

  /** `takenCost`: all that was ever taken. Call it about once a second. */
  look(
    overloaded: boolean,
    signals: Signals<Name>,
    takenCost: number,
    now = performance.now(),
  ): void {
    const perMs = (takenCost - this.takenCost) / Math.max(1, now - this.lookedAt);
    this.takenCost = takenCost;
    this.lookedAt = now;
    let holds = false;
    let grows = false;
    for (const name of NAMES) {
      const { value, thresholds } = signals[name];
      const brake = thresholds.brake ?? Number.POSITIVE_INFINITY;
      if (value >= brake * RELEASE) holds = true;
      if (value >= brake && value > this.last[name]) grows = true;
      this.last[name] = value;
    }
    if (!overloaded || !holds) {
      this.pace.rate = undefined;
      return;
    }
    if (!grows) return;
    const { rate } = this.pace;
    if (rate === undefined) {
      this.least = perMs * LEAST;
      this.pace.rate = perMs * CUT;
    } else this.pace.rate = Math.max(this.least, rate * CUT);
  }
}
