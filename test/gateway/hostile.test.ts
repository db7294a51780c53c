import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import mqtt, { type Packet } from 'mqtt-packet';
import type { ProtocolBroker } from '../../src/gateway/broker.ts';
import { createGateway, type GatewayFixture } from '../helpers/gateway.ts';
import { encode, PROTOCOL_VERSION, publishBytes, RawClient } from '../helpers/raw-client.ts';
import { connectPacket, inside, newDevice, subscribe, until } from './raw.ts';

/** What bounds one connection; many at a time, and memory, are in test/system/hostile.test.ts. */
const READING = Buffer.from('{"temperature":20}');

function refused(fixture: GatewayFixture, reason: string): number {
  return fixture.counters.refusedConnections.get(reason) ?? 0;
}

function brokerOf(fixture: GatewayFixture): ProtocolBroker {
  return (fixture.gateway as unknown as { broker: ProtocolBroker }).broker;
}

test('packets other than publishes have a budget: a flood of them waits in the socket', async (t) => {
  const fixture = await createGateway(t);
  const { client } = await newDevice(fixture, 'd1');
  const [gate] = inside(fixture).gates;
  assert.ok(gate);
  let pings = 0;
  brokerOf(fixture).on('ping', () => pings++);
  const started = performance.now();
  client.socket.write(Buffer.concat(Array(50_000).fill(encode({ cmd: 'pingreq' }))));
  await until(() => gate.waiting);
  await sleep(500);
  const seconds = (performance.now() - started) / 1_000;
  // 32 KiB of burst and 8 KiB a second, at 34 bytes each.
  assert.ok(pings >= 960 && pings < 970 + 300 * seconds, `${pings} in ${seconds} s`);
  // It is slowed down, not cut, and goes on with what it had to say.
  const before = pings;
  await until(() => pings > before);
  assert.equal(client.closed, false);
  const other = await newDevice(fixture, 'd2');
  await other.client.publish('me/telemetry', READING, 1);
});

test('a few large SUBSCRIBEs use the budget up, too', async (t) => {
  const fixture = await createGateway(t);
  const { client } = await newDevice(fixture, 'd1');
  let taken = 0;
  brokerOf(fixture).on('subscribe', () => taken++);
  const subscriptions = Array.from({ length: 780 }, (_, i) => ({
    topic: i.toString(36),
    qos: 1 as const,
  }));
  const large = Array.from({ length: 500 }, (_, i) =>
    encode({ cmd: 'subscribe', messageId: i + 1, subscriptions }),
  );
  assert.ok(large.every(({ length }) => length > 3_500 && length < 4_096));
  client.socket.write(Buffer.concat(large));
  await until(() => taken >= 8);
  await sleep(500);
  assert.ok(taken < 30, `${taken} were taken`);
  const granted = client.packets.find(({ cmd }) => cmd === 'suback');
  assert.ok(granted?.cmd === 'suback' && granted.granted.every((code) => Number(code) >= 0x80));
});

test('acknowledgements that are due cost nothing: thousands of QoS 2 publishes flow', async (t) => {
  const fixture = await createGateway(t);
  const { client } = await newDevice(fixture, 'd1');
  const COUNT = 5_000;
  client.socket.on('data', () => {});
  let released = 0;
  const all = new Promise<void>((resolve) => {
    const onPacket = (packet: Packet) => {
      if (packet.cmd === 'pubrec') client.send({ cmd: 'pubrel', messageId: packet.messageId ?? 0 });
      if (packet.cmd !== 'pubcomp') return;
      released++;
      if (released === COUNT) resolve();
    };
    const parser = mqtt.parser({ protocolVersion: PROTOCOL_VERSION });
    parser.on('packet', onPacket);
    client.socket.on('data', (chunk) => parser.parse(chunk));
  });
  const started = performance.now();
  for (let id = 1; id <= COUNT; id++) {
    client.socket.write(publishBytes('me/telemetry', READING, 2, id));
    if (id % 500 === 0) await until(() => released > id - 600, `${released} released`);
  }
  await all;
  // At the budget's own pace they would take 17 s.
  assert.ok(performance.now() - started < 15_000);
  assert.equal((await fixture.records()).length, COUNT);
});

test('a packet that takes too long to come closes its connection; one that waits for us does not', async (t) => {
  const fixture = await createGateway(t, {
    config: { gateway: { mqtt: { port: 0 }, packetTimeout: '1s' } },
  });
  const slow = await newDevice(fixture, 'slow');
  const header = await newDevice(fixture, 'header');
  const busy = await newDevice(fixture, 'busy');
  const packet = publishBytes('me/telemetry', READING, 1, 1);
  const timers = [
    // A byte at a time.
    setInterval(() => slow.client.socket.write(Buffer.from([0x20])), 100),
    // Each ends one packet and begins the next: none of them takes long.
    setInterval(
      () => busy.client.socket.write(Buffer.concat([packet.subarray(5), packet.subarray(0, 5)])),
      100,
    ),
  ];
  t.after(() => timers.forEach(clearInterval));
  busy.client.socket.write(packet.subarray(0, 5));
  slow.client.socket.write(
    publishBytes('me/telemetry', Buffer.alloc(50_000), 1, 1).subarray(0, 900),
  );
  header.client.socket.write(Buffer.from([0x32]));
  await until(() => slow.client.closed && header.client.closed);
  assert.equal(refused(fixture, 'PACKET_TOO_SLOW'), 2);
  await sleep(1_500);
  assert.equal(busy.client.closed, false);
});

