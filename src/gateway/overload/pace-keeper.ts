import { LagPace, type RollupLag } from './lag-pace.ts';
import type { Signal, Signals } from './levels.ts';
import type { Pace } from './pace.ts';

/**
 * What fills slowly (the disk, the memory) is not helped by sharing what comes fairly: less has to come.
 * While such a signal is at its brake and grows, the pace of admission is cut each second; while it does
 * not, the pace is raised a little. So the gateway goes about as fast as what is behind it, and a signal
 * that stays where it is (memory that is not given back) doesn't slow it down for ever. The lag of the rollup
 * worker does the same by what the worker gets done (`lag-pace.ts`).
 */
const NAMES = ['backlog', 'memory'] as const;
const CUT = 0.8;
const RAISE = 1.05;
/** Growth within a second that is more than noise. */
const GROWTH: Record<Name, number> = { backlog: 0.000_1, memory: 0.002 };
/** Cost per ms that is always let through: some 200 messages a second. */
const LEAST = 50;
/** Part of its brake threshold below which a signal lets go of the pace. */
const RELEASE = 0.8;

type Name = 'backlog' | 'memory';

export class PaceKeeper {
  private readonly pace: Pace;
  private readonly now: () => number;
  private readonly lagPace = new LagPace();
  private last: Record<Name, number> = { backlog: 0, memory: 0 };
  private takenCost = 0;
  private lookedAt: number;
  private forRollups = false;

  constructor(pace: Pace, now: () => number) {
    this.pace = pace;
    this.now = now;
    this.lookedAt = now();
  }

  /** True while there is a pace for nothing but the lag of the rollup worker. */
  get isForRollups(): boolean {
    return this.forRollups && this.pace.rate !== undefined;
  }

  /** `takenCost`: all that was ever taken. Call it about once a second. */
  look(signals: Signals<Name | 'lag'>, takenCost: number, lag: RollupLag): void {
    const now = this.now();
    const perMs = (takenCost - this.takenCost) / Math.max(1, now - this.lookedAt);
    this.takenCost = takenCost;
    this.lookedAt = now;
    let holds = false;
    let grows = false;
    for (const name of NAMES) {
      const { value } = signals[name];
      if (isHeld(signals[name])) holds = true;
      if (isAt(signals[name], 1) && value > this.last[name] + GROWTH[name]) grows = true;
      this.last[name] = value;
    }
    const { rate } = this.pace;
    const rollups = this.lagPace.look({ now, lag, takenCost, rate });
    this.forRollups = !holds && isHeld(signals.lag);
    if (rate !== undefined && !holds && !this.forRollups) this.pace.rate = undefined;
    else if (grows) this.pace.rate = Math.max(LEAST, (rate ?? perMs) * CUT);
    else if (isAt(signals.lag, 1))
      this.pace.rate = rollups === undefined ? rate : Math.max(LEAST, rollups);
    else if (rate !== undefined) this.pace.rate = rate * RAISE;
  }
}

function isAt({ value, thresholds }: Signal, part: number): boolean {
  return value >= (thresholds.brake ?? Number.POSITIVE_INFINITY) * part;
}

function isHeld(signal: Signal): boolean {
  return isAt(signal, RELEASE);
}
