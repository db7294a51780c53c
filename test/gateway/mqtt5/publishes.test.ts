import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import mqtt, { ErrorWithReasonCode } from 'mqtt';
import type {
  IConnectPacket,
  IPubackPacket,
  IPublishPacket,
  ISubackPacket,
  IUnsubackPacket,
  UserProperties,
} from 'mqtt-packet';
import { packetOf } from '../../../src/gateway/mqtt5/packets.ts';
import { createGateway, type GatewayFixture } from '../../helpers/gateway.ts';
import { publishBytes, type RawClient } from '../../helpers/raw-client.ts';
import { connect, inside, newDevice, received, until } from '../raw.ts';

const READING = '{"temperature":20}';

async function five(
  fixture: GatewayFixture,
  device = 'd1',
  more: Partial<IConnectPacket> = {},
): Promise<RawClient> {
  return (await newDevice(fixture, device, { ...more, protocolVersion: 5 })).client;
}

/** Sends a publish and returns its PUBACK or PUBREC. */
async function answer(
  client: RawClient,
  { topic = 'me/telemetry', payload = READING, qos = 1, messageId = 1 } = {} as {
    topic?: string;
    payload?: string | Buffer;
    qos?: 1 | 2;
    messageId?: number;
  },
): Promise<IPubackPacket> {
  const next = client.next(
    (packet) => packet.cmd === (qos === 1 ? 'puback' : 'pubrec') && packet.messageId === messageId,
  );
  client.socket.write(publishBytes(topic, Buffer.from(payload), qos, messageId, 5));
  return (await next) as IPubackPacket;
}

function publish(client: RawClient, packet: Partial<IPublishPacket>): void {
  client.send({
    cmd: 'publish',
    topic: 'me/telemetry',
    payload: READING,
    qos: 1,
    messageId: 1,
    retain: false,
    dup: false,
    ...packet,
  });
}

async function listen(client: RawClient, ...topics: string[]): Promise<ISubackPacket> {
  const suback = client.next(({ cmd }) => cmd === 'suback');
  client.send({
    cmd: 'subscribe',
    messageId: 1,
    subscriptions: topics.map((topic) => ({ topic, qos: 1, nl: true, rap: true, rh: 2 })),
  });
  return (await suback) as ISubackPacket;
}

/** What a library would not write: filters that are not valid, at QoS 1. */
function subscribeBytes(messageId: number, filters: string[]): Buffer {
  const parts = filters.flatMap((filter) => [
    Buffer.from([0, filter.length]),
    Buffer.from(filter),
    Buffer.from([1]),
  ]);
  return packetOf(0x82, Buffer.from([messageId >> 8, messageId & 0xff, 0]), ...parts);
}

async function kinds(fixture: GatewayFixture): Promise<string[]> {
  return (await fixture.records()).map((record) =>
    record.kind === 'deadLetter' ? record.code : record.kind,
  );
}

/** Keeps the commits of records with this text from being called back until it is told to. */
function hold(fixture: GatewayFixture, text: string): () => void {
  const { appender } = fixture;
  const append = appender.append.bind(appender);
  const held: (() => void)[] = [];
  let holding = true;
  appender.append = (request, done) =>
    append(request, (error) => {
      const waits = holding && request.records.some((record) => record.includes(text));
      if (waits) held.push(() => done(error));
      else done(error);
    });
  return () => {
    holding = false;
    for (const go of held.splice(0)) go();
  };
}

