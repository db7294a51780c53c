import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createFleet, type FleetInput, type Summary } from '../../firmware-sim/index.ts';
import { createTestBroker, credentialsOf, readingsOf, type TestBroker } from './test-broker.ts';

type Group = FleetInput['groups'][number];

const quick = { base: '10ms', cap: '20ms', resetAfter: '0s' };

function fleetOf(group: Partial<Group> = {}, rest: Partial<FleetInput> = {}): FleetInput {
  return {
    connectOver: '0s',
    backoff: quick,
    ...rest,
    groups: [
      {
        type: 'meter',
        count: 1,
        period: '10ms',
        metrics: { t: { kind: 'float', base: 20, noise: 1 } },
        ...group,
      },
    ],
  };
}

function assertBooks(summary: Summary, broker: TestBroker) {
  const malformed = Object.values(summary.malformed).reduce((sum, count) => sum + count, 0);
  assert.equal(
    summary.readingsSampled,
    summary.readingsSent + malformed + summary.droppedFromBuffer + summary.leftInBuffer,
  );
  assert.equal(summary.sent, summary.acknowledged + summary.unacknowledged);
  // A message that was in the socket when it broke was transmitted and never taken.
  const transmitted = summary.sent + summary.retransmitted;
  if (summary.disconnects === 0) assert.equal(broker.taken.length, transmitted);
  else assert.ok(broker.taken.length <= transmitted, `${broker.taken.length} of ${transmitted}`);
}

/** The distinct numbers of the readings that arrived, in the order of first arrival. */
function numbersOf(broker: TestBroker): number[] {
  const seen = new Set<number>();
  for (const { payload } of broker.taken) {
    for (const { seq } of readingsOf(payload) ?? []) seen.add(seq);
  }
  return [...seen];
}

const upTo = (count: number) => Array.from({ length: count }, (_, index) => index);

test('a device says who it is, tells its firmware, and every reading arrives once', async (t) => {
  const broker = await createTestBroker(t);
  const fleet = await createFleet({
    fleet: fleetOf({
      firmware: [{ version: '9.8.7', metrics: { extra: { kind: 'int', base: 3 } } }],
    }),
    credentials: credentialsOf('meter', 1),
    url: broker.url,
  });
  fleet.start();
  assert.equal(await fleet.untilConnected(5000), true);
  await broker.until(() => broker.taken.length >= 20);
  const summary = await fleet.stop();
  assertBooks(summary, broker);
  assert.equal(summary.complete, true);
  assert.equal(summary.connected, 1);
  assert.equal(summary.readingsAcknowledged, summary.readingsSampled);
  assert.deepEqual(numbersOf(broker), upTo(summary.readingsSampled));
  assert.ok(
    (summary.pubackP50Ms ?? 0) > 0 && (summary.pubackP99Ms ?? 0) >= (summary.pubackP50Ms ?? 0),
  );
  const [first] = broker.taken;
  assert.equal(first?.device, 'demo/meter-1');
  assert.equal(first?.topic, 't/demo/d/meter-1/telemetry');
  const [reading] = readingsOf(first?.payload ?? '') ?? [];
  assert.equal(reading?.values.extra, 3);
  assert.ok(Math.abs((reading?.ts ?? 0) - Date.now()) < 10_000);
  assert.equal(broker.states[0]?.topic, 't/demo/d/meter-1/state');
  assert.equal(JSON.parse(broker.states[0]?.payload ?? '{}').firmware, '9.8.7');
  assert.equal(summary.stateAcknowledged, 1);
  assert.equal(broker.sockets.size, 0);
});

test('readings of an outage are kept and sent in order, in batches, with nothing lost', async (t) => {
  const broker = await createTestBroker(t);
  const fleet = await createFleet({
    fleet: fleetOf({ period: '2ms' }),
    credentials: credentialsOf('meter', 1),
    url: broker.url,
  });
  fleet.start();
  await broker.until(() => broker.taken.length >= 10);
  broker.cut();
  await broker.until(() => fleet.snapshot().leftInBuffer >= 150);
  const before = broker.taken.length;
  broker.resume();
  await broker.until(() => fleet.snapshot().reconnects === 1 && broker.taken.length > before + 5);
  const summary = await fleet.stop();
  assertBooks(summary, broker);
  assert.equal(summary.complete, true);
  assert.equal(summary.droppedFromBuffer, 0);
  assert.equal(summary.reconnects, 1);
  assert.equal(summary.disconnects, 1);
  assert.deepEqual(numbersOf(broker), upTo(summary.readingsSampled), 'all of them, in order');
  const sizes = broker.taken.map(({ payload }) => readingsOf(payload)?.length ?? 0);
  assert.equal(Math.max(...sizes), 100, 'the flush uses whole batches and no larger ones');
});

