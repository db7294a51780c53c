import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createGateway, type GatewayFixture } from '../helpers/gateway.ts';
import { encode, publishBytes, RawClient } from '../helpers/raw-client.ts';
import { connect, connectPacket, inside, newDevice, received, until } from './raw.ts';

const READING = Buffer.from('{"temperature":20}');

/** Sends bytes on a new connection and waits until the gateway closes it. */
async function sendAndEnd(fixture: GatewayFixture, bytes: Buffer): Promise<RawClient> {
  const client = RawClient.open(fixture.gateway.port);
  client.socket.write(bytes);
  await client.ended();
  return client;
}

function refused(fixture: GatewayFixture, reason: string): number {
  return fixture.counters.refusedConnections.get(reason) ?? 0;
}

test('what is no CONNECT, or too large a one, closes the connection unanswered', async (t) => {
  const fixture = await createGateway(t, { config: { gateway: { mqtt: { port: 0 } } } });
  const { secret } = fixture.registry.addDevice({
    tenant: 'acme',
    device: 'd1',
    type: 'thermostat',
  });
  const bytes = encode(connectPacket('acme/d1', secret));
  const cases: [string, Buffer, string][] = [
    ['PUBLISH first', publishBytes('me/telemetry', READING, 1, 1), 'PACKET_UNEXPECTED'],
    ['PINGREQ first', Buffer.from([0xc0, 0]), 'PACKET_UNEXPECTED'],
    ['HTTP', Buffer.from('GET / HTTP/1.1\r\n\r\n'), 'PACKET_UNEXPECTED'],
    ['endless header', Buffer.from([0x10, 0xff, 0xff, 0xff, 0xff]), 'PACKET_MALFORMED'],
    ['large CONNECT', encode(connectPacket('acme/d1', 'x'.repeat(9_000))), 'PACKET_TOO_LARGE'],
    [
      'largest CONNECT, header alone',
      Buffer.from([0x10, 0xff, 0xff, 0xff, 0x7f]),
      'PACKET_TOO_LARGE',
    ],
  ];
  for (const [name, sent, reason] of cases) {
    const before = refused(fixture, reason);
    const client = await sendAndEnd(fixture, sent);
    assert.deepEqual(client.packets, [], name);
    assert.equal(refused(fixture, reason), before + 1, name);
  }
  // A TLS hello, garbage inside a frame of the right size, and a CONNECT cut short by its own lengths.
  await sendAndEnd(fixture, Buffer.from([0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc]));
  await sendAndEnd(fixture, Buffer.concat([Buffer.from([0x10, 20]), Buffer.alloc(20, 0xff)]));
  const short = Buffer.from(bytes);
  short.writeUInt16BE(60_000, 2);
  await sendAndEnd(fixture, short);
  await until(() => inside(fixture).gates.size === 0);
  assert.equal(fixture.counters.connections, 0);
});

test('a second CONNECT closes the connection [MQTT-3.1.0-2]', async (t) => {
  const fixture = await createGateway(t);
  const { client, secret } = await newDevice(fixture, 'd1');
  client.send(connectPacket('acme/d1', secret));
  await client.ended();
  assert.equal(client.packets.filter(({ cmd }) => cmd === 'connack').length, 1);
});