test('of connections without a CONNECT only so many stay, the youngest; others get in', async (t) => {
  const fixture = await createGateway(t, {
    config: { gateway: { mqtt: { port: 0 }, connectingMax: 10 } },
  });
  const { client: old } = await newDevice(fixture, 'old');
  const silent = Array.from({ length: 30 }, () => RawClient.open(fixture.gateway.port));
  // Half a CONNECT is none.
  const half = encode(connectPacket('acme/d1', 'secret')).subarray(0, -1);
  for (const [index, client] of silent.entries()) if (index % 2 === 0) client.socket.write(half);
  await until(() => silent.filter(({ closed }) => closed).length === 20);
  assert.equal(refused(fixture, 'CONNECTING_MAX'), 20);
  assert.deepEqual(
    silent.map(({ closed }) => closed),
    Array.from({ length: 30 }, (_, i) => i < 20),
  );
  const { client } = await newDevice(fixture, 'new');
  await Promise.all([client, old].map((each) => each.publish('me/telemetry', READING, 1)));
  for (const each of silent) each.close();
});

test('a CONNECT whose secret takes too long to verify is cut', async (t) => {
  const fixture = await createGateway(t, {
    config: { gateway: { mqtt: { port: 0 }, connectTimeout: '300ms' } },
  });
  const { options } = fixture.gateway as unknown as { options: { verifier: object } };
  options.verifier = { verify: () => new Promise(() => {}) };
  const client = RawClient.open(fixture.gateway.port);
  client.send(connectPacket('acme/d1', 'secret'));
  await until(() => client.closed);
  assert.equal(refused(fixture, 'CONNECT_TOO_SLOW'), 1);
  assert.equal(inside(fixture).gates.size, 0);
});

test('what comes behind a CONNECT waits unread until it is accepted', async (t) => {
  const fixture = await createGateway(t);
  const { secret } = fixture.registry.addDevice({
    tenant: 'acme',
    device: 'd1',
    type: 'thermostat',
  });
  const { options } = fixture.gateway as unknown as {
    options: { verifier: { verify(presented: object): Promise<unknown> } };
  };
  const { verifier } = options;
  let accept: () => void = () => {};
  const accepted = new Promise<void>((resolve) => {
    accept = resolve;
  });
  options.verifier = { verify: (presented) => accepted.then(() => verifier.verify(presented)) };
  const client = RawClient.open(fixture.gateway.port);
  client.send(connectPacket('acme/d1', secret));
  const COUNT = 20_000;
  const packets = Array.from({ length: COUNT }, (_, i) =>
    publishBytes('me/telemetry', READING, 1, 1 + i),
  );
  client.socket.write(Buffer.concat(packets));
  await until(() => [...inside(fixture).gates].some(({ waiting }) => waiting));
  await sleep(200);
  const [gate] = inside(fixture).gates;
  const { frames } = gate as unknown as { frames: { buffered: number } };
  assert.ok(frames.buffered <= 64 * 1_024, `${frames.buffered} bytes wait`);
  assert.equal(fixture.counters.messages, 0);
  accept();
  await until(() => client.packets.filter(({ cmd }) => cmd === 'puback').length === COUNT);
});

test('a peer that closes its half is closed, whatever it was about to be told', async (t) => {
  const fixture = await createGateway(t);
  const { client } = await newDevice(fixture, 'd1');
  await subscribe(client, ['me/receipts']);
  client.socket.pause();
  for (let id = 1; id <= 100; id++) {
    client.socket.write(publishBytes('me/telemetry', Buffer.from('{'), 1, id));
  }
  client.socket.end();
  await until(() => inside(fixture).gates.size === 0);
  assert.equal(inside(fixture).sessions.size, 0);
  assert.equal(inside(fixture).byDevice.size, 0);
});

test('retained messages are kept nowhere, whatever their topic', async (t) => {
  const fixture = await createGateway(t);
  const { client } = await newDevice(fixture, 'd1');
  for (let i = 0; i < 1_000; i++) {
    client.send({
      cmd: 'publish',
      topic: i % 2 === 0 ? 'me/telemetry' : `t/acme/d/d1/x/${i}`,
      payload: READING,
      qos: i % 3 === 0 ? 2 : 1,
      messageId: i + 1,
      retain: true,
      dup: false,
    } as Packet);
  }
  await until(() => fixture.counters.messages === 1_000);
  const retained = brokerOf(fixture) as unknown as { persistence: object };
  assert.equal(retained.persistence, inside(fixture).memory);
  const second = await newDevice(fixture, 'd3');
  assert.deepEqual(
    await subscribe(second.client, ['me/telemetry', '#', 'me/receipts']),
    [0x80, 0x80, 1],
  );
  await second.client.publish('me/telemetry', READING, 1);
  assert.ok(second.client.packets.every(({ cmd }) => cmd !== 'publish'));
});

test('a flood of violations is counted, and logged once in a while', async (t) => {
  const lines: object[] = [];
  const fixture = await createGateway(t);
  const { options } = fixture.gateway as unknown as {
    options: { logger: { warn(fields: object): void } };
  };
  options.logger = { ...options.logger, warn: (fields) => lines.push(fields) };
  for (let i = 0; i < 50; i++) {
    const client = RawClient.open(fixture.gateway.port);
    client.socket.write(Buffer.from([0x30, 0]));
    await until(() => client.closed);
  }
  assert.equal(refused(fixture, 'PACKET_UNEXPECTED'), 50);
  assert.ok(lines.length >= 1 && lines.length < 25, `${lines.length} lines`);
});
