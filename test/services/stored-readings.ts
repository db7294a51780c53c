import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { parse } from 'csv-parse/sync';
import type { Value, Values } from '../../src/core/nouns.ts';
import {
  assertStatistics,
  differences,
  type Measured,
  type Statistics,
  statisticsOf,
  windowsOf,
} from '../system/naive.ts';
import { flux, type InfluxEnvironment } from './influx-env.ts';

/**
 * What stands in InfluxDB, read by plain Flux and with nothing of the program, as any other client of the
 * documented schema would.
 */
export interface Buckets {
  env: InfluxEnvironment;
  prefix: string;
}

type Row = Record<string, string>;

const EVER = 'range(start: 0, stop: 2100-01-01T00:00:00Z)';

/** Tables of different columns follow each other, each after an empty line. */
export async function fluxRows(env: InfluxEnvironment, query: string): Promise<Row[]> {
  const tables = (await flux(env, query)).split(/(?:\r?\n){2,}/);
  const rows = tables.flatMap((table) => parse(table, { columns: true }) as Row[]);
  const failed = rows.find(({ error }) => error !== undefined);
  assert.equal(failed, undefined, 'InfluxDB failed while it answered');
  return rows;
}

function bucketOf({ prefix }: Buckets, name: string, tenant: string): string {
  return `from(bucket: "${prefix}-${name}") |> ${EVER} |> filter(fn: (r) => r.tenant == "${tenant}")`;
}

/** How many raw rows a tenant has; each has its `@origin` once. */
export async function countRaw(at: Buckets, tenant: string): Promise<number> {
  const rows = await fluxRows(
    at.env,
    `${bucketOf(at, 'raw', tenant)} |> filter(fn: (r) => r._field == "@origin")
      |> group() |> count() |> keep(columns: ["_value"])`,
  );
  return Number(rows[0]?._value ?? 0);
}

/** Raw readings by device, ordered by time. Fails when two rows of a device have one time. */
export async function rawReadings(at: Buckets, tenant: string): Promise<Map<string, Measured[]>> {
  const rows = await fluxRows(
    at.env,
    `${bucketOf(at, 'raw', tenant)} |> drop(columns: ["_start", "_stop"])`,
  );
  const devices = new Map<string, Map<number, Values>>();
  const origins = new Set<string>();
  for (const { device = '', _time = '', _field = '', _value = '' } of rows) {
    const readings = devices.get(device) ?? new Map<number, Values>();
    devices.set(device, readings);
    const ts = Date.parse(_time);
    const values = readings.get(ts) ?? {};
    readings.set(ts, values);
    if (_field === '@origin') {
      assert.ok(!origins.has(`${device} ${ts}`), `${device} has two rows of ${_time}`);
      origins.add(`${device} ${ts}`);
    } else if (_field !== '@merged') {
      const [metric = '', kind] = _field.split('@');
      values[metric] = fieldValue(_value, kind);
    }
  }
  return new Map(
    [...devices].map(([device, readings]) => [
      device,
      [...readings].map(([ts, values]) => ({ ts, values })).sort((a, b) => a.ts - b.ts),
    ]),
  );
}

function fieldValue(text: string, kind: string | undefined): Value {
  if (kind === 'bool') return text === 'true';
  if (kind === 'text') return text;
  return Number(text);
}

interface RollupCell {
  device: string;
  metric: string;
  start: number;
  statistics: Statistics;
}

/** Rollups of one level; `level` is the last part of the bucket's name. */
async function rollups(at: Buckets, tenant: string, level: string): Promise<RollupCell[]> {
  const rows = await fluxRows(
    at.env,
    `${bucketOf(at, `rollup-${level}`, tenant)} |> filter(fn: (r) => r._field != "state")
      |> drop(columns: ["_start", "_stop"])`,
  );
  const cells = new Map<string, RollupCell & { statistics: Record<string, Value> }>();
  for (const { device = '', metric = '', _time = '', _field = '', _value = '' } of rows) {
    const start = Date.parse(_time);
    const key = `${device} ${metric} ${start}`;
    const cell = cells.get(key) ?? { device, metric, start, statistics: {} as never };
    cells.set(key, cell);
    const [name = '', kind] = _field.split('@');
    cell.statistics[name] = fieldValue(_value, kind);
  }
  return [...cells.values()];
}

