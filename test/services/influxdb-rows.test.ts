import assert from 'node:assert/strict';
import { after, describe, type TestContext, test } from 'node:test';
import { isMetricName } from '../../src/core/names.ts';
import type { Values } from '../../src/core/nouns.ts';
import type { Store, StoredReading } from '../../src/store/contract.ts';
import { type InfluxStoreOptions, openInfluxStore } from '../../src/store/influxdb/store.ts';
import { letter, reading, rollup } from '../suites/store.ts';
import { flux, influxEnvironment, removeBuckets, SKIPPED, uniquePrefix } from './influx-env.ts';
import { InfluxProxy } from './influx-proxy.ts';

const NOON = Date.UTC(2026, 2, 14, 12);
const DAY = 86_400_000;
const MINUTE = 60_000;
const ALL = { from: 0, to: NOON + 400 * DAY };

const env = influxEnvironment();

if (env === undefined) {
  test('rows on InfluxDB', { skip: SKIPPED }, () => {});
} else {
  const prefix = uniquePrefix();
  let places = 0;
  after(() => removeBuckets(env, prefix));

  const open = async (
    t: TestContext,
    place: number,
    changes: Partial<InfluxStoreOptions> = {},
  ): Promise<Store> => {
    const store = await openInfluxStore({
      ...env,
      bucketPrefix: `${prefix}-${place}`,
      retention: { rawMs: 0, deadLettersMs: 0, rollupsMs: new Map() },
      windowsMs: [MINUTE],
      ...changes,
    });
    t.after(() => store.close());
    return store;
  };

  /** Every legal character, names that InfluxDB, Flux or CSV give a meaning, and the longest. */
  const NAMES = [
    ...['_', '-', '_field', '_measurement', '_time', '_value', 'time', 'tenant', 'device', 'table'],
    ...['true', 'false', 't', 'nan', 'null', 'and', 'or', '0', '1i', '-1', '1e5', 'r', 'p0'],
    ...['--', '__', '-_-', 'ABCabc019_-', 'x'.repeat(64)],
  ];
  const METRICS = [
    ...NAMES,
    ...['_start', '_stop', 'result', 'error', 'reference', 'a.b', 'a/b', 'a:b', 'a-b', 'A.b'],
    ...['0.', '9:', '_/', 'x-', 'a.bool', 'a.text', 'state', 'count', 'letter', 'm'.repeat(64)],
  ].filter(isMetricName);

  describe('rows on InfluxDB', () => {
    test('keep every legal name of tenant, device, type and metric', async (t) => {
      const place = places++;
      const store = await open(t, place);
      const values: Values = {};
      METRICS.forEach((metric, index) => {
        values[metric] = [index, index % 2 === 0, `v ${index}`, `line\r\n${index}`][index % 4] ?? 0;
      });
      const numbers = Object.fromEntries(METRICS.map((metric, index) => [metric, index + 0.5]));
      const rows = NAMES.map((name, offset) =>
        reading({ tenant: name, device: name, type: name, offset, values }),
      );
      const second = NAMES.map((name, index) =>
        reading({
          ...{ tenant: name, device: name, type: name, values: numbers },
          ...{ ts: NOON + 1, offset: 100 + index },
        }),
      );
      assert.deepEqual(await store.writeReadings([...rows, ...second]), []);
      await store.writeRollups(
        NAMES.flatMap((name) =>
          METRICS.map((metric) => rollup({ tenant: name, device: name, metric })),
        ),
      );
      await store.writeDeadLetters(
        NAMES.map((name, offset) => letter({ tenant: name, device: name, type: name, offset })),
      );
      await store.commit({
        group: 'a group, with = and \\',
        partition: 0,
        nextOffset: 1,
        ledger: NAMES.map((name) => ({
          tenant: name,
          device: name,
          hour: NOON,
          outcome: 'deadLetter' as const,
          code: `ODD, CODE = ${name} \\ 中`,
          count: 1,
        })),
      });
      const sorted = [...METRICS].sort();
      for (const [index, name] of NAMES.entries()) {
        const query = { tenant: name, ...ALL };
        assert.deepEqual(await store.readings(query), [rows[index], second[index]]);
        const series = [{ device: name, metrics: sorted }];
        assert.deepEqual(await store.series(name), series);
        assert.equal((await store.deadLetters({ ...query, devices: [name] })).length, 1);
        const [line, ...others] = await store.ledger({ tenant: name, device: name });
        assert.deepEqual(others, []);
        assert.equal(line?.code, `ODD, CODE = ${name} \\ 中`);
      }
      const rollups = await store.rollups({ tenant: 'time', ...ALL, windowMs: MINUTE });
      assert.deepEqual(
        rollups.map(({ metric }) => metric),
        sorted,
      );
      assert.deepEqual(await store.position('a group, with = and \\'), new Map([[0, 1]]));
      for (const metric of METRICS) {
        const one = { tenant: 'time', ...ALL, metrics: [metric] };
        const [first, last] = await store.readings(one);
        assert.deepEqual(first?.values, { [metric]: values[metric] }, metric);
        assert.deepEqual(last?.values, { [metric]: numbers[metric] }, metric);
        assert.deepEqual(await store.countReadings(one), new Map([['time', 2]]));
      }
    });

    test('with names that are not legal are given back, not changed', async (t) => {
      const store = await open(t, places++);
      const bad = [
        reading({ device: 'a b' }),
        reading({ device: 'a,b=c', offset: 1 }),
        reading({ tenant: 'x"', offset: 2 }),
        reading({ type: 'a\nb', offset: 3 }),
        reading({ offset: 4, values: { 'a=1,b': 2 } }),
        reading({ offset: 5, values: { '@origin': 2 } }),
        reading({ offset: 6, values: {} }),
        reading({ offset: 7, ts: -1 }),
        reading({ offset: 8, ts: 9_300_000_000_000 }),
        reading({ offset: 9, received: 0.5 }),
      ];
      const refused = await store.writeReadings([...bad, reading({ offset: 10 })]);
      assert.deepEqual(
        refused.map((one) => one.reading),
        bad,
      );
      assert.equal((await store.readings({ tenant: 'acme', ...ALL })).length, 1);
      await assert.rejects(store.writeRollups([rollup({ metric: 'a b' })]), RangeError);
      await assert.rejects(store.writeRollups([rollup({ windowMs: 5 })]), RangeError);
    });

    test('of records with foreign names become dead letters that are found', async (t) => {
      const store = await open(t, places++);
      const names = ['a b', 'a,b=c', 'x"\\', 'a\nb', '中', '%41', 'ok'];
      const letters = names.flatMap((tenant, at) =>
        names.map((device, nth) => letter({ tenant, device, offset: at * 10 + nth })),
      );
      await store.writeDeadLetters(letters);
      for (const tenant of names) {
        const query = { tenant, ...ALL };
        const expected = letters.filter((one) => one.tenant === tenant);
        assert.deepEqual(await store.deadLetters({ ...query, oldestFirst: true }), expected);
        assert.deepEqual(await store.deadLetters({ ...query, devices: ['a b'] }), [expected[0]]);
        const counts = await store.countDeadLetters(query);
        assert.deepEqual(counts.map(({ device }) => device).sort(), [...names].sort());
        const groups = await store.groupDeadLetters(query);
        assert.deepEqual(groups.map(({ device }) => device).sort(), [...names].sort());
        const before = new Map([[0, 1_000]]);
        const range = { from: NOON, to: NOON + MINUTE, tsFrom: NOON, tsTo: NOON + MINUTE };
        const recounted = await store.recount({ tenant, before, ...range });
        assert.deepEqual(recounted.map(({ device }) => device).sort(), [...names].sort());
      }
      const [one] = letters;
      assert.ok(one !== undefined);
      await store.markDeadLetters([{ ...one, attempt: 2 }]);
      await store.purgeDeadLetters({ ...ALL, tenant: 'a b', device: 'a,b=c', purged: NOON });
      const left = await store.deadLetters({ tenant: 'a b', ...ALL, oldestFirst: true });
      assert.deepEqual(
        left.map(({ device, attempt }) => [device, attempt]),
        names
          .filter((name) => name !== 'a,b=c')
          .map((name, at) => [name, at === 0 ? 2 : undefined]),
      );
    });

    test('with texts as long as they come are stored whole, or given back', async (t) => {
      const store = await open(t, places++);
      const long = '"'.repeat(249_999);
      const rows = [long, `${long}"`, '中'.repeat(166_666), '\u0001'.repeat(83_334)].map(
        (text, i) => reading({ ts: NOON + i, offset: i, values: { text } }),
      );
      const refused = await store.writeReadings(rows);
      assert.deepEqual(
        refused.map((one) => one.reading.offset),
        [1, 3],
      );
      for (const { message } of refused) assert.match(message, /text is too long/);
      // A rollup that begins and ends with such texts, and the longest of sketches.
      const state = { ...rollup().state, first: long, last: long, sketch: new Uint8Array(20_000) };
      await store.writeRollups([rollup({ metric: 'text', state })]);
      const [found] = await store.rollups({ tenant: 'acme', windowMs: MINUTE, ...ALL });
      assert.deepEqual(found?.state, state);
      const payload = Buffer.alloc(2 ** 20, 'x').toString('base64');
      await store.writeDeadLetters([letter({ payload, payloadBytes: 2 ** 20 })]);
      const [kept] = await store.deadLetters({ tenant: 'acme', ...ALL });
      assert.equal(kept?.payloadBytes, 2 ** 20);
      const bytes = Buffer.from(kept?.payload ?? '', 'base64');
      assert.ok(bytes.length > 700_000 && bytes.every((byte) => byte === 120), `${bytes.length}`);
    });

    test('keep every text', async (t) => {
      const store = await open(t, places++);
      const texts = [
        '',
        ' ',
        '\0',
        '\r',
        '\n',
        '\r\n',
        '\t',
        '\u007f',
        '\u0085',
        '\u2028',
        '\ud800',
      ];
      texts.push(
        'a\\',
        '\\n',
        '"',
        '\\"',
        "'",
        ',',
        '#datatype',
        'true',
        '1',
        'null',
        `$${'{x}'}`,
        '😀',
      );
      const rows = texts.map((text, i) =>
        reading({ ts: NOON + i, offset: i, values: { text, [`t${i}`]: text } }),
      );
      assert.deepEqual(await store.writeReadings(rows), []);
      assert.deepEqual(await store.readings({ tenant: 'acme', ...ALL }), rows);
      const { sketch: _, ...state } = rollup().state;
      const rollups = texts.map((text, i) =>
        rollup({ start: NOON + i * MINUTE, state: { ...state, first: text, last: `${text}]` } }),
      );
      await store.writeRollups(rollups);
      const found = await store.rollups({ tenant: 'acme', windowMs: MINUTE, ...ALL });
      assert.deepEqual(found, rollups);
      const letters = texts.map((text, offset) =>
        letter({ ...{ offset, message: text, topic: text, actual: text }, code: text || 'NONE' }),
      );
      // An unpaired surrogate is no tag; codes come from a catalogue.
      const tagged = letters.filter(({ code }) => code.isWellFormed());
      await store.writeDeadLetters(tagged);
      const kept = await store.deadLetters({ tenant: 'acme', ...ALL });
      assert.deepEqual(kept, tagged.toReversed());
      for (const { code } of tagged) {
        assert.equal((await store.deadLetters({ tenant: 'acme', ...ALL, code })).length, 1, code);
      }
    });

    test('are what a query asks for, whatever its texts say', async (t) => {
      const store = await open(t, places++);
      await store.writeReadings([reading()]);
      await store.writeDeadLetters([letter()]);
      for (const text of ['") or true or ("', '"', '\\', `$${'{r.tenant}'}`, 'acme" //', '\n']) {
        assert.deepEqual(await store.readings({ tenant: text, ...ALL }), []);
        assert.deepEqual(await store.readings({ tenant: 'acme', devices: [text], ...ALL }), []);
        assert.deepEqual(await store.readings({ tenant: 'acme', metrics: [text], ...ALL }), []);
        assert.deepEqual(await store.deadLetters({ tenant: 'acme', code: text, ...ALL }), []);
        assert.deepEqual(await store.ledger({ tenant: text }), []);
        assert.deepEqual(await store.series(text), []);
        assert.deepEqual(await store.position(text), new Map());
      }
    });

    test('of many devices and metrics are found by one query', async (t) => {
      const store = await open(t, places++);
      const devices = Array.from({ length: 450 }, (_, i) => `d-${i}`).sort();
      const metrics = Array.from({ length: 20 }, (_, i) => `m-${i}`);
      await store.writeReadings(
        devices.map((device, offset) =>
          reading({ device, offset, values: { [`m-${offset % 20}`]: offset } }),
        ),
      );
      const query = { tenant: 'acme', devices, ...ALL };
      assert.equal((await store.readings({ ...query, metrics })).length, 450);
      assert.equal((await store.readings({ ...query, metrics, limit: 300 })).length, 300);
      assert.equal((await store.countReadings({ ...query, metrics })).size, 450);
      assert.equal((await store.latest('acme', { devices })).size, 450);
    });

    test('have a measurement, tags and fields that other programs can use', async (t) => {
      const place = places++;
      const describe = () => ({
        sum: 6,
        min: 1,
        max: 3,
        mean: 2,
        stddev: 1,
        p50: 2,
        p90: 3,
        p99: 3,
      });
      const store = await open(t, place, { describe });
      await store.writeReadings([reading({ values: { temperature: 21, door: 'open', on: true } })]);
      await store.writeRollups([rollup()]);
      const read = (bucket: string): Promise<string> =>
        flux(
          env,
          `from(bucket: "${prefix}-${place}-${bucket}") |> range(start: 0, stop: 2100-01-01T00:00:00Z)
            |> filter(fn: (r) => r.tenant == "acme" and r.device == "dev-1" and r._field != "state")
            |> keep(columns: ["_measurement", "_field", "_value", "metric"])`,
        );
      const raw = await read('raw');
      for (const [field, value] of [
        ['temperature', '21'],
        ['door@text', 'open'],
        ['on@bool', 'true'],
        ['@origin', `0 0 ${NOON + 40}`],
      ]) {
        assert.match(raw, new RegExp(`,${value},${field},climate\\r$`, 'm'));
      }
      const rollups = await read('rollup-1m');
      const expected: Record<string, number> = { count: 3, ...describe(), first: 20.1, last: 22.2 };
      for (const [field, value] of Object.entries(expected)) {
        assert.match(rollups, new RegExp(`,${value},${field},rollup,temperature\\r$`, 'm'));
      }
    });

    test('merge like the contract says, whatever comes late, again or after a restart', async (t) => {
      let seed = 20_260_314;
      const random = (below: number): number => {
        seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0;
        return Math.floor((seed / 2 ** 32) * below);
      };
      const place = places++;
      let store = await open(t, place);
      interface Model {
        row: StoredReading;
        from: Map<string, number>;
      }
      const model = new Map<string, Model>();
      const log: StoredReading[] = [];
      for (let round = 0; round < 60; round += 1) {
        const batch: StoredReading[] = [];
        const isReplay = random(4) === 0 && log.length > 30;
        const size = 1 + random(20);
        for (let i = 0; i < size; i += 1) {
          const values: Values = {};
          for (let metric = random(2); metric < 4; metric += 1 + random(3)) {
            values[`m${metric}`] = [random(9), random(2) === 0, `s${random(9)}`][random(3)] ?? 0;
          }
          if (Object.keys(values).length === 0) values.m9 = 1;
          const ts = NOON + random(80) * 500 + random(3) * DAY;
          const type = random(20) === 0 ? 'other' : 'climate';
          const device = `d-${random(3)}`;
          if (!isReplay) log.push(reading({ device, ts, type, values, offset: log.length }));
        }
        // A worker's replay begins somewhere and goes on to the end.
        batch.push(...(isReplay ? log.slice(log.length - 1 - random(30)) : log.slice(-size)));
        for (const one of batch) {
          const key = `${one.device}/${one.ts}`;
          const empty: Model = { row: { ...one, values: {} }, from: new Map() };
          const known = model.get(key) ?? empty;
          model.set(key, known);
          for (const [metric, value] of Object.entries(one.values)) {
            if ((known.from.get(metric) ?? -1) > one.offset) continue;
            known.row.values[metric] = value;
            known.from.set(metric, one.offset);
          }
        }
        assert.deepEqual(await store.writeReadings(batch), []);
        if (random(6) === 0) {
          await store.close();
          store = await open(t, place, { devicesMax: 1 + random(4) });
        }
      }
      const found = await store.readings({ tenant: 'acme', ...ALL });
      const sorted = (values: Values) => Object.fromEntries(Object.entries(values).sort());
      const expected = [...model.values()]
        .map(({ row }) => ({ ...row, values: sorted(row.values) }))
        .sort((a, b) => (a.device < b.device ? -1 : a.device > b.device ? 1 : a.ts - b.ts));
      assert.deepEqual(
        found.map((row) => ({ ...row, values: sorted(row.values) })),
        expected,
      );
      const counts = await store.countReadings({ tenant: 'acme', ...ALL });
      assert.equal(
        [...counts.values()].reduce((sum, count) => sum + count, 0),
        expected.length,
      );
    });

    test('that come late among very many others are found in small pieces', async (t) => {
      const place = places++;
      const dense = Array.from({ length: 900 }, (_, i) =>
        reading({ device: `d-${i % 3}`, ts: NOON + i, offset: i, values: { a: i, b: i } }),
      );
      await (await open(t, place)).writeReadings(dense);
      const store = await open(t, place, { answerBytesMax: 3_000 });
      const late = Array.from({ length: 400 }, (_, i) => {
        const ts = NOON + i * 2 + (i % 4 === 0 ? 0.5 : 0) * 10_000;
        return reading({
          device: `d-${(i * 2) % 3}`,
          ts,
          offset: 1_000 + i,
          values: { b: -i, c: i },
        });
      });
      assert.deepEqual(await store.writeReadings(late), []);
      const found = await (await open(t, place)).readings({ tenant: 'acme', ...ALL });
      const expected = new Map(dense.map((row) => [`${row.device} ${row.ts}`, row]));
      for (const row of late) {
        const key = `${row.device} ${row.ts}`;
        const known = expected.get(key) ?? row;
        expected.set(key, { ...known, values: { ...known.values, ...row.values } });
      }
      assert.ok(expected.size > 900 && expected.size < 1_300);
      assert.equal(found.length, expected.size);
      for (const row of found) assert.deepEqual(row, expected.get(`${row.device} ${row.ts}`));
    });

    test('of devices in order of time are written without a look at the store', async (t) => {
      const proxy = await InfluxProxy.start(env.url);
      t.after(() => proxy.close());
      const store = await open(t, places++, { url: proxy.url });
      const rows = (first: number, count: number) =>
        Array.from({ length: count }, (_, i) => {
          // Of two neighbours the later one comes first.
          const at = (first + i) ^ 1;
          return reading({ device: `d-${i % 7}`, ts: NOON + at * 1_000, offset: first + i });
        });
      await store.writeReadings(rows(0, 70));
      proxy.obey(() => 'forward');
      await store.writeReadings(rows(70, 700));
      assert.deepEqual(
        proxy.seen.map(({ isWrite }) => isWrite),
        [true],
      );
      assert.equal((await store.readings({ tenant: 'acme', ...ALL })).length, 770);
    });
  });
}
