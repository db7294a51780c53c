import assert from 'node:assert/strict';
import type { RollupRow, Value, Values } from '../../src/core/nouns.ts';
import { finish } from '../../src/rollup/aggregate.ts';

/** What rollups must be, computed from all readings at hand with no cleverness and nothing of the program. */

export interface Measured {
  ts: number;
  values: Values;
}

export interface Statistics {
  count: number;
  sum?: number;
  min?: number;
  max?: number;
  mean?: number;
  stddev?: number;
  first: Value;
  last: Value;
  p50?: number;
  p90?: number;
  p99?: number;
}

/** Statistics of the values of distinct times; at least one. Booleans count as 0 and 1. */
export function statisticsOf(points: readonly { ts: number; value: Value }[]): Statistics {
  const ordered = [...points].sort((a, b) => a.ts - b.ts);
  const first = ordered[0]?.value;
  const last = ordered.at(-1)?.value;
  assert.ok(first !== undefined && last !== undefined);
  const numbers = ordered
    .flatMap(({ value }) => (typeof value === 'string' ? [] : [Number(value)]))
    .sort((a, b) => a - b);
  const n = numbers.length;
  if (n === 0) return { count: ordered.length, first, last };
  const sum = numbers.reduce((a, b) => a + b, 0);
  const squares = numbers.reduce((total, number) => total + (number - sum / n) ** 2, 0);
  const rank = (share: number): number => numbers[Math.floor(share * (n - 1) + 1e-9)] ?? Number.NaN;
  return {
    count: ordered.length,
    ...{ sum, min: numbers[0] ?? Number.NaN, max: numbers[n - 1] ?? Number.NaN, mean: sum / n },
    ...(n > 1 && { stddev: Math.sqrt(squares / (n - 1)) }),
    ...{ first, last, p50: rank(0.5), p90: rank(0.9), p99: rank(0.99) },
  };
}

/** Groups by `metric start`, where `startOf` says in which window a time lies. */
export function windowsOf(
  readings: Iterable<Measured>,
  startOf: (ts: number) => number,
): Map<string, { ts: number; value: Value }[]> {
  const windows = new Map<string, { ts: number; value: Value }[]>();
  for (const { ts, values } of readings) {
    const start = startOf(ts);
    for (const [metric, value] of Object.entries(values)) {
      const key = `${metric} ${start}`;
      const window = windows.get(key);
      if (window === undefined) windows.set(key, [{ ts, value }]);
      else window.push({ ts, value });
    }
  }
  return windows;
}

/** How far a sum and what is made of it may be off, as a share of the largest value (times the count). */
const ROUNDING = 1e-9;

function close(got: number | undefined, want: number, allowed: number, what: string): void {
  const off = Math.abs((got ?? Number.NaN) - want);
  assert.ok(off <= allowed, `${what}: got ${got}, expected ${want}`);
}

/** Counts, extremes, first and last exactly; sums and what is made of them to rounding; percentiles to 1 %. */
export function assertStatistics(
  got: Statistics,
  want: Statistics,
  what: string,
  tolerance = ROUNDING,
): void {
  assert.equal(got.count, want.count, `${what} count`);
  assert.equal(got.first, want.first, `${what} first`);
  assert.equal(got.last, want.last, `${what} last`);
  assert.equal(got.min, want.min, `${what} min`);
  assert.equal(got.max, want.max, `${what} max`);
  if (want.sum === undefined) {
    for (const name of ['sum', 'mean', 'stddev', 'p50', 'p90', 'p99'] as const) {
      assert.equal(got[name], undefined, `${what} ${name}`);
    }
    return;
  }
  const size = tolerance * Math.max(1, Math.abs(want.min ?? 0), Math.abs(want.max ?? 0));
  close(got.sum, want.sum, size * want.count, `${what} sum`);
  close(got.mean, want.mean ?? 0, size, `${what} mean`);
  if (want.stddev === undefined) assert.equal(got.stddev, undefined, `${what} stddev`);
  else close(got.stddev, want.stddev, size, `${what} stddev`);
  for (const name of ['p50', 'p90', 'p99'] as const) {
    const exact = want[name] ?? Number.NaN;
    const off = Math.abs((got[name] ?? Number.NaN) - exact);
    assert.ok(off <= Math.abs(exact) * 0.0100001, `${what} ${name}: ${got[name]} for ${exact}`);
  }
}

/** All rollup rows of one device and level against its readings: none missing, none more, each right. */
export function assertRollups(
  rows: readonly RollupRow[],
  readings: Iterable<Measured>,
  windowMs: number,
  what: string,
): void {
  const want = windowsOf(readings, (ts) => Math.floor(ts / windowMs) * windowMs);
  assert.equal(rows.length, want.size, `${what}: number of rollups of ${windowMs} ms`);
  for (const row of rows) {
    assert.equal(row.windowMs, windowMs);
    const key = `${row.metric} ${row.start}`;
    const points = want.get(key);
    const label = `${what} ${row.metric} ${new Date(row.start).toISOString()} of ${windowMs} ms`;
    assert.ok(points !== undefined, `${label}: there is no such window, or twice`);
    want.delete(key);
    assertStatistics(finish(row.state), statisticsOf(points), label);
  }
}

/** The first few readings that are in one list and not in the other, or not as often. */
export function differences(got: readonly Measured[], want: readonly Measured[]): string[] {
  const line = ({ ts, values }: Measured): string =>
    JSON.stringify([ts, Object.entries(values).sort()]);
  const counts = new Map<string, number>();
  for (const one of want) counts.set(line(one), (counts.get(line(one)) ?? 0) + 1);
  for (const one of got) counts.set(line(one), (counts.get(line(one)) ?? 0) - 1);
  return [...counts]
    .filter(([, count]) => count !== 0)
    .slice(0, 10)
    .map(([text, count]) => `${count > 0 ? 'missing' : 'unexpected'} ${text}`);
}
