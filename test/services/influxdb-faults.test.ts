import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, describe, type TestContext, test } from 'node:test';
import { SpillwayError } from '../../src/core/errors.ts';
import type { Store, StoredReading } from '../../src/store/contract.ts';
import { InfluxUnavailableError } from '../../src/store/influxdb/errors.ts';
import { type InfluxStoreOptions, openInfluxStore } from '../../src/store/influxdb/store.ts';
import { letter, reading, rollup } from '../suites/store.ts';
import {
  flux,
  influxEnvironment,
  listBuckets,
  removeBuckets,
  SKIPPED,
  uniquePrefix,
  writeLines,
} from './influx-env.ts';
import { InfluxProxy } from './influx-proxy.ts';

const NOON = Date.UTC(2026, 2, 14, 12);
const DAY = 86_400_000;
const ALL = { from: 0, to: NOON + 400 * DAY };
const MINUTE = 60_000;

const env = influxEnvironment();

if (env === undefined) {
  test('faults of InfluxDB', { skip: SKIPPED }, () => {});
} else {
  const prefix = uniquePrefix();
  let proxy: InfluxProxy;
  /** So that no wait of a test is longer than it must be. */
  const quick = { backoffFirstMs: 5, backoffLongestMs: 50, giveUpMs: 20_000 };

  const open = async (
    t: TestContext,
    changes: Partial<InfluxStoreOptions> = {},
  ): Promise<Store> => {
    proxy.obey(() => 'forward');
    const store = await openInfluxStore({
      ...env,
      url: proxy.url,
      bucketPrefix: prefix,
      retention: { rawMs: 0, deadLettersMs: 0, rollupsMs: new Map() },
      windowsMs: [MINUTE],
      ...quick,
      ...changes,
    });
    t.after(() => store.close());
    return store;
  };

  const freshTenant = (): string => `tenant-${randomUUID().slice(0, 8)}`;

  /** One row a second of three devices in turn. */
  const readingsOf = (tenant: string, count: number, first = 0): StoredReading[] =>
    Array.from({ length: count }, (_, i) => {
      const offset = first + i;
      const ts = NOON + offset * 1_000;
      return reading({ tenant, device: `d-${offset % 3}`, ts, offset, values: { n: offset } });
    });

  /** By plain Flux: how many values there are, and their sum. */
  const stored = async (tenant: string, bucket = `${prefix}-raw`): Promise<[number, number]> => {
    const rows = `from(bucket: "${bucket}") |> range(start: 0, stop: 2100-01-01T00:00:00Z)
      |> filter(fn: (r) => r.tenant == "${tenant}" and r._field == "n") |> group()`;
    const value = async (of: string): Promise<number> => {
      const csv = await flux(env, `${rows} |> ${of}() |> keep(columns: ["_value"])`);
      return Number(csv.trim().split('\n').at(-1)?.trim().split(',').at(-1) ?? 0);
    };
    return [await value('count'), await value('sum')];
  };

  const sumTo = (count: number): number => (count * (count - 1)) / 2;

  before(async () => {
    proxy = await InfluxProxy.start(env.url);
  });
  after(async () => {
    await proxy.close();
    await removeBuckets(env, prefix);
  });

  describe('an InfluxDB that answers badly', () => {
    test('is asked again until every reading is stored, once', async (t) => {
      const store = await open(t, { batchLinesMax: 50 });
      const faults = [
        { status: 503, body: '{"code":"unavailable","message":"busy"}' },
        { status: 429, headers: { 'retry-after': '0' } },
        { status: 500, body: '{"code":"internal error","message":"unexpected error"}' },
        { status: 502, headers: { 'content-type': 'text/html' }, body: '<h1>Bad gateway</h1>' },
        'refuse',
        'lose',
        // Not the success that InfluxDB answers with.
        { status: 200, headers: { 'content-type': 'text/html' }, body: '<h1>Log in</h1>' },
        { status: 302, headers: { location: '/login' } },
        // Refusals, but not by the database.
        { status: 400, headers: { 'content-type': 'text/html' }, body: '<h1>Bad request</h1>' },
        { status: 422, headers: { 'content-type': 'application/json' }, body: '{"waf":"no"}' },
      ] as const;
      const tenant = freshTenant();
      proxy.obey(({ isWrite, index }) => {
        const fault = faults[index % (faults.length + 2)];
        return isWrite && fault !== undefined ? fault : 'forward';
      });
      for (let first = 0; first < 1_000; first += 250) {
        assert.deepEqual(await store.writeReadings(readingsOf(tenant, 250, first)), []);
      }
      assert.deepEqual(await stored(tenant), [1_000, sumTo(1_000)]);
    });

    test('is left alone for as many seconds as it asks for', async (t) => {
      const store = await open(t);
      const times: number[] = [];
      const tenant = freshTenant();
      await store.writeReadings(readingsOf(tenant, 3));
      proxy.obey(({ isWrite, index }) => {
        if (isWrite) times.push(performance.now());
        return index === 0 ? { status: 503, headers: { 'retry-after': '1' } } : 'forward';
      });
      await Promise.all([
        store.writeReadings(readingsOf(tenant, 3, 3)),
        // All writers stay away, not only the one that was told to.
        new Promise((resolve) => setTimeout(resolve, 100)).then(() =>
          store.writeRollups([rollup({ tenant })]),
        ),
      ]);
      assert.equal(times.length, 3);
      assert.ok((times[1] ?? 0) - (times[0] ?? 0) >= 990, `${times}`);
      assert.deepEqual(await stored(tenant), [6, sumTo(6)]);
    });

    test('is not stormed while it is down, and used again when it is back', async (t) => {
      const store = await open(t, { backoffFirstMs: 20, backoffLongestMs: 100, writesMax: 4 });
      const tenant = freshTenant();
      await store.writeReadings(readingsOf(tenant, 3));
      proxy.obey(() => 'refuse');
      const writes = Array.from({ length: 8 }, (_, i) =>
        store.writeReadings(readingsOf(tenant, 10, 3 + i * 10)),
      );
      await new Promise((resolve) => setTimeout(resolve, 1_000));
      const attempts = proxy.seen.length;
      assert.ok(attempts >= 5 && attempts <= 80, `${attempts} attempts in a second`);
      proxy.obey(() => 'forward');
      await Promise.all(writes);
      assert.deepEqual(await stored(tenant), [83, sumTo(83)]);
    });

    test('is given up after a while with an error that may be retried', async (t) => {
      const store = await open(t, { giveUpMs: 100 });
      const tenant = freshTenant();
      await store.writeReadings(readingsOf(tenant, 3));
      proxy.obey(() => ({ status: 503 }));
      const rows = readingsOf(tenant, 10, 3);
      const isRetryable = (error: unknown): boolean =>
        error instanceof InfluxUnavailableError && error.retryable;
      await assert.rejects(store.writeReadings(rows), isRetryable);
      await assert.rejects(store.readings({ tenant, ...ALL }), isRetryable);
      proxy.obey(() => 'forward');
      for (;;) {
        try {
          assert.deepEqual(await store.writeReadings(rows), []);
          break;
        } catch (error) {
          assert.ok(isRetryable(error));
          await new Promise((resolve) => setTimeout(resolve, 20));
        }
      }
      assert.deepEqual(await stored(tenant), [13, sumTo(13)]);
      assert.equal((await store.readings({ tenant, ...ALL })).length, 13);
    });

    test('that is late with a write cannot overwrite a newer one afterwards', async (t) => {
      const store = await open(t, { attemptTimeoutMs: 300 });
      const tenant = freshTenant();
      let release = (): void => {};
      const released = new Promise<void>((resolve) => {
        release = resolve;
      });
      proxy.obey(({ index }) => (index === 0 ? { forwardAfter: released } : 'forward'));
      const { state } = rollup();
      const first = store.writeRollups([rollup({ tenant, state: { ...state, count: 1 } })]);
      let isFirstDone = false;
      void first.then(() => {
        isFirstDone = true;
      });
      // The second attempt has been answered when a query behind it has.
      while (proxy.seen.length < 2) await new Promise((resolve) => setTimeout(resolve, 5));
      await new Promise((resolve) => setTimeout(resolve, 50));
      assert.equal(isFirstDone, false, 'a write ends when all of its attempts have');
      release();
      await first;
      const newer = rollup({ tenant, revision: 1, state: { ...state, count: 2 } });
      await store.writeRollups([newer]);
      assert.deepEqual(await store.rollups({ tenant, windowMs: MINUTE, ...ALL }), [newer]);
    });

    test('that is late with a query is asked anew', async (t) => {
      const store = await open(t, { attemptTimeoutMs: 200 });
      const tenant = freshTenant();
      await store.writeReadings(readingsOf(tenant, 9));
      const never = new Promise(() => {});
      proxy.obey(({ index }) => (index === 0 ? { answerAfter: never } : 'forward'));
      assert.equal((await store.readings({ tenant, ...ALL })).length, 9);
      assert.equal(proxy.seen.length, 2);
    });

    test('that answers slowly but goes on is waited for', async (t) => {
      const store = await open(t, { attemptTimeoutMs: 1_000 });
      const tenant = freshTenant();
      await store.writeReadings(readingsOf(tenant, 9));
      proxy.obey(() => ({ pieces: 8, everyMs: 300 }));
      assert.equal((await store.readings({ tenant, ...ALL })).length, 9);
      assert.equal(proxy.seen.length, 1);
    });

    test('and cuts an answer short is asked anew', async (t) => {
      const store = await open(t);
      const tenant = freshTenant();
      await store.writeReadings(readingsOf(tenant, 9));
      proxy.obey(({ index }) =>
        index === 0
          ? { status: 200, headers: { 'content-length': '5000' }, body: '#datatype,string' }
          : 'forward',
      );
      const reading = store.readings({ tenant, ...ALL });
      // The proxy cannot know that the rest will not come: it is closed as a dying server would.
      while (proxy.seen.length < 1) await new Promise((resolve) => setTimeout(resolve, 5));
      await new Promise((resolve) => setTimeout(resolve, 50));
      proxy.dropConnections();
      assert.equal((await reading).length, 9);
    });

    test('and lets no more than a bounded answer through', async (t) => {
      const store = await open(t, { answerBytesMax: 2_000 });
      const tenant = freshTenant();
      await store.writeReadings(readingsOf(tenant, 200));
      await assert.rejects(
        store.readings({ tenant, ...ALL }),
        (error) => error instanceof SpillwayError && error.code === 'QUERY_TOO_LARGE',
      );
    });
  });

  describe('a batch that InfluxDB refuses', () => {
    test('as too large is halved', async (t) => {
      const store = await open(t);
      const tenant = freshTenant();
      proxy.obey(({ lines }) => (lines.length > 60 ? { status: 413 } : 'forward'));
      assert.deepEqual(await store.writeReadings(readingsOf(tenant, 500)), []);
      assert.deepEqual(await stored(tenant), [500, sumTo(500)]);
    });

    test('for one point loses that point alone, with the words of the database', async (t) => {
      const store = await open(t);
      const tenant = freshTenant();
      // A foreign program has given the field another type.
      const type = `type-${randomUUID().slice(0, 8)}`;
      await writeLines(
        env,
        `${prefix}-raw`,
        `${type},device=foreign,tenant=${tenant} poison=1i ${NOON}`,
      );
      const rows = readingsOf(tenant, 1_000).map((row) => ({ ...row, type }));
      const bad = [0, 1, 499, 500, 501, 733, 999];
      for (const index of bad) {
        const row = rows[index];
        if (row !== undefined) rows[index] = { ...row, values: { ...row.values, poison: 1.5 } };
      }
      proxy.obey(() => 'forward');
      const refused = await store.writeReadings(rows);
      assert.deepEqual(
        refused.map((one) => one.reading.offset),
        bad,
      );
      for (const { message } of refused) assert.match(message, /field type conflict.*poison/);
      const requests = proxy.seen.filter(({ isWrite }) => isWrite).length;
      assert.ok(requests < 120, `${requests} requests`);
      const found = await store.readings({ tenant, ...ALL });
      assert.equal(found.length, 993);
      assert.ok(found.every(({ offset }) => !bad.includes(offset)));
    });

    test('for faults of two kinds loses both, though InfluxDB reports one', async (t) => {
      const retention = { rawMs: 30 * DAY, deadLettersMs: 0, rollupsMs: new Map() };
      const bucketPrefix = uniquePrefix();
      t.after(() => removeBuckets(env, bucketPrefix));
      const store = await open(t, { bucketPrefix, retention });
      const tenant = freshTenant();
      const now = Date.now();
      await writeLines(env, `${bucketPrefix}-raw`, `other,device=x,tenant=y poison=1i ${now}`);
      const row = (offset: number, ts: number, changes = {}) =>
        reading({ tenant, device: `d-${offset}`, ts, offset, values: { n: 1 }, ...changes });
      const rows = [
        row(0, now),
        row(1, now - 31 * DAY),
        row(2, now, { type: 'other', values: { poison: 0.5 } }),
        row(3, now - 29 * DAY),
        row(4, now - 40 * DAY),
      ];
      const refused = await store.writeReadings(rows);
      const messages = new Map(refused.map((one) => [one.reading.offset, one.message]));
      assert.deepEqual([...messages.keys()], [1, 2, 4]);
      assert.match(messages.get(1) ?? '', /retention/i);
      assert.match(messages.get(2) ?? '', /field type conflict/);
      const found = await store.readings({ tenant, from: 0, to: now + DAY });
      assert.deepEqual(
        found.map(({ offset }) => offset),
        [0, 3],
      );
    });

    test('wholly because it is old costs one request', async (t) => {
      const bucketPrefix = uniquePrefix();
      t.after(() => removeBuckets(env, bucketPrefix));
      const retention = { rawMs: DAY, deadLettersMs: DAY, rollupsMs: new Map([[MINUTE, DAY]]) };
      const store = await open(t, { bucketPrefix, retention });
      const tenant = freshTenant();
      proxy.obey(() => 'forward');
      const refused = await store.writeReadings(readingsOf(tenant, 300));
      assert.equal(refused.length, 300);
      assert.equal(proxy.seen.filter(({ isWrite }) => isWrite).length, 1);
      // What retention drops at once is no fault of rollups and dead letters.
      await store.writeRollups([rollup({ tenant }), rollup({ tenant, start: Date.now() })]);
      await store.writeDeadLetters([letter({ tenant })]);
      const range = { tenant, from: 0, to: Date.now() + DAY };
      assert.equal((await store.rollups({ ...range, windowMs: MINUTE })).length, 1);
    });

    test('with a value that is too long for it comes back', async (t) => {
      const store = await open(t);
      const tenant = freshTenant();
      const long = reading({
        tenant,
        ts: NOON + 1,
        offset: 1,
        values: { s: 'x'.repeat(1_100_000) },
      });
      const [refused, ...others] = await store.writeReadings([reading({ tenant }), long]);
      assert.equal(refused?.reading, long);
      assert.match(refused?.message ?? '', /too long/);
      assert.deepEqual(others, []);
    });
  });

  describe('buckets', () => {
    test('are made with their retention, and left as they are when they exist', async (t) => {
      const bucketPrefix = uniquePrefix();
      t.after(() => removeBuckets(env, bucketPrefix));
      const warnings: Record<string, unknown>[] = [];
      const logger = { warn: (fields: Record<string, unknown>) => void warnings.push(fields) };
      const retention = {
        rawMs: 2 * DAY,
        deadLettersMs: 1_000,
        rollupsMs: new Map([[MINUTE, 3 * DAY]]),
      };
      const windowsMs = [MINUTE, 90_000, DAY];
      await open(t, { bucketPrefix, retention, windowsMs, logger });
      const names = (await listBuckets(env, bucketPrefix)).map(({ name }) => name).sort();
      const suffixes = ['dead-letters', 'ledger', 'raw', 'rollup-1d', 'rollup-1m', 'rollup-90s'];
      assert.deepEqual(
        names,
        suffixes.map((suffix) => `${bucketPrefix}-${suffix}`),
      );
      assert.deepEqual(warnings, []);
      await open(t, { bucketPrefix, retention: { ...retention, rawMs: DAY }, windowsMs, logger });
      assert.deepEqual(warnings, [
        {
          bucket: `${bucketPrefix}-raw`,
          retentionSeconds: 172_800,
          configuredSeconds: 86_400,
        },
      ]);
      const both = await Promise.all([
        open(t, { bucketPrefix: `${bucketPrefix}-x` }),
        open(t, { bucketPrefix: `${bucketPrefix}-x` }),
      ]);
      assert.equal(both.length, 2);
    });

    test('that nobody has made yet are empty to a reader', async (t) => {
      const reader = await open(t, { bucketPrefix: uniquePrefix(), readOnly: true });
      const query = { tenant: 'acme', ...ALL };
      assert.deepEqual(await reader.readings(query), []);
      assert.deepEqual(await reader.series('acme'), []);
      assert.deepEqual(await reader.position('g'), new Map());
      await assert.rejects(reader.writeRollups([rollup()]), /read only/);
    });

    test('that are gone fail with an error that may be retried', async (t) => {
      const bucketPrefix = uniquePrefix();
      const store = await open(t, { bucketPrefix });
      await removeBuckets(env, bucketPrefix);
      await assert.rejects(store.writeReadings([reading()]), InfluxUnavailableError);
    });

    test('need the right organization and token', async (t) => {
      const isConfigError = (error: unknown): boolean =>
        error instanceof SpillwayError && error.code === 'CONFIG_INVALID';
      await assert.rejects(open(t, { token: 'wrong' }), isConfigError);
      await assert.rejects(open(t, { org: 'no-such-org' }), isConfigError);
    });
  });
}