for (const fastPath of [true, false]) {
  const path = fastPath ? 'fast path' : 'broker path';

  test(`${path}: a refused message is acknowledged with the reason`, async (t) => {
    const fixture = await createGateway(t, { fastPath });
    const client = await five(fixture);
    const large = Buffer.alloc(65 * 1_024, 0x20);
    const cases: [Parameters<typeof answer>[1], number, RegExp | undefined][] = [
      [{}, 0, undefined],
      [{ payload: '{' }, 0x99, /^JSON_INVALID/],
      [{ payload: '' }, 0x99, /^PAYLOAD_EMPTY/],
      [
        { payload: '{"temperature":200}' },
        0x83,
        /^VALUE_BOUNDS at \/temperature: .*Expected .*85.*Came: .*200/,
      ],
      [{ payload: '{"temperature":20,"what":1}' }, 0x83, /^METRIC_UNKNOWN at \/what/],
      [{ topic: 't/acme/d/d2/telemetry' }, 0x87, /^TOPIC_NOT_ALLOWED/],
      [{ topic: 'a/+' }, 0x90, /^TOPIC_INVALID/],
      [{ payload: large }, 0x97, /^PAYLOAD_TOO_LARGE.*65536 bytes.*66560 bytes/],
      [{ topic: 'me/state', payload: 'x' }, 0x99, /^STATE_INVALID/],
      // In part: it is taken, and the reason names what was not.
      [{ payload: `[${READING},{"temperature":"x"}]` }, 0, /^in part VALUE_KIND at \/1/],
      [{}, 0, undefined],
    ];
    let messageId = 0;
    for (const qos of [1, 2] as const) {
      for (const [sent, code, words] of cases) {
        messageId++;
        const { reasonCode, properties } = await answer(client, { ...sent, qos, messageId });
        assert.equal(reasonCode, code, `${qos} ${JSON.stringify(sent).slice(0, 80)}`);
        const reason = properties?.reasonString;
        if (words === undefined) assert.equal(reason, undefined);
        else assert.match(reason ?? '', words);
      }
    }
    const expected = cases.flatMap(([, , words]) => {
      const code = words?.source.match(/[A-Z]+_[A-Z_]+/)?.[0];
      return words?.source.includes('in part') ? ['reading', code] : [code ?? 'reading'];
    });
    assert.deepEqual(await kinds(fixture), [...expected, ...expected]);
  });

  test(`${path}: a refused message at QoS 2 ends with its PUBREC, and its id is free`, async (t) => {
    const fixture = await createGateway(t, { fastPath });
    const client = await five(fixture);
    for (const payload of ['{', READING]) {
      const { reasonCode } = await answer(client, { payload, qos: 2, messageId: 7 });
      assert.equal(reasonCode, payload === '{' ? 0x99 : 0);
    }
    client.send({ cmd: 'pubrel', messageId: 7 });
    await received(client, 'pubcomp', 1);
    await answer(client, { messageId: 8 });
    // The broker's own end of the refused one was kept from the device.
    assert.deepEqual(
      client.packets.map(({ cmd }) => cmd),
      ['connack', 'pubrec', 'pubrec', 'pubcomp', 'puback'],
    );
    assert.deepEqual(await kinds(fixture), ['JSON_INVALID', 'reading', 'reading']);
    // Who releases a refused one all the same doesn't hear of success.
    for (const sent of [{ payload: '{' }, { topic: 'a/+' }])
      await answer(client, { ...sent, qos: 2, messageId: 9 });
    client.send({ cmd: 'pubrel', messageId: 9 });
    client.send({ cmd: 'pubrel', messageId: 10 });
    const pubcomps = (await received(client, 'pubcomp', 3)) as IPubackPacket[];
    assert.deepEqual(
      pubcomps.map(({ messageId, reasonCode }) => [messageId, reasonCode]),
      [
        [7, 0],
        [9, 0x92],
        [10, 0],
      ],
    );
  });

  test(`${path}: an id that a refusal has freed is taken anew while others wait for their commit`, async (t) => {
    const fixture = await createGateway(t, { fastPath });
    const commit = hold(fixture, '"temperature":33');
    const client = await five(fixture);
    const waiting = [100, 101, 102, 103, 104].map((messageId) =>
      publishBytes('me/telemetry', Buffer.from('{"temperature":33}'), 2, messageId, 5),
    );
    const refused = answer(client, { payload: '{', qos: 2, messageId: 7 });
    client.socket.write(Buffer.concat(waiting));
    assert.equal((await refused).reasonCode, 0x99);
    const taken = answer(client, { qos: 2, messageId: 7 });
    await until(() => fixture.counters.messages >= 6);
    await sleep(50);
    commit();
    assert.equal((await taken).reasonCode, 0);
    const readings = (await fixture.records()).filter(({ kind }) => kind === 'reading');
    assert.equal(readings.length, 6);
  });

  test(`${path}: a refused message at QoS 2 that comes again is refused again, and is one`, async (t) => {
    const fixture = await createGateway(t, { fastPath });
    const kept = { clean: false, properties: { sessionExpiryInterval: 100 } };
    const { client, secret } = await newDevice(fixture, 'd1', { protocolVersion: 5, ...kept });
    const again = async () =>
      (await connect(fixture, 'acme/d1', secret, { protocolVersion: 5, ...kept })).client;
    // It breaks before the commit, and then before the PUBREC.
    const commit = hold(fixture, 'JSON_INVALID');
    client.socket.write(publishBytes('me/telemetry', Buffer.from('{'), 2, 7, 5));
    await until(() => fixture.counters.messages === 1);
    client.close();
    const second = await again();
    second.socket.write(publishBytes('me/telemetry', Buffer.from('{'), 2, 7, 5));
    await sleep(50);
    second.close();
    await until(() => inside(fixture).gates.size === 0);
    commit();
    await sleep(50);
    const last = await again();
    const { reasonCode } = await answer(last, { payload: '{', qos: 2, messageId: 7 });
    assert.equal(reasonCode, 0x99);
    assert.deepEqual(await kinds(fixture), ['JSON_INVALID']);
    // Also twice in one breath, which nobody may.
    const twice = Array(2).fill(publishBytes('me/telemetry', Buffer.from('{'), 2, 8, 5));
    last.socket.write(Buffer.concat(twice));
    const pubrecs = (await received(last, 'pubrec', 3)) as IPubackPacket[];
    assert.deepEqual(
      pubrecs.map(({ reasonCode }) => reasonCode),
      [0x99, 0x99, 0x99],
    );
    const { reasonCode: anew } = await answer(last, { qos: 2, messageId: 8 });
    assert.equal(anew, 0);
  });

  test(`${path}: a topic is said once, and then by its alias`, async (t) => {
    const fixture = await createGateway(t, { fastPath });
    const client = await five(fixture);
    let messageId = 0;
    const send = async (topic: string, topicAlias: number, qos: 0 | 1 | 2) => {
      messageId++;
      const came = fixture.counters.messages;
      publish(client, { topic, qos, messageId, properties: { topicAlias } });
      await until(() => fixture.counters.messages === came + 1);
    };
    for (const qos of [0, 1, 2] as const) {
      await send('me/telemetry', 1, qos);
      await send('', 1, qos);
      await send('t/acme/d/d2/telemetry', 16, qos);
      await send('', 16, qos);
      await send('a/+', 3, qos);
      await send('', 3, qos);
      await send('', 1, qos);
      // Redefined.
      await send('t/acme/d/d1/telemetry', 16, qos);
      await send('', 16, qos);
    }
    await answer(client, { messageId: 99 });
    const [mine, other, invalid] = ['reading', 'TOPIC_NOT_ALLOWED', 'TOPIC_INVALID'];
    const each = [mine, mine, other, other, invalid, invalid, mine, mine, mine];
    assert.deepEqual((await kinds(fixture)).sort(), [...each, ...each, ...each, mine].sort());
    assert.equal(client.closed, false);
  });
}

