import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { deviceTypes } from '../../src/config/device-types.ts';
import { configSchema } from '../../src/config/schema.ts';
import { ManualClock } from '../../src/core/clock.ts';
import type { DeadLetterRecord, LogRecord } from '../../src/core/nouns.ts';
import type { Examination } from '../../src/gateway/contract.ts';
import { Examiner } from '../../src/gateway/examine.ts';
import { Histories } from '../../src/gateway/history.ts';
import { Ingest } from '../../src/gateway/ingest.ts';
import { Session } from '../../src/gateway/session.ts';
import { publishChannel } from '../../src/gateway/topics.ts';
import type { AppendRequest, LogAppender } from '../../src/log/contract.ts';
import { gatewayCounters } from '../../src/ops/counters.ts';
import { MemoryDirectory } from '../tenants/directory.ts';

const NOW = Date.UTC(2026, 2, 14, 12);
const DAY = 86_400_000;
const LIMITS = {
  payloadBytesMax: 4_000,
  readingsPerMessageMax: 5,
  metricsPerReadingMax: 10,
  textMax: 10,
};

function typesOf(definitions: object) {
  return deviceTypes(configSchema.parse({ types: definitions }));
}

const STRICT = { probe: { metrics: { t: { max: 50 } } } };
const WIDE = { probe: { metrics: { t: { max: 500 }, extra: {} } } };

/** What a gateway makes of publishes, and what would be made of its letters later. */
function createBench(t: TestContext, definitions: object = STRICT) {
  t.mock.timers.enable({ apis: ['setInterval'] });
  const clock = new ManualClock(NOW);
  const directory = new MemoryDirectory();
  const records: LogRecord[] = [];
  const appender = {
    full: false,
    saturated: false,
    append(request: AppendRequest) {
      for (const line of request.records) records.push(JSON.parse(line) as LogRecord);
    },
  } as unknown as LogAppender;
  const types = typesOf(definitions);
  const ingest = new Ingest({
    ...{ appender, directory, types, counters: gatewayCounters(), clock },
    histories: new Histories({ devicesMax: 10 }),
    limits: { ...LIMITS, deadLetterPayloadBytesMax: 200 },
  });
  return {
    clock,
    directory,
    /** The letters that a publish of `device` becomes. */
    letters(payload: string, device = 'd1', topic = 'me/telemetry'): DeadLetterRecord[] {
      const identity = { tenant: 'acme', device, type: 'probe' };
      const session = new Session({
        ...{ identity, clientId: 'c', secretHash: '' },
        connection: { send: () => false, notice() {}, end() {} },
        own: ingest.target(identity),
      });
      records.length = 0;
      const bytes = Buffer.from(payload);
      ingest.publish(
        session,
        {
          ...{ topic, channel: publishChannel(topic, 'acme', device), payload: bytes },
          ...{ payloadBytes: bytes.length, qos: 1, retain: false },
        },
        () => {},
      );
      return records.filter((record) => record.kind === 'deadLetter');
    },
    examiner: (now: object = definitions, rawMs = 0) =>
      new Examiner({
        ...{ directory, types: typesOf(now), clock, limits: LIMITS },
        ...{ rawMs, baseWindowMs: 60_000 },
      }),
  };
}

function first<T>(list: readonly T[]): T {
  const [one] = list;
  assert.ok(one !== undefined);
  return one;
}

function items(examination: Examination) {
  assert.ok('items' in examination, JSON.stringify(examination));
  return examination.items;
}

const codes = (examination: Examination) =>
  items(examination).map((item) => ('refusal' in item ? item.refusal.code : item.values));

test('a letter is refused again by the same type and taken by a changed one', (t) => {
  const bench = createBench(t);
  const letter = first(bench.letters('{"ts":1773489500000,"seq":7,"values":{"t":77}}'));
  assert.equal(letter.code, 'VALUE_BOUNDS');
  assert.equal(letter.typeVersion, typesOf(STRICT).get('probe')?.version);
  assert.deepEqual(codes(bench.examiner().examine(letter)), ['VALUE_BOUNDS']);
  const [item] = items(bench.examiner(WIDE).examine(letter));
  const typeVersion = typesOf(WIDE).get('probe')?.version;
  assert.notEqual(typeVersion, letter.typeVersion);
  assert.deepEqual(item, {
    ...{ device: 'd1', type: 'probe', typeVersion, ts: 1_773_489_500_000, seq: 7 },
    values: { t: 77 },
  });
});

test('times are judged by when the letter came', (t) => {
  const bench = createBench(t);
  const plain = first(bench.letters('{"t":77}'));
  const future = first(bench.letters(`{"ts":${NOW + 3_600_000},"values":{"t":1}}`));
  bench.clock.advance(5 * DAY);
  const [item] = items(bench.examiner(WIDE).examine(plain));
  assert.equal(item !== undefined && 'ts' in item && item.ts, NOW);
  assert.deepEqual(codes(bench.examiner(WIDE).examine(future)), ['TS_FUTURE']);
  const lenient = { probe: { ...WIDE.probe, future: 'useReceived' } };
  const [moved] = items(bench.examiner(lenient).examine(future));
  assert.equal(moved !== undefined && 'ts' in moved && moved.ts, NOW);
});

