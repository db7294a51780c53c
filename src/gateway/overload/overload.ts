import type { TenantQuota } from '../../config/quotas.ts';
import type { Config } from '../../config/schema.ts';
import type { Clock } from '../../core/clock.ts';
import { LIMITS, type LimitCode, type ShedReason } from '../../core/refusals.ts';
import { formatDuration } from '../../core/units.ts';
import type { LogAppender } from '../../log/contract.ts';
import { countIn, type GatewayCounters } from '../../ops/counters.ts';
import { Admission } from './admission.ts';
import { BackfillBudget, type BackfillLimits } from './backfill.ts';
import { NO_LAG, type RollupLag } from './lag-pace.ts';
import { type Level, LevelMachine, type Signal, type Signals, type Transition } from './levels.ts';
import { LoopDelay } from './loop-delay.ts';
import { memoryShare } from './memory.ts';
import { PaceKeeper } from './pace-keeper.ts';
import type { Exceeded } from './rates.ts';
import { LogWatch, type Readings, type SignalName, SignalScale } from './signals.ts';
import { type DeviceUsage, type TenantUsage, UsageBook } from './usage.ts';
import type { WindowLimits } from './window.ts';

/**
 * The one who watches: looks at the signals ten times a second, keeps the level, and tells admission,
 * ingest and the door what it means for them. Everything that it knows is in `counters.overload`.
 */
const LOOK_MS = 100;
/** Looks between those at what changes slowly. */
const SLOW_LOOKS = 10;
const HISTORY_MAX = 20;
const LIMITED_MAX = 20;
/** A device is told that it is slowed down at most so often. */
const TELL_MS = 30_000;
/** When dropping what is over the shares has not helped for so long, everything at QoS 0 is dropped. */
const SHED_ALL_AFTER_MS = 5_000;
/** Weight of the newest look in the share of time that admission is contended; half a second of memory. */
const DEMAND_WEIGHT = 0.2;

export interface OverloadOptions {
  config: Config['overload'];
  /** Budget of readings that come long after they were measured. */
  backfill: BackfillLimits;
  quotaOf: (tenant: string) => TenantQuota;
  appender: LogAppender;
  counters: GatewayCounters;
  logger: {
    info(fields: object, message: string): void;
    warn(fields: object, message: string): void;
  };
  /** Monotonic. */
  clock: Clock;
  /** Of the epoch. */
  wallClock: Clock;
  connections: () => { open: number; max: number; waiting: number };
  pendingBytesMax: number;
  /** Part of the log's disk budget that holds what is not yet processed; default: all that it holds. */
  backlogShare?: (() => number) | undefined;
  /** How far the rollup worker of this process is behind; absent: there is none. */
  rollupLag?: (() => RollupLag) | undefined;
  /** For tests: in place of what is measured. */
  readings?: Partial<Readings> | undefined;
  /** A device was slowed down or refused by a limit; called each time. */
  decided?(device: DeviceUsage, what: 'slowed' | 'refused', code: LimitCode): void;
  /** A device that is connected shall know why it is slowed down. */
  tell(device: DeviceUsage, code: LimitCode, message: string, expected: string): void;
}

export class Overload {
  readonly admission: Admission;
  readonly backfill: BackfillBudget;
  readonly book: UsageBook;
  private readonly options: OverloadOptions;
  private readonly machine: LevelMachine<SignalName>;
  private readonly scale: SignalScale;
  private readonly log: LogWatch;
  private readonly loopDelay = new LoopDelay();
  private readonly paceKeeper: PaceKeeper;
  private readonly limited = new Map<string, DeviceUsage>();
  private readonly listeners: ((level: Level) => void)[] = [];
  private timer: NodeJS.Timeout | undefined;
  private looks = 0;
  private demand = 0;
  private memory = 0;