test('an alias that is not allowed, or not known, or not well-formed, closes the connection', async (t) => {
  const fixture = await createGateway(t);
  const topic = (name: string, ...properties: number[]) => {
    const body = Buffer.concat([
      Buffer.from([0, name.length]),
      Buffer.from(name),
      Buffer.from([properties.length, ...properties]),
      Buffer.from(READING),
    ]);
    return Buffer.concat([Buffer.from([0x30, body.length]), body]);
  };
  const { secret } = await newDevice(fixture, 'd1', { protocolVersion: 5 });
  for (const [bytes, code] of [
    [topic('me/telemetry', 0x23, 0, 17), 0x94],
    [topic('me/telemetry', 0x23, 0, 0), 0x94],
    [topic('', 0x23, 0, 5), 0x82],
    [topic('me/telemetry', 0x23, 0), 0x81],
    [topic('me/telemetry', 0x23, 0, 1, 0x23, 0, 1), 0x82],
    // A subscription identifier is a server's.
    [topic('me/telemetry', 0x0b, 1), 0x81],
    [topic('me/telemetry', 0x26, 0, 1, 97, 0, 200), 0x81],
  ] as const) {
    const { client } = await connect(fixture, 'acme/d1', secret, { protocolVersion: 5 });
    client.socket.write(bytes);
    await client.ended();
    const last = client.packets.at(-1);
    assert.equal(last?.cmd === 'disconnect' && last.reasonCode, code, bytes.toString('hex'));
  }
  assert.deepEqual(await kinds(fixture), []);
});

