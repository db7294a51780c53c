import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type Socket } from 'node:net';
import { test } from 'node:test';
import { fleetSchema } from '../../firmware-sim/fleet-schema.ts';
import { FLOOD_NAMES, layFlood } from '../../firmware-sim/floods.ts';
import { createFleet, type FleetInput, InputError } from '../../firmware-sim/index.ts';
import { createTestBroker, credentialsOf, readingsOf } from './test-broker.ts';

type Group = FleetInput['groups'][number];

function groupOf(group: Partial<Group> = {}): Group {
  return {
    type: 'meter',
    count: 1,
    period: '10ms',
    metrics: { t: { kind: 'float', base: 20 } },
    ...group,
  };
}

function laid(...floods: string[]) {
  const fleet = fleetSchema.parse({
    groups: [groupOf({ count: 3, exceptions: [{ count: 1, behaviour: { qos: 0 } }] })],
  });
  for (const flood of floods) layFlood(fleet, flood);
  return fleet;
}

test('each flood sets what a fleet file may set, with defaults', () => {
  assert.deepEqual(FLOOD_NAMES, [
    'step',
    'ramp',
    'sine',
    'herd',
    'noisy',
    'qos',
    'payloads',
    'storm',
  ]);
  assert.deepEqual(laid('step').rate, { profile: 'step', factor: 10, at: 10_000 });
  assert.deepEqual(laid('step,factor=2.5,at=1m,for=5s').rate, {
    profile: 'step',
    factor: 2.5,
    at: 60_000,
    for: 5_000,
  });
  assert.deepEqual(laid('ramp,over=5m').rate, {
    profile: 'ramp',
    factor: 10,
    at: 10_000,
    over: 300_000,
  });
  assert.deepEqual(laid('sine,factor=3').rate, { profile: 'sine', factor: 3, every: 60_000 });
  assert.equal(laid('herd').herd, true);
  const noisy = laid('noisy,tenant=a,factor=4,at=0s');
  assert.deepEqual(noisy.tenantRates, { a: { profile: 'step', factor: 4, at: 0 } });
  assert.deepEqual(noisy.rate, { profile: 'steady', factor: 1 });
  const mixed = laid('qos,0=3,2=0');
  assert.deepEqual(mixed.groups[0]?.behaviour.qos, [3, 1, 0]);
  assert.deepEqual(mixed.groups[0]?.exceptions[0]?.behaviour.qos, [3, 1, 0]);
  assert.equal(laid('payloads').groups[0]?.behaviour.payloads?.length, 4);
  assert.deepEqual(laid('storm,at=1s', 'storm,at=30s,every=20s,share=0.5').storms, [
    { at: 1_000, share: 1 },
    { at: 30_000, every: 20_000, share: 0.5 },
  ]);
});

for (const [text, expected] of [
  ['surge', /expected one of step, .*storm, got "surge"/],
  ['toString', /expected one of/],
  ['step,factor', /flood step: expected key=value, got "factor"/],
  ['step,factor=lots', /flood step: factor: expected a number, got "lots"/],
  ['step,factor=', /flood step: factor: expected a number/],
  ['step,at=10', /flood step: at: expected a duration/],
  ['step,speed=1', /flood step: .*unknown key speed/],
  ['noisy', /flood noisy: tenant: missing/],
  ['qos,0=0,1=0,2=0', /a weight above 0/],
  ['storm,share=2', /flood storm: share:/],
] as const) {
  test(`a flood that is wrong is said so: ${text}`, () => {
    assert.throws(
      () => laid(text),
      (error) => error instanceof InputError && expected.test(error.message),
    );
  });
}

test('one noisy tenant: its devices alone send more', async (t) => {
  const broker = await createTestBroker(t);
  const fleet = await createFleet({
    fleet: { connectOver: '0s', groups: [groupOf({ count: 4, period: '200ms' })] },
    credentials: [...credentialsOf('meter', 2, 'quiet'), ...credentialsOf('meter', 2, 'loud')],
    url: broker.url,
    floods: ['noisy,tenant=loud,factor=10,at=0s'],
  });
  t.after(() => fleet.stop());
  fleet.start();
  await broker.until(() => broker.taken.length >= 150, 10_000);
  await fleet.stop();
  const of = (tenant: string) =>
    broker.taken.filter(({ device }) => device.startsWith(tenant)).length;
  assert.ok(of('loud') > 5 * of('quiet'), `${of('loud')} and ${of('quiet')}`);
  assert.ok(of('quiet') > 0);
});

test('a mix of QoS, of sizes and of forms; every reading arrives once', async (t) => {
  const broker = await createTestBroker(t);
  const fleet = await createFleet({
    fleet: { connectOver: '0s', groups: [groupOf({ period: '3ms' })] },
    credentials: credentialsOf('meter', 1),
    url: broker.url,
    floods: ['qos,0=1,1=1,2=1', 'payloads,readings=7,bytes=5000,malformed=0'],
  });
  t.after(() => fleet.stop());
  fleet.start();
  await broker.until(() => broker.taken.length >= 300, 15_000);
  const summary = await fleet.stop();
  assert.equal(summary.complete, true);
  // Thirds of some 300 messages.
  assert.ok(summary.sentUnconfirmed > 50 && summary.sent > 100, JSON.stringify(summary));
  assert.equal(summary.readingsSampled, summary.readingsSent);
  await broker.until(() => broker.taken.length === summary.sent + summary.sentUnconfirmed);
  const sizes = broker.taken.map(({ payload }) => payload.length);
  assert.ok(sizes.some((size) => size === 5_000));
  assert.ok(sizes.some((size) => size < 100));
  const counts = broker.taken.map(({ payload }) => readingsOf(payload)?.length ?? 0);
  assert.ok(counts.includes(7) && counts.includes(1), String(counts));
  assert.equal(
    counts.reduce((sum, count) => sum + count, 0),
    summary.readingsSampled,
  );
  const flat = broker.taken.filter(({ payload }) => payload === '{"t":20}').length;
  assert.ok(flat > 10, `${flat} of ${broker.taken.length} without a time`);
});

test('QoS 0 to a gateway that does not read waits in the ring, not in the socket', async (t) => {
  const sockets: Socket[] = [];
  // It answers the CONNECT and reads no more.
  const server = createServer((socket) => {
    sockets.push(socket);
    socket.once('data', () => {
      socket.write(Buffer.from([0x20, 2, 0, 0]));
      socket.pause();
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  const address = server.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  const fleet = await createFleet({
    fleet: {
      connectOver: '0s',
      groups: [
        groupOf({
          period: '1ms',
          behaviour: {
            qos: 0,
            buffer: 100,
            payloads: [{ bytes: 500_000 }],
          },
        }),
      ],
    },
    credentials: credentialsOf('meter', 1),
    url: `mqtt://127.0.0.1:${port}`,
    drainTimeoutMs: 100,
  });
  t.after(() => fleet.stop());
  fleet.start();
  const end = performance.now() + 10_000;
  while (fleet.snapshot().droppedFromBuffer < 200 && performance.now() < end) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  const summary = await fleet.stop();
  assert.ok(summary.droppedFromBuffer >= 200, 'the ring is full');
  assert.ok(summary.sentUnconfirmed < 60, `${summary.sentUnconfirmed} were sent`);
});
