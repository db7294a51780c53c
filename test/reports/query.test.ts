import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { ManualClock } from '../../src/core/clock.ts';
import { SpillwayError } from '../../src/core/errors.ts';
import { segmentsOf } from '../../src/reports/levels.ts';
import type { Query } from '../../src/reports/parameters.ts';
import {
  type BucketReport,
  type QueryDeps,
  type RawReport,
  runQuery,
} from '../../src/reports/query.ts';
import { finish, stateOf } from '../../src/rollup/aggregate.ts';
import { MemoryStore, probeType } from './memory-store.ts';

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const NOW = Date.parse('2026-10-26T12:00:00Z');

function deps(more: Partial<QueryDeps> = {}): QueryDeps {
  return {
    types: new Map([['probe', probeType(10 * MINUTE)]]),
    clock: new ManualClock(NOW),
    baseWindowMs: MINUTE,
    rowsMax: 10_000,
    ...more,
  };
}

async function buckets(
  store: MemoryStore,
  query: Query,
  more?: Partial<QueryDeps>,
): Promise<BucketReport> {
  const report = await runQuery(store, { tenant: 'acme', ...query }, deps(more));
  assert.equal(report.kind, 'buckets');
  return report as BucketReport;
}

async function refusal(
  query: unknown,
  more?: Partial<QueryDeps>,
  store = new MemoryStore(),
): Promise<SpillwayError> {
  try {
    await runQuery(store, query as Query, deps(more));
  } catch (error) {
    assert.ok(error instanceof SpillwayError, String(error));
    return error;
  }
  assert.fail('was taken');
}

/** A reading every ten minutes, temperature as the number of minutes since `from`. */
function filled(from: string, hours: number, device = 'a'): MemoryStore {
  const store = new MemoryStore();
  const start = Date.parse(from);
  for (let m = 0; m < hours * 60; m += 10)
    store.add(device, start + m * MINUTE, { temperature: m });
  return store;
}

