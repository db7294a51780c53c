import type { DataContext } from './context.ts';

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

interface ListedDevice {
  tenant: string;
  device: string;
  /** Null when the device is not registered. */
  type: string | null;
  metrics: string[];
  /** Newest stored event time; null without data. */
  lastSeen: string | null;
  lastSeenMs: number | null;
}

export async function listDevices(
  context: DataContext,
  tenants: readonly string[],
): Promise<{ devices: ListedDevice[]; truncated: boolean }> {
  const devices: ListedDevice[] = [];
  for (const tenant of tenants) {
    const listed = await devicesOf(context, tenant);
    devices.push(...listed.slice(0, DEVICES_MAX - devices.length));
    if (listed.length > 0 && devices.length >= DEVICES_MAX) return { devices, truncated: true };
  }
  return { devices, truncated: false };
}

async function devicesOf(context: DataContext, tenant: string): Promise<ListedDevice[]> {
  const { store } = context;
  const found = new Map<string, ListedDevice>();
  const entry = (device: string): ListedDevice => {
    const known = found.get(device);
    if (known !== undefined) return known;
    const made = { tenant, device, type: null, metrics: [], lastSeen: null, lastSeenMs: null };
    found.set(device, made);
    return made;
  };
  for (const { device, type } of context.devices?.(tenant) ?? []) entry(device).type = type;
  for (const { device, metrics } of await store.series(tenant)) {
    entry(device).metrics = [...metrics].sort();
  }
  for (const [device, at] of await store.latest(tenant)) {
    Object.assign(entry(device), { lastSeen: new Date(at).toISOString(), lastSeenMs: at });
  }
  return [...found.values()].sort((a, b) => (a.device < b.device ? -1 : 1));
}
