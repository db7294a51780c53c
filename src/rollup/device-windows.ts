import type { ReadingRecord, Value, Values } from '../core/nouns.ts';
import type { DuplicateKind } from '../core/refusals.ts';
import type { StoredReading } from '../store/contract.ts';
import { Accumulator } from './aggregate.ts';
import { KeptValues } from './kept-values.ts';
import { ReadingIndex } from './reading-index.ts';
import { hashMetric, hashText, hashValues, rehash } from './value-hash.ts';
import { Day, Hour, Window, WindowMetric } from './window-state.ts';
import { DAY_MS, HOUR_MS, windowStart } from './windows.ts';

/**
 * One device's windows in memory. The raw readings in the store are the truth; this is a cache of them
 * that may be dropped whenever nothing in it is dirty.
 *
 * Life of a base window:
 *
 *     (not in memory) ──reading, and memory is complete there: the store has nothing──▶ open
 *     (not in memory) ──reading, else: its raw readings are loaded───────────────────▶ open
 *     open ──reading──▶ dirty ──flush: rows written──▶ open (clean)
 *     open (clean) ──past lateness──▶ folded into its hour, not in memory
 *
 * Memory is complete over [completeFrom, completeTo): a window there that is not in memory has no raw
 * readings. Before the first load it is complete nowhere. Letting go of a window moves `completeFrom`
 * behind it.
 *
 * An hour's row is `closed` (all of its base windows that are not in memory) and its windows in
 * memory; a day's row is its `closed` hours and its hours in memory. Where `closed` is undefined it is
 * not known and is rebuilt from the rows in the store at the next flush.
 *
 * Values are not kept, only what they add up to. A reading that repeats a time with other values needs
 * them: they are loaded once, and windows that such a device opens soon after keep theirs from the start.
 */

/** A metric of a device; windows keep their aggregates by `index`. */
export interface Slot {
  name: string;
  hash: number;
  index: number;
}

/** `load`: nothing was done, because {@link DeviceWindows.needs} must be met first. */
export type Applied = 'stored' | DuplicateKind | 'load';

/** What a reading needs from the store before it can be applied. */
export type Need = 'head' | 'window' | 'values';

/** A raw reading of the store, or one on its way there. */
export type RawReading = Pick<
  StoredReading,
  'ts' | 'received' | 'values' | 'partition' | 'mergedFrom'
>;

/** So many windows after the last repeated time keep their values. */
const KEEP_WINDOWS = 2;

/** What all devices hold together. */
export interface MemoryCount {
  readings: number;
  windows: number;
  /** Values that are kept beside the aggregates. */
  values: number;
}

export class DeviceWindows {
  readonly tenant: string;
  readonly device: string;
  readonly slots: Slot[] = [];
  private readonly slotByName = new Map<string, Slot>();
  readonly windows = new Map<number, Window>();
  readonly hours = new Map<number, Hour>();
  readonly days = new Map<number, Day>();
  private current: Window | undefined;
  private readonly baseMs: number;
  completeFrom = Number.POSITIVE_INFINITY;
  completeTo = Number.POSITIVE_INFINITY;
  /** Newest event time, each reading's capped to its gateway time and the tolerance, ms. */
  watermark = Number.NEGATIVE_INFINITY;
  /** The watermark at the last flush. */
  flushedWatermark = Number.NEGATIVE_INFINITY;
  /** Earliest gateway time among the readings since the last flush, ms. */
  cycleReceived = Number.POSITIVE_INFINITY;
  /** How far ahead of gateway time this device's times may lie, ms. */
  toleranceMs = 0;
  /** Readings in the indexes of all windows. */
  readings = 0;
  /** Values that all windows keep. */
  values = 0;
  /** Windows up to this start keep their values. */
  private keepUntil = Number.NEGATIVE_INFINITY;
  private readonly memory: MemoryCount;

