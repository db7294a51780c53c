import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { ManualClock } from '../../src/core/clock.ts';
import { completenessLine, csvField, formatReport } from '../../src/reports/format.ts';
import type { Format, Query } from '../../src/reports/parameters.ts';
import { type Report, runQuery } from '../../src/reports/query.ts';
import { MemoryStore, probeType } from './memory-store.ts';

const MINUTE = 60_000;
const NOW = Date.parse('2026-10-25T02:00:00Z');

function store(): MemoryStore {
  const made = new MemoryStore();
  made.add('a', NOW - 90 * MINUTE, { temperature: 20.123456789, door: 'shut' });
  made.add('a', NOW - 30 * MINUTE, {
    temperature: -1e-7,
    door: '=cmd|\u0027/c calc\u0027!A1, "x"\n',
  });
  made.addLetter('a', 'VALUE_BOUNDS', NOW - 1_000);
  return made;
}

function report(query: Query, from = store()): Promise<Report> {
  return runQuery(
    from,
    { tenant: 'acme', from: '-2h', step: '1h', tz: 'Europe/Berlin', ...query },
    {
      types: new Map([['probe', probeType(60 * MINUTE)]]),
      clock: new ManualClock(NOW),
      baseWindowMs: MINUTE,
      rowsMax: 100_000,
    },
  );
}

const text = async (format: Format, query: Query = {}, from = store()): Promise<string> =>
  [...formatReport(await report(query, from), format)].join('');

describe('CSV', () => {
  test('buckets: the header, gaps as empty cells, offsets of the zone', async () => {
    const csv = await text('csv', { metric: 'temperature', from: '-3h', stat: 'mean,min,count' });
    assert.equal(
      csv,
      [
        'time,device,metric,mean,min,count',
        '2026-10-25T01:00:00+02:00,a,temperature,,,',
        '2026-10-25T02:00:00+02:00,a,temperature,20.123456789,20.123456789,1',
        '2026-10-25T02:00:00+01:00,a,temperature,-1e-7,-1e-7,1',
        '',
      ].join('\r\n'),
    );
  });

  test('raw: quoting, and no formulas in texts', async () => {
    const csv = await text('csv', { step: 'raw' });
    const lines = csv.split('\r\n');
    assert.equal(lines[0], 'time,received,device,door,temperature');
    assert.equal(
      lines[1],
      '2026-10-25T02:30:00+02:00,2026-10-25T02:30:00.250+02:00,a,shut,20.123456789',
    );
    assert.equal(
      lines[2],
      `2026-10-25T02:30:00+01:00,2026-10-25T02:30:00.250+01:00,a,"'=cmd|'/c calc'!A1, ""x""\n",-1e-7`,
    );
  });

  test('fields', () => {
    const fields: [Parameters<typeof csvField>[0], string][] = [
      [null, ''],
      [0, '0'],
      [-5, '-5'],
      [true, 'true'],
      ['', ''],
      ['plain', 'plain'],
      ['a,b', '"a,b"'],
      ['a"b', '"a""b"'],
      ['a\rb', '"a\rb"'],
      ['-5', "'-5"],
      ['+1', "'+1"],
      ['@x', "'@x"],
      ['\tx', "'\tx"],
    ];
    for (const [value, expected] of fields) assert.equal(csvField(value), expected);
  });
});

