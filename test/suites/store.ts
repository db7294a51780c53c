import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { describe, type TestContext, test } from 'node:test';
import type { LedgerCount, RollupRow, Values } from '../../src/core/nouns.ts';
import type {
  Retention,
  Store,
  StoredDeadLetter,
  StoredReading,
} from '../../src/store/contract.ts';

/** What the suite asks of an engine when it opens a store. */
export interface StoreSuiteOptions {
  /** Names where the data lives: opened again, the same place has the same data. */
  place: string;
  retention: Retention;
  windowsMs: number[];
}

/** Opens a store; what it makes is removed after the test. The suite closes what it opens again. */
export type OpenStore = (t: TestContext, options: StoreSuiteOptions) => Promise<Store>;

const MINUTE = 60_000;
const HOUR = 3_600_000;
const DAY = 86_400_000;
const NOON = Date.UTC(2026, 2, 14, 12);
const ALL = { from: 0, to: NOON + 400 * DAY };
const WINDOWS = [MINUTE, HOUR, DAY];
const FOR_EVER: Retention = { rawMs: 0, deadLettersMs: 0, rollupsMs: new Map() };

export function reading(changes: Partial<StoredReading> = {}): StoredReading {
  return {
    tenant: 'acme',
    device: 'dev-1',
    type: 'climate',
    ts: NOON,
    received: NOON + 40,
    values: { temperature: 21.5 },
    partition: 0,
    offset: 0,
    ...changes,
  };
}

export function rollup(changes: Partial<RollupRow> = {}): RollupRow {
  return {
    tenant: 'acme',
    device: 'dev-1',
    metric: 'temperature',
    windowMs: MINUTE,
    start: NOON,
    state: {
      count: 3,
      sum: 63.3,
      min: 20.1,
      max: 22.2,
      mean: 21.1,
      m2: 2.22,
      firstTs: NOON + 1,
      first: 20.1,
      lastTs: NOON + 59_000,
      last: 22.2,
      sketch: new Uint8Array([0, 1, 127, 128, 255]),
    },
    revision: 0,
    changedAt: NOON + MINUTE,
    ...changes,
  };
}

export function letter(changes: Partial<StoredDeadLetter> = {}): StoredDeadLetter {
  return {
    tenant: 'acme',
    device: 'dev-1',
    type: 'climate',
    received: NOON,
    code: 'VALUE_ABOVE_MAX',
    message: 'temperature is above its maximum',
    topic: 't/acme/d/dev-1/telemetry',
    payload: Buffer.from('{"temperature":900}').toString('base64'),
    payloadBytes: 19,
    partition: 0,
    offset: 0,
    ...changes,
  };
}

function line(changes: Partial<LedgerCount> = {}): LedgerCount {
  return {
    tenant: 'acme',
    device: 'dev-1',
    hour: NOON,
    outcome: 'stored',
    code: '',
    count: 1,
    ...changes,
  };
}

const keys = (rows: StoredReading[]): string[] => rows.map((row) => `${row.device}@${row.ts}`);

export interface EngineTraits {
  /** False for an engine whose server drops old data by its own clock. Default true. */
  retentionOnCall?: boolean;
}