  constructor(tenant: string, device: string, baseMs: number, memory: MemoryCount) {
    this.memory = memory;
    this.tenant = tenant;
    this.device = device;
    this.baseMs = baseMs;
  }

  /** Takes a reading into its window, unless it is a repeated one or something must be loaded first. */
  apply(reading: ReadingRecord, partition: number): Applied {
    const { ts, values } = reading;
    const start = windowStart(ts, this.baseMs);
    let window = this.current;
    if (window === undefined || window.start !== start) {
      window = this.windows.get(start);
      if (window === undefined) {
        if (!this.isComplete(start)) return 'load';
        window = this.open(start, true, partition);
      }
      this.current = window;
    }
    const place = window.index.search(ts);
    if (place >= 0) {
      const applied = this.repeat(window, place, ts, values, partition);
      if (applied !== 'load') this.observe(ts, reading.received);
      return applied;
    }
    this.insert(window, ~place, ts, values, partition);
    window.dirty = true;
    this.observe(ts, reading.received);
    return 'stored';
  }

  private insert(
    window: Window,
    place: number,
    ts: number,
    values: Values,
    partition: number,
    mergedFrom?: StoredReading['mergedFrom'],
  ): void {
    window.index.insert(place, ts, this.addValues(window, ts, values));
    this.countReadings(1);
    const { kept } = window;
    if (kept === undefined) return;
    const cells = kept.cells;
    kept.insert(place);
    for (const name in values) {
      const value = values[name];
      if (value === undefined) continue;
      const from = mergedFrom?.[name]?.partition ?? partition;
      kept.set(place, ts, this.slot(name).index, value, from);
    }
    this.countValues(kept.cells - cells);
  }

  private countReadings(count: number): void {
    this.readings += count;
    this.memory.readings += count;
  }

  private countValues(count: number): void {
    this.values += count;
    this.memory.values += count;
  }

  private observe(ts: number, received: number): void {
    const capped = Math.min(ts, received + this.toleranceMs);
    if (capped > this.watermark) this.watermark = capped;
    if (received < this.cycleReceived) this.cycleReceived = received;
  }

  /** Adds values to the window's aggregates; returns their hash. */
  private addValues(window: Window, ts: number, values: Values): number {
    let hash = 0;
    let nth = 0;
    for (const name in values) {
      const value = values[name];
      if (value === undefined) continue;
      // Readings of a device mostly have the same metrics in the same order.
      const expected = this.slots[nth];
      const slot = expected?.name === name ? expected : this.slot(name);
      nth += 1;
      hash = (hash + hashMetric(slot.hash, value)) >>> 0;
      this.metric(window, slot.index).accumulator.add(ts, value);
    }
    return hash;
  }

  /** A reading at a time that the window knows. */
  private repeat(
    window: Window,
    place: number,
    ts: number,
    values: Values,
    partition: number,
  ): Applied {
    if (window.index.hashAt(place) === hashValues(values)) return 'IDENTICAL';
    this.keepUntil = Math.max(this.keepUntil, window.start + KEEP_WINDOWS * this.baseMs);
    if (window.kept === undefined) return 'load';
    const applied = this.mergeValues(window, place, ts, values, partition);
    if (applied !== 'IDENTICAL') window.dirty = true;
    return applied;
  }

  /** Adds new metrics of a reading and replaces values that differ, as the store does it. */
  private mergeValues(
    window: Window,
    place: number,
    ts: number,
    values: Values,
    partition: number,
  ): 'IDENTICAL' | 'MERGED' | 'CONFLICT' {
    const { kept, index } = window;
    if (kept === undefined) return 'IDENTICAL';
    const cells = kept.cells;
    let hash = index.hashAt(place);
    let applied: 'IDENTICAL' | 'MERGED' | 'CONFLICT' = 'IDENTICAL';
    for (const name in values) {
      const value = values[name];
      if (value === undefined) continue;
      const slot = this.slot(name);
      const old = kept.get(place, ts, slot.index);
      if (old === value) continue;
      if (old === undefined) {
        if (applied === 'IDENTICAL') applied = 'MERGED';
        this.metric(window, slot.index).accumulator.add(ts, value);
      } else {
        applied = 'CONFLICT';
        if (partition < kept.partitionOf(ts, slot.index)) continue;
        this.replace(window, slot.index, ts, old, value);
      }
      hash = rehash(hash, slot.hash, old, value);
      kept.set(place, ts, slot.index, value, partition);
    }
    // The store takes all of them from the later record, also those that are equal.
    if (applied !== 'IDENTICAL') this.claimValues(kept, ts, values, partition);
    index.setHash(place, hash);
    this.countValues(kept.cells - cells);
    return applied;
  }