describe('buckets', () => {
  test('equal what the readings say, for every statistic', async () => {
    const store = filled('2026-10-26T00:00:00Z', 6);
    const stat = 'count,sum,min,max,mean,stddev,first,last,p50,p90,p99';
    const query = { from: '2026-10-26T00:00:00Z', to: '2026-10-26T06:00:00Z', step: '2h', stat };
    const report = await buckets(store, query);
    assert.equal(report.rows.length, 3);
    for (const row of report.rows) {
      const inside = store.raw.filter((r) => r.ts >= row.at && r.ts < row.end);
      const expected = finish(
        stateOf(inside.map((r) => ({ ts: r.ts, value: r.values.temperature ?? 0 }))),
      );
      assert.deepEqual(
        row.values,
        report.stats.map((s) => expected[s]),
      );
    }
  });

  test('days of Berlin with 25 hours are read from hours, those of UTC from days', async () => {
    const store = filled('2026-10-24T22:00:00Z', 36);
    const query = {
      from: '2026-10-25',
      to: '2026-10-26',
      step: '1d',
      tz: 'Europe/Berlin',
      stat: 'count,sum',
    };
    const berlin = await buckets(store, query);
    assert.deepEqual(
      berlin.rows.map((r) => r.values[0]),
      [25 * 6],
    );
    assert.deepEqual(new Set(store.asked.map((q) => q.windowMs)), new Set([HOUR]));
    store.asked.length = 0;
    await buckets(store, { ...query, tz: 'UTC' });
    assert.deepEqual(
      store.asked.map((q) => q.windowMs),
      [24 * HOUR],
    );
  });

  test('days of Kolkata and Lord Howe count every reading once', async () => {
    const store = filled('2026-10-01T00:00:00Z', 24 * 8);
    for (const tz of ['Asia/Kolkata', 'Australia/Lord_Howe', 'America/New_York']) {
      const report = await buckets(store, {
        from: '2026-10-02',
        to: '2026-10-08',
        step: '1d',
        tz,
        stat: 'count,min',
      });
      assert.equal(report.rows.length, 6);
      for (const row of report.rows) {
        const inside = store.raw.filter((r) => r.ts >= row.at && r.ts < row.end);
        assert.deepEqual(
          row.values,
          [inside.length, inside[0]?.values.temperature],
          `${tz} ${row.at}`,
        );
      }
    }
    const kolkata = await buckets(store, {
      from: '2026-10-02',
      to: '2026-10-03',
      step: '1d',
      tz: 'Asia/Kolkata',
    });
    assert.equal(kolkata.rows.length, 1);
    assert.deepEqual(new Set(store.asked.map((q) => q.windowMs)), new Set([MINUTE, HOUR]));
  });

  test('gaps are rows without values', async () => {
    const store = new MemoryStore();
    store.add('a', NOW - 3 * HOUR, { temperature: 1 });
    store.add('a', NOW - HOUR, { temperature: 3 });
    const report = await buckets(store, { from: '-3h', step: '1h' });
    assert.deepEqual(
      report.rows.map((r) => r.values),
      [
        [1, 1, 1, 1],
        [null, null, null, null],
        [3, 3, 3, 1],
      ],
    );
  });

  test('the range is widened to base windows, and the first and last bucket cut to it', async () => {
    const store = filled('2026-10-26T08:00:00Z', 3);
    const report = await buckets(store, {
      ...{ from: '2026-10-26T08:20:30Z', to: '2026-10-26T10:10:01Z', step: '1h', stat: 'count' },
    });
    assert.equal(new Date(report.from).toISOString(), '2026-10-26T08:20:00.000Z');
    assert.equal(new Date(report.to).toISOString(), '2026-10-26T10:11:00.000Z');
    assert.deepEqual(
      report.rows.map((r) => [(r.end - r.at) / MINUTE, r.values[0]]),
      [
        [40, 4],
        [60, 6],
        [11, 2],
      ],
    );
  });

  test('windows that still run are read from the base level', async () => {
    const store = filled('2026-10-26T00:00:00Z', 14);
    const report = await buckets(store, {
      from: '2026-10-26',
      to: '2026-10-27',
      step: '1d',
      stat: 'count',
    });
    assert.deepEqual(
      report.rows.map((r) => r.values),
      [[84]],
    );
    assert.ok(
      store.asked.every((q) => q.windowMs !== 24 * HOUR && (q.windowMs === MINUTE || q.to <= NOW)),
    );
  });

  test('texts have first, last and count alone', async () => {
    const store = new MemoryStore();
    store.add('a', NOW - 2 * MINUTE, { door: 'open' });
    store.add('a', NOW - MINUTE, { door: 'shut' });
    const report = await buckets(store, {
      from: '-1h',
      step: '1h',
      stat: 'first,last,count,mean,p50',
      metric: 'door',
    });
    const values = report.rows.flatMap((r) => (r.values[2] === null ? [] : [r.values]));
    assert.deepEqual(values, [['open', 'shut', 2, null, null]]);
  });

  test('devices, metrics and tenants that were not asked for stay out', async () => {
    const store = filled('2026-10-26T10:00:00Z', 1, 'a');
    store.add('b', NOW - HOUR, { temperature: 1, humidity: 2 });
    store.add('a', NOW - HOUR, { temperature: 99 }, { tenant: 'other' });
    const names = (report: BucketReport) =>
      report.series.map((s) => `${s.device} ${s.metric} ${s.unit ?? ''}`);
    assert.deepEqual(names(await buckets(store, { step: '1d' })), [
      'a temperature °C',
      'b humidity ',
      'b temperature °C',
    ]);
    assert.deepEqual(
      names(await buckets(store, { step: '1d', device: ['b'], metric: 'humidity' })),
      ['b humidity '],
    );
    assert.deepEqual(names(await buckets(store, { step: '1d', device: 'nobody' })), []);
  });

  test('names of JavaScript’s own properties are names like others', async () => {
    const store = new MemoryStore();
    store.add('__proto__', NOW - MINUTE, { toString: 5 });
    store.add('constructor', NOW - MINUTE, { valueOf: 6 });
    const report = await buckets(store, { from: '-1h', step: '1h', stat: 'last' });
    assert.deepEqual(
      report.rows.flatMap((r) => r.values).filter((v) => v !== null),
      [5, 6],
    );
    const raw = (await runQuery(store, { tenant: 'acme', step: 'raw' }, deps())) as RawReport;
    assert.deepEqual(
      raw.rows.map((r) => r.values),
      [
        [5, null],
        [null, 6],
      ],
    );
  });
});