  constructor(options: OverloadOptions) {
    this.options = options;
    const { config, clock } = options;
    const now = () => clock.now();
    this.machine = new LevelMachine({
      clock,
      times: { riseMs: config.rise, dwellMs: config.dwell },
    });
    this.scale = new SignalScale(config);
    this.log = new LogWatch(options.appender, now, options.backlogShare);
    this.admission = new Admission({
      now,
      window: windowLimits(config, options.pendingBytesMax),
      onLimited: (device, code, exceeded) => this.onLimited(device, code, exceeded),
    });
    this.backfill = new BackfillBudget(
      options.backfill,
      now,
      () => options.appender.stats().backfillWaiting ?? 0,
    );
    this.paceKeeper = new PaceKeeper(this.admission.pace, now);
    const { max } = options.connections();
    this.book = new UsageBook({ quotaOf: options.quotaOf, idleMax: 2 * max, now });
  }

  /** Nothing is looked at before. */
  start(): void {
    if (!this.options.config.protection) return;
    this.loopDelay.start();
    this.timer = setInterval(() => this.look(), LOOK_MS);
    this.timer.unref();
  }

  stop(): void {
    clearInterval(this.timer);
    this.loopDelay.stop();
    this.admission.stop();
    this.backfill.stop();
  }

  get level(): Level {
    return this.machine.level;
  }

  /** How long `refuse` lasts at least, ms. */
  get refuseDwellMs(): number {
    return this.options.config.dwell.refuse;
  }

  onLevel(listener: (level: Level) => void): void {
    this.listeners.push(listener);
  }

  /** Why a QoS 0 message of the tenant is dropped now; undefined: it is not. */
  sheds(tenant: TenantUsage): ShedReason | undefined {
    const { level } = this.machine;
    if (level === 'normal' || level === 'brake') return undefined;
    if (level === 'refuse') return 'OVERLOADED';
    if (tenant.overShare) return 'OVER_SHARE';
    const forMs = this.options.clock.now() - this.machine.since;
    return forMs > SHED_ALL_AFTER_MS ? 'OVERLOADED' : undefined;
  }

  /** The last limit that slowed down or refused a device; undefined when none did since it came. */
  limitedBy(tenant: string, device: string): DeviceUsage['limited'] {
    return this.book.find(tenant, device)?.limited;
  }

  /** Notes that a device was refused by a limit; `expected` says which one it is. */
  refused(device: DeviceUsage, code: LimitCode, expected: string): void {
    this.options.decided?.(device, 'refused', code);
    this.note(device, code, expected);
  }

  /** Looks at everything once; called by the timer. */
  look(): void {
    const { admission, options, machine } = this;
    const slow = this.looks % SLOW_LOOKS === 0;
    this.looks++;
    const contended = admission.contended;
    admission.window.look(contended);
    this.demand += (Number(contended) - this.demand) * DEMAND_WEIGHT;
    if (slow) {
      admission.look();
      this.memory = memoryShare(options.config.memoryBytesMax);
    }
    const { open, max } = options.connections();
    const lag = options.rollupLag?.() ?? NO_LAG;
    const readings: Readings = {
      loopDelay: this.loopDelay.read(),
      commit: this.log.commitMs(),
      demand: this.demand,
      wait: admission.window.waitMs,
      lag: lag.ms,
      backlog: this.log.backlogShare(),
      memory: this.memory,
      sockets: open / max,
      ...options.readings,
    };
    if (machine.level === 'normal') this.scale.learn(readings);
    const signals = this.scale.signals(readings, this.paceKeeper.isForRollups);
    admission.window.squeezed = isAtBrake(signals.loopDelay) || isAtBrake(signals.commit);
    const change = machine.step(signals);
    if (change !== undefined) this.changed(change);
    if (slow) this.keepPace(signals, lag);
    this.publish(signals);
  }