for (const fastPath of [true, false]) {
  const path = fastPath ? 'fast path' : 'broker path';

  test(`${path}: what breaks the protocol closes the connection, after what was good`, async (t) => {
    const fixture = await createGateway(t, { fastPath });
    const noId = publishBytes('me/telemetry', READING, 1, 0);
    const qos3 = publishBytes('me/telemetry', READING, 1, 7);
    qos3[0] = 0x36;
    const longTopic = publishBytes('me/telemetry', READING, 1, 7);
    longTopic.writeUInt16BE(5_000, 2);
    const cases: [string, Buffer][] = [
      ['QoS 3', qos3],
      ['message id 0', noId],
      ['a topic longer than its packet', longTopic],
      ['a PUBLISH without a topic', Buffer.from([0x30, 0])],
      ['a PUBLISH of one byte', Buffer.from([0x30, 1, 0])],
      ['a PUBLISH that ends before its id', Buffer.from([0x32, 3, 0, 1, 0x61])],
      ['an endless header', Buffer.from([0x32, 0x80, 0x80, 0x80, 0x80])],
      ['a reserved type', Buffer.from([0xf0, 0])],
      ['type 0', Buffer.from([0x00, 0])],
      ['a CONNACK', Buffer.from([0x20, 2, 0, 0])],
      ['a large SUBSCRIBE', Buffer.from([0x82, 0xff, 0x7f])],
    ];
    for (const [index, [name, bytes]] of cases.entries()) {
      const { client } = await newDevice(fixture, `d${index}`);
      client.socket.write(
        Buffer.concat([
          publishBytes('me/telemetry', READING, 1, 1),
          bytes,
          publishBytes('me/telemetry', READING, 1, 2),
        ]),
      );
      await client.ended();
      const acks = client.packets.filter(({ cmd }) => cmd === 'puback');
      assert.ok(acks.length <= 1, name);
    }
    // The fast path has taken the good one before each; the broker may not have.
    const readings = await fixture.records();
    if (fastPath) assert.equal(readings.length, cases.length);
    else assert.ok(readings.length <= cases.length);
    assert.ok(readings.every(({ kind }) => kind === 'reading'));
    await until(() => inside(fixture).gates.size === 0);
    assert.equal(inside(fixture).sessions.size, 0);
    assert.equal(inside(fixture).byDevice.size, 0);
  });

  test(`${path}: a connection in pieces of one byte, and one in a single piece`, async (t) => {
    const fixture = await createGateway(t, { fastPath });
    const whole = (device: string) => {
      const { secret } = fixture.registry.addDevice({
        tenant: 'acme',
        device,
        type: 'thermostat',
      });
      return Buffer.concat([
        encode(connectPacket(`acme/${device}`, secret)),
        encode({
          cmd: 'subscribe',
          messageId: 9,
          subscriptions: [{ topic: 'me/receipts', qos: 0 }],
        }),
        ...[1, 2, 3].map((id) => publishBytes('me/telemetry', READING, 1, id)),
        publishBytes('me/telemetry', READING, 2, 4),
        publishBytes('me/telemetry', Buffer.from('{"temperature":"x"}'), 1, 5),
        encode({ cmd: 'pubrel', messageId: 4 }),
        publishBytes('me/telemetry', READING, 0, 0),
        encode({ cmd: 'pingreq' }),
      ]);
    };
    const dribble = RawClient.open(fixture.gateway.port);
    for (const byte of whole('bytes')) {
      dribble.socket.write(Buffer.from([byte]));
      await new Promise((resolve) => setImmediate(resolve));
    }
    const burst = RawClient.open(fixture.gateway.port);
    burst.socket.write(whole('burst'));
    for (const client of [dribble, burst]) {
      await received(client, 'pingresp', 1);
      const acks = await received(client, 'puback', 4);
      assert.deepEqual(
        acks.map((packet) => packet.messageId),
        [1, 2, 3, 5],
      );
      await received(client, 'pubcomp', 1);
      const [receipt] = await received(client, 'publish', 1);
      assert.match(String(receipt?.cmd === 'publish' && receipt.payload), /VALUE_KIND/);
      client.close();
    }
    const records = await fixture.records();
    for (const device of ['bytes', 'burst']) {
      const kinds = records.filter((record) => record.device === device).map(({ kind }) => kind);
      assert.equal(kinds.filter((kind) => kind === 'reading').length, 5);
      assert.equal(kinds.filter((kind) => kind === 'deadLetter').length, 1);
    }
  });

  test(`${path}: a large packet is skipped without being held, and answered; a giant closes`, async (t) => {
    const fixture = await createGateway(t, {
      fastPath,
      config: { gateway: { mqtt: { port: 0 }, packetBytesMax: '32MiB', fastPath } },
    });
    const { client } = await newDevice(fixture, 'd1');
    const [gate] = inside(fixture).gates;
    assert.ok(gate);
    let heldMax = 0;
    gate.socket.on('data', () => {
      const { frames } = gate as unknown as { frames: { buffered: number } };
      heldMax = Math.max(heldMax, frames.buffered);
    });
    const rest = Buffer.alloc(2 ** 20, 0x61);
    for (const [id, qos] of [
      [1, 1],
      [2, 2],
    ] as const) {
      const large = publishBytes('me/telemetry', Buffer.concat(Array(24).fill(rest)), qos, id);
      client.socket.write(large);
      await received(client, qos === 1 ? 'puback' : 'pubrec', 1);
    }
    assert.ok(heldMax <= 70_000, `${heldMax} bytes were held`);
    client.send({ cmd: 'pubrel', messageId: 2 });
    await received(client, 'pubcomp', 1);
    await client.publish('me/telemetry', READING, 1);
    const records = await fixture.records();
    assert.deepEqual(
      records.map((record) =>
        record.kind === 'deadLetter' ? [record.code, record.payloadBytes] : record.kind,
      ),
      [['PAYLOAD_TOO_LARGE', 24 * 2 ** 20], ['PAYLOAD_TOO_LARGE', 24 * 2 ** 20], 'reading'],
    );
    for (const record of records) {
      if (record.kind === 'deadLetter')
        assert.equal(Buffer.from(record.payload, 'base64').length, 16 * 2 ** 10);
    }
    client.socket.write(publishBytes('me/telemetry', Buffer.alloc(33 * 2 ** 20), 1, 9));
    await until(() => client.closed);
    assert.equal(refused(fixture, 'PACKET_TOO_LARGE'), 1);
  });

  test(`${path}: a topic of many levels, and a very long one, are refused with a receipt`, async (t) => {
    const fixture = await createGateway(t, { fastPath });
    const { client } = await newDevice(fixture, 'd1');
    const deep = 'a/'.repeat(150);
    const long = `me/${'x'.repeat(60_000)}`;
    for (const topic of [deep, long]) {
      for (const qos of [0, 1, 2] as const) await client.publish(topic, READING, qos);
    }
    await client.publish('me/telemetry', READING, 1);
    assert.deepEqual(
      (await fixture.records()).map((record) =>
        record.kind === 'deadLetter' ? record.code : record.kind,
      ),
      [...Array(6).fill('TOPIC_NOT_ALLOWED'), 'reading'],
    );
    // The last topic is remembered, but not at that length.
    const [gate] = inside(fixture).gates as unknown as Set<{ topicBytes: Buffer }>;
    assert.ok((gate?.topicBytes.length ?? 0) < 300);
  });
}

