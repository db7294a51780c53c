import type { Config } from '../../config/schema.ts';
import { LIMITS, type LimitCode } from '../../core/refusals.ts';
import { formatDuration } from '../../core/units.ts';
import type { Identity } from '../../tenants/contract.ts';
import { parseUsername } from '../../tenants/passwords.ts';
import type { ConnectRefusal } from '../connect-packet.ts';
import { Addresses } from './addresses.ts';
import type { Bucket } from './buckets.ts';
import { PenaltyBox } from './penalty-box.ts';
import type { DeviceUsage, UsageBook } from './usage.ts';

/** Addresses and devices that are remembered by their connects. */
const ENTRIES_MAX = 20_000;

/** Why a connection is refused. */
export interface Refused {
  code: LimitCode;
  /** The limit in words. */
  expected: string;
  retryAfterMs?: number;
  device?: DeviceUsage | undefined;
}

/** How a refusal is said to a client. */
const ANSWERS: Partial<Record<LimitCode, ConnectRefusal>> = {
  OVERLOADED: 'busy',
  STOPPING: 'unavailable',
  CONNECTIONS_MAX: 'quota',
  DEVICE_CONNECTIONS: 'quota',
  TENANT_CONNECTIONS: 'quota',
  TENANT_DEVICES: 'quota',
  DEVICE_CONNECTS: 'rate',
  TENANT_CONNECTS: 'rate',
  CONNECTS_WAITING: 'rate',
  PENALTY: 'rate',
};

export function answerOf({ code }: Refused): ConnectRefusal {
  return ANSWERS[code] ?? 'unavailable';
}

export function reasonOf({ code, expected }: Refused): string {
  return `${code}: ${LIMITS[code]} (${expected})`;
}

/**
 * Who may connect, in the order of what it costs to find out: the address, before anything is read; the
 * name that a CONNECT claims, against what is known of it; the proven identity, against its quotas. A
 * claimed name is only ever looked up, so that nobody can bring a penalty on somebody else.
 */
export class ConnectRules {
  private readonly config: Config['overload'];
  private readonly book: UsageBook;
  private readonly now: () => number;
  private readonly wallNow: () => number;
  private readonly addresses: Addresses;
  private readonly addressPenalties: PenaltyBox;
  private readonly devicePenalties: PenaltyBox;

  constructor(options: {
    config: Config['overload'];
    book: UsageBook;
    now: () => number;
    wallNow: () => number;
  }) {
    const { config, book, now, wallNow } = options;
    this.config = config;
    this.book = book;
    this.now = now;
    this.wallNow = wallNow;
    const { perAddress, trusted } = config.connects;
    this.addresses = new Addresses({ limits: perAddress, trusted, entriesMax: ENTRIES_MAX, now });
    const { connects: limits, time: firstMs, timeMax: maxMs } = config.penalty;
    const box = () => new PenaltyBox({ limits, firstMs, maxMs, entriesMax: ENTRIES_MAX, now });
    this.addressPenalties = box();
    this.devicePenalties = box();
  }

  /** What an address counts as; undefined when nothing is asked of it. */
  addressKey(address: string | undefined): string | undefined {
    return this.config.protection ? this.addresses.keyOf(address) : undefined;
  }

  /** A connection came from an {@link addressKey}. */
  arrives(key: string): LimitCode | undefined {
    if (this.addressPenalties.waitMs(key) > 0) return 'PENALTY';
    return this.addresses.admits(key) ? undefined : 'ADDRESS_CONNECTS';
  }

  /** A CONNECT claims a name. */
  claimed(username: string | undefined): Refused | undefined {
    const names = username === undefined ? undefined : parseUsername(username);
    if (names === undefined) return undefined;
    const { tenant, device } = names;
    const usage = this.book.find(tenant, device);
    const waitMs = this.devicePenalties.waitMs(`${tenant}/${device}`);
    if (waitMs > 0) {
      const expected = `a wait of ${formatDuration(Math.ceil(waitMs / 1_000) * 1_000)}`;
      return { code: 'PENALTY', expected, retryAfterMs: waitMs, device: usage };
    }
    return usage && this.connectRate(usage);
  }

  /** An identity was not proven. */
  failed(addressKey: string | undefined): void {
    if (addressKey !== undefined) this.addressPenalties.count(addressKey);
  }

  /**
   * An identity was proven; the connection counts as one of its connects unless it is refused. `isTakeover`:
   * it takes the place of another of its connections.
   */
  proven({ tenant, device }: Identity, isTakeover: boolean): Refused | undefined {
    const usage = this.book.of(tenant, device);
    const { quota } = usage.tenant;
    const full = (code: LimitCode, most: number, what: string): Refused => ({
      code,
      expected: `at most ${most} ${what}`,
      device: usage,
    });
    const most = { device: quota.device.connections, tenant: quota.tenant.connections };
    if (!isTakeover) {
      if (most.device > 0 && usage.connections >= most.device)
        return full('DEVICE_CONNECTIONS', most.device, 'connections');
      if (most.tenant > 0 && usage.tenant.connections >= most.tenant)
        return full('TENANT_CONNECTIONS', most.tenant, 'connections');
    }
    if (!usage.tenant.devicesToday.admits(device, this.wallNow()))
      return full('TENANT_DEVICES', quota.tenant.devices, 'devices a day');
    const refused = this.connectRate(usage);
    if (refused !== undefined) return refused;
    for (const bucket of [...usage.connects, ...usage.tenant.connects]) bucket.take(1);
    if (this.config.protection) this.devicePenalties.count(usage.key);
    return undefined;
  }

  private connectRate(usage: DeviceUsage): Refused | undefined {
    return (
      this.exceeded(usage, usage.connects, 'DEVICE_CONNECTS') ??
      this.exceeded(usage, usage.tenant.connects, 'TENANT_CONNECTS')
    );
  }

  private exceeded(
    device: DeviceUsage,
    buckets: readonly Bucket[],
    code: LimitCode,
  ): Refused | undefined {
    for (const bucket of buckets) {
      if (bucket.left(this.now()) >= 1) continue;
      const { amount, windowMs } = bucket.limit;
      const expected = `at most ${amount} connects in ${formatDuration(windowMs)}`;
      return { code, expected, retryAfterMs: bucket.waitMs(1), device };
    }
    return undefined;
  }
}
