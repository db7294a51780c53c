import type { RollupRow } from '../core/nouns.ts';
import type { StoreReader } from '../store/contract.ts';
import { Accumulator, sameState } from './aggregate.ts';
import type { DeviceWindows } from './device-windows.ts';
import { learnDay, learnHours, learnWindows } from './stored-rows.ts';
import type { Day, Hour, RowState, Span, Window } from './window-state.ts';
import { DAY_MS, HOUR_MS, windowStart } from './windows.ts';

/** Devices of one query for rollups: a device may have 60 rows of each metric in an hour. */
const QUERY_DEVICES = 32;

interface Missing {
  device: DeviceWindows;
  windowMs: number;
  from: number;
  to: number;
}

/** Rows to write and how many of them corrected a final one. */
export interface DirtyRows {
  rows: RollupRow[];
  revised: number;
}

/**
 * Turns dirty windows into rows of all three levels.
 *
 * A row is final once the device's watermark passed its end and the lateness, or gateway time did and
 * the row has not changed for the lateness. A change of a final row increments its revision.
 */
export class RollupRows {
  private readonly store: Pick<StoreReader, 'rollups'>;
  private readonly baseMs: number;
  private readonly latenessMs: number;

  constructor(store: Pick<StoreReader, 'rollups'>, baseMs: number, latenessMs: number) {
    this.store = store;
    this.baseMs = baseMs;
    this.latenessMs = latenessMs;
  }

  /** Learns from the store's rows what is not known of dirty windows, hours and days. */
  async loadUnknown(devices: readonly DeviceWindows[]): Promise<void> {
    const missing: Missing[] = [];
    for (const device of devices) {
      markUpwards(device);
      for (const hour of device.hours.values()) {
        if (hour.dirty && (hour.closed === undefined || hasUnknownWindow(hour))) {
          missing.push(rangeOf(device, this.baseMs, hour.start, HOUR_MS));
        }
      }
      for (const day of device.days.values()) {
        if (!day.dirty) continue;
        if (day.closed === undefined || hasUnknownHour(day)) {
          missing.push(rangeOf(device, HOUR_MS, day.start, DAY_MS));
        }
        if (!day.rowsKnown) missing.push(rangeOf(device, DAY_MS, day.start, DAY_MS));
      }
    }
    // In order of time, so that a store that keeps days in files opens each of them once.
    missing.sort((a, b) => a.from - b.from);
    for (const group of grouped(missing)) await this.query(group);
  }

  private async query(group: readonly Missing[]): Promise<void> {
    const [first] = group;
    if (first === undefined) return;
    const { windowMs, from, to } = first;
    const devices = new Map(group.map(({ device }) => [device.device, device]));
    const rows = await this.store.rollups({
      tenant: first.device.tenant,
      devices: [...devices.keys()],
      windowMs,
      from,
      to,
    });
    const byDevice = new Map<string, RollupRow[]>();
    for (const row of rows) {
      const list = byDevice.get(row.device);
      if (list === undefined) byDevice.set(row.device, [row]);
      else list.push(row);
    }
    for (const device of devices.values()) {
      const found = byDevice.get(device.device) ?? [];
      const day = device.days.get(windowStart(from, DAY_MS));
      if (day === undefined) continue;
      if (windowMs === DAY_MS) learnDay(device, day, found);
      else if (to - from === DAY_MS) learnHours(device, day, found);
      else learnWindows(device, day.hours.get(from), found);
    }
  }

  /** The rows that have to be written; everything is clean afterwards. `now`: gateway time, ms. */
  take(devices: readonly DeviceWindows[], now: number): DirtyRows {
    const dirty: DirtyRows = { rows: [], revised: 0 };
    for (const device of devices) {
      const changed = new Map<Span, Set<number>>();
      for (const window of device.windows.values()) {
        if (!window.dirty) continue;
        device.settle(window);
        this.takeWindow(device, window, now, changed, dirty);
      }
      const sums = new Map<Hour, (Accumulator | undefined)[]>();
      for (const hour of device.hours.values()) {
        if (!hour.dirty) continue;
        const slots = hour.verify ? slotsOf(hour, hour.windows.values()) : changed.get(hour);
        for (const slot of slots ?? []) {
          const sum = hourSum(hour, slot, sums);
          if (this.emit(device, hour, slot, sum, HOUR_MS, now, dirty))
            note(changed, hour.day, slot);
        }
        hour.verify = false;
        hour.dirty = false;
      }
      for (const day of device.days.values()) {
        if (!day.dirty) continue;
        const slots = day.verify ? slotsOf(day, day.hours.values()) : changed.get(day);
        for (const slot of slots ?? []) {
          this.emit(device, day, slot, daySum(day, slot, sums), DAY_MS, now, dirty);
        }
        day.verify = false;
        day.dirty = false;
      }
      device.flushedWatermark = Math.max(device.flushedWatermark, device.watermark);
      device.cycleReceived = Number.POSITIVE_INFINITY;
    }
    return dirty;
  }