test('a payload that nests too deep for the program itself is refused, and hurts nobody', async (t) => {
  const fixture = await createGateway(t);
  const { client } = await newDevice(fixture, 'd1');
  const nest = (n: number) => `${'['.repeat(n)}${']'.repeat(n)}`;
  const payloads = [
    `[{"temperature":1},{"temperature":${nest(30_000)}}]`,
    `{"devices":{"d1":[{"temperature":2},{"x":${nest(30_000)}}]}}`,
    `[{"temperature":3},{"ts":${nest(30_000)},"values":{"temperature":1}}]`,
    `[{"temperature":4},{"seq":${nest(30_000)},"values":{"temperature":1}}]`,
    `{"temperature":${nest(30_000)}}`,
    `{"values":{"temperature":1,"a":{"b":1},"c":${nest(30_000)}}}`,
  ];
  for (const payload of payloads) {
    assert.ok(payload.length < 64 * 2 ** 10);
    for (const qos of [1, 2] as const) await client.publish('me/telemetry', payload, qos);
  }
  await client.publish('me/state', nest(30_000), 1);
  const records = await fixture.records();
  const temperatures = records.flatMap((record) =>
    record.kind === 'reading' ? [record.values.temperature] : [],
  );
  assert.deepEqual(temperatures, [1, 1, 2, 2, 3, 3, 4, 4]);
  assert.equal(records.length - temperatures.length, 13);
});

test('one message of many refused readings does not grow without bound', async (t) => {
  const metrics = Object.fromEntries(
    Array.from({ length: 256 }, (_, i) => [`metric-with-a-rather-long-name-${i}`, {}]),
  );
  const fixture = await createGateway(t, { config: { types: { many: { metrics } } } });
  const { client } = await newDevice(fixture, 'd1', { type: 'many' });
  const payload = JSON.stringify(Array.from({ length: 1_000 }, () => ({ x: 1 })));
  await client.publish('me/telemetry', payload, 1);
  const records = await fixture.records();
  assert.equal(records.length, 1_000);
  const bytes = JSON.stringify(records).length;
  assert.ok(bytes < 1_200 * 1_000, `${payload.length} bytes became ${bytes}`);
});

test('an error of the directory makes the device send again, and hurts nobody else', async (t) => {
  const fixture = await createGateway(t);
  const { client: hub } = await newDevice(fixture, 'hub');
  const { client: other } = await newDevice(fixture, 'other');
  fixture.registry.device = () => {
    throw new Error('disk I/O error');
  };
  hub.socket.write(publishBytes('me/telemetry', Buffer.from('{"devices":{"leaf":{"a":1}}}'), 1, 1));
  await hub.ended();
  assert.deepEqual(
    hub.packets.map(({ cmd }) => cmd).filter((cmd) => cmd !== 'disconnect'),
    ['connack'],
  );
  await other.publish('me/telemetry', READING, 1);
  // Who connects now is asked to come later, not called a liar.
  const { connack } = await connect(fixture, 'acme/other', 'whatever');
  assert.equal(connack.returnCode, 3);
  assert.deepEqual(
    (await fixture.records()).map(({ device }) => device),
    ['other'],
  );
});
