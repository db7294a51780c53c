import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, type TestContext, test } from 'node:test';
import { ManualClock } from '../../src/core/clock.ts';
import type { LogRecord, Values } from '../../src/core/nouns.ts';
import { finish } from '../../src/rollup/aggregate.ts';
import type { FaultPoint } from '../../src/rollup/flush.ts';
import { runRollupWorker } from '../../src/rollup/worker.ts';
import type { Retention, Store } from '../../src/store/contract.ts';
import { openEmbeddedStore } from '../../src/store/embedded/store.ts';
import { openInfluxStore } from '../../src/store/influxdb/store.ts';
import { Crash, FakeLog } from '../rollup/fakes.ts';
import { influxEnvironment, removeBuckets, SKIPPED, uniquePrefix } from './influx-env.ts';

const MINUTE = 60_000;
const HOUR = 3_600_000;
const DAY = 86_400_000;
const T0 = Date.UTC(2026, 2, 10, 10, 30);
const WINDOWS = [MINUTE, HOUR, DAY];
const FOR_EVER: Retention = { rawMs: 0, deadLettersMs: 0, rollupsMs: new Map() };
const ALL = { tenant: 'acme', from: 0, to: T0 + 100 * DAY };

const env = influxEnvironment();

/** Order, late data, repetitions, merges, conflicts, kinds of values, refusals: a bit of everything. */
function records(): LogRecord[] {
  const all: LogRecord[] = [];
  for (let i = 0; i < 600; i += 1) {
    const device = `d-${i % 4}`;
    const late = i % 13 === 5 ? 20 * MINUTE : i % 50 === 7 ? DAY : 0;
    const ts = T0 + i * 9_000 - late;
    const received = T0 + i * 9_000 + 40;
    const values: Values = { temperature: 20 + (i % 17) / 8, open: i % 3 === 0 };
    if (i % 5 === 0) values.state = ['on', 'off', 'idle'][i % 3] ?? '';
    const reading = { kind: 'reading' as const, tenant: 'acme', device, type: 'climate' };
    all.push({ ...reading, ts, received, seq: i, values });
    if (i % 11 === 0) all.push({ ...reading, ts, received: received + 1, seq: i, values });
    if (i % 17 === 0) {
      all.push({ ...reading, ts, received: received + 2, values: { humidity: i } });
    }
    if (i % 19 === 0) {
      all.push({ ...reading, ts, received: received + 3, values: { temperature: -i, open: 'no' } });
    }
    if (i % 23 === 0) {
      const letter = { kind: 'deadLetter' as const, tenant: 'acme', device, type: 'climate' };
      const refusal = { code: 'JSON_INVALID', message: 'not JSON', topic: 't' };
      all.push({ ...letter, received, ...refusal, payload: 'eA==', payloadBytes: 1 });
    }
    if (i % 29 === 0) {
      all.push({ kind: 'shed', tenant: 'acme', device, received, code: 'LOG_FULL', count: 3 });
    }
  }
  return all;
}

async function run(
  log: FakeLog,
  store: Store,
  faultPoint: (name: FaultPoint) => void,
): Promise<void> {
  const stopping = new AbortController();
  let ticks = 0;
  const running = runRollupWorker({
    consumer: log,
    store,
    clock: new ManualClock(T0 + 2 * HOUR),
    config: {
      rollup: {
        baseWindow: MINUTE,
        lateness: 2 * MINUTE,
        flushInterval: 3,
        openReadingsMax: 100_000,
        devicesMax: 1_000,
        batchRecordsMax: 60,
      },
      types: {},
      store: { retention: { raw: 0 } },
    },
    signal: stopping.signal,
    faultPoint,
    monotonicNow: () => ticks++,
    retry: { firstMs: 1, longestMs: 2, attemptsAfterAbort: 0 },
    onStats: ({ lagOffsets }) => {
      if (lagOffsets === 0) stopping.abort();
    },
  });
  await running;
}

