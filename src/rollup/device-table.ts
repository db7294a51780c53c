import type { DeviceType, ReadingRecord } from '../core/nouns.ts';
import { DeviceWindows, type MemoryCount } from './device-windows.ts';
import type { PartitionState } from './partition-state.ts';
import type { Waiting } from './window-loader.ts';
import { HOUR_MS, windowStart } from './windows.ts';

/** Tolerance for devices of types that the configuration does not know, ms. */
const TOLERANCE_MS = 300_000;
/** A device with more metrics than this is let go after each flush, so that its names do not pile up. */
const DEVICE_METRICS_MAX = 4_096;
/** How long a final window stays after its last change, so that a burst of late readings loads it once, ms. */
const LINGER_MS = 5_000;

/** A device in memory. */
export interface DeviceEntry {
  readonly windows: DeviceWindows;
  type: string;
  /** Where its last reading came from; `stored` counts for this one. */
  partition: PartitionState;
  /** All where readings of it came from. They belong to the same worker at any time. */
  readonly partitions: PartitionState[];
  /** Gateway time of the last batch with this device, ms. */
  touchedAt: number;
  /** Has readings since the last flush. */
  isTouched: boolean;
  /** Readings that wait for the store; those that follow queue behind them. */
  waiting: Waiting | undefined;
  /** Readings `stored` in the hour of gateway time `storedHour` that are not in the tally yet. */
  storedHour: number;
  stored: number;
}

export interface DeviceTableOptions {
  baseMs: number;
  latenessMs: number;
  types: ReadonlyMap<string, DeviceType>;
}

/** The devices in memory; all of them may be let go whenever they have nothing dirty. */
export class DeviceTable {
  /** Readings and windows of all devices. */
  readonly memory: MemoryCount = { readings: 0, windows: 0, values: 0 };
  size = 0;
  private readonly tenants = new Map<string, Map<string, DeviceEntry>>();
  private touched: DeviceEntry[] = [];
  private readonly options: DeviceTableOptions;

  constructor(options: DeviceTableOptions) {
    this.options = options;
  }

  /** The reading's device, which counts as touched from now on. `now`: gateway time, ms. */
  touch(reading: ReadingRecord, partition: PartitionState, now: number): DeviceEntry {
    const { type } = reading;
    const entry = this.find(reading.tenant, reading.device) ?? this.add(reading, partition);
    if (entry.type !== type) {
      entry.type = type;
      entry.windows.toleranceMs = this.options.types.get(type)?.futureMs ?? TOLERANCE_MS;
    }
    if (entry.partition !== partition) {
      spill(entry);
      entry.partition = partition;
      if (!entry.partitions.includes(partition)) entry.partitions.push(partition);
    }
    entry.touchedAt = now;
    if (!entry.isTouched) {
      entry.isTouched = true;
      this.touched.push(entry);
    }
    return entry;
  }

  find(tenant: string, device: string): DeviceEntry | undefined {
    return this.tenants.get(tenant)?.get(device);
  }

  private add(reading: ReadingRecord, partition: PartitionState): DeviceEntry {
    const { tenant, device } = reading;
    let devices = this.tenants.get(tenant);
    if (devices === undefined) {
      devices = new Map();
      this.tenants.set(tenant, devices);
    }
    const entry: DeviceEntry = {
      windows: new DeviceWindows(tenant, device, this.options.baseMs, this.memory),
      type: '',
      partition,
      partitions: [partition],
      touchedAt: 0,
      isTouched: false,
      waiting: undefined,
      storedHour: 0,
      stored: 0,
    };
    devices.set(device, entry);
    this.size += 1;
    return entry;
  }

  /** Devices with readings since the last flush. */
  touchedEntries(): readonly DeviceEntry[] {
    return this.touched;
  }