test('properties that say nothing here are read over, within bounds', async (t) => {
  const fixture = await createGateway(t);
  const client = await five(fixture);
  const userProperties: UserProperties = { a: ['1', '2'], b: 'x'.repeat(1_000) };
  publish(client, {
    properties: {
      payloadFormatIndicator: true,
      messageExpiryInterval: 5,
      responseTopic: 'me/receipts',
      correlationData: Buffer.from('id'),
      contentType: 'application/json',
      userProperties,
    },
  });
  await received(client, 'puback', 1);
  // As large as the payload may be, with properties beside it.
  const padded = `${READING}${' '.repeat(64 * 1_024 - READING.length)}`;
  publish(client, { payload: padded, messageId: 2, properties: { userProperties } });
  await received(client, 'puback', 2);
  assert.deepEqual(await kinds(fixture), ['reading', 'reading']);
});

test('a device that wants no reasons, or small packets, gets codes alone', async (t) => {
  const fixture = await createGateway(t);
  for (const [device, properties] of [
    ['d1', { requestProblemInformation: false }],
    ['d2', { maximumPacketSize: 40 }],
  ] as const) {
    const client = await five(fixture, device, { properties });
    const { reasonCode, properties: said } = await answer(client, { payload: '{' });
    assert.deepEqual([reasonCode, said], [0x99, undefined]);
  }
});

test('a receipt larger than the device takes is left out, and others follow', async (t) => {
  const fixture = await createGateway(t);
  const { client, secret } = await newDevice(fixture, 'd1', {
    protocolVersion: 5,
    clean: false,
    properties: { maximumPacketSize: 300, sessionExpiryInterval: 100 },
  });
  await listen(client, 'me/receipts', 'me/commands');
  await answer(client, { payload: `{"${'x'.repeat(150)}":1}`, messageId: 2 });
  fixture.gateway.sendCommand('acme', 'd1', '"hello"');
  await received(client, 'publish', 1);
  const [first] = client.packets.filter(({ cmd }) => cmd === 'publish') as IPublishPacket[];
  assert.equal(first?.topic, 'me/commands');
  client.send({ cmd: 'puback', messageId: first?.messageId ?? 0 });
  await answer(client, { messageId: 3 });
  client.close();
  await until(() => inside(fixture).gates.size === 0);
  // Nothing of it comes again.
  const { client: again, connack } = await connect(fixture, 'acme/d1', secret, {
    protocolVersion: 5,
    clean: false,
  });
  assert.equal(connack.sessionPresent, true);
  await answer(again, { messageId: 4 });
  assert.ok(again.packets.every(({ cmd }) => cmd !== 'publish'));
});

test('a device gets as many at once as it takes', async (t) => {
  const fixture = await createGateway(t);
  const client = await five(fixture, 'd1', { properties: { receiveMaximum: 2 } });
  await listen(client, 'me/commands');
  for (let i = 0; i < 5; i++) fixture.gateway.sendCommand('acme', 'd1', `"${i}"`);
  const commands = () =>
    client.packets.filter((packet): packet is IPublishPacket => packet.cmd === 'publish');
  for (const due of [2, 3, 4, 5]) {
    await received(client, 'publish', due);
    await answer(client, { messageId: due });
    assert.equal(commands().length, due);
    const [oldest] = commands().slice(due - 2);
    client.send({ cmd: 'puback', messageId: oldest?.messageId ?? 0 });
  }
  assert.deepEqual(
    commands().map(({ payload }) => payload.toString()),
    ['"0"', '"1"', '"2"', '"3"', '"4"'],
  );
});

test('each filter gets its own answer', async (t) => {
  const fixture = await createGateway(t);
  const client = await five(fixture);
  const suback = await listen(
    client,
    'me/receipts',
    '#',
    'me/receipts',
    '$share/g/me/commands',
    'me/telemetry',
    'me/commands',
  );
  assert.deepEqual(suback.granted, [1, 0xa2, 1, 0x9e, 0x87, 1]);
  client.send({
    cmd: 'unsubscribe',
    messageId: 5,
    unsubscriptions: ['me/receipts', 'me/commands', 'me/receipts'],
  });
  const [unsuback] = (await received(client, 'unsuback', 1)) as IUnsubackPacket[];
  assert.deepEqual([unsuback?.messageId, unsuback?.granted], [5, [0, 0, 0]]);
  // Filters that nobody may have, and those that are none, are answered beside the broker.
  const odd = ['#', 'a/#/b', '', 'a+', '$share//x', `a${'/'.repeat(100)}`, '+/+/#', 'me/receipts'];
  const next = client.next(({ cmd }) => cmd === 'suback');
  client.socket.write(subscribeBytes(7, odd));
  const codes = [0xa2, 0x8f, 0x8f, 0x8f, 0x9e, 0x87, 0xa2, 1];
  assert.deepEqual(((await next) as ISubackPacket).granted, codes);
  const none = client.next(({ cmd }) => cmd === 'suback');
  client.socket.write(subscribeBytes(8, odd.slice(0, 3)));
  assert.deepEqual(((await none) as ISubackPacket).granted, codes.slice(0, 3));
  client.send({ cmd: 'unsubscribe', messageId: 9, unsubscriptions: ['#', 'a/#/b'] });
  const [, last] = (await received(client, 'unsuback', 2)) as IUnsubackPacket[];
  assert.deepEqual(last?.granted, [0x11, 0x8f]);
  assert.equal(fixture.gateway.sendCommand('acme', 'd1', '"x"'), false);
});

