import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { HttpError } from '@influxdata/influxdb-client';
import { AnnotatedCsv } from '../../src/store/influxdb/annotated-csv.ts';
import { Breaker } from '../../src/store/influxdb/breaker.ts';
import { newestValue, nextState, valueAt } from '../../src/store/influxdb/cells.ts';
import { InfluxQueryError, InfluxUnavailableError } from '../../src/store/influxdb/errors.ts';
import { FluxQuery, parseTime } from '../../src/store/influxdb/flux.ts';
import { decodeTag, encodeTag } from '../../src/store/influxdb/line-protocol.ts';
import { boundsOf, type SessionRecord, successorOf } from '../../src/store/influxdb/sessions.ts';

describe('annotated CSV', () => {
  const ANSWER = [
    '#datatype,string,long,dateTime:RFC3339,string,string\r\n',
    ',result,table,_time,_value,_field\r\n',
    ',_result,0,2026-03-14T12:00:00Z,plain,a\r\n',
    ',_result,0,2026-03-14T12:00:00Z,"with ""quotes"", commas',
    ' and\r\nlines 中😀",b\r\n',
    ',_result,0,2026-03-14T12:00:00Z,,empty\r\n',
    '\r\n',
    '#datatype,string,long,double\r\n',
    ',result,table,error\r\n',
    ',_result,1,2.5\r\n',
    '\r\n',
  ].join('');

  const read = (text: string, step: number): string[][] => {
    const rows: string[][] = [];
    const csv = new AnnotatedCsv((columns) => (cells) => {
      rows.push(columns.slice(3).map((name, index) => `${name}=${cells[index + 3]}`));
    });
    const bytes = Buffer.from(text);
    for (let at = 0; at < bytes.length; at += step) csv.push(bytes.subarray(at, at + step));
    csv.end();
    return rows;
  };

  test('is read the same however it is cut', () => {
    const whole = [
      ['_time=2026-03-14T12:00:00Z', '_value=plain', '_field=a'],
      ['_time=2026-03-14T12:00:00Z', '_value=with "quotes", commas and\r\nlines 中😀', '_field=b'],
      ['_time=2026-03-14T12:00:00Z', '_value=', '_field=empty'],
      ['error=2.5'],
    ];
    for (const step of [1, 2, 3, 7, 64, 10_000]) assert.deepEqual(read(ANSWER, step), whole);
  });

  test('that ends with an error throws it', () => {
    const failure = '#datatype,string,string\r\n,error,reference\r\n,"it broke, badly",897\r\n';
    assert.throws(() => read(ANSWER + failure, 9), new InfluxQueryError('it broke, badly'));
  });
});

describe('a query', () => {
  test('holds no value in its text', () => {
    const query = new FluxQuery();
    const evil = '") |> drop() //';
    query.flux = `${query.text(evil)} ${query.time(0)} ${query.int(5)} ${query.text(evil)}`;
    assert.equal(query.flux, 'p0 p1 p2 p0');
    const { extern } = JSON.parse(query.body());
    assert.deepEqual(
      extern.body.map(({ init }: { init: unknown }) => init),
      [
        { type: 'StringLiteral', value: evil },
        { type: 'DateTimeLiteral', value: '1970-01-01T00:00:00.000Z' },
        { type: 'IntegerLiteral', value: '5' },
      ],
    );
  });

  test('keeps times within what the database knows', () => {
    const query = new FluxQuery();
    for (const ms of [Number.NEGATIVE_INFINITY, Number.MAX_SAFE_INTEGER]) query.time(ms);
    const { extern } = JSON.parse(query.body());
    const years = extern.body.map(({ init }: { init: { value: string } }) =>
      init.value.slice(0, 4),
    );
    assert.deepEqual(years, ['1677', '2262']);
    assert.deepEqual(parseTime('2026-03-14T12:00:00.000000012Z'), {
      ms: Date.UTC(2026, 2, 14, 12),
      ns: 12,
    });
    assert.deepEqual(parseTime('1970-01-01T00:00:01.5Z'), { ms: 1_500, ns: 0 });
  });
});

test('a tag gives back every text and is safe in line protocol', () => {
  for (const text of ['', 'A-z_0.9', 'a b', 'a,b=c', '\\', '\n', '%41', '中', "(')*!", '/']) {
    const tag = encodeTag(text);
    assert.match(tag, /^[A-Za-z0-9_.~%-]*$/);
    assert.equal(decodeTag(tag), text);
  }
});