describe('JSON', () => {
  test('buckets parse, gaps are null, times twice', async () => {
    const json = JSON.parse(
      await text('json', { metric: 'temperature', from: '-3h', stat: 'mean' }),
    );
    assert.deepEqual(json.rows[0], {
      time: '2026-10-25T01:00:00+02:00',
      timeMs: NOW - 180 * MINUTE,
      endMs: NOW - 120 * MINUTE,
      device: 'a',
      metric: 'temperature',
      mean: null,
    });
    assert.equal(json.rows.length, 3);
    assert.deepEqual(
      [json.tenant, json.tz, json.step, json.stats],
      ['acme', 'Europe/Berlin', '1h', ['mean']],
    );
    assert.deepEqual(json.series, [{ device: 'a', metric: 'temperature', unit: '°C' }]);
    assert.deepEqual([json.from, json.fromMs], ['2026-10-25T01:00:00+02:00', NOW - 180 * MINUTE]);
    assert.deepEqual(json.completeness.totals, {
      ...{ devices: 1, unknownPeriod: 0, expected: 2, received: 2 },
      ...{ deadLettered: { VALUE_BOUNDS: 1 } },
      ...{ dataAsOf: '2026-10-25T02:30:00+01:00', dataAsOfMs: NOW - 30 * MINUTE },
    });
  });

  test('raw rows hold what the reading holds', async () => {
    const json = JSON.parse(await text('json', { step: 'raw' }));
    assert.deepEqual(json.rows[0].values, { door: 'shut', temperature: 20.123456789 });
    assert.deepEqual(
      [json.rows[0].receivedMs, json.rows[0].timeMs],
      [NOW - 90 * MINUTE + 250, NOW - 90 * MINUTE],
    );
  });

  test('without any data it is still whole', async () => {
    const json = JSON.parse(await text('json', {}, new MemoryStore()));
    assert.deepEqual(
      [json.rows, json.series, json.completeness.devices, json.notes],
      [[], [], [], []],
    );
  });

  test('large reports come in pieces', async () => {
    const pieces = [...formatReport(await report({ from: '-24h', step: '1m' }), 'json')];
    assert.ok(pieces.length > 10);
    assert.ok(pieces.every((piece) => piece.length < 20_000));
    assert.equal(JSON.parse(pieces.join('')).rows.length, 2 * 1_440);
  });
});

test('NDJSON: one line a row, the last is the completeness', async () => {
  const lines = (await text('ndjson', { stat: 'last' })).trimEnd().split('\n');
  const parsed = lines.map((line) => JSON.parse(line));
  assert.equal(parsed.length, 5);
  assert.deepEqual(
    parsed.slice(0, 4).map((row) => `${row.metric} ${row.time}`),
    [
      'door 2026-10-25T02:00:00+02:00',
      'door 2026-10-25T02:00:00+01:00',
      'temperature 2026-10-25T02:00:00+02:00',
      'temperature 2026-10-25T02:00:00+01:00',
    ],
  );
  assert.equal(parsed[4].completeness.totals.received, 2);
});

test('the table aligns, names units, escapes for terminals, ends with completeness', async () => {
  const made = store();
  made.add('gate', NOW - 20 * MINUTE, { door: '\u001b[31mred\u202e' });
  const table = await text('table', { metric: 'door,temperature', stat: 'last,count' }, made);
  const lines = table.split('\n');
  assert.equal(
    lines[0],
    'acme, 2026-10-25T02:00:00+02:00 to 2026-10-25T03:00:00+01:00, step 1h, Europe/Berlin',
  );
  assert.ok(lines.includes('time                       device  last °C  count'), table);
  assert.ok(lines.includes('2026-10-25T02:00:00+02:00  a       20.1235      1'), table);
  assert.ok(!table.includes('\u001b') && table.includes('\\u001b[31mred\\u202e'));
  assert.ok(
    lines.some((line) =>
      /^a +2 +2 +100\.0 % +VALUE_BOUNDS 1 +2026-10-25T02:30:00\+01:00$/.test(line),
    ),
    table,
  );
});

describe('completeness on one line', () => {
  test('is ASCII and parses', async () => {
    const line = completenessLine(await report({}), { bounded: true });
    assert.match(line, /^[\u0020-\u007e]+$/);
    assert.equal(JSON.parse(line).devices[0].received, 2);
  });

  test('leaves devices out where they are too many for a header', async () => {
    const made = new MemoryStore();
    for (let i = 0; i < 200; i += 1) made.add(`device-${i}`, NOW - MINUTE, { temperature: 1 });
    const line = completenessLine(await report({ stat: 'count' }, made), { bounded: true });
    assert.ok(line.length <= 4_096);
    const parsed = JSON.parse(line);
    assert.deepEqual(
      [parsed.devicesOmitted, parsed.devices, parsed.totals.received],
      [200, undefined, 200],
    );
    const whole = JSON.parse(
      completenessLine(await report({ stat: 'count' }, made), { bounded: false }),
    );
    assert.equal(whole.devices.length, 200);
  });
});
