import { isLegalName } from './line-protocol.ts';
import type { Queries } from './queries.ts';
import { newestRows } from './raw-times.ts';

/** Times of one device that are remembered at least and at most. */
const RECENT_MIN = 16;
const RECENT_MAX = 32;

/**
 * A range of its own costs about as much as this many rows: 1.2 ms of InfluxDB's CPU, and up to 8 where late
 * rows overlap its blocks, against 2 µs for a row that is read beside those that are looked for.
 */
const ROWS_PER_RANGE = 2_000;
const GAP_DEFAULT_MS = 60_000;
const GAP_MIN_MS = 10;
const GAP_MAX_MS = 600_000;

/**
 * With more unknown devices than this, all of a tenant are asked for: measured with 5,000, a device costs
 * 0.4 ms when it is named and 0.05 ms when all are read.
 */
const NAMED_MAX = 500;

/** What is known of one device's rows. */
export class DeviceRows {
  /** The last batch that had readings of the device. */
  usedIn = 0;
  /** Of the log, where its last reading came from. */
  partition = 0;
  /** All rows from here on are in `recent`. */
  private knownFrom: number;
  private newest: number;
  private recent: number[];
  private type = '';
  private prefix: string | undefined;

  /** `newest`: the device's newest row; -Infinity when there is none. */
  constructor(newest: number) {
    this.newest = newest;
    this.knownFrom = newest;
    this.recent = newest === Number.NEGATIVE_INFINITY ? [] : [newest];
  }

  /** True when there is certainly no row at `ts`; from now on there may be one. */
  claim(ts: number): boolean {
    if (ts > this.newest) this.newest = ts;
    else if (ts < this.knownFrom || this.recent.includes(ts)) return false;
    this.recent.push(ts);
    if (this.recent.length > RECENT_MAX) this.shrink();
    return true;
  }

  /** How long the device takes for so many rows as a range of its own costs, ms. */
  get gapMs(): number {
    const [oldest, newest] = [Math.min(...this.recent), Math.max(...this.recent)];
    if (this.recent.length < 2) return GAP_DEFAULT_MS;
    const gap = ((newest - oldest) / (this.recent.length - 1)) * ROWS_PER_RANGE;
    return Math.min(GAP_MAX_MS, Math.max(GAP_MIN_MS, gap));
  }

  /** Measurement and tags of its readings; undefined when a name is not legal. */
  series(tenant: string, device: string, type: string): string | undefined {
    if (this.type !== type) {
      this.type = type;
      this.prefix = seriesOf(tenant, device, type);
    }
    return this.prefix;
  }

  private shrink(): void {
    this.recent.sort((a, b) => a - b);
    const dropped = this.recent.splice(0, this.recent.length - RECENT_MIN);
    this.knownFrom = (dropped.at(-1) ?? this.knownFrom) + 1;
  }
}

/** Tags in the order of their names, as InfluxDB keeps them. */
export function seriesOf(tenant: string, device: string, type: string): string | undefined {
  const isLegal = isLegalName(tenant) && isLegalName(device) && isLegalName(type);
  return isLegal ? `${type},device=${device},tenant=${tenant}` : undefined;
}

/**
 * Tells new rows from those that may exist, so that only the latter are read before they are written.
 * Devices send in the order of time but for a few, so their newest times tell almost all.
 *
 * It is right as long as nobody else writes rows of the same devices; {@link forget} must be called when
 * that may have been so. Where it errs, a row is written as its record alone says, and the records behind
 * that record, which come again too, bring the rest of it.
 */
export class RawKeys {
  private readonly queries: Queries;
  private readonly bucket: string;
  private readonly devicesMax: number;
  private readonly tenants = new Map<string, Map<string, DeviceRows>>();
  /** Tenants of which a device that is not known has no rows. */
  private readonly complete = new Set<string>();
  private size = 0;
  private batch = 0;

  constructor(queries: Queries, bucket: string, devicesMax: number) {
    this.queries = queries;
    this.bucket = bucket;
    this.devicesMax = devicesMax;
  }

  /** Learns what the store has of devices that are not known. Must come before {@link find}. */
  async learn(devices: readonly { tenant: string; device: string }[]): Promise<void> {
    this.batch += 1;
    const unknown = new Map<string, Set<string>>();
    for (const { tenant, device } of devices) {
      const known = this.find(tenant, device);
      if (known !== undefined) {
        known.usedIn = this.batch;
        continue;
      }
      const names = unknown.get(tenant);
      if (names === undefined) unknown.set(tenant, new Set([device]));
      else names.add(device);
    }
    for (const [tenant, names] of unknown) await this.ask(tenant, names);
  }

  private async ask(tenant: string, names: ReadonlySet<string>): Promise<void> {
    if (!this.complete.has(tenant)) {
      const isAll = names.size > NAMED_MAX;
      const newest = await newestRows(
        this.queries,
        this.bucket,
        tenant,
        isAll ? {} : { devices: [...names] },
      );
      for (const [device, { ts }] of newest) {
        if (this.find(tenant, device) === undefined) this.add(tenant, device, ts);
      }
      if (isAll) this.complete.add(tenant);
    }
    for (const device of names) {
      const known = this.find(tenant, device) ?? this.add(tenant, device, Number.NEGATIVE_INFINITY);
      known.usedIn = this.batch;
    }
  }

  find(tenant: string, device: string): DeviceRows | undefined {
    return this.tenants.get(tenant)?.get(device);
  }

  gapMs({ tenant, device }: { tenant: string; device: string }): number {
    return this.find(tenant, device)?.gapMs ?? GAP_DEFAULT_MS;
  }

  private add(tenant: string, device: string, newest: number): DeviceRows {
    let devices = this.tenants.get(tenant);
    if (devices === undefined) {
      devices = new Map();
      this.tenants.set(tenant, devices);
    }
    const rows = new DeviceRows(newest);
    devices.set(device, rows);
    this.size += 1;
    return rows;
  }

  /** Keeps what is allowed to be kept, of the last batch rather than of earlier ones. */
  shrink(): void {
    for (const isLast of [false, true]) {
      for (const [tenant, devices] of this.tenants) {
        for (const [device, { usedIn }] of devices) {
          if (this.size <= this.devicesMax) return;
          if (usedIn === this.batch && !isLast) continue;
          devices.delete(device);
          this.complete.delete(tenant);
          this.size -= 1;
        }
        if (devices.size === 0) this.tenants.delete(tenant);
      }
    }
  }

  forget(): void {
    this.tenants.clear();
    this.complete.clear();
    this.size = 0;
  }
}
