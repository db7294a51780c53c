import type { ReadingRecord } from '../core/nouns.ts';
import type { Origin, StoredReading, StoreReader } from '../store/contract.ts';
import type { DeviceWindows } from './device-windows.ts';
import { hashValues } from './value-hash.ts';
import type { Window } from './window-state.ts';
import { windowStart } from './windows.ts';

/** Raw rows of one query; a query that yields so many goes on where it stopped. */
const PAGE_ROWS = 10_000;
/** Devices of one query. */
const QUERY_DEVICES = 200;
/** Raw rows with which a device's memory begins; windows further ahead are loaded one by one. */
const HEAD_ROWS_MAX = 200_000;
/** Raw rows for which a device whose clock is slow gets complete memory from its own time on. */
const EXTEND_ROWS_MAX = 2_000;
/** Windows that lie so near to each other are loaded by one query. */
const GAP_WINDOWS = 2;

/** Readings of one device that wait for something from the store; the first stands at `offset`. */
export interface Waiting extends Source {
  readings: { reading: ReadingRecord; offset: number }[];
}

/** A window to build anew from the raw readings of records that were taken. */
export interface Rebuild extends Source {
  window: Window;
}

/** For whom the store is read. */
interface Source {
  device: DeviceWindows;
  /** Of this partition, what the store holds from `offset` on was left by a crash and comes again. */
  partition: number;
  offset: number;
}

type Take = (source: Source, row: StoredReading) => void;

type Fill = (source: Source, window: Window, row: StoredReading) => void;

interface Target {
  source: Source;
  windows: readonly Window[];
}

interface Range {
  source: Source;
  from: number;
  to: number;
}

/**
 * Brings raw readings from the store into memory. A row whose offset has not been reached yet was
 * left by a crash; it is ignored, because its record comes again and then counts as new.
 */
export class WindowLoader {
  private readonly store: Pick<StoreReader, 'readings'>;
  private readonly baseMs: number;
  private readonly latenessMs: number;
  private readonly nextOf: (partition: number) => number;

  /** `nextOf`: the next offset to take of a partition; Infinity when it is not this worker's. */
  constructor(
    store: Pick<StoreReader, 'readings'>,
    baseMs: number,
    latenessMs: number,
    nextOf: (partition: number) => number,
  ) {
    this.store = store;
    this.nextOf = nextOf;
    this.baseMs = baseMs;
    this.latenessMs = latenessMs;
  }

  /**
   * Loads what the first waiting readings of each device need, and of the others what can be foreseen.
   * `unwritten`: raw readings that are in memory and not in the store yet, in order.
   */
  async load(waiting: readonly Waiting[], unwritten: Iterable<StoredReading>): Promise<void> {
    await this.loadHeads(waiting.filter((one) => one.device.completeFrom === Infinity));
    await this.loadWindows(waiting);
    await this.loadValues(waiting, unwritten);
  }

  async rebuild(targets: readonly Rebuild[]): Promise<void> {
    const windows = new Map<DeviceWindows, { source: Source; windows: Window[] }>();
    for (const target of targets) {
      target.device.reset(target.window, target.partition);
      const entry = windows.get(target.device) ?? { source: target, windows: [] };
      entry.windows.push(target.window);
      windows.set(target.device, entry);
    }
    await this.fill([...windows.values()], ({ device }, window, row) =>
      device.restore(window, row),
    );
  }

  /**
   * A device's first reading: everything from the windows on that are not past lateness at the
   * reading's gateway time; where the device's own time lies behind that and there is little since,
   * from there on.
   */
  private async loadHeads(heads: readonly Waiting[]): Promise<void> {
    const anchors = new Map<DeviceWindows, number>();
    const ranges: Range[] = [];
    for (const head of heads) {
      const received = head.readings[0]?.reading.received ?? 0;
      const from = windowStart(received - this.latenessMs, this.baseMs);
      anchors.set(head.device, from);
      ranges.push({ source: head, from, to: Number.MAX_SAFE_INTEGER });
    }
    await this.read(
      ranges,
      ({ device }, row) => {
        const start = windowStart(row.ts, this.baseMs);
        if (start >= device.completeTo) return;
        let window = device.windows.get(start);
        if (window === undefined && device.readings >= HEAD_ROWS_MAX) {
          device.completeTo = start;
          return;
        }
        window ??= device.open(start, false, row.partition);
        device.absorb(window, row);
      },
      (device) => device.completeTo !== Infinity,
    );
    for (const head of heads) {
      const anchor = anchors.get(head.device) ?? 0;
      head.device.completeFrom = await this.extend(head, anchor);
    }
  }

  /** Returns from where on memory is complete. */
  private async extend(head: Waiting, anchor: number): Promise<number> {
    const first = head.readings[0];
    if (first === undefined) return anchor;
    const from = windowStart(first.reading.ts, this.baseMs);
    if (from >= anchor) return anchor;
    const { device } = head;
    const rows = await this.store.readings({
      tenant: device.tenant,
      devices: [device.device],
      from,
      to: anchor,
      limit: EXTEND_ROWS_MAX + 1,
      mergedFrom: true,
    });
    if (rows.length > EXTEND_ROWS_MAX) return anchor;
    for (const row of rows) {
      if (this.isAhead(head, row)) continue;
      const start = windowStart(row.ts, this.baseMs);
      const window = device.windows.get(start) ?? device.open(start, false, row.partition);
      device.absorb(window, row);
    }
    return from;
  }

