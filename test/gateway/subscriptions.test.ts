import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { IPublishPacket } from 'mqtt-packet';
import { createGateway } from '../helpers/gateway.ts';
import type { RawClient } from '../helpers/raw-client.ts';
import { connect, inside, newDevice, received, subscribe, until } from './raw.ts';

const REFUSED = 0x80;

function paths(packets: IPublishPacket[]): (string | undefined)[] {
  return packets.map(({ payload }) => JSON.parse(String(payload)).path);
}

function publishes(client: RawClient): IPublishPacket[] {
  return client.packets.filter((packet): packet is IPublishPacket => packet.cmd === 'publish');
}

/** Sends a refused message whose receipt can be told apart. */
function refusedOnce(client: RawClient, name: string): Promise<void> {
  return client.publish('me/telemetry', `{"temperature":1,"${name}":1}`, 1);
}

test('a device may listen to its own receipts and commands, and to nothing else', async (t) => {
  const fixture = await createGateway(t);
  const { client } = await newDevice(fixture, 'd1');
  const cases: [string, number][] = [
    ['me/receipts', 1],
    ['me/commands', 1],
    ['t/acme/d/d1/receipts', 1],
    ['t/acme/d/d1/commands', 1],
    ['me/telemetry', REFUSED],
    ['t/acme/d/d1/state', REFUSED],
    ['t/acme/d/d2/receipts', REFUSED],
    ['t/acme/d/d2/commands', REFUSED],
    ['t/other/d/d1/commands', REFUSED],
    ['t/acme/d/d1/commands/x', REFUSED],
    ['t/acme/d/d1', REFUSED],
    ['#', REFUSED],
    ['+', REFUSED],
    ['/#', REFUSED],
    ['+/+', REFUSED],
    ['t/#', REFUSED],
    ['t/acme/d/+/commands', REFUSED],
    ['t/acme/d/d1/+', REFUSED],
    ['t/acme/d/d1/#', REFUSED],
    ['me/#', REFUSED],
    ['me/+', REFUSED],
    ['$SYS/#', REFUSED],
    ['$share/g/me/commands', REFUSED],
    ['ME/receipts', REFUSED],
    ['__proto__', REFUSED],
  ];
  assert.deepEqual(
    await subscribe(
      client,
      cases.map(([topic]) => topic),
    ),
    cases.map(([, granted]) => granted),
  );
  assert.equal(client.closed, false);
  for (const qos of [0, 1, 2] as const)
    assert.deepEqual(await subscribe(client, ['me/receipts'], qos), [qos]);
});

test('receipts wait for the subscription, the last sixteen of them, in order', async (t) => {
  const fixture = await createGateway(t);
  const { client } = await newDevice(fixture, 'd1');
  for (let i = 0; i < 20; i++) await refusedOnce(client, `x${i}`);
  // Another subscription does not use them up.
  await subscribe(client, ['me/commands']);
  assert.equal(fixture.gateway.sendCommand('acme', 'd1', '"hello"'), true);
  await received(client, 'publish', 1);
  assert.equal(publishes(client)[0]?.topic, 'me/commands');
  await subscribe(client, ['me/receipts']);
  await refusedOnce(client, 'x20');
  await received(client, 'publish', 18);
  const receipts = publishes(client).slice(1);
  assert.deepEqual(
    paths(receipts),
    Array.from({ length: 17 }, (_, i) => `/x${i + 4}`),
  );
  for (const { topic, qos } of receipts) assert.deepEqual([topic, qos], ['me/receipts', 1]);
});

test('a receipt comes once, under the name and with the QoS that was subscribed', async (t) => {
  const fixture = await createGateway(t);
  const { client } = await newDevice(fixture, 'd1');
  await subscribe(client, ['me/receipts'], 0);
  await refusedOnce(client, 'x0');
  await subscribe(client, ['t/acme/d/d1/receipts'], 2);
  await refusedOnce(client, 'x1');
  const unsuback = client.next(({ cmd }) => cmd === 'unsuback');
  client.send({
    cmd: 'unsubscribe',
    messageId: 5,
    unsubscriptions: ['me/receipts', 't/acme/d/d1/receipts'],
  });
  await unsuback;
  await refusedOnce(client, 'x2');
  await subscribe(client, ['me/receipts'], 1);
  await received(client, 'publish', 3);
  assert.deepEqual(
    publishes(client).map(({ topic, qos }) => [topic, qos]),
    [
      ['me/receipts', 0],
      ['t/acme/d/d1/receipts', 1],
      ['me/receipts', 1],
    ],
  );
});

