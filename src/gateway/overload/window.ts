/**
 * How much may be under way: as much as the machine settles within the target delay.
 *
 *   size = (most that was settled per ms, lately) × (delay that is allowed)
 *
 * The rate counts only where the window was full, or where the delay was longer than it may be; otherwise
 * it says what came, not what could be done. The delay is the target, or twice the shortest one that was
 * measured lately where a commit takes longer than that: a pipeline needs one filling under way and one
 * that forms. So a slow disk makes the window larger, not the throughput smaller, and nobody has to know
 * the machine's capacity beforehand.
 *
 * A window that is always full measures nothing but its own delay, and would grow by it, and so does one that
 * was too large for what came; so it is made a quarter for a moment every PROBE_EVERY_MS, and soon again while
 * that shortens the delay, which shows the delay of the log itself. (Bandwidth and delay measured in turn, as
 * TCP BBR does.)
 */
export interface WindowLimits {
  /** The delay that is aimed at, ms. */
  delayMs: number;
  /** In units of cost. */
  first: number;
  min: number;
  max: number;
}

/** Measurements older than this (at most twice) are forgotten. */
const MEMORY_MS = 10_000;
const PROBE_EVERY_MS = 10_000;
/** After a probe with less than PROBE_GAIN of the delay before it. */
const PROBE_AGAIN_MS = 500;
const PROBE_GAIN = 0.7;
/** How long it is small, besides the time that it takes to empty. */
const PROBE_MS = 100;
const PROBE_PART = 0.25;

/** The one message whose way from taking to settling is measured at the moment. */
interface Probe {
  of: object;
  at: number;
  /** Messages of the same connection up to and with it that are not settled. */
  left: number;
}

/** Weight of the newest look in the rate, and how many must have been busy before it counts. */
const RATE_WEIGHT = 0.4;
const RATE_LOOKS = 3;

interface HasInflight {
  inflightMessages: number;
}

export class AdmissionWindow {
  private readonly limits: WindowLimits;
  private readonly now: () => number;
  private current: number;
  private probe: Probe | undefined;
  private readonly rates: Extremum;
  private readonly delays: Extremum;
  /** Halves the delay that is aimed at: the event loop or the log is slower than it should be. */
  squeezed = false;
  private lastLook: number;
  private settledCost = 0;
  private rate = 0;
  private busyLooks = 0;
  private wasFull = false;
  private waits = 0;
  private waitSum = 0;
  private lastWait = 0;
  private lastDelay = 0;
  private allowedMs: number;
  private probedAt = Number.NEGATIVE_INFINITY;
  private smallUntil = Number.NEGATIVE_INFINITY;
  /** The shortest delay when the last probe began; undefined once that is judged. */
  private delayBefore: number | undefined;
  private probeEveryMs = PROBE_EVERY_MS;

  constructor(limits: WindowLimits, now: () => number) {
    this.limits = limits;
    this.now = now;
    this.current = limits.first;
    this.allowedMs = limits.delayMs;
    this.lastLook = now();
    this.rates = new Extremum(Math.max, now());
    this.delays = new Extremum(Math.min, now());
  }

  /** What may be under way, in units of cost. */
  get size(): number {
    return this.smallUntil > this.lastLook ? this.current * PROBE_PART : this.current;
  }

  /** The last delay from taking to settling that was measured, ms. */
  get delayMs(): number {
    return this.lastDelay;
  }

  /** Mean time that turns of the last interval have waited, ms. */
  get waitMs(): number {
    return this.lastWait;
  }

  taken(by: HasInflight): void {
    this.probe ??= { of: by, at: this.now(), left: by.inflightMessages };
  }

  settled(by: object, cost: number): void {
    this.settledCost += cost;
    const { probe } = this;
    if (probe === undefined || probe.of !== by) return;
    probe.left--;
    if (probe.left > 0) return;
    this.lastDelay = this.now() - probe.at;
    this.delays.add(this.lastDelay, this.now());
    this.probe = undefined;
  }

  waited(ms: number): void {
    this.waits++;
    this.waitSum += ms;
  }

  /** Measures the interval since the last call; `full`: somebody waits for the window now. */
  look(full: boolean): void {
    const now = this.now();
    const spanMs = now - this.lastLook;
    if (spanMs <= 0) return;
    const small = this.smallUntil > this.lastLook;
    // Full at both ends, so that the rate is one of a full window.
    const late = this.settledCost > 0 && this.delayNow(now) > this.allowedMs;
    const busy = (full && this.wasFull) || late;
    this.rate += (this.settledCost / spanMs - this.rate) * RATE_WEIGHT;
    this.busyLooks = busy && !small ? this.busyLooks + 1 : 0;
    if (this.busyLooks >= RATE_LOOKS) this.rates.add(this.rate, now);
    if (this.waits > 0) this.lastWait = this.waitSum / this.waits;
    else if (full) this.lastWait += spanMs;
    else this.lastWait = 0;
    this.resize();
    const bloated = this.delayNow(now) > this.limits.delayMs;
    if ((full && this.wasFull) || bloated) this.probeDelay(now);
    this.wasFull = full;
    this.settledCost = 0;
    this.waits = 0;
    this.waitSum = 0;
    this.lastLook = now;
  }

  private probeDelay(now: number): void {
    if (now < this.smallUntil) return;
    const shortest = this.delays.value ?? Number.POSITIVE_INFINITY;
    if (this.delayBefore !== undefined) {
      const gained = shortest < this.delayBefore * PROBE_GAIN && shortest > this.limits.delayMs / 2;
      this.probeEveryMs = gained ? PROBE_AGAIN_MS : PROBE_EVERY_MS;
      this.delayBefore = undefined;
    }
    if (now - this.probedAt <= this.probeEveryMs) return;
    this.probedAt = now;
    this.delayBefore = shortest;
    this.smallUntil = now + Math.max(this.allowedMs, this.delayNow(now)) + PROBE_MS;
  }

  /** The last delay, or that of the message under way where it is longer already. */
  private delayNow(now: number): number {
    return Math.max(this.lastDelay, this.probe === undefined ? 0 : now - this.probe.at);
  }

  private resize(): void {
    const rate = this.rates.value;
    if (rate === undefined) return;
    const { delayMs, min, max } = this.limits;
    const aim = this.squeezed ? delayMs / 2 : delayMs;
    this.allowedMs = Math.max(aim, 2 * (this.delays.value ?? 0));
    this.current = Math.min(max, Math.max(min, rate * this.allowedMs));
  }
}

/** The largest or smallest of the values of the last MEMORY_MS to twice that. */
class Extremum {
  private readonly pick: (a: number, b: number) => number;
  private current: number | undefined;
  private before: number | undefined;
  private begun: number;

  constructor(pick: (a: number, b: number) => number, now: number) {
    this.pick = pick;
    this.begun = now;
  }

  get value(): number | undefined {
    if (this.current === undefined || this.before === undefined) return this.current ?? this.before;
    return this.pick(this.current, this.before);
  }

  add(value: number, now: number): void {
    if (now - this.begun > MEMORY_MS) {
      this.before = this.current;
      this.current = undefined;
      this.begun = now;
    }
    this.current = this.current === undefined ? value : this.pick(this.current, value);
  }
}