  private async loadWindows(waiting: readonly Waiting[]): Promise<void> {
    const targets: Target[] = [];
    for (const one of waiting) {
      const { device, partition } = one;
      const windows: Window[] = [];
      for (const { reading } of one.readings) {
        if (device.needs(reading) !== 'window') continue;
        windows.push(device.open(windowStart(reading.ts, this.baseMs), false, partition));
      }
      if (windows.length > 0) targets.push({ source: one, windows });
    }
    await this.fill(targets, ({ device }, window, row) => device.absorb(window, row));
  }

  private async fill(targets: readonly Target[], take: Fill): Promise<void> {
    const filling = new Set<Window>();
    const ranges: Range[] = [];
    for (const { source, windows } of targets) {
      for (const window of windows) filling.add(window);
      ranges.push(...this.rangesOf(source, windows));
    }
    await this.read(ranges, (source, row) => {
      const window = source.device.windows.get(windowStart(row.ts, this.baseMs));
      if (window !== undefined && filling.has(window)) take(source, window, row);
    });
  }

  /** Where times come again with other values: windows are built anew, this time with their values. */
  private async loadValues(
    waiting: readonly Waiting[],
    unwritten: Iterable<StoredReading>,
  ): Promise<void> {
    const targets: Target[] = [];
    const devices = new Map<string, { device: DeviceWindows; windows: Set<Window> }>();
    for (const source of waiting) {
      const windows = this.ambiguous(source);
      if (windows.length === 0) continue;
      const { device, partition } = source;
      for (const window of windows) device.reset(window, partition);
      targets.push({ source, windows });
      devices.set(`${device.tenant}/${device.device}`, { device, windows: new Set(windows) });
    }
    if (targets.length === 0) return;
    await this.fill(targets, ({ device }, window, row) => device.restore(window, row));
    for (const row of unwritten) {
      const found = devices.get(`${row.tenant}/${row.device}`);
      const window = found?.device.windows.get(windowStart(row.ts, this.baseMs));
      if (window !== undefined && found?.windows.has(window)) found.device.restore(window, row);
    }
  }

  /** Windows in memory in which a waiting reading repeats a time with other values. */
  private ambiguous(one: Waiting): Window[] {
    const windows = new Set<Window>();
    const seen = new Map<number, number>();
    for (const { reading } of one.readings) {
      const hash = hashValues(reading.values);
      const earlier = seen.get(reading.ts);
      seen.set(reading.ts, hash);
      const within = earlier !== undefined && earlier !== hash;
      if (!within && one.device.needs(reading) !== 'values') continue;
      const window = one.device.windows.get(windowStart(reading.ts, this.baseMs));
      if (window !== undefined && window.kept === undefined) windows.add(window);
    }
    return [...windows];
  }

  private rangesOf(source: Source, windows: readonly Window[]): Range[] {
    const starts = windows.map((window) => window.start).sort((a, b) => a - b);
    const ranges: Range[] = [];
    for (const start of starts) {
      const last = ranges.at(-1);
      const to = start + this.baseMs;
      if (last !== undefined && start - last.to <= GAP_WINDOWS * this.baseMs) last.to = to;
      else ranges.push({ source, from: start, to });
    }
    return ranges;
  }

  /** Reads ranges with as few queries as there are different ones for each tenant. */
  private async read(
    ranges: readonly Range[],
    take: Take,
    isDone: (device: DeviceWindows) => boolean = () => false,
  ): Promise<void> {
    const groups = new Map<string, Range[]>();
    // In order of time, so that a store that keeps days in files opens each of them once.
    for (const range of [...ranges].sort((a, b) => a.from - b.from)) {
      const key = `${range.source.device.tenant}/${range.from}/${range.to}`;
      const group = groups.get(key) ?? [];
      group.push(range);
      groups.set(key, group);
    }
    for (const group of groups.values()) {
      for (let at = 0; at < group.length; at += QUERY_DEVICES) {
        await this.readTogether(group.slice(at, at + QUERY_DEVICES), take, isDone);
      }
    }
  }

  /** All of `group` are of one tenant and one range. */
  private async readTogether(
    group: readonly Range[],
    take: Take,
    isDone: (device: DeviceWindows) => boolean,
  ): Promise<void> {
    const sources = new Map(group.map(({ source }) => [source.device.device, source]));
    const [first] = group;
    if (first === undefined) return;
    const { tenant } = first.source.device;
    let { from } = first;
    let alone: string | undefined;
    const rest = new Set(sources.keys());
    while (rest.size > 0) {
      const devices = alone === undefined ? [...rest] : [alone];
      const rows = await this.store.readings({
        tenant,
        devices,
        from,
        to: first.to,
        limit: PAGE_ROWS,
        mergedFrom: true,
      });
      for (const row of rows) {
        const source = sources.get(row.device);
        if (source !== undefined && !this.isAhead(source, row)) take(source, row);
      }
      const last = rows.at(-1);
      const cut = rows.length >= PAGE_ROWS ? last : undefined;
      const source = cut === undefined ? undefined : sources.get(cut.device);
      if (cut === undefined) {
        for (const device of devices) rest.delete(device);
      } else {
        // Rows are ordered by device: all devices of the page but its last one are through.
        for (const row of rows) if (row.device !== cut.device) rest.delete(row.device);
        if (source !== undefined && isDone(source.device)) rest.delete(cut.device);
      }
      const goesOn = cut !== undefined && rest.has(cut.device);
      alone = goesOn ? cut.device : undefined;
      from = goesOn ? cut.ts + 1 : first.from;
    }
  }

  /** A device may have records in several partitions; each of them goes on where it stands. */
  private isAhead(source: Source, { partition, offset }: Origin): boolean {
    return offset >= (partition === source.partition ? source.offset : this.nextOf(partition));
  }
}