test('each of many requests at once gets its answer', async (t) => {
  const fixture = await createGateway(t);
  const client = await five(fixture);
  for (let id = 1; id <= 300; id++) client.socket.write(subscribeBytes(id, ['me/receipts']));
  const said = () => client.packets.filter(({ cmd }) => cmd === 'suback') as ISubackPacket[];
  await until(() => said().length === 300);
  const subacks = said();
  assert.ok(subacks.every(({ granted }) => granted[0] === 1));
  // An id whose request is not answered yet can't be used for another one.
  client.socket.write(
    Buffer.concat([subscribeBytes(1, ['me/receipts']), subscribeBytes(1, ['me/commands'])]),
  );
  await client.ended();
  const end = client.packets.at(-1);
  assert.equal(end?.cmd === 'disconnect' && end.reasonCode, 0x82);
});

test('a device that is slowed down learns the limit with its next acknowledgement', async (t) => {
  const fixture = await createGateway(t, {
    config: { quotas: { default: { device: { messages: ['2/1s'] } } } },
  });
  const client = await five(fixture);
  const reasons: (string | undefined)[] = [];
  for (let messageId = 1; messageId <= 6; messageId++) {
    const { reasonCode, properties } = await answer(client, { messageId });
    // It was taken all the same.
    assert.equal(reasonCode, 0);
    reasons.push(properties?.reasonString);
  }
  const told = reasons.filter((reason) => reason !== undefined);
  assert.equal(told.length, 1);
  assert.match(told[0] ?? '', /^DEVICE_MESSAGES: .*at most 2 messages in 1s/);
});

test('properties count as bytes of their message', async (t) => {
  const fixture = await createGateway(t, {
    config: { quotas: { default: { device: { bytes: ['6KiB/1s'] } } } },
  });
  const client = await five(fixture);
  const userProperties = { a: 'x'.repeat(3_900) };
  for (let messageId = 1; messageId <= 4; messageId++)
    publish(client, { messageId, properties: { userProperties } });
  const pubacks = (await received(client, 'puback', 4)) as IPubackPacket[];
  const words = pubacks.map(({ properties }) => properties?.reasonString ?? '');
  assert.match(words.join(''), /^DEVICE_BYTES/);
});

test('a client library of MQTT 5 hears of a refusal, and goes on', async (t) => {
  const fixture = await createGateway(t);
  const { secret } = fixture.registry.addDevice({
    tenant: 'acme',
    device: 'd1',
    type: 'thermostat',
  });
  const client = await mqtt.connectAsync(fixture.url, {
    protocolVersion: 5,
    username: 'acme/d1',
    password: secret,
    clientId: '',
    reconnectPeriod: 0,
    properties: { topicAliasMaximum: 4 },
    autoAssignTopicAlias: true,
  });
  t.after(() => client.end(true));
  for (const qos of [0, 1, 2] as const) {
    await client.publishAsync('t/acme/d/d1/telemetry', READING, { qos });
    if (qos === 0) continue;
    await assert.rejects(
      client.publishAsync('t/acme/d/d1/telemetry', '{"temperature":"hot"}', { qos }),
      (error) => error instanceof ErrorWithReasonCode && error.code === 0x83,
    );
  }
  await client.publishAsync('t/acme/d/d1/telemetry', READING, { qos: 1 });
  assert.deepEqual(
    (await kinds(fixture)).sort(),
    ['VALUE_KIND', 'VALUE_KIND', 'reading', 'reading', 'reading', 'reading'].sort(),
  );
});