describe('the breaker', () => {
  const options = { firstMs: 100, longestMs: 1_000, retryAfterMaxMs: 60_000, random: () => 1 };
  const { signal } = new AbortController();
  const soon = (): number => performance.now() + 50;

  const overloaded = (retryAfter: string): HttpError =>
    new HttpError(503, 'busy', '', retryAfter, undefined, undefined, { 'retry-after': retryAfter });

  test('waits longer after each failure, up to a bound, and forgets after a success', async () => {
    const breaker = new Breaker(options);
    const waits = Array.from({ length: 6 }, () => breaker.failed(new Error('no')));
    assert.deepEqual(waits, [100, 200, 400, 800, 1_000, 1_000]);
    await assert.rejects(breaker.enter(soon(), signal), InfluxUnavailableError);
    breaker.succeeded();
    await breaker.enter(soon(), signal);
    assert.equal(breaker.failed(new Error('no')), 100);
  });

  test('takes Retry-After for seconds or a date, within its bound', () => {
    assert.equal(new Breaker(options).failed(overloaded('3')), 3_100);
    assert.equal(new Breaker(options).failed(overloaded('7200')), 60_100);
    const at = new Date(Date.now() + 5_000).toUTCString();
    const wait = new Breaker(options).failed(overloaded(at));
    assert.ok(wait > 3_000 && wait <= 5_200, `${wait}`);
    assert.equal(new Breaker(options).failed(overloaded('soon')), 100);
  });

  test('lets one request try after several failures, and all after its success', async () => {
    const breaker = new Breaker({ ...options, random: () => 0 });
    for (let i = 0; i < 3; i += 1) breaker.failed(new Error('no'));
    const deadline = performance.now() + 5_000;
    await breaker.enter(deadline, signal);
    let entered = 0;
    const others = Array.from({ length: 3 }, async () => {
      await breaker.enter(deadline, signal);
      entered += 1;
    });
    await new Promise((resolve) => setTimeout(resolve, 10));
    assert.equal(entered, 0);
    breaker.succeeded();
    await Promise.all(others);
  });

  test('lets nobody wait who is closing', async () => {
    const breaker = new Breaker(options);
    breaker.failed(new Error('no'));
    const closing = new AbortController();
    const waiting = breaker.enter(performance.now() + 60_000, closing.signal);
    closing.abort(new Error('closed'));
    await assert.rejects(waiting, /closed/);
  });
});

describe('cells', () => {
  test('know their value at earlier positions', () => {
    let state: string | undefined;
    assert.equal(newestValue(state), 0);
    for (const [value, position] of [
      [5, 10],
      [7, 20],
      [6, 30],
      [-9, 40],
    ] as const) {
      state = nextState(state, value, position);
    }
    assert.equal(state, '-9 40 6 30 7 20 5 10');
    assert.equal(newestValue(state), -9);
    const at = (position: number) => valueAt(state ?? '', position);
    assert.deepEqual([at(99), at(40), at(39), at(29), at(10)], [-9, -9, 6, 7, 5]);
    assert.equal(at(9), 'gone');
    assert.equal(valueAt('7 20 5 10', 9), undefined);
  });

  test('count up to where the next session took over', () => {
    const record = (time: number, number: number, base: number | null, next: number | null) =>
      ({
        group: 'g',
        partition: 0,
        time,
        ns: 0,
        number,
        base,
        next,
        by: 'w',
      }) satisfies SessionRecord;
    const records = [
      record(1, 1, null, 50),
      record(2, 2, 40, 70),
      // Left by a request that arrived late: its number was used again.
      record(3, 3, 70, 70),
      record(4, 3, 70, 90),
    ];
    const expected = new Map([
      [1, 40],
      [2, 70],
      [3, 90],
    ]);
    assert.deepEqual(boundsOf(records), expected);
    const successor = { group: 'g', partition: 0, by: 'w' };
    const next = successorOf(records, { ...successor, base: 90 }, 2, 7);
    assert.deepEqual({ ...next, ns: 0 }, { ...record(5, 7, 90, 90), after: '4 0' });
    const first = successorOf([], { ...successor, base: null }, 9, 1);
    assert.deepEqual({ ...first, ns: 0 }, { ...record(9, 1, null, null), after: null });
    // Of two that follow the same one the later one is real, however many come after it.
    const forked = [
      { ...record(1, 1, null, 60), after: null },
      { ...record(2, 3, 40, 80), after: '1 0' },
      { ...record(3, 2, 60, 70), after: '1 0' },
      { ...record(4, 4, 70, 90), after: '3 0' },
    ];
    const counted = [
      [4, 90],
      [2, 70],
      [1, 60],
    ] as const;
    assert.deepEqual(boundsOf(forked), new Map(counted));
  });
});