test('segments cover every bucket once, whatever the edges', () => {
  const edges = [0, 1, 59, 60, 61, 90, 1_440, 1_450, 2_880, 4_000, 10_080].map((m) => m * MINUTE);
  for (let i = 0; i < edges.length; i += 1) {
    for (let j = i + 1; j < edges.length; j += 1) {
      const [start, end] = [edges[i] ?? 0, edges[j] ?? 0];
      for (const settled of [0, 3_000 * MINUTE, Number.MAX_SAFE_INTEGER]) {
        let at = start;
        for (const segment of segmentsOf([{ start, end }], MINUTE, settled)) {
          assert.equal(segment.start, at);
          assert.equal(segment.start % segment.windowMs, 0);
          assert.equal(segment.end % segment.windowMs, 0);
          assert.ok(segment.windowMs === MINUTE || segment.end <= settled);
          at = segment.end;
        }
        assert.equal(at, end);
      }
    }
  }
});

describe('raw', () => {
  test('readings as stored, within exact times', async () => {
    const store = new MemoryStore();
    store.add('b', NOW - 2_000, { temperature: 1.5 });
    store.add('a', NOW - 1_500, { temperature: 2, door: 'open' });
    store.add('a', NOW, { temperature: 3 });
    const report = (await runQuery(
      store,
      { tenant: 'acme', step: 'raw', from: '-2s' },
      deps(),
    )) as RawReport;
    assert.deepEqual(report.metrics, [
      { metric: 'door', unit: undefined },
      { metric: 'temperature', unit: '°C' },
    ]);
    assert.deepEqual(report.rows, [
      { at: NOW - 1_500, received: NOW - 1_250, device: 'a', values: ['open', 2] },
      { at: NOW - 2_000, received: NOW - 1_750, device: 'b', values: [null, 1.5] },
    ]);
    assert.equal(report.completeness.totals.received, 2);
  });

  test('more rows than allowed are refused, not cut', async () => {
    const store = filled('2026-10-26T00:00:00Z', 2);
    const error = await refusal({ tenant: 'acme', step: 'raw' }, { rowsMax: 11 }, store);
    assert.equal(error.code, 'QUERY_TOO_LARGE');
    await runQuery(store, { tenant: 'acme', step: 'raw' }, deps({ rowsMax: 12 }));
  });
});