test('what was not acknowledged when the connection broke is sent again, unchanged and first', async (t) => {
  const broker = await createTestBroker(t);
  broker.acknowledge = false;
  const fleet = await createFleet({
    fleet: fleetOf({ behaviour: { inflight: 5 } }),
    credentials: credentialsOf('meter', 1),
    url: broker.url,
  });
  fleet.start();
  await broker.until(() => broker.taken.length === 5);
  const unanswered = broker.taken.map(({ payload }) => payload);
  broker.acknowledge = true;
  broker.cut();
  broker.resume();
  await broker.until(() => broker.taken.length >= 12);
  const summary = await fleet.stop();
  assertBooks(summary, broker);
  assert.deepEqual(
    broker.taken.slice(5, 10).map(({ payload }) => payload),
    unanswered,
  );
  assert.equal(summary.retransmitted, 5);
  assert.equal(summary.complete, true);
  assert.deepEqual(numbersOf(broker), upTo(summary.readingsSampled));
});

test('a full buffer drops the oldest and says how many', async (t) => {
  const broker = await createTestBroker(t);
  broker.cut();
  const fleet = await createFleet({
    fleet: fleetOf({ period: '1ms', behaviour: { buffer: 50 } }),
    credentials: credentialsOf('meter', 1),
    url: broker.url,
  });
  fleet.start();
  await broker.until(() => fleet.snapshot().droppedFromBuffer >= 30);
  broker.resume();
  await broker.until(() => broker.taken.length >= 3);
  const summary = await fleet.stop();
  assertBooks(summary, broker);
  assert.ok(summary.droppedFromBuffer >= 30);
  assert.equal(numbersOf(broker)[0], summary.droppedFromBuffer, 'the first ones are gone');
  assert.equal(numbersOf(broker).length, summary.readingsSampled - summary.droppedFromBuffer);
  assert.ok(
    (summary.connectFailures['closed before CONNACK'] ?? summary.connectFailures.ECONNRESET ?? 0) >
      0,
  );
});

test('duplicates and malformed messages are counted as the broker sees them', async (t) => {
  const broker = await createTestBroker(t);
  const fleet = await createFleet({
    fleet: fleetOf({
      period: '3ms',
      behaviour: {
        duplicates: 0.3,
        malformed: { probability: 0.3, kinds: ['notJson', 'outOfBounds'] },
      },
    }),
    credentials: credentialsOf('meter', 1),
    url: broker.url,
  });
  fleet.start();
  await broker.until(() => broker.taken.length >= 200);
  const summary = await fleet.stop();
  assertBooks(summary, broker);
  assert.equal(summary.complete, true);
  const payloads = broker.taken.map(({ payload }) => payload);
  assert.equal(
    summary.malformed.notJson,
    payloads.filter((text) => readingsOf(text) === null).length,
  );
  assert.equal(
    summary.malformed.outOfBounds,
    payloads.filter((text) => text.includes('-1000000000')).length,
  );
  // Two messages that were cut short early may look the same by chance.
  const whole = payloads.filter((text) => readingsOf(text) !== null);
  const repeats = whole.length - new Set(whole).size;
  assert.equal(summary.duplicates, repeats);
  assert.ok(repeats > 10 && (summary.malformed.notJson ?? 0) > 5, 'both happened');
  assert.equal(summary.malformed.nan, undefined);
});

test('late readings come out of order, and all of them come', async (t) => {
  const broker = await createTestBroker(t);
  const fleet = await createFleet({
    fleet: fleetOf({ period: '2ms', behaviour: { late: { probability: 0.3, by: '100ms' } } }),
    credentials: credentialsOf('meter', 1),
    url: broker.url,
  });
  fleet.start();
  await broker.until(() => broker.taken.length >= 100);
  const summary = await fleet.stop();
  const numbers = numbersOf(broker);
  assertBooks(summary, broker);
  assert.notDeepEqual(numbers, upTo(summary.readingsSampled));
  assert.deepEqual(
    numbers.toSorted((a, b) => a - b),
    upTo(summary.readingsSampled),
  );
  assert.ok(summary.late > 10);
});

