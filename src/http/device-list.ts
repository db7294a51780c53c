import type { DeviceType } from '../core/nouns.ts';
import type { PresenceStatus } from '../ops/deadman.ts';
import type { DataContext } from './context.ts';
import { presenceOf, type ShownPresence } from './presence.ts';

/** Devices with data or an entry in the directory, and when each was last heard of. */

const DEVICES_MAX = 10_000;
const TENANTS_MAX = 1_000;
const TENANTS_KEPT_MS = 5_000;

/** The tenants that there are: registered ones and those that the gateways have heard of. */
export class TenantList {
  private readonly context: DataContext;
  private kept: { at: number; names: string[] } | undefined;

  constructor(context: DataContext) {
    this.context = context;
  }

  async get(): Promise<string[]> {
    const now = this.context.clock.now();
    if (this.kept !== undefined && now - this.kept.at < TENANTS_KEPT_MS) return this.kept.names;
    const names = new Set(this.context.devices?.().map(({ tenant }) => tenant));
    for (const { tenant } of await this.context.consumer.received({})) names.add(tenant);
    this.kept = { at: now, names: [...names].sort().slice(0, TENANTS_MAX) };
    return this.kept.names;
  }
}

export interface ListedDevice extends ShownPresence {
  tenant: string;
  device: string;
  /** Null when the device is not registered. */
  type: string | null;
  metrics: string[];
  /** Newest stored event time; null without data. */
  lastSeen: string | null;
  lastSeenMs: number | null;
}

/** `status`: those alone. */
export async function listDevices(
  context: DataContext,
  types: ReadonlyMap<string, DeviceType>,
  tenants: readonly string[],
  status?: PresenceStatus,
): Promise<{ devices: ListedDevice[]; truncated: boolean }> {
  const devices: ListedDevice[] = [];
  for (const tenant of tenants) {
    const all = await devicesOf(context, types, tenant);
    const listed = status === undefined ? all : all.filter((one) => one.status === status);
    devices.push(...listed.slice(0, DEVICES_MAX - devices.length));
    if (listed.length > 0 && devices.length >= DEVICES_MAX) return { devices, truncated: true };
  }
  return { devices, truncated: false };
}

async function devicesOf(
  context: DataContext,
  types: ReadonlyMap<string, DeviceType>,
  tenant: string,
): Promise<ListedDevice[]> {
  const { store } = context;
  const found = new Map<string, ListedDevice>();
  const entry = (device: string): ListedDevice => {
    const known = found.get(device);
    if (known !== undefined) return known;
    const made: ListedDevice = {
      ...{ tenant, device, type: null, metrics: [], lastSeen: null, lastSeenMs: null },
      ...{ status: null, since: null, heard: null },
    };
    found.set(device, made);
    return made;
  };
  for (const { device, type } of context.devices?.(tenant) ?? []) entry(device).type = type;
  for (const { device, metrics } of await store.series(tenant)) {
    entry(device).metrics = [...metrics].sort();
  }
  const newest = await store.newest(tenant);
  for (const [device, { ts }] of newest) {
    Object.assign(entry(device), { lastSeen: new Date(ts).toISOString(), lastSeenMs: ts });
  }
  const watched = new Map(await context.presence?.(tenant));
  for (const [device, of] of found) {
    const { type: name } = of;
    // Of one that is not registered any more nothing is expected.
    if (name === null) continue;
    const presence = watched.get(device);
    Object.assign(of, presenceOf(context, presence, types.get(name), newest.get(device)?.received));
  }
  return [...found.values()].sort((a, b) => (a.device < b.device ? -1 : 1));
}
