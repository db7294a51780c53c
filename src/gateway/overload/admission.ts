import type { LimitCode } from '../../core/refusals.ts';
import { Alarms } from './alarms.ts';
import { Pace } from './pace.ts';
import type { Exceeded, Rates } from './rates.ts';
import type { DeviceUsage, TenantUsage, Waiting } from './usage.ts';
import { AdmissionWindow, type WindowLimits } from './window.ts';

/**
 * Who may go on, and who waits.
 *
 * What was taken from sockets and is not yet settled (committed, mostly) is under way; it fills a window,
 * whose size follows what the machine can do (`window.ts`). While there is room everybody goes on at once.
 * When the window is full connections wait for their turn, and each settled message makes room for others:
 *
 *   - a tenant that has less under way than its part of the window never waits for the others; since all
 *     wait for the same commits, parts of the window are parts of the throughput
 *   - the others take turns (deficit round robin by weight), within a tenant device by device
 *   - a tenant or device whose rates are used up has no turn until they have filled again
 *
 * A connection that waits keeps what it has read, at most one chunk, and its socket is not read: the peer's
 * window closes, and its acknowledgements come later. Nothing is dropped here.
 *
 * A message costs its payload and OVERHEAD bytes. Rates are charged after the fact (`buckets.ts`), so a
 * message may be larger than what is left of a rate of bytes; what follows it pays.
 */
export const OVERHEAD = 128;
/** What a connection may take before others have their turn. */
const QUANTUM_BYTES = 64 * 1_024;
const QUANTUM_MESSAGES = 256;
/** But no more than this part of the window. */
const QUANTUM_PART = 1 / 32;
const QUANTUM_COST = QUANTUM_BYTES + QUANTUM_MESSAGES * OVERHEAD;
/** What a tenant has left or owes is kept while it has nobody in the queue: its sockets have to be read first. */
const KEEP_DEFICIT_MS = 50;
/** Rounds that a tenant may owe for what it took while no other was in the queue. */
const DEBT_ROUNDS = 8;
/** For so long turns are given before the sockets are looked at again. */
const SLICE_MS = 4;
/** Who waited for longer than this is told why. */
const LONG_WAIT_MS = 1_000;
/** How soon to look again while the pace allows nothing. */
const PACE_LOOK_MS = 5;

export interface AdmissionOptions {
  now: () => number;
  window: WindowLimits;
  /** A rate is used up, or a turn came late; called each time. */
  onLimited(device: DeviceUsage, code: LimitCode, exceeded: Exceeded | undefined): void;
}

/** One connection's way through admission. */
export class Turn implements Waiting {
  readonly device: DeviceUsage;
  private readonly admission: Admission;
  private readonly resume: () => void;
  /** What is left of the last grant. */
  private messages = 0;
  private bytes = 0;
  private grantedMessages = 0;
  private grantedBytes = 0;
  /** Of what was taken of it, what counts for no rate. */
  private exemptMessages = 0;
  private exemptBytes = 0;
  /** Under way. */
  inflight = 0;
  inflightMessages = 0;
  waiting = false;
  waitingSince = 0;
  private left = false;

  /** `resume` handles what the connection holds, as far as {@link ready} says. */
  constructor(admission: Admission, device: DeviceUsage, resume: () => void) {
    this.admission = admission;
    this.device = device;
    this.resume = resume;
  }

  /** True while the next message may be taken. */
  ready(): boolean {
    return (this.messages > 0 && this.bytes > 0) || this.admission.ask(this);
  }

  /** A message was taken. */
  use(bytes: number): void {
    this.messages--;
    this.bytes -= bytes;
  }

  /** A message that was taken counts for no rate: it is part of the grant, or was charged with one before. */
  exempt(bytes: number): void {
    if (this.grantedMessages > this.messages + this.exemptMessages) {
      this.exemptMessages++;
      this.exemptBytes += bytes;
    } else this.admission.credit(this.device, bytes);
  }

  /** What was at hand is handled; what is left of the grant is given back. */
  end(): void {
    if (this.grantedMessages > 0) this.admission.charge(this);
  }

  /** A message that was taken is settled. */
  release(): void {
    if (this.inflightMessages === 0) return;
    // The mean, so that no message has to carry its cost; the last one takes the rest.
    const cost =
      this.inflightMessages === 1
        ? this.inflight
        : Math.floor(this.inflight / this.inflightMessages);
    this.inflight -= cost;
    this.inflightMessages--;
    this.admission.release(this, cost);
  }