/** The tests that every store engine passes. */
export function storeSuite(name: string, open: OpenStore, traits: EngineTraits = {}): void {
  const { retentionOnCall = true } = traits;
  const openFresh = (t: TestContext, retention = FOR_EVER): Promise<Store> =>
    open(t, { place: randomUUID(), retention, windowsMs: WINDOWS });

  describe(`${name}: raw readings`, () => {
    test('come back as they were written, whatever their types', async (t) => {
      const store = await openFresh(t);
      const sent: Values[] = [
        { int: 0, negative: -7, big: 9_007_199_254_740_991, float: 0.1 + 0.2 },
        { huge: 1.7976931348623157e308, tiny: 5e-324, minusZero: -0 },
        { on: true, off: false, state: 'open', empty: '', number: '42', word: 'true' },
        { text: 'ünï "quoted" \\ \n\t, = 中 😀' },
        { 'a.b': 1, 'a/b': 2, 'a:b': 3, 'a-b': 4, a_b: 5, '1': 6 },
      ];
      const rows = sent.map((values, i) => reading({ ts: NOON + i, offset: i, values }));
      rows.push(reading({ ts: NOON + 5, offset: 5, seq: 0, type: 'other' }));
      rows.push(reading({ ts: NOON + 6, offset: 6, seq: 4_294_967_296, partition: 3 }));
      assert.deepEqual(await store.writeReadings(rows), []);
      const found = await store.readings({ tenant: 'acme', ...ALL });
      assert.deepEqual(found, rows);
      assert.ok(Object.is(found[1]?.values.minusZero, -0));
      assert.ok(!('seq' in (found[0] ?? {})));
    });

    test('written again change nothing', async (t) => {
      const store = await openFresh(t);
      const rows = Array.from({ length: 60 }, (_, i) => reading({ ts: NOON + i, offset: i }));
      await store.writeReadings(rows);
      await store.writeReadings(rows);
      await store.writeReadings(rows.slice(20, 40));
      assert.deepEqual(await store.readings({ tenant: 'acme', ...ALL }), rows);
      assert.deepEqual(
        await store.countReadings({ tenant: 'acme', ...ALL }),
        new Map([['dev-1', 60]]),
      );
    });

    test('with the same key merge: the later offset wins in every order of arrival', async (t) => {
      const first = reading({ offset: 10, seq: 1, values: { a: 1, b: 1 } });
      const second = reading({ offset: 20, seq: 2, values: { b: 2, c: 2 } });
      const third = reading({ offset: 30, seq: 3, values: { c: true, d: 'x' } });
      const expected = { a: 1, b: 2, c: true, d: 'x' };
      const orders = [
        [first, second, third],
        [first, third, second],
        [second, first, third],
        [second, third, first],
        [third, first, second],
        [third, second, first],
      ];
      const store = await openFresh(t);
      for (const [i, order] of orders.entries()) {
        const apart = order.map((row) => ({ ...row, device: `apart-${i}` }));
        for (const row of apart) await store.writeReadings([row]);
        await store.writeReadings(apart);
        for (const row of apart) await store.writeReadings([row]);
        await store.writeReadings(order.map((row) => ({ ...row, device: `batch-${i}` })));
        for (const device of [`apart-${i}`, `batch-${i}`]) {
          const found = await store.readings({ tenant: 'acme', devices: [device], ...ALL });
          assert.equal(found.length, 1);
          assert.deepEqual(found[0]?.values, expected, device);
        }
        const [created] = await store.readings({
          tenant: 'acme',
          devices: [`apart-${i}`],
          ...ALL,
        });
        assert.equal(created?.offset, order[0]?.offset, 'the creator stays');
        assert.equal(created?.partition, 0);
      }
    });

    test('tell on request which record each metric came from', async (t) => {
      const store = await openFresh(t);
      await store.writeReadings([
        reading({ offset: 10, values: { a: 1, b: 1, c: 1 } }),
        reading({ ts: NOON + 1, offset: 11, values: { a: 1 } }),
      ]);
      await store.writeReadings([reading({ offset: 20, values: { b: 1, d: 1 } })]);
      await store.writeReadings([
        reading({ partition: 2, offset: 3, values: { c: 'x' } }),
        reading({ partition: 0, offset: 30, values: { c: 2 } }),
      ]);
      const query = { tenant: 'acme', ...ALL };
      const [row, alone] = await store.readings({ ...query, mergedFrom: true });
      assert.deepEqual(row?.values, { a: 1, b: 1, c: 'x', d: 1 });
      assert.deepEqual(row?.mergedFrom, {
        b: { partition: 0, offset: 20 },
        c: { partition: 2, offset: 3 },
        d: { partition: 0, offset: 20 },
      });
      assert.equal(alone?.mergedFrom, undefined);
      const [some] = await store.readings({ ...query, metrics: ['a', 'd'], mergedFrom: true });
      assert.deepEqual(some?.mergedFrom, { d: { partition: 0, offset: 20 } });
      const plain = await store.readings(query);
      assert.ok(plain.every((one) => !('mergedFrom' in one)));
    });

    test('may hold keys twice within one batch among others', async (t) => {
      const store = await openFresh(t);
      const rows = Array.from({ length: 100 }, (_, i) =>
        reading({ ts: NOON + (i % 50), offset: i, values: { [i < 50 ? 'a' : 'b']: i } }),
      );
      await store.writeReadings(rows);
      const found = await store.readings({ tenant: 'acme', ...ALL });
      assert.equal(found.length, 50);
      for (const [i, row] of found.entries()) {
        assert.deepEqual(row.values, { a: i, b: i + 50 });
        assert.equal(row.offset, i);
      }
    });

    test('that can never be stored are given back, the others are kept', async (t) => {
      const store = await openFresh(t);
      const bad = reading({ ts: NOON + 1, offset: 1, values: { x: Number.NaN } });
      const good = [reading({ offset: 0 }), reading({ ts: NOON + 2, offset: 2 })];
      const refused = await store.writeReadings([...good.slice(0, 1), bad, ...good.slice(1)]);
      assert.deepEqual(
        refused.map((one) => one.reading),
        [bad],
      );
      assert.ok((refused[0]?.message.length ?? 0) > 0);
      assert.deepEqual(await store.readings({ tenant: 'acme', ...ALL }), good);
    });

    test('are found from `from` inclusive to `to` exclusive, also over days', async (t) => {
      const store = await openFresh(t);
      const times = [NOON - 30 * DAY, NOON - DAY, NOON, NOON + 1, NOON + DAY, NOON + 90 * DAY];
      await store.writeReadings(times.map((ts, offset) => reading({ ts, offset })));
      const between = async (from: number, to: number): Promise<number[]> =>
        (await store.readings({ tenant: 'acme', from, to })).map(({ ts }) => ts);
      assert.deepEqual(await between(0, NOON + 400 * DAY), times);
      assert.deepEqual(await between(NOON, NOON + 1), [NOON]);
      assert.deepEqual(await between(NOON, NOON), []);
      assert.deepEqual(await between(NOON - DAY, NOON + DAY), times.slice(1, 4));
      assert.deepEqual(await between(NOON + 2, NOON + 90 * DAY), [NOON + DAY]);
    });

    test('are ordered by device, then time, and bounded by the limit', async (t) => {
      const store = await openFresh(t);
      const rows: StoredReading[] = [];
      for (const day of [2, 0, 1]) {
        for (const device of ['c', 'a', 'b']) {
          for (const ms of [5, 1, 3]) {
            const offset = rows.length;
            rows.push(reading({ device, ts: NOON + day * DAY + ms, offset }));
          }
        }
      }
      await store.writeReadings(rows);
      const sorted = keys(rows).sort();
      assert.deepEqual(keys(await store.readings({ tenant: 'acme', ...ALL })), sorted);
      for (const limit of [1, 2, 4, 9, 10, 26, 27, 28]) {
        const found = await store.readings({ tenant: 'acme', ...ALL, limit });
        assert.deepEqual(keys(found), sorted.slice(0, limit), `limit ${limit}`);
      }
      assert.deepEqual(await store.readings({ tenant: 'acme', ...ALL, limit: 0 }), []);
    });

    test('are filtered by device and by metric', async (t) => {
      const store = await openFresh(t);
      await store.writeReadings([
        reading({ device: 'a', offset: 0, values: { x: 1, y: 2 } }),
        reading({ device: 'b', offset: 1, values: { y: 3 } }),
        reading({ device: 'b', ts: NOON + 1, offset: 2, values: { x: 4 } }),
        reading({ device: 'c', offset: 3, values: { x: 5 } }),
      ]);
      const query = { tenant: 'acme', ...ALL };
      const values = async (extra: object): Promise<Values[]> =>
        (await store.readings({ ...query, ...extra })).map((row) => row.values);
      assert.deepEqual(await values({ devices: ['c', 'a', 'none'] }), [{ x: 1, y: 2 }, { x: 5 }]);
      assert.deepEqual(await values({ devices: ['a', 'a'] }), [{ x: 1, y: 2 }]);
      assert.deepEqual(await values({ devices: [] }), []);
      assert.deepEqual(await values({ metrics: ['x'] }), [{ x: 1 }, { x: 4 }, { x: 5 }]);
      assert.deepEqual(await values({ metrics: ['x'], limit: 2 }), [{ x: 1 }, { x: 4 }]);
      assert.deepEqual(await values({ metrics: ['none'] }), []);
      assert.deepEqual(
        await store.countReadings({ ...query, metrics: ['x'], devices: ['b', 'c'] }),
        new Map([
          ['b', 1],
          ['c', 1],
        ]),
      );
      assert.deepEqual(
        await store.countReadings({ ...query, from: NOON + 1 }),
        new Map([['b', 1]]),
      );
    });

    test('tell the newest time by device, also when that is days back', async (t) => {
      const store = await openFresh(t);
      await store.writeReadings([
        reading({ device: 'a', ts: NOON - 40 * DAY, offset: 0 }),
        reading({ device: 'b', ts: NOON, offset: 1 }),
        reading({ device: 'b', ts: NOON - 5, offset: 2 }),
        reading({ device: 'b', ts: NOON - 40 * DAY, offset: 3 }),
        reading({ tenant: 'acm', device: 'a', ts: NOON, offset: 4 }),
      ]);
      const a: [string, number] = ['a', NOON - 40 * DAY];
      assert.deepEqual(await store.latest('acme'), new Map([['b', NOON], a]));
      assert.deepEqual(await store.latest('acme', { devices: ['a', 'none'] }), new Map([a]));
      const before = NOON - 5;
      assert.deepEqual(await store.latest('acme', { before: NOON }), new Map([['b', before], a]));
      assert.deepEqual(
        await store.latest('acme', { before, devices: ['b'] }),
        new Map([['b', NOON - 40 * DAY]]),
      );
      assert.deepEqual(await store.latest('acme', { before: NOON - 40 * DAY }), new Map());
      assert.deepEqual(await store.latest('none'), new Map());
      const received = NOON + 7;
      await store.writeReadings([reading({ device: 'c', ts: NOON - 9, received, offset: 5 })]);
      assert.deepEqual(
        await store.newest('acme', { devices: ['c'] }),
        new Map([['c', { ts: NOON - 9, received }]]),
      );
      assert.deepEqual((await store.newest('acme')).get('c'), { ts: NOON - 9, received });
    });
  });

  describe(`${name}: rollups`, () => {
    test('come back as they were written', async (t) => {
      const store = await openFresh(t);
      const { sketch: _, ...state } = rollup().state;
      const rows = [
        rollup({ revision: 2 }),
        rollup({ metric: 'a.b/c:d-e', state: { ...state, first: -0, last: 1e300, sum: -0 } }),
        rollup({ metric: 'door', state: { ...state, first: 'open', last: '1' } }),
        rollup({ metric: 'lamp', state: { ...state, first: true, last: false } }),
      ].sort((a, b) => (a.metric < b.metric ? -1 : 1));
      await store.writeRollups(rows);
      assert.deepEqual(await store.rollups({ tenant: 'acme', windowMs: MINUTE, ...ALL }), rows);
    });

    test('overwrite: the same window written again counts once', async (t) => {
      const store = await openFresh(t);
      await store.writeRollups([rollup()]);
      const { sketch: _, ...state } = rollup().state;
      const corrected = rollup({ revision: 1, changedAt: NOON + DAY, state });
      await store.writeRollups([corrected]);
      const found = await store.rollups({ tenant: 'acme', windowMs: MINUTE, ...ALL });
      assert.deepEqual(found, [corrected]);
    });

    test('of different windows are apart, over months and years', async (t) => {
      const store = await openFresh(t);
      const rows = WINDOWS.flatMap((windowMs) =>
        [NOON - 500 * DAY, NOON - 40 * DAY, NOON].map((ms) =>
          rollup({ windowMs, start: Math.floor(ms / windowMs) * windowMs }),
        ),
      );
      await store.writeRollups(rows);
      for (const windowMs of WINDOWS) {
        const found = await store.rollups({ tenant: 'acme', windowMs, ...ALL });
        const expected = rows.filter((row) => row.windowMs === windowMs);
        assert.deepEqual(found, expected);
        const start = expected[1]?.start ?? 0;
        const one = { tenant: 'acme', windowMs, from: start, to: start + 1 };
        assert.deepEqual(await store.rollups(one), expected.slice(1, 2));
        assert.deepEqual(await store.rollups({ ...one, from: start + 1, to: start + 2 }), []);
      }
      assert.deepEqual(await store.rollups({ tenant: 'acme', windowMs: 7 * DAY, ...ALL }), []);
    });

    test('are ordered by device, metric and start, filtered and bounded', async (t) => {
      const store = await openFresh(t);
      const rows: RollupRow[] = [];
      for (const day of [1, 0]) {
        for (const device of ['b', 'a']) {
          for (const metric of ['y', 'x']) {
            for (const minute of [2, 0, 1]) {
              const start = NOON + day * DAY + minute * MINUTE;
              rows.push(rollup({ device, metric, start }));
            }
          }
        }
      }
      await store.writeRollups(rows);
      const query = { tenant: 'acme', windowMs: MINUTE, ...ALL };
      const key = (row: RollupRow): string => `${row.device} ${row.metric} ${row.start}`;
      const sorted = rows.map(key).sort();
      assert.deepEqual((await store.rollups(query)).map(key), sorted);
      for (const limit of [1, 3, 4, 7, 13, 24, 25]) {
        const found = await store.rollups({ ...query, limit });
        assert.deepEqual(found.map(key), sorted.slice(0, limit), `limit ${limit}`);
      }
      const some = await store.rollups({ ...query, devices: ['b', 'none'], metrics: ['x'] });
      assert.deepEqual(
        some.map(key),
        sorted.filter((text) => text.startsWith('b x')),
      );
    });
  });

  describe(`${name}: dead letters`, () => {
    test('come back as they were written, newest first', async (t) => {
      const store = await openFresh(t);
      const full = { path: '/values/temperature', expected: '≤ 60', actual: '900' };
      const rows = [
        letter({ received: NOON + DAY, offset: 9, payload: 'bm8gcGFkZGluZw' }),
        letter({ received: NOON, offset: 8, ...full }),
        letter({ received: NOON, offset: 7, payload: '', payloadBytes: 0 }),
        letter({ received: NOON - DAY, offset: 3, payload: 'not base64!', code: 'OTHER' }),
      ];
      await store.writeDeadLetters([...rows].reverse());
      assert.deepEqual(await store.deadLetters({ tenant: 'acme', ...ALL }), rows);
      await store.writeDeadLetters(rows);
      assert.deepEqual(await store.deadLetters({ tenant: 'acme', ...ALL }), rows);
      for (const limit of [1, 2, 3]) {
        const found = await store.deadLetters({ tenant: 'acme', ...ALL, limit });
        assert.deepEqual(found, rows.slice(0, limit));
      }
    });

    test('are filtered and counted by device, code and time', async (t) => {
      const store = await openFresh(t);
      await store.writeDeadLetters([
        letter({ device: 'a', code: 'X', offset: 0 }),
        letter({ device: 'a', code: 'Y', offset: 1, received: NOON + 1 }),
        letter({ device: 'b', code: 'X', offset: 2, received: NOON + 2 }),
        letter({ device: 'b', code: 'X', offset: 3, received: NOON + DAY }),
        letter({ tenant: 'acm', device: 'a', code: 'X', offset: 4 }),
        letter({ device: 'a', code: 'X', partition: 1, offset: 0, received: NOON + 3 }),
      ]);
      const query = { tenant: 'acme', ...ALL };
      const found = async (extra: object): Promise<string[]> =>
        (await store.deadLetters({ ...query, ...extra })).map((r) => `${r.partition}/${r.offset}`);
      assert.deepEqual(await found({}), ['0/3', '1/0', '0/2', '0/1', '0/0']);
      assert.deepEqual(await found({ devices: ['a'] }), ['1/0', '0/1', '0/0']);
      assert.deepEqual(await found({ devices: ['b', 'a'], limit: 3 }), ['0/3', '1/0', '0/2']);
      assert.deepEqual(await found({ code: 'X' }), ['0/3', '1/0', '0/2', '0/0']);
      assert.deepEqual(await found({ code: 'X', devices: ['a'] }), ['1/0', '0/0']);
      assert.deepEqual(await found({ from: NOON + 1, to: NOON + 3 }), ['0/2', '0/1']);
      assert.deepEqual(await store.countDeadLetters(query), [
        { device: 'a', code: 'X', count: 2 },
        { device: 'a', code: 'Y', count: 1 },
        { device: 'b', code: 'X', count: 2 },
      ]);
      assert.deepEqual(await store.countDeadLetters({ ...query, devices: ['b'], to: NOON + DAY }), [
        { device: 'b', code: 'X', count: 1 },
      ]);
    });
  });

  describe(`${name}: dead letters as a list to work on`, () => {
    const query = { tenant: 'acme', ...ALL };
    const places = (rows: StoredDeadLetter[]) => rows.map((r) => `${r.partition}/${r.offset}`);

    test('keep the version of their type and how often they were replayed', async (t) => {
      const store = await openFresh(t);
      const rows = [
        letter({ offset: 2, typeVersion: '0badcafe', attempt: 2 }),
        letter({ offset: 1, typeVersion: '1badcafe' }),
        letter({ offset: 0 }),
      ];
      await store.writeDeadLetters(rows);
      assert.deepEqual(await store.deadLetters(query), rows);
      const found = async (typeVersion: string) =>
        places(await store.deadLetters({ ...query, typeVersion }));
      assert.deepEqual(await found('0badcafe'), ['0/2']);
      assert.deepEqual(await found(''), ['0/0']);
      assert.deepEqual(places(await store.deadLetters({ ...query, type: 'other' })), []);
    });

    test('come page by page in both orders, many of one ms too', async (t) => {
      const store = await openFresh(t);
      const rows = Array.from({ length: 60 }, (_, i) =>
        letter({
          ...{ partition: i % 2, offset: i, device: `d${i % 3}` },
          received: NOON + Math.floor(i / 20) * DAY + (i % 7 === 0 ? 1 : 0),
        }),
      );
      await store.writeDeadLetters(rows);
      for (const devices of [undefined, ['d0', 'd2']]) {
        const filtered = { ...query, ...(devices && { devices }) };
        const all = await store.deadLetters(filtered);
        assert.equal(all.length, devices === undefined ? 60 : 40);
        for (const oldestFirst of [false, true]) {
          const expected = oldestFirst ? all.toReversed() : all;
          assert.deepEqual(await store.deadLetters({ ...filtered, oldestFirst }), expected);
          const read: StoredDeadLetter[] = [];
          for (;;) {
            const after = read.at(-1);
            const page = { ...filtered, oldestFirst, limit: 7, ...(after && { after }) };
            const next = await store.deadLetters(page);
            read.push(...next);
            if (next.length < 7) break;
          }
          assert.deepEqual(read, expected);
        }
      }
    });

    test('a replay that took them closes them, one that did not is counted', async (t) => {
      const store = await openFresh(t);
      const rows = [0, 1, 2, 3].map((offset) => letter({ offset, received: NOON + offset }));
      await store.writeDeadLetters(rows);
      const mark = (offset: number, more: object) => ({
        ...{ tenant: 'acme', device: 'dev-1', partition: 0, offset, received: NOON + offset },
        ...{ code: 'VALUE_ABOVE_MAX', type: 'climate', attempt: 1, ...more },
      });
      const marks = [
        mark(1, { replayed: NOON + 9 }),
        mark(2, {}),
        mark(2, { attempt: 2 }),
        mark(77, { replayed: NOON + 9 }),
      ];
      await store.markDeadLetters(marks.slice(0, 2));
      await store.markDeadLetters(marks);
      await store.markDeadLetters(marks);
      // Their records again, as after a crash.
      await store.writeDeadLetters(rows);
      const found = await store.deadLetters({ ...query, oldestFirst: true });
      assert.deepEqual(found, [
        rows[0],
        { ...rows[1], attempt: 1, replayed: NOON + 9 },
        { ...rows[2], attempt: 2 },
        rows[3],
      ]);
      const ofState = async (state: 'open' | 'replayed', limit?: number) =>
        places(await store.deadLetters({ ...query, state, ...(limit && { limit }) }));
      assert.deepEqual(await ofState('open'), ['0/3', '0/2', '0/0']);
      assert.deepEqual(await ofState('open', 2), ['0/3', '0/2']);
      assert.deepEqual(await ofState('replayed', 2), ['0/1']);
      const group = { device: 'dev-1', code: 'VALUE_ABOVE_MAX', type: 'climate', typeVersion: '' };
      const times = { oldest: NOON, newest: NOON + 3 };
      assert.deepEqual(await store.groupDeadLetters(query), [
        { ...group, count: 4, open: 3, ...times },
      ]);
      assert.deepEqual(await store.groupDeadLetters({ ...query, state: 'replayed' }), [
        { ...group, count: 1, open: 0, oldest: NOON + 1, newest: NOON + 1 },
      ]);
      assert.equal((await store.countDeadLetters(query))[0]?.count, 4);
    });

    test('are grouped by device, code, type and version', async (t) => {
      const store = await openFresh(t);
      await store.writeDeadLetters([
        letter({ device: 'a', code: 'X', typeVersion: '11111111', offset: 0 }),
        letter({
          device: 'a',
          code: 'X',
          typeVersion: '11111111',
          offset: 1,
          received: NOON + DAY,
        }),
        letter({ device: 'a', code: 'X', typeVersion: '22222222', partition: 1, offset: 1 }),
        letter({ device: 'a', code: 'X', typeVersion: '22222222', partition: 2, offset: 1 }),
        letter({ device: 'b', code: 'X', type: 'other', offset: 2 }),
        letter({ device: 'b', code: 'Y', type: 'other', offset: 3 }),
        letter({ tenant: 'acm', device: 'b', code: 'Y', offset: 4 }),
      ]);
      const groups = await store.groupDeadLetters({ ...query, limit: 1 });
      assert.deepEqual(
        groups.map((g) => [g.device, g.code, g.type, g.typeVersion, g.count, g.open]),
        [
          ['a', 'X', 'climate', '11111111', 2, 2],
          ['a', 'X', 'climate', '22222222', 2, 2],
          ['b', 'X', 'other', '', 1, 1],
          ['b', 'Y', 'other', '', 1, 1],
        ],
      );
      assert.deepEqual([groups[0]?.oldest, groups[0]?.newest], [NOON, NOON + DAY]);
      const one = await store.groupDeadLetters({
        ...query,
        devices: ['a'],
        typeVersion: '22222222',
      });
      assert.deepEqual(one, [groups[1]]);
    });

    test('that were purged are found no more, and still counted', async (t) => {
      const store = await openFresh(t);
      const rows = [0, 1, 2, 3, 4].map((offset) =>
        letter({ offset, received: NOON + offset * HOUR, code: offset === 2 ? 'OTHER' : 'X' }),
      );
      const foreign = letter({ tenant: 'beta', offset: 9 });
      await store.writeDeadLetters([...rows, letter({ device: 'dev-2', offset: 8 }), foreign]);
      const purge = {
        tenant: 'acme',
        device: 'dev-1',
        purged: NOON + DAY,
        from: 0,
        to: NOON + DAY,
      };
      await store.purgeDeadLetters({ ...purge, code: 'X', to: NOON + 3 * HOUR });
      assert.deepEqual(places(await store.deadLetters(query)), ['0/4', '0/3', '0/2', '0/8']);
      await store.purgeDeadLetters({
        ...purge,
        letters: [
          [0, 4],
          [1, 3],
        ],
      });
      assert.deepEqual(places(await store.deadLetters(query)), ['0/3', '0/2', '0/8']);
      assert.deepEqual(places(await store.deadLetters({ ...query, limit: 2 })), ['0/3', '0/2']);
      assert.deepEqual(
        (await store.groupDeadLetters(query)).map((g) => [g.device, g.code, g.count]),
        [
          ['dev-1', 'OTHER', 1],
          ['dev-1', 'X', 1],
          ['dev-2', 'VALUE_ABOVE_MAX', 1],
        ],
      );
      assert.deepEqual(await store.countDeadLetters({ ...query, devices: ['dev-1'] }), [
        { device: 'dev-1', code: 'OTHER', count: 1 },
        { device: 'dev-1', code: 'X', count: 4 },
      ]);
      // A crash repeats the record and the purge, in this order or the other.
      await store.writeDeadLetters(rows);
      await store.purgeDeadLetters({ ...purge, code: 'X', to: NOON + 3 * HOUR });
      assert.deepEqual(places(await store.deadLetters(query)), ['0/3', '0/2', '0/8']);
      assert.deepEqual(await store.deadLetters({ tenant: 'beta', ...ALL }), [foreign]);
    });
  });

  describe(`${name}: ledger and positions`, () => {
    test('are committed together, once', async (t) => {
      const store = await openFresh(t);
      const progress = (nextOffset: number, count: number) => ({
        group: 'rollup',
        partition: 0,
        nextOffset,
        ledger: [line({ count }), line({ outcome: 'deadLetter', code: 'X', count: 2 })],
      });
      await store.commit(progress(10, 8));
      await store.commit(progress(10, 8));
      await store.commit(progress(7, 5));
      assert.deepEqual(await store.position('rollup'), new Map([[0, 10]]));
      await store.commit(progress(15, 3));
      await store.commit({ group: 'rollup', partition: 2, nextOffset: 1, ledger: [] });
      assert.deepEqual(
        await store.position('rollup'),
        new Map([
          [0, 15],
          [2, 1],
        ]),
      );
      assert.deepEqual(await store.position('other'), new Map());
      assert.deepEqual(await store.ledger({}), [
        line({ outcome: 'deadLetter', code: 'X', count: 4 }),
        line({ count: 11 }),
      ]);
      assert.deepEqual(
        await store.ledgerTotals({}),
        new Map([
          ['deadLetter', 4],
          ['stored', 11],
        ]),
      );
    });

    test('keep the last number of each source with the position', async (t) => {
      const place = randomUUID();
      const options = { place, retention: FOR_EVER, windowsMs: WINDOWS };
      const store = await open(t, options);
      const sourcesOf = async (of: Store, group = 'g') => of.sources?.(group);
      assert.deepEqual(await sourcesOf(store), new Map());
      const commit = (nextOffset: number, numbers: [string, number][], partition = 0) =>
        store.commit({ group: 'g', partition, nextOffset, ledger: [], sources: new Map(numbers) });
      await commit(5, [
        ['spool-a', 3],
        ['spool/b "c", d=e', 9_007_199_254_740_991],
      ]);
      await commit(5, [['spool-a', 99]]);
      await commit(2, [['spool-a', 98]]);
      await commit(7, [['spool-a', 4]]);
      await store.commit({ group: 'g', partition: 0, nextOffset: 8, ledger: [line()] });
      await commit(1, [['spool-a', 1]], 3);
      const expected = new Map([
        [
          0,
          new Map([
            ['spool-a', 4],
            ['spool/b "c", d=e', 9_007_199_254_740_991],
          ]),
        ],
        [3, new Map([['spool-a', 1]])],
      ]);
      assert.deepEqual(await sourcesOf(store), expected);
      assert.deepEqual(await sourcesOf(store, 'other'), new Map());
      await store.close();
      const again = await open(t, options);
      assert.deepEqual(await sourcesOf(again), expected);
      await again.commit({
        group: 'g',
        partition: 3,
        nextOffset: 2,
        ledger: [],
        sources: new Map([['spool-z', 7]]),
      });
      expected.get(3)?.set('spool-z', 7);
      assert.deepEqual(await sourcesOf(again), expected);
    });

    test('keep the notes of a consumer, until it has others', async (t) => {
      const place = randomUUID();
      const options = { place, retention: FOR_EVER, windowsMs: WINDOWS };
      const store = await open(t, options);
      assert.deepEqual(await store.notes('g'), new Map());
      const long = 'I1000000000+99'.repeat(1_400);
      await store.writeNotes('g', 0, ['M17', long]);
      await store.writeNotes('g', 5, ['C1']);
      await store.writeNotes('g/h', 0, ['M4']);
      const sorted = async (of: Store) =>
        [...(await of.notes('g'))].map(([partition, notes]) => [partition, notes.sort()]).sort();
      assert.deepEqual(await sorted(store), [
        [0, [long, 'M17']],
        [5, ['C1']],
      ]);
      await store.writeNotes('g', 5, ['C1I9']);
      await store.close();
      const again = await open(t, options);
      assert.deepEqual(await sorted(again), [
        [0, [long, 'M17']],
        [5, ['C1I9']],
      ]);
      assert.deepEqual(await again.notes('g/h'), new Map([[0, ['M4']]]));
    });

    test('are filtered by tenant, device and hour', async (t) => {
      const store = await openFresh(t);
      const lines = [
        line({ tenant: 'acm', device: 'dev-1', count: 1 }),
        line({ device: 'dev', count: 2 }),
        line({ hour: NOON - HOUR, count: 4 }),
        line({ hour: NOON, outcome: 'shed', code: 'S', count: 8 }),
        line({ hour: NOON, count: 16 }),
        line({ hour: NOON + HOUR, outcome: 'duplicate', code: 'D', count: 32 }),
      ];
      await store.commit({ group: 'g', partition: 0, nextOffset: 1, ledger: lines });
      const ledger = async (query: object): Promise<number[]> =>
        (await store.ledger(query)).map(({ count }) => count);
      assert.deepEqual(await ledger({}), [1, 2, 4, 8, 16, 32]);
      assert.deepEqual(await ledger({ tenant: 'acme' }), [2, 4, 8, 16, 32]);
      assert.deepEqual(await ledger({ tenant: 'acme', device: 'dev-1' }), [4, 8, 16, 32]);
      assert.deepEqual(await ledger({ from: NOON, to: NOON + HOUR }), [1, 2, 8, 16]);
      const totals = async (query: object): Promise<object> =>
        Object.fromEntries(await store.ledgerTotals(query));
      const all = { stored: 23, shed: 8, duplicate: 32 };
      assert.deepEqual(await totals({}), all);
      assert.deepEqual(await totals({ from: 0 }), all);
      assert.deepEqual(await totals({ tenant: 'acm' }), { stored: 1 });
      assert.deepEqual(await totals({ tenant: 'acme', to: NOON }), { stored: 4 });
      assert.deepEqual(await totals({ tenant: 'none' }), {});
    });
  });

  test(`${name}: rows are counted again by hour of gateway time, up to a position`, async (t) => {
    const store = await openFresh(t);
    const hour = NOON + HOUR;
    await store.writeReadings([
      ...[0, 1, 2].map((i) => reading({ ts: NOON - i * DAY, received: hour + i, offset: i })),
      reading({ ts: NOON - DAY, received: hour + 9, offset: 5, values: { merged: 1 } }),
      reading({ ts: NOON + 7, received: hour + HOUR, offset: 3 }),
      reading({ ts: NOON + 8, received: hour, offset: 4 }),
      reading({ ts: NOON + 8, received: hour, offset: 0, partition: 3, device: 'dev-2' }),
      reading({ ts: NOON + 8, received: hour, offset: 0, partition: 9, device: 'dev-3' }),
      reading({ tenant: 'beta', received: hour, offset: 1 }),
    ]);
    const letters = [0, 1].map((i) => letter({ received: hour + i, offset: 6 + i }));
    await store.writeDeadLetters([...letters, letter({ code: 'Y', received: hour, offset: 2 })]);
    const purge = { tenant: 'acme', device: 'dev-1', from: 0, to: hour + 9, purged: hour + 9 };
    await store.purgeDeadLetters(purge);
    const query = {
      ...{ tenant: 'acme', from: hour, to: hour + HOUR, tsFrom: NOON - 30 * DAY, tsTo: NOON + DAY },
      before: new Map([
        [0, 4],
        [3, 9],
      ]),
    };
    const counted = async (more: object) =>
      (await store.recount({ ...query, ...more }))
        .map(({ device, hour: at, outcome, code, count }) =>
          [device, (at - NOON) / HOUR, outcome, code, count].join(' '),
        )
        .sort();
    assert.deepEqual(await counted({}), [
      'dev-1 1 deadLetter Y 1',
      'dev-1 1 stored  3',
      'dev-2 1 stored  1',
    ]);
    assert.deepEqual(await counted({ before: new Map([[0, 8]]), to: hour + 2 * HOUR }), [
      'dev-1 1 deadLetter VALUE_ABOVE_MAX 2',
      'dev-1 1 deadLetter Y 1',
      'dev-1 1 stored  4',
      'dev-1 2 stored  1',
    ]);
    assert.deepEqual(await counted({ before: new Map() }), []);
  });

  test(`${name}: the ledger is dropped a day after its retention, positions and totals stay`, async (t) => {
    const retention = { ...FOR_EVER, ledgerMs: 3 * DAY };
    const store = await openFresh(t, retention);
    const hours = [NOON - 10 * DAY, NOON - 5 * DAY, NOON - 4 * DAY, NOON - 3 * DAY, NOON];
    const lines = hours.map((hour, i) => line({ hour, count: 2 ** i, device: `d${i % 2}` }));
    await store.commit({ group: 'g', partition: 0, nextOffset: 9, ledger: lines });
    await store.applyRetention(NOON);
    const left = await store.ledger({ from: NOON - 4 * DAY });
    assert.deepEqual(
      left.map(({ count }) => count).sort((a, b) => a - b),
      [4, 8, 16],
    );
    assert.deepEqual(await store.ledger({ to: NOON - 5 * DAY + HOUR }), []);
    assert.deepEqual(await store.position('g'), new Map([[0, 9]]));
    assert.equal((await store.ledgerTotals({})).get('stored'), 31);
    await store.commit({ group: 'g', partition: 0, nextOffset: 10, ledger: [line({ count: 1 })] });
    await store.applyRetention(NOON + DAY);
    const last = await store.ledger({ device: 'dev-1' });
    assert.deepEqual(last, [line({ count: 1 })]);
  });

  describe(`${name}: as a whole`, () => {
    test('keeps tenants apart, also those with names that begin alike', async (t) => {
      const store = await openFresh(t);
      const tenants = ['a', 'a_', 'a-b', 'ab', 'A'];
      const devices = ['d', 'd-', 'd_1', 'd1', 'D'];
      const pairs = tenants.flatMap((tenant) => devices.map((device) => ({ tenant, device })));
      await store.writeReadings(
        pairs.map((pair, i) => reading({ ...pair, offset: i, values: { v: i } })),
      );
      await store.writeRollups(pairs.map((pair, i) => rollup({ ...pair, revision: i })));
      await store.writeDeadLetters(pairs.map((pair, i) => letter({ ...pair, offset: i })));
      for (const [i, { tenant, device }] of pairs.entries()) {
        const one = { tenant, devices: [device], ...ALL };
        const raw = await store.readings(one);
        assert.deepEqual(
          raw.map(({ values }) => values.v),
          [i],
        );
        const rollups = await store.rollups({ ...one, windowMs: MINUTE });
        assert.deepEqual(
          rollups.map(({ revision }) => revision),
          [i],
        );
        const letters = await store.deadLetters(one);
        assert.deepEqual(
          letters.map(({ offset }) => offset),
          [i],
        );
      }
      for (const tenant of tenants) {
        const found = await store.readings({ tenant, ...ALL });
        assert.deepEqual(
          found.map(({ device }) => device),
          [...devices].sort(),
        );
        assert.equal((await store.series(tenant)).length, devices.length);
      }
    });

    test('lists the series of raw readings and of rollups', async (t) => {
      const store = await openFresh(t);
      await store.writeReadings([
        reading({ device: 'b', offset: 0, values: { y: 1, x: 2 } }),
        reading({ device: 'b', offset: 1, ts: NOON + DAY, values: { z: 1 } }),
        reading({ device: 'c', offset: 2, values: { x: 1 } }),
        reading({ device: 'c', offset: 3, values: { late: 1 } }),
      ]);
      await store.writeRollups([
        rollup({ device: 'a', metric: 'old', windowMs: HOUR }),
        rollup({ device: 'b', metric: 'x' }),
      ]);
      assert.deepEqual(await store.series('acme'), [
        { device: 'a', metrics: ['old'] },
        { device: 'b', metrics: ['x', 'y', 'z'] },
        { device: 'c', metrics: ['late', 'x'] },
      ]);
      assert.deepEqual(await store.series('acm'), []);
    });

    test('answers with nothing while it is empty, and takes empty batches', async (t) => {
      const store = await openFresh(t);
      assert.deepEqual(await store.writeReadings([]), []);
      await store.writeRollups([]);
      await store.writeDeadLetters([]);
      const query = { tenant: 'acme', ...ALL };
      assert.deepEqual(await store.readings(query), []);
      assert.deepEqual(await store.rollups({ ...query, windowMs: MINUTE }), []);
      assert.deepEqual(await store.deadLetters(query), []);
      assert.deepEqual(await store.countDeadLetters(query), []);
      assert.deepEqual(await store.ledger({}), []);
      assert.deepEqual(await store.ledgerTotals({}), new Map());
      assert.deepEqual(await store.position('rollup'), new Map());
      assert.deepEqual(await store.applyRetention(NOON), []);
    });

    test('has everything after it was closed and opened again', async (t) => {
      const options = { place: randomUUID(), retention: FOR_EVER, windowsMs: WINDOWS };
      const before = await open(t, options);
      await before.writeReadings([reading()]);
      await before.writeReadings([reading({ offset: 5, values: { more: 1 } })]);
      await before.writeRollups([rollup()]);
      await before.writeDeadLetters([letter()]);
      await before.commit({ group: 'g', partition: 1, nextOffset: 6, ledger: [line()] });
      await before.close();

      const store = await open(t, options);
      const query = { tenant: 'acme', ...ALL };
      const merged = reading({ values: { temperature: 21.5, more: 1 } });
      assert.deepEqual(await store.readings(query), [merged]);
      assert.deepEqual(await store.rollups({ ...query, windowMs: MINUTE }), [rollup()]);
      assert.deepEqual(await store.deadLetters(query), [letter()]);
      assert.deepEqual(await store.position('g'), new Map([[1, 6]]));
      assert.deepEqual(await store.ledger({}), [line()]);
      // What was learnt about the row survives too: an older record still loses.
      await store.writeReadings([reading({ offset: 3, values: { more: 0, other: 1 } })]);
      const [row] = await store.readings(query);
      assert.deepEqual(row?.values, { temperature: 21.5, more: 1, other: 1 });
    });

    const dropsOld = async (t: TestContext): Promise<void> => {
      const store = await openFresh(t, {
        rawMs: 10 * DAY,
        deadLettersMs: 20 * DAY,
        rollupsMs: new Map([
          [MINUTE, 20 * DAY],
          [HOUR, 100 * DAY],
          [DAY, 0],
        ]),
      });
      const ages = [0, 5, 15, 60, 300];
      const at = (age: number): number => NOON - age * DAY;
      await store.writeReadings(ages.map((age, offset) => reading({ ts: at(age), offset })));
      await store.writeDeadLetters(
        ages.map((age, offset) => letter({ received: at(age), offset })),
      );
      for (const windowMs of WINDOWS) {
        await store.writeRollups(
          ages.map((age) => rollup({ windowMs, start: Math.floor(at(age) / windowMs) * windowMs })),
        );
      }
      await store.applyRetention(NOON);
      await store.applyRetention(NOON);
      const query = { tenant: 'acme', ...ALL };
      const age = (ms: number): number => Math.floor((NOON - ms) / DAY);
      const raw = await store.readings(query);
      assert.deepEqual(
        raw.map(({ ts }) => age(ts)),
        [5, 0],
      );
      const letters = await store.deadLetters(query);
      assert.deepEqual(
        letters.map(({ received }) => age(received)),
        [0, 5, 15],
      );
      const rollupAges = async (windowMs: number): Promise<number[]> =>
        (await store.rollups({ ...query, windowMs })).map(({ start }) => age(start));
      assert.deepEqual(await rollupAges(MINUTE), [15, 5, 0]);
      assert.deepEqual(await rollupAges(HOUR), [60, 15, 5, 0]);
      assert.deepEqual(await rollupAges(DAY), [300, 60, 15, 5, 0]);
      // Late data of a dropped time is taken again.
      await store.writeReadings([reading({ ts: at(60), offset: 99 })]);
      assert.equal((await store.readings(query)).length, 3);
    };
    if (retentionOnCall) test('drops what is older than its retention only', dropsOld);
  });
}