describe('completeness', () => {
  test('of a device that had sent before, that began in the range, and that is unknown', async () => {
    const store = filled('2026-10-25T00:00:00Z', 36, 'old');
    for (let m = 5; m < 60; m += 10) store.add('new', NOW - HOUR + m * MINUTE, { temperature: 1 });
    store.add('odd', NOW - MINUTE, { temperature: 1 }, { type: 'unheard' });
    store.addLetter('new', 'VALUE_BOUNDS', NOW - 1_000);
    store.addLetter('silent', 'JSON_INVALID', NOW - 1_000);
    store.addLetter('silent', 'JSON_INVALID', NOW - 2_000);
    const { completeness } = await buckets(store, { from: '-2h', to: 'now+1h', step: '1h' });
    const rows = completeness.devices.map((d) => [
      d.device,
      d.expected,
      d.received,
      Object.fromEntries(d.deadLettered),
    ]);
    assert.deepEqual(rows, [
      ['new', 6, 6, { VALUE_BOUNDS: 1 }],
      ['odd', null, 1, {}],
      ['old', 12, 12, {}],
      ['silent', null, 0, { JSON_INVALID: 2 }],
    ]);
    const { totals } = completeness;
    assert.deepEqual(
      [totals.expected, totals.unknownPeriod, totals.received, totals.dataAsOf],
      [18, 2, 19, NOW - MINUTE],
    );
    assert.deepEqual(Object.fromEntries(totals.deadLettered), { VALUE_BOUNDS: 1, JSON_INVALID: 2 });
  });

  test('a device that began after the range owes nothing', async () => {
    const store = new MemoryStore();
    store.add('late', NOW - MINUTE, { temperature: 1 });
    const { completeness } = await buckets(store, { from: '-3h', to: '-2h' });
    assert.deepEqual(
      completeness.devices.map((d) => [d.device, d.expected, d.received]),
      [['late', 0, 0]],
    );
  });

  test('a device that paused before the range is measured over all of it', async () => {
    const store = new MemoryStore();
    store.add('a', NOW - 100 * HOUR, { temperature: 1 });
    store.add('a', NOW - HOUR, { temperature: 1 });
    for (let again = 0; again < 2; again += 1) {
      const { totals } = (await buckets(store, { from: '-2h' })).completeness;
      assert.deepEqual([totals.expected, totals.received], [12, 1]);
    }
  });

  test('a silent device that was asked for is listed', async () => {
    const { completeness } = await buckets(new MemoryStore(), { device: 'gone', from: '-2h' });
    assert.deepEqual(
      completeness.devices.map((d) => [d.device, d.received, d.dataAsOf]),
      [['gone', 0, null]],
    );
  });

  test('what is no longer kept is not missing', async () => {
    const store = filled('2026-10-26T00:00:00Z', 12);
    const retention = { rawMs: 2 * HOUR, deadLettersMs: 0, rollupsMs: new Map([[MINUTE, HOUR]]) };
    const report = await buckets(store, { from: '-6h', step: '10m' }, { retention });
    assert.deepEqual(
      [report.completeness.totals.expected, report.completeness.totals.received],
      [12, 12],
    );
    assert.equal(report.notes.length, 2);
    assert.match(
      report.notes.join(),
      /Readings before 2026-10-26T10:00:00Z.*Rollups of 1m before 2026-10-26T11:00:00Z/,
    );
  });
});