  /**
   * The connection is gone. What it has under way is released at once: some of it may be where nobody
   * will ever settle it (packets that the broker drops with the connection).
   */
  leave(): void {
    if (this.left) return;
    this.left = true;
    this.end();
    this.admission.leave(this);
    while (this.inflightMessages > 0) this.release();
  }

  proceed(): void {
    if (this.left) return;
    this.resume();
    this.end();
  }

  grant(messages: number, bytes: number): void {
    this.messages = messages;
    this.bytes = bytes;
    this.grantedMessages = messages;
    this.grantedBytes = bytes;
  }

  /** Takes the grant back; returns what was used of it. */
  settleGrant(): {
    messages: number;
    bytes: number;
    exempt: { messages: number; bytes: number };
  } {
    const messages = this.grantedMessages - this.messages;
    const bytes = this.grantedBytes - this.bytes;
    const exempt = { messages: this.exemptMessages, bytes: this.exemptBytes };
    this.exemptMessages = 0;
    this.exemptBytes = 0;
    this.grant(0, 0);
    return { messages, bytes, exempt };
  }
}

type Sleeper = TenantUsage | DeviceUsage;

export class Admission {
  readonly window: AdmissionWindow;
  private readonly options: AdmissionOptions;
  private readonly now: () => number;
  /** A rate that everybody has to share while the window is not what is scarce. */
  readonly pace: Pace;
  private readonly alarms: Alarms<Sleeper>;
  /** Tenants with somebody whose turn may come, in the order of their turns. */
  private readonly ready = new Set<TenantUsage>();
  /** Tenants of which something was settled and somebody waits, since the last turns were given. */
  private readonly eased = new Set<TenantUsage>();
  /** Tenants with cost since the last look. */
  private recent = new Set<TenantUsage>();
  private over: TenantUsage[] = [];
  private inflight = 0;
  /** Cost of all that was ever taken. */
  takenCost = 0;
  /** Weights of the tenants with something under way. */
  private activeWeight = 0;
  private pumping = false;
  private scheduled: NodeJS.Immediate | undefined;
  private pacing: NodeJS.Timeout | undefined;
  private stopped = false;

  constructor(options: AdmissionOptions) {
    this.options = options;
    this.now = options.now;
    this.window = new AdmissionWindow(options.window, this.now);
    this.pace = new Pace(this.now);
    this.alarms = new Alarms(this.now, (sleepers) => this.wake(sleepers));
  }

  turn(device: DeviceUsage, resume: () => void): Turn {
    return new Turn(this, device, resume);
  }

  /** True while somebody waits for the window, not for rates of its own. */
  get contended(): boolean {
    return this.ready.size > 0;
  }

  get inflightCost(): number {
    return this.inflight;
  }

  /** Asks for a grant; false: the turn waits, and `proceed` is called when it has come. */
  ask(turn: Turn): boolean {
    if (turn.waiting) return false;
    turn.end();
    if (this.stopped) return false;
    const { device } = turn;
    const { tenant } = device;
    if (device.parked || tenant.parked || tenant.ready.size > 0) return this.wait(turn);
    const room = this.ready.size === 0 && this.hasRoom();
    if (!room && !this.isBelow(tenant)) return this.wait(turn);
    return this.grant(turn, this.now(), 1) || this.wait(turn);
  }

  /** What the turn has used since it was granted. */
  charge(turn: Turn): void {
    const { messages, bytes, exempt } = turn.settleGrant();
    if (messages === 0) return;
    const { device } = turn;
    const { tenant } = device;
    const counted = { messages: messages - exempt.messages, bytes: bytes - exempt.bytes };
    device.rates.take(counted.messages, counted.bytes);
    tenant.rates.take(counted.messages, counted.bytes);
    const cost = bytes + messages * OVERHEAD;
    if (tenant.inflightMessages === 0) this.activeWeight += tenant.quota.weight;
    tenant.inflight += cost;
    tenant.inflightMessages += messages;
    const owed = DEBT_ROUNDS * this.turnCost * tenant.quota.weight;
    tenant.deficit = Math.max(tenant.deficit - cost, -owed);
    if (tenant.recentCost === 0) this.recent.add(tenant);
    tenant.recentCost += cost;
    turn.inflight += cost;
    turn.inflightMessages += messages;
    this.inflight += cost;
    this.takenCost += cost;
    this.pace.take(cost);
    this.window.taken(turn);
  }