function logOf(all: readonly LogRecord[]): FakeLog {
  const log = new FakeLog();
  for (let at = 0; at < all.length; at += 15) log.append(all.slice(at, at + 15), T0);
  return log;
}

/** What a store answers to everything that reports ask. */
async function answers(store: Store, exact: boolean): Promise<Record<string, unknown>> {
  const rollups = await Promise.all(
    WINDOWS.map(async (windowMs) => {
      const rows = await store.rollups({ ...ALL, windowMs });
      if (exact) return rows;
      // After a crash sums are made in another order, and corrections are counted anew.
      return rows.map(({ revision: _, changedAt: __, state, ...row }) => {
        const { sum, mean, m2, ...rest } = state;
        return { ...row, ...rest, sum: sum.toFixed(6), mean: mean.toFixed(6), m2: m2.toFixed(4) };
      });
    }),
  );
  const sorted = (values: Values): Values => Object.fromEntries(Object.entries(values).sort());
  const readings = await store.readings(ALL);
  return {
    readings: readings.map((row) => ({ ...row, values: sorted(row.values) })),
    some: await store.readings({ ...ALL, metrics: ['state', 'humidity'], limit: 40 }),
    counts: await store.countReadings({ ...ALL, metrics: ['humidity', 'state'] }),
    rollups,
    latest: [...(await store.latest('acme'))].sort(),
    letters: await store.deadLetters(ALL),
    letterCounts: await store.countDeadLetters(ALL),
    series: await store.series('acme'),
    ledger: await store.ledger({ tenant: 'acme' }),
    totals: await store.ledgerTotals({}),
    position: await store.position('rollup'),
  };
}

async function embedded(t: TestContext): Promise<Store> {
  const dir = await mkdtemp(join(tmpdir(), 'spillway-store-'));
  const store = openEmbeddedStore({ dir, retention: FOR_EVER, windowsMs: WINDOWS });
  t.after(async () => {
    await store.close();
    await rm(dir, { recursive: true, force: true });
  });
  return store;
}

if (env === undefined) {
  test('the rollup worker on InfluxDB', { skip: SKIPPED }, () => {});
} else {
  const prefix = uniquePrefix();
  after(() => removeBuckets(env, prefix));

  const influx = async (t: TestContext, place: string): Promise<Store> => {
    const bucketPrefix = `${prefix}-${place}`;
    const store = await openInfluxStore({
      ...env,
      bucketPrefix,
      retention: FOR_EVER,
      windowsMs: WINDOWS,
      describe: finish,
    });
    t.after(() => store.close());
    return store;
  };

  test('the rollup worker fills both engines with the same data', async (t) => {
    const [one, other] = [await embedded(t), await influx(t, randomUUID().slice(0, 8))];
    const all = records();
    await run(logOf(all), one, () => {});
    await run(logOf(all), other, () => {});
    const expected = await answers(one, true);
    const found = await answers(other, true);
    for (const name of Object.keys(expected)) assert.deepEqual(found[name], expected[name], name);
  });

  test('the rollup worker may crash anywhere on InfluxDB', async (t) => {
    const [one, place] = [await embedded(t), randomUUID().slice(0, 8)];
    const all = records();
    await run(logOf(all), one, () => {});
    const log = logOf(all);
    const points: FaultPoint[] = [
      ...(['applied', 'rawWritten', 'deadLettersWritten', 'rebuilt', 'rollupsWritten'] as const),
      ...(['storeCommitted', 'logCommitted', 'rawWritten', 'rollupsWritten'] as const),
    ];
    for (const [index, point] of points.entries()) {
      const store = await influx(t, place);
      let passed = 0;
      const dying = run(log, store, (name) => {
        if (name === point) passed += 1;
        if (passed > index % 2) throw new Crash(point);
      });
      await assert.rejects(dying, Crash);
      await store.close();
    }
    const store = await influx(t, place);
    await run(log, store, () => {});
    const expected = await answers(one, false);
    const found = await answers(store, false);
    for (const name of Object.keys(expected)) assert.deepEqual(found[name], expected[name], name);
  });
}
