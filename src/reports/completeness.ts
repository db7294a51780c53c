import type { DeviceType } from '../core/nouns.ts';
import type { StoreReader } from '../store/contract.ts';

/**
 * How much of what devices should have sent is there.
 *
 * `expected` is the number of readings that a device must have sent if it kept the period of its type:
 * over the range, cut to now and to the device's first stored reading. A device that had sent before
 * the range is measured over whole periods (rounded down), one that began within it from its first
 * reading on. It is null where the type or its period is unknown. `received` counts stored readings by
 * event time, `deadLettered` messages by gateway time.
 */
export interface DeviceCompleteness {
  device: string;
  expected: number | null;
  received: number;
  /** By refusal code. */
  deadLettered: Map<string, number>;
  /** Newest stored event time, ms; null without data. */
  dataAsOf: number | null;
}

export interface Completeness {
  /** The range that was counted, ms: that of the report, without what raw data is no longer kept of. */
  from: number;
  to: number;
  devices: DeviceCompleteness[];
  totals: {
    devices: number;
    /** Of the devices whose period is known; null when there is none. */
    expected: number | null;
    /** Devices that `expected` does not cover. */
    unknownPeriod: number;
    received: number;
    deadLettered: Map<string, number>;
    dataAsOf: number | null;
  };
}

/** A device's type is looked up in its newest reading for at most so many devices. */
export const LOOKUPS_MAX = 1_000;

/** The types of devices: as the directory knows them, else as their newest reading says. */
export async function typesOf(
  store: StoreReader,
  tenant: string,
  latest: ReadonlyMap<string, number>,
  types: ReadonlyMap<string, DeviceType>,
  deviceType?: (tenant: string, device: string) => string | undefined,
): Promise<Map<string, DeviceType>> {
  const found = new Map<string, DeviceType>();
  let lookups = 0;
  for (const [device, at] of latest) {
    let name = deviceType?.(tenant, device);
    if (name === undefined && lookups < LOOKUPS_MAX) {
      lookups += 1;
      const range = { tenant, devices: [device], from: at, to: at + 1, limit: 1 };
      name = (await store.readings(range))[0]?.type;
    }
    const type = name === undefined ? undefined : types.get(name);
    if (type !== undefined) found.set(device, type);
  }
  return found;
}

/** What the first readings of devices are known to be, for each store; a scan of all raw files each. */
const firsts = new WeakMap<StoreReader, Map<string, number>>();
const FIRSTS_KEPT_MAX = 20_000;
/** Scans in one query at most; what they find is kept, so that the next query gets further. */
const SCANS_MAX = 100;
const DAY_MS = 86_400_000;

/**
 * Since when each device has sent: some time before `from` (0), its first reading in the range, or not
 * yet (Infinity). Devices that there was no time to look at are absent.
 */
async function sendingSince(
  store: StoreReader,
  tenant: string,
  devices: readonly string[],
  range: { from: number; to: number },
): Promise<Map<string, number>> {
  const { from, to } = range;
  const since = new Map<string, number>();
  if (from >= to || devices.length === 0) return since;
  // One look at the day before answers it for nearly all devices.
  const before = { tenant, devices, from: Math.max(0, from - DAY_MS), to: from };
  for (const device of (await store.countReadings(before)).keys()) since.set(device, 0);
  const known = firsts.get(store) ?? new Map<string, number>();
  firsts.set(store, known);
  let scans = 0;
  for (const device of devices) {
    if (since.has(device)) continue;
    const key = `${tenant}/${device}`;
    let first = known.get(key);
    // What is known may have been made older by late readings, never younger while it is kept.
    if (first === undefined || first >= from) {
      if (scans >= SCANS_MAX) continue;
      scans += 1;
      const query = { tenant, devices: [device], from: 0, to, limit: 1 };
      first = (await store.readings(query))[0]?.ts;
      if (first === undefined) {
        since.set(device, Number.POSITIVE_INFINITY);
        continue;
      }
      if (known.size >= FIRSTS_KEPT_MAX) known.clear();
      known.set(key, first);
    }
    since.set(device, first < from ? 0 : first);
  }
  return since;
}

function expectedOf(
  since: number | undefined,
  range: { from: number; to: number },
  periodMs: number,
): number | null {
  const { from, to } = range;
  if (from >= to) return 0;
  if (since === undefined) return null;
  if (since >= to) return 0;
  return since >= from ? Math.ceil((to - since) / periodMs) : Math.floor((to - from) / periodMs);
}

/** Times in ms; `now` cuts what is expected, `keptFrom` is the oldest time that raw data is kept of. */
export async function completenessOf(
  store: StoreReader,
  query: { tenant: string; devices: string[] | undefined; from: number; to: number },
  known: {
    now: number;
    keptFrom: number;
    latest: ReadonlyMap<string, number>;
    types: ReadonlyMap<string, DeviceType>;
    /** Devices to list even when nothing of them was stored. */
    listed: Iterable<string>;
  },
): Promise<Completeness> {
  const { tenant, devices } = query;
  const from = Math.min(query.to, Math.max(query.from, known.keptFrom));
  const range = { tenant, from, to: query.to, ...(devices && { devices }) };
  const received = await store.countReadings(range);
  const letters = new Map<string, Map<string, number>>();
  for (const { device, code, count } of await store.countDeadLetters(range)) {
    const codes = letters.get(device) ?? new Map<string, number>();
    letters.set(device, codes.set(code, (codes.get(code) ?? 0) + count));
  }
  const names = new Set([
    ...known.listed,
    ...received.keys(),
    ...letters.keys(),
    ...known.latest.keys(),
  ]);
  const counted = { from, to: Math.min(query.to, known.now) };
  const listed = [...names].sort();
  const periodOf = (device: string): number => known.types.get(device)?.periodMs ?? 0;
  const withPeriod = listed.filter((device) => periodOf(device) > 0);
  const since = await sendingSince(store, tenant, withPeriod, counted);
  const rows: DeviceCompleteness[] = [];
  for (const device of listed) {
    const periodMs = periodOf(device);
    const expected = periodMs > 0 ? expectedOf(since.get(device), counted, periodMs) : null;
    rows.push({
      device,
      expected,
      received: received.get(device) ?? 0,
      deadLettered: letters.get(device) ?? new Map(),
      dataAsOf: known.latest.get(device) ?? null,
    });
  }
  return { from, to: query.to, devices: rows, totals: totalsOf(rows) };
}

function totalsOf(rows: readonly DeviceCompleteness[]): Completeness['totals'] {
  const deadLettered = new Map<string, number>();
  let expected: number | null = null;
  let unknownPeriod = 0;
  let received = 0;
  let dataAsOf: number | null = null;
  for (const row of rows) {
    if (row.expected === null) unknownPeriod += 1;
    else expected = (expected ?? 0) + row.expected;
    received += row.received;
    for (const [code, count] of row.deadLettered) {
      deadLettered.set(code, (deadLettered.get(code) ?? 0) + count);
    }
    if (row.dataAsOf !== null) dataAsOf = Math.max(dataAsOf ?? 0, row.dataAsOf);
  }
  return { devices: rows.length, expected, unknownPeriod, received, deadLettered, dataAsOf };
}
