import type { TenantQuota } from '../../config/quotas.ts';
import type { LimitCode } from '../../core/refusals.ts';
import { Bucket } from './buckets.ts';
import { Distinct } from './distinct.ts';
import { Rates } from './rates.ts';

/** The last limit that slowed or refused a device. */
export interface Limited {
  code: LimitCode;
  /** `at most 10 messages in 1s`. */
  expected: string;
  /** ms since the epoch. */
  at: number;
  /** How often since the device was first seen. */
  count: number;
}

/** A connection that waits for its turn. */
export interface Waiting {
  /** Takes what it has within what it was granted. */
  proceed(): void;
}

/** What a tenant uses of the gateway now. */
export class TenantUsage {
  readonly name: string;
  readonly quota: TenantQuota;
  readonly rates: Rates;
  readonly connects: readonly Bucket[];
  /** Those that are known here. */
  readonly devices = new Map<string, DeviceUsage>();
  readonly devicesToday: Distinct;
  /** Names of metrics that no type declares. */
  readonly metricsToday: Distinct;
  connections = 0;

  /** What was taken and is not yet settled, in units of cost. */
  inflight = 0;
  inflightMessages = 0;
  /** Cost that it may still have in its turn. */
  deficit = 0;
  /** Devices with something that waits, and that their own rates let through, in the order of their turns. */
  readonly ready = new Set<DeviceUsage>();
  /** When the last of them was gone. */
  idleSince = 0;
  /** Its rates are used up; an alarm is set. */
  parked = false;
  /** Since when its rates have let it through. */
  freeSince = 0;

  /** Cost since the last look, and its share of everything then. */
  recentCost = 0;
  overShare = false;

  constructor(name: string, quota: TenantQuota, now: number) {
    this.name = name;
    this.quota = quota;
    this.rates = new Rates(quota.tenant, now);
    this.connects = quota.tenant.connects.map((limit) => new Bucket(limit, now));
    this.devicesToday = new Distinct(quota.tenant.devices);
    this.metricsToday = new Distinct(quota.tenant.metrics);
  }
}

export class DeviceUsage {
  readonly tenant: TenantUsage;
  readonly name: string;
  readonly rates: Rates;
  readonly connects: readonly Bucket[];
  /** Names of metrics that its type does not declare. */
  readonly metricsToday: Distinct;
  connections = 0;
  /** Its connections that wait for their turn, in order. */
  readonly waiting = new Set<Waiting>();
  /** Its rates are used up; an alarm is set. */
  parked = false;
  /** Since when its rates have let it through. */
  freeSince = 0;
  limited: Limited | undefined;
  /** When it was last told so, monotonic. */
  toldAt = Number.NEGATIVE_INFINITY;

  constructor(tenant: TenantUsage, name: string, now: number) {
    this.tenant = tenant;
    this.name = name;
    this.rates = new Rates(tenant.quota.device, now);
    this.connects = tenant.quota.device.connects.map((limit) => new Bucket(limit, now));
    this.metricsToday = new Distinct(tenant.quota.device.metrics);
  }

  get key(): string {
    return `${this.tenant.name}/${this.name}`;
  }
}

/**
 * Who uses the gateway: the tenants and devices that are connected, and those that left lately, so that
 * coming back is no way around a quota.
 */
export class UsageBook {
  private readonly tenants = new Map<string, TenantUsage>();
  /** Devices without a connection, those that left first at the front. */
  private readonly idle = new Map<string, DeviceUsage>();
  private readonly quotaOf: (tenant: string) => TenantQuota;
  private readonly idleMax: number;
  private readonly now: () => number;

  constructor(options: {
    quotaOf: (tenant: string) => TenantQuota;
    /** Devices without a connection that are remembered. */
    idleMax: number;
    now: () => number;
  }) {
    this.quotaOf = options.quotaOf;
    this.idleMax = options.idleMax;
    this.now = options.now;
  }

  /** Undefined when it is not known here: nothing limits it. */
  find(tenant: string, device: string): DeviceUsage | undefined {
    return this.tenants.get(tenant)?.devices.get(device);
  }

  /** The usage of a device that has proven who it is; {@link close} follows each call. */
  open(tenant: string, device: string): DeviceUsage {
    const usage = this.of(tenant, device);
    this.idle.delete(usage.key);
    usage.connections++;
    usage.tenant.connections++;
    return usage;
  }

  close(usage: DeviceUsage): void {
    usage.connections--;
    usage.tenant.connections--;
    if (usage.connections === 0) this.keep(usage);
  }

  /** The usage of a device that may have no connection. */
  of(name: string, device: string): DeviceUsage {
    let tenant = this.tenants.get(name);
    if (tenant === undefined) {
      tenant = new TenantUsage(name, this.quotaOf(name), this.now());
      this.tenants.set(name, tenant);
    }
    let usage = tenant.devices.get(device);
    if (usage === undefined) {
      usage = new DeviceUsage(tenant, device, this.now());
      tenant.devices.set(device, usage);
      this.keep(usage);
    }
    return usage;
  }

  private keep(usage: DeviceUsage): void {
    this.idle.delete(usage.key);
    this.idle.set(usage.key, usage);
    for (const [key, oldest] of this.idle) {
      if (this.idle.size <= this.idleMax) return;
      this.idle.delete(key);
      const { tenant } = oldest;
      tenant.devices.delete(oldest.name);
      if (tenant.devices.size === 0) this.tenants.delete(tenant.name);
    }
  }
}
