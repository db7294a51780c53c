import type { Clock } from '../../core/clock.ts';

/**
 * How loaded the gateway is, and what it does about it.
 *
 *   normal   everything is taken
 *   brake    sockets are read more slowly, in fair turns; nothing is lost
 *   shed     QoS 0 is dropped and counted, tenants over their share first; QoS 1 and 2 are still only slowed
 *   refuse   new connections are refused; those that are open stay
 *
 * A signal is at a level from that level's threshold on, and no longer below RELEASE of it (hysteresis).
 * The machine rises when one signal has been above its level for `riseMs` on end: by one level, so that
 * each measure is tried before the next, or straight to the signal's level where the signal is `hard`
 * (memory, disk and sockets don't get better by waiting). It falls by one level when every signal has been
 * released for the dwell time of the level; so it stays in each level for at least that long.
 */
export const LEVELS = ['normal', 'brake', 'shed', 'refuse'] as const;
export type Level = (typeof LEVELS)[number];

/** A signal's value at which each level begins; a level without one is never its effect. */
export type Thresholds = Partial<Record<Exclude<Level, 'normal'>, number>>;

export interface Signal {
  value: number;
  thresholds: Thresholds;
  /** Rises at once, and over several levels. */
  hard?: boolean;
}

export type Signals<Name extends string> = Readonly<Record<Name, Signal>>;

export interface Transition<Name extends string = string> {
  /** By the clock's time. */
  at: number;
  from: Level;
  to: Level;
  /** The signal that is furthest up; when falling, the one that was last above the level. */
  cause: Name;
  /** Its value at that time. */
  value: number;
}

export interface LevelTimes {
  riseMs: number;
  /** How long a level lasts at least, and how long all signals must be released before it ends. */
  dwellMs: Record<Exclude<Level, 'normal'>, number>;
}

/** Part of a threshold below which a signal has let go of it. */
const RELEASE = 0.8;

export class LevelMachine<Name extends string> {
  private readonly clock: Clock;
  private readonly times: LevelTimes;
  private current = 0;
  private enteredAt: number;
  /** Since when some signal has been above the level. */
  private aboveSince: number | undefined;
  /** When a signal last held the level. */
  private heldAt: number;
  private heldBy: { cause: Name; value: number } | undefined;

  constructor(options: { clock: Clock; times: LevelTimes }) {
    this.clock = options.clock;
    this.times = options.times;
    this.enteredAt = options.clock.now();
    this.heldAt = this.enteredAt;
  }

  get level(): Level {
    return LEVELS[this.current] as Level;
  }

  /** When the level began, by the clock's time. */
  get since(): number {
    return this.enteredAt;
  }

  /** Looks at the signals anew; returns what changed. Call it several times in `riseMs`. */
  step(signals: Signals<Name>): Transition<Name> | undefined {
    const now = this.clock.now();
    const soft = highest(signals, reached);
    const hard = highest(signals, (signal) => (signal.hard === true ? reached(signal) : 0));
    if (soft.level <= this.current) this.aboveSince = undefined;
    else this.aboveSince ??= now;
    const holding = highest(signals, (signal) => Math.min(held(signal), this.current));
    if (holding.level === this.current && this.current > 0) {
      this.heldAt = now;
      this.heldBy = holding;
    }
    if (hard.level > this.current) return this.move(hard.level, hard, now);
    if (this.aboveSince !== undefined) {
      if (now - this.aboveSince < this.times.riseMs) return undefined;
      return this.move(this.current + 1, soft, now);
    }
    if (this.current === 0) return undefined;
    const dwell = this.times.dwellMs[this.level as Exclude<Level, 'normal'>];
    if (now - this.heldAt < dwell || now - this.enteredAt < dwell) return undefined;
    return this.move(this.current - 1, this.heldBy ?? soft, now);
  }

  private move(to: number, by: { cause: Name; value: number }, now: number): Transition<Name> {
    const from = this.level;
    this.current = to;
    this.enteredAt = now;
    this.heldAt = now;
    this.heldBy = by;
    this.aboveSince = undefined;
    return { at: now, from, to: this.level, cause: by.cause, value: by.value };
  }
}

/** The highest level whose threshold the signal has reached. */
function reached({ value, thresholds }: Signal): number {
  return highestLevel(value, thresholds, 1);
}

/** The highest level that the signal has not let go of. */
function held({ value, thresholds }: Signal): number {
  return highestLevel(value, thresholds, RELEASE);
}

function highestLevel(value: number, thresholds: Thresholds, part: number): number {
  for (let level = LEVELS.length - 1; level > 0; level--) {
    const threshold = thresholds[LEVELS[level] as Exclude<Level, 'normal'>];
    if (threshold !== undefined && value >= threshold * part) return level;
  }
  return 0;
}

function highest<Name extends string>(
  signals: Signals<Name>,
  levelOf: (signal: Signal) => number,
): { level: number; cause: Name; value: number } {
  let best: { level: number; cause: Name; value: number } | undefined;
  for (const [name, signal] of Object.entries(signals) as [Name, Signal][]) {
    const level = levelOf(signal);
    if (best === undefined || level > best.level)
      best = { level, cause: name, value: signal.value };
  }
  if (best === undefined) throw new TypeError('a level needs at least one signal');
  return best;
}