test('a planned outage is silent, buffered and over in time', async (t) => {
  const broker = await createTestBroker(t);
  const fleet = await createFleet({
    fleet: fleetOf({ behaviour: { outages: [{ at: '100ms', for: '150ms' }] } }),
    credentials: credentialsOf('meter', 1),
    url: broker.url,
  });
  fleet.start();
  await broker.until(() => fleet.snapshot().disconnects === 1);
  await broker.until(() => fleet.snapshot().reconnects === 1);
  const summary = await fleet.stop();
  assertBooks(summary, broker);
  assert.equal(summary.complete, true);
  assert.deepEqual(numbersOf(broker), upTo(summary.readingsSampled));
});

test('stopping in an outage brings the devices back to send what they have', async (t) => {
  const broker = await createTestBroker(t);
  const fleet = await createFleet({
    fleet: fleetOf({ behaviour: { outages: [{ at: '50ms', for: '1h' }] } }),
    credentials: credentialsOf('meter', 1),
    url: broker.url,
  });
  fleet.start();
  await broker.until(() => fleet.snapshot().leftInBuffer >= 10);
  const summary = await fleet.stop();
  assert.equal(summary.complete, true);
  assert.deepEqual(numbersOf(broker), upTo(summary.readingsSampled));
});

test('a broker that stops acknowledging makes the summary incomplete within the drain time', async (t) => {
  const broker = await createTestBroker(t);
  const fleet = await createFleet({
    fleet: fleetOf({ behaviour: { inflight: 4 } }),
    credentials: credentialsOf('meter', 1),
    url: broker.url,
    drainTimeoutMs: 100,
  });
  fleet.start();
  await broker.until(() => broker.taken.length >= 5);
  broker.acknowledge = false;
  const answered = broker.taken.length;
  await broker.until(() => broker.taken.length === answered + 4);
  const stopping = performance.now();
  const summary = await fleet.stop();
  assert.ok(performance.now() - stopping < 1500);
  assertBooks(summary, broker);
  assert.equal(summary.unacknowledged, 4);
  assert.equal(summary.complete, false);
});

test('receipts are counted by code, commands too', async (t) => {
  const broker = await createTestBroker(t);
  const fleet = await createFleet({
    fleet: fleetOf(),
    credentials: credentialsOf('meter', 1),
    url: broker.url,
  });
  fleet.start();
  await broker.until(() => broker.taken.length >= 3);
  const receipt = {
    code: 'metric-unknown',
    severity: 'notice',
    message: 'no such metric',
    path: 'x',
  };
  broker.publish('t/demo/d/meter-1/receipts', JSON.stringify(receipt));
  broker.publish(
    't/demo/d/meter-1/receipts',
    JSON.stringify({ ...receipt, code: 'not-json', severity: 'refused' }),
  );
  broker.publish('t/demo/d/meter-1/receipts', JSON.stringify(receipt));
  broker.publish('t/demo/d/meter-1/commands', '{}');
  broker.publish('t/demo/d/meter-2/receipts', JSON.stringify(receipt));
  await broker.until(() => fleet.snapshot().commands === 1);
  const summary = await fleet.stop();
  assert.deepEqual(summary.receipts, { 'metric-unknown': 2, 'not-json': 1 });
  assert.deepEqual(summary.receiptsBySeverity, { notice: 2, refused: 1 });
  assert.deepEqual(JSON.parse(summary.receiptExamples['metric-unknown'] ?? ''), receipt);
});

test('a refused device tries again with backoff and is never counted as connected', async (t) => {
  const broker = await createTestBroker(t);
  broker.refuse = true;
  const fleet = await createFleet({
    fleet: fleetOf(),
    credentials: credentialsOf('meter', 1),
    url: broker.url,
    drainTimeoutMs: 50,
  });
  fleet.start();
  await broker.until(() => broker.connects >= 3);
  assert.equal(await fleet.untilConnected(20), false);
  const summary = await fleet.stop();
  assert.equal(summary.connected, 0);
  assert.equal(summary.sent, 0);
  assert.ok(summary.leftInBuffer > 0);
  assert.equal(summary.complete, false);
  const [[reason, count] = ['', 0]] = Object.entries(summary.connectFailures);
  assert.match(reason, /^CONNACK 4 .*Bad username or password/);
  assert.ok(count >= 3);
});