describe('parameters', () => {
  const refused: [unknown, RegExp][] = [
    [{}, /^tenant: .*got nothing/],
    [{ tenant: 'a b' }, /^tenant: .*got "a b"/],
    [{ tenant: ['acme', 'other'] }, /^tenant: .*got \["acme","other"\]/],
    [{ tenant: 'acme', device: 'a,b/c' }, /^device: .*got "a,b\/c"/],
    [{ tenant: 'acme', device: '' }, /^device: /],
    [
      { tenant: 'acme', device: Array.from({ length: 1_001 }, (_, i) => `d${i}`) },
      /^device: expected at most 1000/,
    ],
    [{ tenant: 'acme', metric: '__proto__' }, /^metric: /],
    [{ tenant: 'acme', stat: 'avg' }, /^stat: expected some of count, sum.*got "avg"/],
    [{ tenant: 'acme', from: 'yesterday' }, /^from: expected one ISO 8601 time.*got "yesterday"/],
    [{ tenant: 'acme', from: '2026-02-30' }, /^from: /],
    [{ tenant: 'acme', from: '2026-01-01T25:00Z' }, /^from: /],
    [{ tenant: 'acme', from: '2026-01-01T00:00:00 02:00' }, /^from: .*%2B/],
    [{ tenant: 'acme', from: ['-1h', '-2h'] }, /^from: /],
    [{ tenant: 'acme', from: 'now', to: '-1h' }, /^from: expected a time before `to`/],
    [{ tenant: 'acme', to: '9999-01-01' }, /^to: /],
    [
      { tenant: 'acme', step: '90s' },
      /^step: expected a multiple of the base window 1m; got "90s"/,
    ],
    [{ tenant: 'acme', step: 'daily' }, /^step: /],
    [{ tenant: 'acme', tz: 'Mars' }, /^tz: expected one IANA/],
    [{ tenant: 'acme', format: 'xml' }, /^format: expected one of json, csv/],
    [
      { tenant: 'acme', stats: 'mean' },
      /^a parameter: expected one of tenant, device.*got "stats"/,
    ],
    [JSON.parse('{"tenant":"acme","__proto__":"x"}'), /^a parameter: .*"__proto__"/],
    [{ tenant: 'acme', from: 'x'.repeat(5_000) }, /^from: .{1,400}$/],
  ];
  for (const [query, message] of refused) {
    test(`refuses ${JSON.stringify(query).slice(0, 70)}`, async () => {
      const error = await refusal(query);
      assert.equal(error.code, 'QUERY_INVALID');
      assert.match(error.message, message);
    });
  }

  test('times without a zone are those of tz', async () => {
    const range = async (query: Query) => {
      const { asked } = await buckets(new MemoryStore(), query);
      return [new Date(asked.from).toISOString(), new Date(asked.to).toISOString()];
    };
    const berlin = { tz: 'Europe/Berlin' };
    assert.deepEqual(await range({ ...berlin, from: '2026-10-25', to: '2026-10-25T03:00' }), [
      '2026-10-24T22:00:00.000Z',
      '2026-10-25T02:00:00.000Z',
    ]);
    assert.deepEqual(
      await range({ ...berlin, from: '2026-10-25T02:30:00+01:00', to: '2026-10-25T02:00Z' }),
      ['2026-10-25T01:30:00.000Z', '2026-10-25T02:00:00.000Z'],
    );
    assert.deepEqual(await range({ from: 'now-1h', to: '-15m' }), [
      '2026-10-26T11:00:00.000Z',
      '2026-10-26T11:45:00.000Z',
    ]);
  });

  test('the defaults: a day, UTC, mean min max count, at most 300 points', async () => {
    const report = await buckets(filled('2026-10-25T12:00:00Z', 24), {});
    assert.deepEqual(
      [report.to - report.from, report.step, report.zone.name],
      [24 * HOUR, '5m', 'UTC'],
    );
    assert.deepEqual(report.stats, ['mean', 'min', 'max', 'count']);
    assert.equal(report.rows.length, 288);
  });

  test('too many buckets, rows and windows are refused before they are read', async () => {
    const store = filled('2026-10-26T00:00:00Z', 1);
    const large = [
      { from: '1970-01-01', to: '2100-01-01', step: '1m' },
      { from: '-24h', step: '1m', device: 'a' },
      { from: '2000-01-01', step: '45m', metric: 'temperature' },
    ];
    for (const query of large) {
      const error = await refusal({ tenant: 'acme', ...query }, { rowsMax: 1_000 }, store);
      assert.equal(error.code, 'QUERY_TOO_LARGE');
    }
    const windows = await refusal(
      { tenant: 'acme', from: '2026-01-01', step: '250h' },
      { rowsMax: 40 },
      store,
    );
    assert.match(windows.message, /rollup windows to read/);
    assert.equal(store.asked.length, 0);
  });

  test('a base window that does not fit a zone is said', async () => {
    const error = await refusal(
      { tenant: 'acme', tz: 'Asia/Kolkata', step: '1h' },
      { baseWindowMs: HOUR },
    );
    assert.match(error.message, /^tz: .*base window 1h; got "Asia\/(Kolkata|Calcutta)"/);
  });
});
