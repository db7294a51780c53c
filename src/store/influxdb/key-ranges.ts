import { DEVICES_PER_QUERY } from './raw-times.ts';

/** Key of a raw row. */
export interface RawKey {
  tenant: string;
  device: string;
  ts: number;
}

/** What is read to find some keys: all rows of the devices from the first to the last key. */
export interface KeyRange {
  /** ms, both inclusive. */
  from: number;
  to: number;
  devices: ReadonlySet<string>;
  keys: readonly RawKey[];
}

interface Run {
  device: string;
  from: number;
  to: number;
  gapMs: number;
  keys: RawKey[];
}

interface OpenRange extends KeyRange {
  devices: Set<string>;
  keys: RawKey[];
  /** What the range's runs would cost one by one, ms of one device's rows. */
  apart: number;
}

/**
 * Covers keys of one tenant with ranges, so that little is read beside them. `gapOf`: the time of a device
 * whose rows cost as much as a range of their own, ms. Keys of a device no further apart than that share a
 * range, and so do devices where that costs no more than to read them apart.
 */
export function keyRanges(
  keys: readonly RawKey[],
  gapOf: (key: RawKey) => number,
): readonly KeyRange[] {
  const runs = runsOf(keys, gapOf).sort((a, b) => a.from - b.from);
  const ranges: OpenRange[] = [];
  for (const run of runs) {
    const cost = run.gapMs + run.to - run.from;
    const last = ranges.at(-1);
    if (last !== undefined && isCheaperTogether(last, run, cost)) {
      last.to = Math.max(last.to, run.to);
      last.devices.add(run.device);
      last.keys.push(...run.keys);
      last.apart += cost;
    } else {
      const { from, to, device } = run;
      ranges.push({ from, to, devices: new Set([device]), keys: run.keys, apart: cost });
    }
  }
  return ranges;
}

function isCheaperTogether(range: OpenRange, run: Run, cost: number): boolean {
  const count = range.devices.size + (range.devices.has(run.device) ? 0 : 1);
  if (count > DEVICES_PER_QUERY) return false;
  const spanMs = Math.max(range.to, run.to) - range.from;
  return run.gapMs + count * spanMs <= range.apart + cost;
}

/** Each device's keys, cut where they are further apart than its gap. */
function runsOf(keys: readonly RawKey[], gapOf: (key: RawKey) => number): Run[] {
  const sorted = [...keys].sort((a, b) => compare(a.device, b.device) || a.ts - b.ts);
  const runs: Run[] = [];
  for (const key of sorted) {
    const { device, ts } = key;
    const last = runs.at(-1);
    if (last?.device === device && ts - last.to <= last.gapMs) {
      last.to = ts;
      last.keys.push(key);
    } else {
      runs.push({ device, from: ts, to: ts, gapMs: gapOf(key), keys: [key] });
    }
  }
  return runs;
}

/** By devices or, of one device, by time; undefined when there is one key. */
export function halfRanges({ keys }: KeyRange): [KeyRange[], KeyRange[]] | undefined {
  const sorted = [...keys].sort((a, b) => compare(a.device, b.device) || a.ts - b.ts);
  const middle = sorted.length >>> 1;
  if (sorted[0]?.device === sorted.at(-1)?.device && sorted[0]?.ts === sorted.at(-1)?.ts) {
    return undefined;
  }
  return [[rangeOf(sorted.slice(0, middle))], [rangeOf(sorted.slice(middle))]];
}

function rangeOf(keys: RawKey[]): KeyRange {
  let [from, to] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  for (const { ts } of keys) {
    from = Math.min(from, ts);
    to = Math.max(to, ts);
  }
  return { from, to, devices: new Set(keys.map(({ device }) => device)), keys };
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