test('QoS 0, the short topic and the flat form', async (t) => {
  const broker = await createTestBroker(t);
  const fleet = await createFleet({
    fleet: fleetOf({ behaviour: { qos: 0, topic: 'me', form: 'flat' } }),
    credentials: credentialsOf('meter', 1),
    url: broker.url,
  });
  fleet.start();
  await broker.until(() => broker.taken.length >= 5);
  const summary = await fleet.stop();
  assert.equal(broker.taken[0]?.topic, 'me/telemetry');
  assert.deepEqual(Object.keys(JSON.parse(broker.taken[0]?.payload ?? '')), ['t']);
  assert.equal(summary.sent, 0);
  assert.equal(summary.sentUnconfirmed, broker.taken.length);
  assert.equal(summary.complete, true);
});

test('a gateway speaks for its devices; the last one for the rest', async (t) => {
  const broker = await createTestBroker(t);
  const fleet = await createFleet({
    fleet: fleetOf({ count: 5, gateway: { type: 'gateway', devices: 3 } }, { tenant: 'demo' }),
    credentials: [...credentialsOf('meter', 5), ...credentialsOf('gateway', 2)],
    url: broker.url,
  });
  fleet.start();
  await fleet.untilConnected(5000);
  await broker.until(() => new Set(broker.taken.map(({ device }) => device)).size === 2);
  const summary = await fleet.stop();
  assert.equal(summary.devices, 5);
  assert.equal(summary.connections, 2);
  const first = broker.taken.find(({ device }) => device === 'demo/gateway-1');
  const rest = broker.taken.find(({ device }) => device === 'demo/gateway-2');
  assert.equal(first?.topic, 't/demo/d/gateway-1/telemetry');
  const names = (payload = '{}') => Object.keys(JSON.parse(payload).devices);
  assert.deepEqual(names(first?.payload), ['meter-1', 'meter-2', 'meter-3']);
  assert.deepEqual(names(rest?.payload), ['meter-4', 'meter-5']);
});

test('the last devices of a group are its exceptions', async (t) => {
  const broker = await createTestBroker(t);
  const fleet = await createFleet({
    fleet: fleetOf({
      count: 3,
      exceptions: [
        { count: 1, behaviour: { topic: 'me' } },
        { count: 1, behaviour: { clock: { offset: '-1h' } } },
      ],
    }),
    credentials: credentialsOf('meter', 3),
    url: broker.url,
  });
  fleet.start();
  await broker.until(() => new Set(broker.taken.map(({ device }) => device)).size === 3);
  await fleet.stop();
  const topic = (device: string) =>
    broker.taken.find((message) => message.device === device)?.topic;
  assert.equal(topic('demo/meter-1'), 't/demo/d/meter-1/telemetry');
  assert.equal(topic('demo/meter-2'), 'me/telemetry');
  const wrong = broker.taken.find(({ device }) => device === 'demo/meter-3');
  const [reading] = readingsOf(wrong?.payload ?? '') ?? [];
  const behind = Date.now() - (reading?.ts ?? 0);
  assert.ok(behind > 3_590_000 && behind < 3_620_000, String(behind));
});

test('the same seed sends the same values', async (t) => {
  const valuesOf = async () => {
    const broker = await createTestBroker(t);
    const fleet = await createFleet({
      fleet: fleetOf({ metrics: { t: { kind: 'float', base: 1, noise: 1, decimals: 9 } } }),
      credentials: credentialsOf('meter', 1),
      url: broker.url,
      seed: 11,
    });
    fleet.start();
    await broker.until(() => broker.taken.length >= 10);
    await fleet.stop();
    const all = broker.taken.flatMap(({ payload }) => readingsOf(payload) ?? []);
    return all.slice(0, 10).map(({ values }) => values.t);
  };
  assert.deepEqual(await valuesOf(), await valuesOf());
});

test('a bad URL is told', async () => {
  const options = { fleet: fleetOf(), credentials: credentialsOf('meter', 1) };
  await assert.rejects(
    createFleet({ ...options, url: 'http://x' }),
    /url: expected a URL such as mqtt/,
  );
});