test('what raw readings are no longer kept of is not taken', (t) => {
  const bench = createBench(t);
  const letter = first(bench.letters('{"t":77}'));
  bench.clock.advance(3 * DAY);
  assert.deepEqual(codes(bench.examiner(WIDE, 4 * DAY).examine(letter)), [{ t: 77 }]);
  assert.deepEqual(codes(bench.examiner(WIDE, 3 * DAY).examine(letter)), ['TS_PAST']);
});

test('parts of a message come back one by one, with the time of their message', (t) => {
  const bench = createBench(t);
  const letters = bench.letters('[{"t":1},{"t":77,"seq":3},{"t":"hot"},5]');
  assert.deepEqual(
    letters.map(({ code, payload }) => [code, Buffer.from(payload, 'base64').toString()]),
    [
      ['VALUE_BOUNDS', '{"seq":3,"values":{"t":77}}'],
      ['VALUE_KIND', '{"values":{"t":"hot"}}'],
      ['SHAPE_INVALID', ''],
    ],
  );
  const [bounds, kind, shape] = letters as [DeadLetterRecord, DeadLetterRecord, DeadLetterRecord];
  assert.deepEqual(codes(bench.examiner(WIDE).examine(bounds)), [{ t: 77 }]);
  assert.deepEqual(codes(bench.examiner(WIDE).examine(kind)), ['VALUE_KIND']);
  assert.deepEqual(bench.examiner(WIDE).examine(shape), { unreadable: 'PAYLOAD_GONE' });
});

test('a message that was refused as a whole may become many readings', (t) => {
  const bench = createBench(t);
  const letter = first(bench.letters('[{"t":1},{"t":2},{"t":77},{"t":3},{"t":4},{"t":5}]'));
  assert.equal(letter.code, 'READINGS_TOO_MANY');
  const limits = { ...LIMITS, readingsPerMessageMax: 6 };
  const examiner = new Examiner({
    ...{ directory: bench.directory, types: typesOf(STRICT), clock: bench.clock, limits },
    ...{ rawMs: 0, baseWindowMs: 60_000 },
  });
  const found = items(examiner.examine(letter));
  assert.deepEqual(codes({ items: found }), [
    ...[{ t: 1 }, { t: 2 }],
    'VALUE_BOUNDS',
    ...[{ t: 3 }, { t: 4 }, { t: 5 }],
  ]);
  // The part that is kept of it has the time that it would have had.
  const refused = found[2];
  assert.ok(refused !== undefined && 'payload' in refused);
  assert.deepEqual(JSON.parse(refused.payload.toString()), { ts: NOW, values: { t: 77 } });
});

test('a reading of another device goes to that device, once it may', (t) => {
  const bench = createBench(t);
  const payload = '{"devices":{"child":{"t":1},"d1":{"t":2}}}';
  const letter = first(bench.letters(payload));
  assert.deepEqual([letter.code, letter.device], ['DEVICE_NOT_ALLOWED', 'd1']);
  const whole = first(bench.letters('{"devices":{"child":{"t":1}}}'));
  for (const one of [letter, whole]) {
    assert.deepEqual(codes(bench.examiner().examine(one)), ['DEVICE_NOT_ALLOWED']);
  }
  bench.directory.add({ tenant: 'acme', device: 'child', type: 'probe', via: 'other' });
  assert.deepEqual(codes(bench.examiner().examine(letter)), ['DEVICE_NOT_ALLOWED']);
  bench.directory.add({ tenant: 'acme', device: 'child', type: 'probe', via: 'd1' });
  for (const one of [letter, whole]) {
    const [item] = items(bench.examiner().examine(one));
    assert.deepEqual(item !== undefined && 'values' in item && [item.device, item.values], [
      'child',
      { t: 1 },
    ]);
  }
});

test('the type is the one that the device has by now', (t) => {
  const bench = createBench(t);
  const letter = first(bench.letters('{"t":77}'));
  bench.directory.add({ tenant: 'acme', device: 'd1', type: 'wide' });
  const both = { ...STRICT, wide: WIDE.probe };
  assert.deepEqual(codes(bench.examiner(both).examine(letter)), [{ t: 77 }]);
  assert.deepEqual(codes(bench.examiner(STRICT).examine(letter)), ['TYPE_UNKNOWN']);
});

test('what can not be looked at again says why', (t) => {
  const bench = createBench(t);
  const examiner = bench.examiner(WIDE);
  const cut = first(bench.letters(`{"t":77,"note":"${'x'.repeat(300)}"}`));
  assert.equal(Buffer.from(cut.payload, 'base64').length, 200);
  assert.deepEqual(examiner.examine(cut), { unreadable: 'PAYLOAD_CUT' });
  const foreign = first(bench.letters('{"t":1}', 'd1', 't/acme/d/d2/telemetry'));
  assert.equal(foreign.code, 'TOPIC_NOT_ALLOWED');
  const state = first(bench.letters('{', 'd1', 'me/state'));
  for (const letter of [foreign, state]) {
    assert.deepEqual(examiner.examine(letter), { unreadable: 'NO_TELEMETRY' });
  }
  assert.deepEqual(codes(examiner.examine(first(bench.letters('')))), ['PAYLOAD_EMPTY']);
  assert.deepEqual(codes(examiner.examine(first(bench.letters('{"t":NaN}')))), ['JSON_INVALID']);
});