  /** A message of the device that was charged counts for no rate after all. */
  credit(device: DeviceUsage, bytes: number): void {
    const now = this.now();
    for (const one of [device, device.tenant]) {
      one.rates.take(-1, -bytes);
      if (!one.parked) continue;
      const left = one.rates.left(now);
      // An alarm is set, and will find it awake.
      if (left.messages > 0 && left.bytes > 0) this.wake([one]);
    }
  }

  release(turn: Turn, cost: number): void {
    const { tenant } = turn.device;
    tenant.inflight -= cost;
    tenant.inflightMessages--;
    if (tenant.inflightMessages === 0) this.activeWeight -= tenant.quota.weight;
    this.inflight -= cost;
    this.window.settled(turn, cost);
    if (this.ready.size === 0) return;
    if (tenant.ready.size > 0) this.eased.add(tenant);
    else if (this.inflight >= this.window.size) return;
    this.schedule();
  }

  leave(turn: Turn): void {
    if (!turn.waiting) return;
    turn.waiting = false;
    const { device } = turn;
    device.waiting.delete(turn);
    if (device.waiting.size === 0) this.unqueue(device);
  }

  /**
   * Shares of the tenants in what was taken since the last call: a tenant is over its share when it has
   * taken more than its weight's part among those that have taken anything.
   */
  look(): void {
    let cost = 0;
    let weight = 0;
    for (const tenant of this.recent) {
      cost += tenant.recentCost;
      weight += tenant.quota.weight;
    }
    for (const tenant of this.over) tenant.overShare = false;
    this.over = [];
    for (const tenant of this.recent) {
      const part = tenant.quota.weight / weight;
      // Rounding must not leave everybody below.
      tenant.overShare = tenant.recentCost >= cost * part * 0.999;
      if (tenant.overShare) this.over.push(tenant);
      tenant.recentCost = 0;
    }
    this.recent.clear();
  }

  stop(): void {
    this.stopped = true;
    this.alarms.stop();
    clearImmediate(this.scheduled);
    clearTimeout(this.pacing);
  }

  private hasRoom(): boolean {
    return this.inflight < this.window.size && this.pace.allows();
  }

  /** Nobody else's flood keeps it waiting. The pace does, when it takes more than its share of it. */
  private isBelow(tenant: TenantUsage): boolean {
    if (tenant.overShare && !this.pace.allows()) return false;
    return tenant.inflight < this.shareOf(tenant);
  }

  /** Room for a whole turn within its share; less would be many small turns. */
  private hasShareLeft(tenant: TenantUsage): boolean {
    const share = this.shareOf(tenant);
    return this.pace.allows() && tenant.inflight + Math.min(this.turnCost, share / 2) < share;
  }

  /** Most that one turn takes. */
  private get turnCost(): number {
    return Math.min(QUANTUM_COST, 2 * this.window.size * QUANTUM_PART);
  }

  private shareOf(tenant: TenantUsage): number {
    const { weight } = tenant.quota;
    const others = tenant.inflightMessages === 0 ? this.activeWeight : this.activeWeight - weight;
    return (this.window.size * weight) / Math.max(others + weight, weight);
  }

  private wait(turn: Turn): false {
    const { device } = turn;
    turn.waiting = true;
    turn.waitingSince = this.now();
    device.waiting.add(turn);
    if (!device.parked) this.enqueue(device);
    return false;
  }

  /** False when a rate of the tenant or device is used up; it is parked then. `sharers` divide the tenant's. */
  private grant(turn: Turn, now: number, sharers: number): boolean {
    const { device } = turn;
    const { tenant } = device;
    const own = device.rates.left(now);
    if (own.messages < 1 || own.bytes <= 0) {
      this.park(device, device.rates, device, 'DEVICE');
      return false;
    }
    const shared = tenant.rates.left(now);
    if (shared.messages < 1 || shared.bytes <= 0) {
      this.park(tenant, tenant.rates, device, 'TENANT');
      return false;
    }
    const part = this.window.size * QUANTUM_PART;
    const messages = Math.min(
      QUANTUM_MESSAGES,
      part / OVERHEAD,
      own.messages,
      shared.messages / sharers,
    );
    const bytes = Math.min(QUANTUM_BYTES, part, own.bytes, shared.bytes / sharers);
    turn.grant(Math.max(1, Math.floor(messages)), Math.max(1, bytes));
    return true;
  }

