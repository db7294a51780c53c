import type { DeviceEntry, Directory } from '../../src/tenants/contract.ts';

/** A directory in memory. */
export class MemoryDirectory implements Directory {
  readonly entries = new Map<string, DeviceEntry>();

  set(tenant: string, device: string, secretHash: string): void {
    this.entries.set(`${tenant}/${device}`, {
      tenant,
      device,
      type: 'thermostat',
      secretHash,
      createdAt: 0,
    });
  }

  add(entry: Pick<DeviceEntry, 'tenant' | 'device' | 'type' | 'via'>): void {
    const { tenant, device } = entry;
    this.entries.set(`${tenant}/${device}`, { ...entry, secretHash: '', createdAt: 0 });
  }

  device(tenant: string, device: string): DeviceEntry | undefined {
    return this.entries.get(`${tenant}/${device}`);
  }

  devices(): DeviceEntry[] {
    return [...this.entries.values()];
  }

  verifyToken(): undefined {
    return undefined;
  }

  version(): number {
    return 0;
  }

  close(): void {}
}