/** Waits until a tenant has so many raw rows; fails when there are more, or not as many in time. */
export async function rawArrived(
  at: Buckets,
  tenant: string,
  count: number,
  timeoutMs: number,
): Promise<void> {
  const until = performance.now() + timeoutMs;
  for (;;) {
    const stored = await countRaw(at, tenant);
    assert.ok(stored <= count, `${tenant}: ${stored} rows of ${count} readings`);
    if (stored === count) return;
    assert.ok(
      performance.now() < until,
      `${tenant}: ${stored} of ${count} readings stored after ${timeoutMs} ms`,
    );
    await sleep(200);
  }
}

/** What must be there: every reading of a device, once. */
export type Expected = ReadonlyMap<string, readonly Measured[]>;

export interface Level {
  name: string;
  ms: number;
}

/**
 * Every reading is there exactly once with its values, and every rollup of every level has the statistics
 * of its readings. Rollups follow raw rows within moments; they are waited for.
 */
export async function assertStored(
  at: Buckets,
  tenant: string,
  expected: Expected,
  levels: readonly Level[],
  timeoutMs: number,
): Promise<void> {
  const total = [...expected.values()].reduce((sum, { length }) => sum + length, 0);
  await rawArrived(at, tenant, total, timeoutMs);
  const raw = await rawReadings(at, tenant);
  assert.deepEqual([...raw.keys()].sort(), [...expected.keys()].sort(), `devices of ${tenant}`);
  for (const [device, readings] of expected) {
    const wrong = differences(raw.get(device) ?? [], readings);
    assert.deepEqual(wrong, [], `raw readings of ${tenant}/${device}`);
  }
  for (const level of levels) await assertLevel(at, tenant, expected, level, timeoutMs);
}

async function assertLevel(
  at: Buckets,
  tenant: string,
  expected: Expected,
  { name, ms }: Level,
  timeoutMs: number,
): Promise<void> {
  const until = performance.now() + timeoutMs;
  for (;;) {
    try {
      checkLevel(await rollups(at, tenant, name), tenant, expected, ms);
      return;
    } catch (error) {
      if (performance.now() > until) throw error;
    }
    await sleep(500);
  }
}

function checkLevel(cells: RollupCell[], tenant: string, expected: Expected, ms: number): void {
  const want = new Map<string, { ts: number; value: Value }[]>(
    [...expected].flatMap(([device, readings]) =>
      [...windowsOf(readings, (ts) => Math.floor(ts / ms) * ms)].map(
        ([window, points]) => [`${device} ${window}`, points] as const,
      ),
    ),
  );
  for (const { device, metric, start, statistics } of cells) {
    const key = `${device} ${metric} ${start}`;
    const label = `${tenant}/${device} ${metric} ${new Date(start).toISOString()} of ${ms} ms`;
    const points = want.get(key);
    assert.ok(points !== undefined, `${label}: there is no such window`);
    want.delete(key);
    assertStatistics(statistics, statisticsOf(points), label);
  }
  assert.deepEqual([...want.keys()].slice(0, 5), [], `windows of ${tenant} that are missing`);
}

export interface DeadLetter {
  device: string;
  code: string;
  message: string;
}

async function deadLetters(at: Buckets, tenant: string): Promise<DeadLetter[]> {
  const rows = await fluxRows(
    at.env,
    `${bucketOf(at, 'dead-letters', tenant)} |> filter(fn: (r) => r._field == "message")`,
  );
  return rows.map(({ device = '', code = '', _value = '' }) => ({ device, code, message: _value }));
}

/** Waits until a tenant has at least so many dead letters. */
export async function lettersArrived(
  at: Buckets,
  tenant: string,
  count: number,
  timeoutMs: number,
): Promise<DeadLetter[]> {
  const until = performance.now() + timeoutMs;
  for (;;) {
    const letters = await deadLetters(at, tenant);
    if (letters.length >= count) return letters;
    const so = `${tenant}: ${letters.length} of ${count} dead letters after ${timeoutMs} ms`;
    assert.ok(performance.now() < until, so);
    await sleep(200);
  }
}