  private park(
    sleeper: Sleeper,
    rates: Rates,
    device: DeviceUsage,
    scope: 'DEVICE' | 'TENANT',
  ): void {
    const exceeded = rates.exceeded();
    sleeper.parked = true;
    this.alarms.set(sleeper, exceeded?.waitMs ?? 1);
    if (exceeded === undefined) return;
    const what = exceeded.what === 'messages' ? 'MESSAGES' : 'BYTES';
    this.options.onLimited(device, `${scope}_${what}`, exceeded);
  }

  private wake(sleepers: readonly Sleeper[]): void {
    const now = this.now();
    for (const sleeper of sleepers) {
      sleeper.parked = false;
      sleeper.freeSince = now;
      if ('waiting' in sleeper) {
        if (sleeper.waiting.size > 0) this.enqueue(sleeper);
      } else if (sleeper.ready.size > 0) this.ready.add(sleeper);
    }
    this.pump();
  }

  private enqueue(device: DeviceUsage): void {
    const { tenant } = device;
    tenant.ready.add(device);
    if (tenant.parked) return;
    if (!this.ready.has(tenant)) {
      if (this.now() - tenant.idleSince > KEEP_DEFICIT_MS) tenant.deficit = 0;
      this.ready.add(tenant);
    }
    if (this.inflight < this.window.size) this.schedule();
  }

  private unqueue(device: DeviceUsage): void {
    const { tenant } = device;
    tenant.ready.delete(device);
    if (tenant.ready.size > 0) return;
    this.ready.delete(tenant);
    tenant.idleSince = this.now();
  }

  private schedule(): void {
    this.scheduled ??= setImmediate(() => {
      this.scheduled = undefined;
      this.pump();
    });
  }

  /** Gives turns while there is room, for a slice of time. */
  private pump(): void {
    if (this.pumping || this.stopped) return;
    this.pumping = true;
    const started = this.now();
    let now = started;
    for (;;) {
      const [below] = this.eased;
      const [first] = this.ready;
      if (first === undefined || (below === undefined && !this.hasRoom())) break;
      if (now - started > SLICE_MS) {
        this.schedule();
        break;
      }
      if (below !== undefined) {
        // Whatever the others have under way, it gets its part of the window.
        if (this.ready.has(below) && this.hasShareLeft(below)) {
          this.serve(below, now);
          now = this.now();
        } else this.eased.delete(below);
        continue;
      }
      const tenant = first;
      if (tenant.deficit <= 0 && this.ready.size > 1) {
        // To the end of the queue, with what it gets for the next round.
        tenant.deficit += this.turnCost * tenant.quota.weight;
        this.ready.delete(tenant);
        this.ready.add(tenant);
        continue;
      }
      this.serve(tenant, now);
      now = this.now();
    }
    this.pumping = false;
    if (this.ready.size === 0 || this.pace.allows()) return;
    this.pacing ??= setTimeout(() => {
      this.pacing = undefined;
      this.pump();
    }, PACE_LOOK_MS);
  }

  /** The turn of a tenant's next device. */
  private serve(tenant: TenantUsage, now: number): void {
    const [device] = tenant.ready;
    const [turn] = (device?.waiting ?? []) as Iterable<Turn>;
    if (device === undefined || turn === undefined) {
      this.ready.delete(tenant);
      return;
    }
    if (!this.grant(turn, now, tenant.ready.size)) {
      if (device.parked) this.unqueue(device);
      if (tenant.parked) this.ready.delete(tenant);
      return;
    }
    device.waiting.delete(turn);
    turn.waiting = false;
    tenant.ready.delete(device);
    if (device.waiting.size > 0) tenant.ready.add(device);
    const waitedMs = now - Math.max(turn.waitingSince, device.freeSince, tenant.freeSince);
    this.window.waited(waitedMs);
    if (waitedMs > LONG_WAIT_MS) this.options.onLimited(device, 'FAIR_SHARE', undefined);
    turn.proceed();
    // Only now: who comes again at once keeps what is left of its deficit.
    if (tenant.ready.size === 0) this.unqueue(device);
  }
}