  private takeWindow(
    device: DeviceWindows,
    window: Window,
    now: number,
    changed: Map<Span, Set<number>>,
    dirty: DirtyRows,
  ): void {
    window.metrics.forEach((metric, slot) => {
      if (metric === undefined) return;
      const { accumulator, row } = metric;
      if (accumulator.count === 0) {
        // A crash has left it: its records come again, and then it is new to the hour.
        row.compare = undefined;
        return;
      }
      if (!window.verify && accumulator.count === metric.writtenCount) return;
      metric.writtenCount = accumulator.count;
      // Base windows of one hour are the hours themselves.
      if (this.baseMs === HOUR_MS) note(changed, window.hour, slot);
      else if (this.write(device, window.start, row, slot, accumulator, this.baseMs, now, dirty)) {
        note(changed, window.hour, slot);
      }
    });
    window.verify = false;
    window.dirty = false;
    window.flushedAt = now;
  }

  private emit(
    device: DeviceWindows,
    span: Span,
    slot: number,
    sum: Accumulator,
    windowMs: number,
    now: number,
    dirty: DirtyRows,
  ): boolean {
    if (sum.count === 0) {
      const left = span.rows[slot];
      if (left !== undefined) left.compare = undefined;
      return false;
    }
    return this.write(device, span.start, span.row(slot), slot, sum, windowMs, now, dirty);
  }

  /** Adds the row unless the store has the same one; returns whether it was added. */
  private write(
    device: DeviceWindows,
    start: number,
    row: RowState,
    slot: number,
    sum: Accumulator,
    windowMs: number,
    now: number,
    dirty: DirtyRows,
  ): boolean {
    const state = sum.state();
    const { compare } = row;
    row.compare = undefined;
    if (compare !== undefined && sameState(compare, state)) return false;
    if (row.stored && this.isFinal(device, start + windowMs, row)) {
      row.revision += 1;
      dirty.revised += 1;
    }
    row.stored = true;
    row.changedAt = now;
    dirty.rows.push({
      tenant: device.tenant,
      device: device.device,
      metric: device.slots[slot]?.name ?? '',
      windowMs,
      start,
      state,
      revision: row.revision,
      changedAt: now,
    });
    return true;
  }

  private isFinal(device: DeviceWindows, end: number, row: RowState): boolean {
    const closes = end + this.latenessMs;
    if (closes <= device.flushedWatermark) return true;
    const received = device.cycleReceived;
    if (received === Number.POSITIVE_INFINITY) return false;
    return closes <= received && row.changedAt + this.latenessMs <= received;
  }
}

/** A dirty window makes its hour and day dirty. */
function markUpwards(device: DeviceWindows): void {
  for (const window of device.windows.values()) if (window.dirty) window.hour.dirty = true;
  for (const hour of device.hours.values()) if (hour.dirty) hour.day.dirty = true;
}

function hasUnknownWindow(hour: Hour): boolean {
  for (const window of hour.windows.values()) if (!window.rowsKnown) return true;
  return false;
}

function hasUnknownHour(day: Day): boolean {
  for (const hour of day.hours.values()) if (!hour.rowsKnown) return true;
  return false;
}

function rangeOf(device: DeviceWindows, windowMs: number, from: number, lengthMs: number): Missing {
  return { device, windowMs, from, to: from + lengthMs };
}

/** Groups that one query can answer. */
function grouped(missing: readonly Missing[]): Missing[][] {
  const groups = new Map<string, Missing[]>();
  const full: Missing[][] = [];
  for (const one of missing) {
    const key = `${one.device.tenant}/${one.windowMs}/${one.from}/${one.to}`;
    const group = groups.get(key) ?? [];
    group.push(one);
    groups.set(key, group);
    if (group.length < QUERY_DEVICES) continue;
    full.push(group);
    groups.delete(key);
  }
  return [...full, ...groups.values()];
}

function note(changed: Map<Span, Set<number>>, span: Span, slot: number): void {
  const slots = changed.get(span);
  if (slots === undefined) changed.set(span, new Set([slot]));
  else slots.add(slot);
}

/** Slots of everything that a span and its parts have. */
function slotsOf(span: Span, parts: Iterable<Hour | Window>): Set<number> {
  const slots = new Set<number>();
  const add = (_: unknown, slot: number): void => {
    slots.add(slot);
  };
  span.closed?.forEach(add);
  span.rows.forEach(add);
  for (const part of parts) {
    if ('metrics' in part) part.metrics.forEach(add);
    else for (const slot of slotsOf(part, part.windows.values())) slots.add(slot);
  }
  return slots;
}

function hourSum(
  hour: Hour,
  slot: number,
  sums: Map<Hour, (Accumulator | undefined)[]>,
): Accumulator {
  let bySlot = sums.get(hour);
  if (bySlot === undefined) {
    bySlot = [];
    sums.set(hour, bySlot);
  }
  let sum = bySlot[slot];
  if (sum === undefined) {
    sum = new Accumulator();
    const closed = hour.closed?.[slot];
    if (closed !== undefined) sum.merge(closed);
    for (const window of hour.windows.values()) {
      const metric = window.metrics[slot];
      if (metric !== undefined) sum.merge(metric.accumulator);
    }
    bySlot[slot] = sum;
  }
  return sum;
}

function daySum(day: Day, slot: number, sums: Map<Hour, (Accumulator | undefined)[]>): Accumulator {
  const sum = new Accumulator();
  const closed = day.closed?.[slot];
  if (closed !== undefined) sum.merge(closed);
  for (const hour of day.hours.values()) sum.merge(hourSum(hour, slot, sums));
  return sum;
}