  /** After a flush: forgets who was touched, and lets go of what is final there. */
  flushed(now: number): void {
    for (const entry of this.touched) {
      entry.isTouched = false;
      this.evict(entry, now);
      if (entry.windows.slots.length > DEVICE_METRICS_MAX) this.drop(entry);
    }
    this.touched = [];
  }

  /** Forgets devices of partitions that are lost and not parked, whatever is dirty of them. */
  forgetLost(): void {
    for (const devices of this.tenants.values()) {
      for (const entry of devices.values()) if (isGone(entry)) this.drop(entry);
    }
    this.touched = this.touched.filter((entry) => !isGone(entry));
  }

  /** Lets go of what is final of all devices. Nothing may be dirty. */
  sweep(now: number): void {
    for (const devices of this.tenants.values()) {
      for (const entry of devices.values()) this.evict(entry, now);
    }
  }

  private evict(entry: DeviceEntry, now: number): void {
    const { latenessMs } = this.options;
    const isIdle = now - entry.touchedAt >= latenessMs;
    const until = Math.max(entry.windows.watermark, isIdle ? now : Number.NEGATIVE_INFINITY);
    entry.windows.evict(until - latenessMs, now - Math.min(latenessMs, LINGER_MS));
  }

  /** What memory holds, in readings: a kept value takes half as much as a reading's place in the index. */
  private held(): number {
    return this.memory.readings + this.memory.values / 2;
  }

  isOver(devicesMax: number, readingsMax: number): boolean {
    return this.size > devicesMax || this.held() > readingsMax;
  }

  /**
   * Over a bound: first, kept values and windows that ended leave memory before their lateness has passed, then the
   * devices that were longest without a reading, until nine tenths of both bounds are kept. One device
   * alone may exceed `readingsMax` with its open window. Nothing may be dirty. `now`: gateway time, ms.
   */
  shrink(devicesMax: number, readingsMax: number, now: number): void {
    if (!this.isOver(devicesMax, readingsMax)) return;
    const entries = [...this.tenants.values()].flatMap((devices) => [...devices.values()]);
    if (this.held() > readingsMax) for (const { windows } of entries) windows.forgetValues();
    for (const part of [0.5, 0.25, 0]) {
      if (this.held() <= readingsMax * 0.9) break;
      const latenessMs = this.options.latenessMs * part;
      for (const { windows } of entries) windows.evict(windows.watermark - latenessMs, now);
    }
    entries.sort((a, b) => a.touchedAt - b.touchedAt);
    for (const entry of entries.slice(0, -1)) {
      if (!this.isOver(devicesMax * 0.9, readingsMax * 0.9)) return;
      this.drop(entry);
    }
  }

  private drop(entry: DeviceEntry): void {
    const { tenant, device } = entry.windows;
    const devices = this.tenants.get(tenant);
    if (!devices?.delete(device)) return;
    if (devices.size === 0) this.tenants.delete(tenant);
    this.size -= 1;
    this.memory.readings -= entry.windows.readings;
    this.memory.values -= entry.windows.values;
    this.memory.windows -= entry.windows.windows.size;
  }
}

/** The device belongs to another worker now. */
export function isLost(entry: DeviceEntry): boolean {
  return entry.partitions.some((partition) => partition.isLost);
}

function isGone(entry: DeviceEntry): boolean {
  return entry.partitions.some(({ isLost, isParked }) => isLost && !isParked);
}

/** Counts one reading as stored; `received` in ms since the epoch. */
export function countStored(entry: DeviceEntry, received: number): void {
  if (received < entry.storedHour || received >= entry.storedHour + HOUR_MS) {
    spill(entry);
    entry.storedHour = windowStart(received, HOUR_MS);
  }
  entry.stored += 1;
}

/** Moves the entry's own count into its partition's tally. */
export function spill(entry: DeviceEntry): void {
  if (entry.stored === 0) return;
  const { tenant, device } = entry.windows;
  entry.partition.tally.add(tenant, device, entry.storedHour, 'stored', '', entry.stored);
  entry.stored = 0;
}