test('a command goes to the connections of its device that listen, and to nobody else', async (t) => {
  const fixture = await createGateway(t);
  const { gateway, registry } = fixture;
  const { client: one, secret } = await newDevice(fixture, 'd1');
  const { client: two } = await connect(fixture, 'acme/d1', secret, { clientId: 'two' });
  const { client: other } = await newDevice(fixture, 'd2');
  const { secret: foreign } = registry.addDevice({
    tenant: 'other',
    device: 'd1',
    type: 'thermostat',
  });
  const { client: stranger } = await connect(fixture, 'other/d1', foreign);
  for (const client of [other, stranger]) await subscribe(client, ['me/commands']);
  assert.equal(gateway.sendCommand('acme', 'd1', '"1"'), false);
  assert.equal(gateway.sendCommand('acme', 'nobody', '"1"'), false);
  await subscribe(one, ['t/acme/d/d1/commands'], 0);
  assert.equal(gateway.sendCommand('acme', 'd1', '"2"'), true);
  await subscribe(two, ['me/commands'], 1);
  assert.equal(gateway.sendCommand('acme', 'd1', '"3"'), true);
  await received(one, 'publish', 2);
  await received(two, 'publish', 1);
  one.close();
  two.close();
  await until(() => !inside(fixture).byDevice.has('acme/d1'));
  assert.equal(gateway.sendCommand('acme', 'd1', '"4"'), false);
  for (const client of [other, stranger]) {
    await client.publish('me/telemetry', '{"temperature":20}', 1);
    assert.deepEqual(publishes(client), []);
  }
});

test('a kept session listens again without a word, and gets what it has not acknowledged, marked', async (t) => {
  const fixture = await createGateway(t);
  const kept = { clean: false };
  const { client: first, secret } = await newDevice(fixture, 'd1', kept);
  // A filter that is refused is not granted by being remembered.
  await subscribe(first, ['t/acme/d/d2/commands', 'me/receipts', 'me/commands']);
  await refusedOnce(first, 'x0');
  await refusedOnce(first, 'x1');
  await received(first, 'publish', 2);
  const [acknowledged] = publishes(first);
  first.send({ cmd: 'puback', messageId: acknowledged?.messageId ?? 0 });
  await first.publish('me/telemetry', '{"temperature":20}', 1);
  first.close();
  await until(() => inside(fixture).gates.size === 0);

  const { client: second, connack } = await connect(fixture, 'acme/d1', secret, kept);
  assert.equal(connack.sessionPresent, true);
  await received(second, 'publish', 1);
  await refusedOnce(second, 'x2');
  await received(second, 'publish', 2);
  assert.deepEqual(paths(publishes(second)), ['/x1', '/x2']);
  assert.deepEqual(
    publishes(second).map(({ dup }) => dup),
    [true, false],
  );
  assert.equal(fixture.gateway.sendCommand('acme', 'd1', '"hello"'), true);
  await newDevice(fixture, 'd2');
  assert.equal(fixture.gateway.sendCommand('acme', 'd2', '"hello"'), false);
  second.close();

  const { client: clean, connack: anew } = await connect(fixture, 'acme/d1', secret);
  assert.equal(anew.sessionPresent, false);
  await refusedOnce(clean, 'x3');
  clean.close();
  await until(() => (inside(fixture).byDevice.get('acme/d1')?.size ?? 0) === 0);
  const { client: last, connack: forgotten } = await connect(fixture, 'acme/d1', secret, kept);
  assert.equal(forgotten.sessionPresent, false);
  assert.deepEqual(publishes(last), []);
});

test('a kept session loses no receipt to a command that overtakes it', async (t) => {
  const fixture = await createGateway(t);
  const { client } = await newDevice(fixture, 'd1', { clean: false });
  await subscribe(client, ['me/receipts'], 1);
  await subscribe(client, ['me/commands'], 0);
  const { appender } = fixture;
  const append = appender.append.bind(appender);
  // In the same turn as the receipt.
  appender.append = (request, done) => {
    append(request, done);
    fixture.gateway.sendCommand('acme', 'd1', '"hello"');
  };
  await refusedOnce(client, 'x0');
  await received(client, 'publish', 2);
  assert.deepEqual(
    publishes(client)
      .map(({ topic }) => topic)
      .sort(),
    ['me/commands', 'me/receipts'],
  );
});

test('a device that never acknowledges its receipts is remembered within bounds', async (t) => {
  const fixture = await createGateway(t);
  const { client } = await newDevice(fixture, 'd1', { clean: false });
  await subscribe(client, ['me/receipts']);
  for (let i = 0; i < 300; i++) await refusedOnce(client, `x${i}`);
  await received(client, 'publish', 300);
  assert.equal(client.closed, false);
  const state = inside(fixture).memory.of({ id: 'acme/d1/raw', clean: false });
  assert.equal(state.outgoing.length, 64);
});