  private claimValues(kept: KeptValues, ts: number, values: Values, partition: number): void {
    for (const name in values) {
      const slot = this.slot(name).index;
      if (partition > kept.partitionOf(ts, slot)) kept.setPartition(ts, slot, partition);
    }
  }

  private replace(window: Window, slot: number, ts: number, old: Value, value: Value): void {
    const metric = this.metric(window, slot);
    metric.writtenCount = -1;
    if (metric.isStale || metric.accumulator.replace(ts, old, value)) return;
    metric.isStale = true;
    window.hasStale = true;
  }

  /** Before its rows are made: aggregates that could not follow a replaced value are made anew. */
  settle(window: Window): void {
    const { kept, index } = window;
    if (!window.hasStale || kept === undefined) return;
    window.hasStale = false;
    window.metrics.forEach((metric, slot) => {
      if (!metric?.isStale) return;
      metric.isStale = false;
      metric.accumulator = new Accumulator();
      for (let place = 0; place < index.size; place += 1) {
        const ts = index.tsAt(place);
        const value = kept.get(place, ts, slot);
        if (value !== undefined) metric.accumulator.add(ts, value);
      }
    });
  }

  /** What `reading` needs before it can be applied; undefined when nothing. */
  needs(reading: ReadingRecord): Need | undefined {
    if (this.completeFrom === Number.POSITIVE_INFINITY) return 'head';
    const start = windowStart(reading.ts, this.baseMs);
    const window = this.windows.get(start);
    if (window === undefined) return this.isComplete(start) ? undefined : 'window';
    const place = window.index.search(reading.ts);
    if (place < 0 || window.kept !== undefined) return undefined;
    return window.index.hashAt(place) === hashValues(reading.values) ? undefined : 'values';
  }

  /** Takes a raw reading from the store into a window that is being loaded; twice is once. */
  absorb(window: Window, row: RawReading): void {
    const { ts, received } = row;
    const place = window.index.search(ts);
    if (place >= 0) return;
    this.insert(window, ~place, ts, row.values, row.partition, row.mergedFrom);
    const capped = Math.min(ts, received + this.toleranceMs);
    if (capped > this.watermark) this.watermark = capped;
    if (capped > this.flushedWatermark) this.flushedWatermark = capped;
  }

  /** The same for a window that was in memory before {@link reset}: a row, or a reading on its way to it. */
  restore(window: Window, { ts, values, partition, mergedFrom }: RawReading): void {
    const place = window.index.search(ts);
    if (place < 0) this.insert(window, ~place, ts, values, partition, mergedFrom);
    else this.mergeValues(window, place, ts, values, partition);
  }

  /**
   * Empties a window that is to be built anew. Rows that are in the store as memory has them are kept for
   * comparison. All others are written and change their hour, also where the store has the same: a crash
   * may have left it, and then the hour does not hold it yet.
   */
  reset(window: Window, partition: number): void {
    this.countReadings(-window.index.size);
    this.dropKept(window);
    window.kept = new KeptValues(partition);
    window.index = new ReadingIndex();
    window.rebuild = false;
    window.dirty = true;
    window.hasStale = false;
    for (const metric of window.metrics) {
      if (metric === undefined) continue;
      const { accumulator, row } = metric;
      if (row.stored && metric.writtenCount === accumulator.count)
        row.compare = accumulator.state();
      metric.writtenCount = -1;
      metric.accumulator = new Accumulator();
      metric.isStale = false;
    }
  }

