import assert from 'node:assert/strict';
import type { LogRecord, Value, Values } from '../../src/core/nouns.ts';
import { finish } from '../../src/rollup/aggregate.ts';
import { type FakeStore, rollupKey } from './fakes.ts';
import { DAY, HOUR } from './harness.ts';

/** What the records must come to, computed with everything at hand and no cleverness. */
export interface Expected {
  /** By `device/ts`. */
  rows: Map<string, Values>;
  /** By `device outcome code`. */
  ledger: Record<string, number>;
}

export function expected(records: readonly LogRecord[]): Expected {
  const rows = new Map<string, Values>();
  const ledger: Record<string, number> = {};
  const count = (key: string, times = 1) => {
    ledger[key] = (ledger[key] ?? 0) + times;
  };
  for (const record of records) {
    if (record.kind === 'deadLetter') count(`${record.device} deadLetter ${record.code}`);
    if (record.kind === 'shed') count(`${record.device} shed ${record.code}`, record.count);
    if (record.kind !== 'reading') continue;
    const key = `${record.device}/${record.ts}`;
    const row = rows.get(key);
    if (row === undefined) {
      rows.set(key, { ...record.values });
      count(`${record.device} stored`);
      continue;
    }
    const names = Object.keys(record.values);
    const isConflict = names.some(
      (name) => row[name] !== undefined && row[name] !== record.values[name],
    );
    const isNew = names.some((name) => row[name] === undefined);
    count(`${record.device} duplicate ${isConflict ? 'CONFLICT' : isNew ? 'MERGED' : 'IDENTICAL'}`);
    Object.assign(row, record.values);
  }
  return { rows, ledger };
}

/** Raw rows, rollups of all levels and the ledger; `codes`: the kinds of duplicates too. */
export function assertStore(
  store: FakeStore,
  records: readonly LogRecord[],
  baseMs: number,
  codes: boolean,
): void {
  const want = expected(records);
  const raw = [...store.rows.values()].map((row) => [`${row.device}/${row.ts}`, row.values]);
  assert.deepEqual(Object.fromEntries(raw), Object.fromEntries(want.rows));
  const simplify = (ledger: Record<string, number>) => (codes ? ledger : withoutCodes(ledger));
  assert.deepEqual(sorted(simplify(store.ledgerByDevice())), sorted(simplify(want.ledger)));
  const series = new Map<string, { ts: number; value: Value }[]>();
  for (const [key, values] of want.rows) {
    const [device = '', text = ''] = key.split('/');
    const ts = Number(text);
    for (const [metric, value] of Object.entries(values)) {
      for (const windowMs of new Set([baseMs, HOUR, DAY])) {
        const start = Math.floor(ts / windowMs) * windowMs;
        const at = rollupKey({ tenant: 'acme', device, metric, windowMs, start });
        series.set(at, [...(series.get(at) ?? []), { ts, value }]);
      }
    }
  }
  assert.deepEqual([...store.rollupRows.keys()].sort(), [...series.keys()].sort());
  for (const [key, values] of series) {
    const row = store.rollupRows.get(key);
    assert.ok(row !== undefined, key);
    assertStats(finish(row.state), values, key);
    const times = values.map(({ ts }) => ts).sort((a, b) => a - b);
    assert.deepEqual([row.state.firstTs, row.state.lastTs], [times[0], times.at(-1)], key);
  }
}

function withoutCodes(ledger: Record<string, number>): Record<string, number> {
  const plain: Record<string, number> = {};
  for (const [key, count] of Object.entries(ledger)) {
    const short = key.split(' ').slice(0, 2).join(' ');
    plain[short] = (plain[short] ?? 0) + count;
  }
  return plain;
}

function sorted(ledger: Record<string, number>): [string, number][] {
  return Object.entries(ledger).sort();
}

/** Values of distinct times. */
export function assertStats(
  stats: ReturnType<typeof finish>,
  values: readonly { ts: number; value: Value }[],
  message: string,
): void {
  const ordered = [...values].sort((a, b) => a.ts - b.ts);
  assert.equal(stats.count, values.length, message);
  assert.equal(stats.first, ordered[0]?.value, message);
  assert.equal(stats.last, ordered.at(-1)?.value, message);
  const numbers = values
    .flatMap(({ value }) => (typeof value === 'string' ? [] : [Number(value)]))
    .sort((a, b) => a - b);
  if (numbers.length === 0) {
    assert.equal(stats.sum, undefined, message);
    assert.equal(stats.p50, undefined, message);
    return;
  }
  const n = numbers.length;
  const sum = numbers.reduce((a, b) => a + b, 0);
  const size = numbers.reduce((a, b) => a + Math.abs(b), 0);
  near(stats.sum, sum, size, `${message} sum`);
  near(stats.mean, sum / n, size / n, `${message} mean`);
  assert.equal(stats.min, numbers[0], message);
  assert.equal(stats.max, numbers.at(-1), message);
  if (n < 2) assert.equal(stats.stddev, undefined, message);
  else {
    const squares = numbers.reduce((total, value) => total + (value - sum / n) ** 2, 0);
    near(stats.stddev, Math.sqrt(squares / (n - 1)), size / n, `${message} stddev`);
  }
  for (const [permille, got] of [
    [500, stats.p50],
    [900, stats.p90],
    [990, stats.p99],
  ] as const) {
    const exact = numbers[Math.floor((permille * (n - 1)) / 1000)] ?? 0;
    const off = Math.abs((got ?? Number.NaN) - exact);
    assert.ok(off <= Math.abs(exact) * 0.0100001, `${message} p${permille}: ${got} for ${exact}`);
  }
}

function near(got: number | undefined, want: number, scale: number, message: string): void {
  const off = Math.abs((got ?? Number.NaN) - want);
  assert.ok(off <= 1e-9 * Math.max(scale, Number.MIN_VALUE), `${message}: ${got} for ${want}`);
}
