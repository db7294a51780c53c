import { Bucket } from './buckets.ts';
import type { DeviceUsage, TenantUsage } from './usage.ts';

/**
 * The budget of readings that come long after they were measured. They are charged here and to no quota: a
 * device that comes back with days of them uses up neither its tenant's rates nor anybody's turn.
 *
 * A connection whose readings are old spends what it was granted. When that is used up its socket is not
 * read until its turn comes again, so its acknowledgements come later: the device is slowed down, and stays
 * connected. Turns go round by connection, as far as the rates of the device, of its tenant and of all
 * together have something left, and while not too much waits for the rollup worker.
 *
 * Whoever sends no old readings never meets it. Its rates may go into debt by one message.
 */
export interface BackfillLimits {
  /** Readings a second; of all together, of one tenant, of one device. */
  readingsPerSecond: number;
  tenantReadingsPerSecond: number;
  deviceReadingsPerSecond: number;
  /** When so many readings wait to be processed, nobody has a turn. */
  waitingMax: number;
}

/** What a turn may take before others have theirs. */
const QUANTUM = 200;
/** How often turns are given, ms. */
const LOOK_MS = 20;
/** For so long they are given before the sockets are looked at again. */
const SLICE_MS = 4;

const perSecond = (amount: number) => ({ amount, windowMs: 1_000 });

/** One connection's way through the budget. */
export class BackfillTurn {
  readonly device: DeviceUsage;
  /** The connection's socket is not read. */
  isHeld = false;
  /** What is left of the last grant; below 0 by what a message was larger. */
  left = 0;
  private readonly budget: BackfillBudget;
  private readonly onGranted: () => void;

  constructor(budget: BackfillBudget, device: DeviceUsage, onGranted: () => void) {
    this.budget = budget;
    this.device = device;
    this.onGranted = onGranted;
  }

  /** Old readings were taken. */
  take(readings: number): void {
    this.left -= readings;
    this.budget.charge(this, readings);
  }

  grant(readings: number): void {
    this.left = readings;
    if (!this.isHeld) return;
    this.isHeld = false;
    this.onGranted();
  }

  /** The connection is gone. */
  leave(): void {
    this.budget.leave(this);
  }
}

export class BackfillBudget {
  private readonly limits: BackfillLimits;
  private readonly now: () => number;
  private readonly waiting: () => number;
  private readonly all: Bucket;
  /** Of those that had old readings; those that used theirs last at the end. */
  private readonly tenants = new Map<TenantUsage, Bucket>();
  private readonly devices = new Map<DeviceUsage, Bucket>();
  /** Connections whose grant is used up, in the order of their turns. */
  private readonly queue = new Set<BackfillTurn>();
  private timer: NodeJS.Timeout | undefined;
  private stopped = false;

  /** `now`: monotonic, ms. `waiting`: readings that wait to be processed. */
  constructor(limits: BackfillLimits, now: () => number, waiting: () => number) {
    this.limits = limits;
    this.now = now;
    this.waiting = waiting;
    this.all = new Bucket(perSecond(limits.readingsPerSecond), now());
  }

  /** Connections that wait for their turn. */
  get held(): number {
    return this.queue.size;
  }

  turn(device: DeviceUsage, onGranted: () => void): BackfillTurn {
    return new BackfillTurn(this, device, onGranted);
  }

  charge(turn: BackfillTurn, readings: number): void {
    const { device } = turn;
    this.all.take(readings);
    this.tenantBucket(device.tenant).take(readings);
    this.deviceBucket(device).take(readings);
    if (turn.left > 0 || this.queue.has(turn)) return;
    const now = this.now();
    // Nobody waits and there is enough: it goes on at once.
    if (this.queue.size === 0 && this.allows(now)) {
      turn.left = this.grantable(turn, now);
      if (turn.left > 0) return;
    }
    turn.isHeld = true;
    this.queue.add(turn);
    this.lookLater();
  }

  leave(turn: BackfillTurn): void {
    this.queue.delete(turn);
    turn.isHeld = false;
  }

  stop(): void {
    this.stopped = true;
    clearTimeout(this.timer);
    this.timer = undefined;
  }

  private allows(now: number): boolean {
    return this.all.left(now) > 0 && this.waiting() < this.limits.waitingMax;
  }

  /** 0 or less: nothing. */
  private grantable({ device }: BackfillTurn, now: number): number {
    return Math.min(
      QUANTUM,
      this.tenantBucket(device.tenant).left(now),
      this.deviceBucket(device).left(now),
    );
  }

  /** Gives turns to those that wait; each may come to wait again meanwhile, at the end. */
  private look(): void {
    this.timer = undefined;
    const started = this.now();
    for (const turn of [...this.queue]) {
      const now = this.now();
      if (!this.allows(now) || now - started > SLICE_MS) break;
      const readings = this.grantable(turn, now);
      if (readings <= 0) continue;
      this.queue.delete(turn);
      turn.grant(readings);
    }
    if (this.queue.size > 0) this.lookLater();
  }

  /** Turns that were given may have asked for it already. */
  private lookLater(): void {
    if (!this.stopped) this.timer ??= setTimeout(() => this.look(), LOOK_MS);
  }

  private tenantBucket(tenant: TenantUsage): Bucket {
    return this.bucket(this.tenants, tenant, this.limits.tenantReadingsPerSecond);
  }

  private deviceBucket(device: DeviceUsage): Bucket {
    return this.bucket(this.devices, device, this.limits.deviceReadingsPerSecond);
  }

  /** Buckets that are full again are dropped with the next new one: they have nothing to say. */
  private bucket<Key>(buckets: Map<Key, Bucket>, key: Key, amount: number): Bucket {
    const known = buckets.get(key);
    if (known !== undefined) {
      buckets.delete(key);
      buckets.set(key, known);
      return known;
    }
    const now = this.now();
    let looked = 0;
    for (const [other, bucket] of buckets) {
      if (looked++ === 2 || !bucket.isFull(now)) break;
      buckets.delete(other);
    }
    const made = new Bucket(perSecond(amount), now);
    buckets.set(key, made);
    return made;
  }
}