  private dropKept(window: Window): void {
    this.countValues(-(window.kept?.cells ?? 0));
    window.kept = undefined;
  }

  /** Lets go of values of clean windows; they are loaded again where they are needed. */
  forgetValues(): void {
    for (const window of this.windows.values()) if (!window.dirty) this.dropKept(window);
  }

  /** True where a window that is not in memory has no raw readings in the store. */
  isComplete(start: number): boolean {
    return start >= this.completeFrom && start < this.completeTo;
  }

  /** A new window in memory; `known`: the store has nothing of it; `partition`: what it is opened for. */
  open(start: number, known: boolean, partition: number): Window {
    const hour = this.hourOf(windowStart(start, HOUR_MS));
    if (!known) {
      hour.forgetClosed();
      hour.day.recheck();
    }
    const window = new Window(start, hour, known);
    window.dirty = !known;
    if (start <= this.keepUntil) window.kept = new KeptValues(partition);
    this.windows.set(start, window);
    this.memory.windows += 1;
    hour.windows.set(start, window);
    return window;
  }

  private hourOf(start: number): Hour {
    let hour = this.hours.get(start);
    if (hour !== undefined) return hour;
    const known = this.isComplete(start) && start + HOUR_MS <= this.completeTo;
    const day = this.dayOf(windowStart(start, DAY_MS));
    if (!known) day.forgetClosed();
    hour = new Hour(start, day, known);
    this.hours.set(start, hour);
    day.hours.set(start, hour);
    return hour;
  }

  private dayOf(start: number): Day {
    let day = this.days.get(start);
    if (day !== undefined) return day;
    day = new Day(start, this.isComplete(start) && start + DAY_MS <= this.completeTo);
    this.days.set(start, day);
    return day;
  }

  /** The slot of a metric; made where there is none. */
  slot(name: string): Slot {
    let slot = this.slotByName.get(name);
    if (slot === undefined) {
      slot = { name, hash: hashText(name), index: this.slots.length };
      this.slotByName.set(name, slot);
      this.slots.push(slot);
    }
    return slot;
  }

  metric(window: Window, slot: number): WindowMetric {
    let metric = window.metrics[slot];
    if (metric === undefined) {
      metric = new WindowMetric();
      window.metrics[slot] = metric;
    }
    return metric;
  }

  /**
   * Lets go of clean windows, hours and days that ended before `until` (ms, event time); windows only
   * when their last flush was before `flushedBefore` (ms, gateway time).
   */
  evict(until: number, flushedBefore: number): void {
    for (const window of this.windows.values()) {
      if (window.dirty || window.start + this.baseMs > until) continue;
      if (window.flushedAt > flushedBefore) continue;
      this.close(window);
    }
    for (const hour of this.hours.values()) {
      if (hour.dirty || hour.windows.size > 0 || hour.start + HOUR_MS > until) continue;
      hour.closed?.forEach((sum, slot) => {
        if (sum !== undefined) hour.day.fold(slot, sum);
      });
      hour.day.hours.delete(hour.start);
      this.hours.delete(hour.start);
    }
    for (const day of this.days.values()) {
      if (day.dirty || day.hours.size > 0 || day.start + DAY_MS > until) continue;
      this.days.delete(day.start);
    }
  }

  private close(window: Window): void {
    window.metrics.forEach((metric, slot) => {
      if (metric !== undefined) window.hour.fold(slot, metric.accumulator);
    });
    const end = window.start + this.baseMs;
    if (this.isComplete(window.start)) this.completeFrom = end;
    this.windows.delete(window.start);
    this.memory.windows -= 1;
    window.hour.windows.delete(window.start);
    this.countReadings(-window.index.size);
    this.dropKept(window);
    if (this.current === window) this.current = undefined;
  }
}