  private keepPace(signals: Signals<SignalName>, lag: RollupLag): void {
    const { paceKeeper, admission, options } = this;
    const before = paceKeeper.isForRollups;
    paceKeeper.look(signals, admission.takenCost, lag);
    if (paceKeeper.isForRollups === before) return;
    const message = before
      ? 'overload: no longer slowed down for the rollup worker'
      : 'overload: slowed down for the rollup worker, which is behind';
    options.logger.info({ lagMs: lag.ms }, message);
  }

  private changed(change: Transition<SignalName>): void {
    const { counters, logger, wallClock } = this.options;
    const { from, to, cause, value } = change;
    const { overload } = counters;
    overload.level = to;
    overload.since = wallClock.now();
    overload.cause = to === 'normal' ? '' : cause;
    overload.history = [{ at: overload.since, from, to, cause, value }, ...overload.history].slice(
      0,
      HISTORY_MAX,
    );
    overload.changes[to] = (overload.changes[to] ?? 0) + 1;
    const fields = { from, to, cause, value };
    const message = to === 'normal' ? 'overload: normal again' : `overload: ${to}`;
    // Braking loses nothing, and a busy machine does it now and then.
    if (to === 'shed' || to === 'refuse') logger.warn(fields, message);
    else logger.info(fields, message);
    for (const listener of this.listeners) listener(to);
  }

  private publish(signals: Record<SignalName, { value: number; thresholds: object }>): void {
    const { admission, options } = this;
    const { counters } = options;
    const { overload } = counters;
    overload.signals = Object.fromEntries(
      Object.entries(signals).map(([name, { value, thresholds }]) => [
        name,
        { value, ...thresholds },
      ]),
    );
    overload.admission = {
      windowBytes: Math.round(admission.window.size),
      underWayBytes: admission.inflightCost,
      delayMs: admission.window.delayMs,
      waitMs: admission.window.waitMs,
    };
    counters.backfill.held = this.backfill.held;
    overload.connectsWaiting = options.connections().waiting;
    overload.limited = [...this.limited.values()]
      .reverse()
      .flatMap(({ tenant, name, limited }) =>
        limited === undefined ? [] : [{ tenant: tenant.name, device: name, ...limited }],
      );
  }

  private onLimited(device: DeviceUsage, code: LimitCode, exceeded: Exceeded | undefined): void {
    const expected =
      exceeded === undefined
        ? 'a fair share of what the gateway can take'
        : `at most ${exceeded.limit.amount} ${exceeded.what} in ${formatDuration(exceeded.limit.windowMs)}`;
    this.options.decided?.(device, 'slowed', code);
    this.note(device, code, expected);
    const now = this.options.clock.now();
    if (now - device.toldAt < TELL_MS) return;
    device.toldAt = now;
    this.options.tell(device, code, LIMITS[code], expected);
  }

  private note(device: DeviceUsage, code: LimitCode, expected: string): void {
    const { counters, wallClock } = this.options;
    const count = (device.limited?.count ?? 0) + 1;
    device.limited = { code, expected, at: wallClock.now(), count };
    countIn(counters.limited, device.tenant.name, code);
    const { key } = device;
    this.limited.delete(key);
    this.limited.set(key, device);
    for (const oldest of this.limited.keys()) {
      if (this.limited.size <= LIMITED_MAX) break;
      this.limited.delete(oldest);
    }
  }
}

function isAtBrake({ value, thresholds }: Signal): boolean {
  return value >= (thresholds.brake ?? Number.POSITIVE_INFINITY);
}

/** From the first guess on it is measured; without protection there is no window. */
function windowLimits(config: Config['overload'], pendingBytesMax: number): WindowLimits {
  const { delayTarget: delayMs, protection } = config;
  // From half of it on the log asks to wait, and that stops everybody.
  const max = protection ? pendingBytesMax / 4 : Number.POSITIVE_INFINITY;
  const first = protection ? Math.min(2 ** 20, max) : max;
  // With less, a small machine commits so few at a time that the commits take a third of its CPU.
  return { delayMs, first, min: first / 4, max };
}
