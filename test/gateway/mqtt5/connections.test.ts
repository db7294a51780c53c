import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { IConnackPacket, IConnectPacket, IDisconnectPacket, Packet } from 'mqtt-packet';
import { createGateway, type GatewayFixture } from '../../helpers/gateway.ts';
import { publishBytes, RawClient } from '../../helpers/raw-client.ts';
import { connect, connectPacket, inside, received, until } from '../raw.ts';

const FIVE = { protocolVersion: 5 } as const;
const KEPT = { ...FIVE, clean: false, properties: { sessionExpiryInterval: 0xffff_ffff } } as const;

function add(fixture: GatewayFixture, device = 'd1'): string {
  return fixture.registry.addDevice({ tenant: 'acme', device, type: 'thermostat' }).secret;
}

async function connack(
  fixture: GatewayFixture,
  packet: Partial<IConnectPacket>,
  [username, secret]: [string, string],
): Promise<IConnackPacket> {
  return (await connect(fixture, username, secret, { ...FIVE, ...packet })).connack;
}

/** Waits for the DISCONNECT of the gateway, and that it is the last thing said. */
async function farewell(client: RawClient): Promise<IDisconnectPacket> {
  await client.ended();
  const last = client.packets.at(-1) as Packet;
  assert.equal(last.cmd, 'disconnect');
  return last as IDisconnectPacket;
}

test('CONNACK says what the gateway allows, and only what it has to', async (t) => {
  const fixture = await createGateway(t, {
    config: { gateway: { mqtt: { port: 0 }, inflightMax: 77, packetBytesMax: '200KiB' } },
  });
  const device: [string, string] = ['acme/d1', add(fixture)];
  const { properties, reasonCode } = await connack(fixture, {}, device);
  assert.equal(reasonCode, 0);
  assert.deepEqual(
    { ...properties },
    {
      receiveMaximum: 77,
      maximumPacketSize: 200 * 1_024,
      topicAliasMaximum: 16,
      wildcardSubscriptionAvailable: false,
      subscriptionIdentifiersAvailable: false,
      sharedSubscriptionAvailable: false,
    },
  );
  const { properties: more } = await connack(fixture, { clientId: '', keepalive: 0 }, device);
  assert.match(more?.assignedClientIdentifier ?? '', /^[0-9a-f-]{36}$/);
  assert.equal(more?.serverKeepAlive, fixture.config.gateway.keepAliveMax / 1_000);
  const { connections } = fixture.gateway.view('acme', 'd1');
  assert.ok(connections.every(({ protocol }) => protocol === 'MQTT 5'));
});

test('a CONNECT that can not be taken is told why', async (t) => {
  const fixture = await createGateway(t);
  const secret = add(fixture);
  const mine: [string, string] = ['acme/d1', secret];
  const cases: [Partial<IConnectPacket>, [string, string], number][] = [
    [{}, ['acme/d1', 'wrong'], 0x86],
    [{}, ['nobody', secret], 0x86],
    [{ clientId: 'x'.repeat(129) }, mine, 0x85],
    [{ properties: { authenticationMethod: 'SCRAM-SHA-1' } }, mine, 0x8c],
  ];
  for (const [packet, who, code] of cases) {
    const { reasonCode } = await connack(fixture, packet, who);
    assert.equal(reasonCode, code, `${code}`);
  }
  // What the library would not write: a receive maximum of 0, a property that a CONNECT has not, a cut one.
  const properties = (...bytes: number[]) => {
    const name = Buffer.from('acme/d1');
    const word = (text: Buffer) => Buffer.concat([Buffer.from([0, text.length]), text]);
    const body = Buffer.concat([
      word(Buffer.from('MQTT')),
      Buffer.from([5, 0xc2, 0, 60, bytes.length, ...bytes]),
      word(Buffer.from('id')),
      word(name),
      word(Buffer.from(secret)),
    ]);
    return Buffer.concat([Buffer.from([0x10, body.length]), body]);
  };
  for (const [bytes, code] of [
    [properties(0x21, 0, 0), 0x82],
    [properties(0x27, 0, 0, 0, 0), 0x82],
    [properties(0x7f, 0), 0x81],
    [properties(0x26, 0, 9, 97), 0x81],
    [properties(), 0],
  ] as const) {
    const client = RawClient.open(fixture.gateway.port, 5);
    client.socket.write(bytes);
    const [answer] = (await received(client, 'connack', 1)) as IConnackPacket[];
    assert.equal(answer?.reasonCode, code, bytes.toString('hex'));
    if (code !== 0) await client.ended();
  }
  assert.equal(fixture.counters.refusedConnections.get('CONNECT_INVALID'), 5);
});

test('a refusal by quota is said in words, with its own code', async (t) => {
  const fixture = await createGateway(t, {
    config: { quotas: { default: { device: { connections: 1 } } } },
  });
  const device: [string, string] = ['acme/d1', add(fixture)];
  assert.equal((await connack(fixture, { clientId: 'one' }, device)).reasonCode, 0);
  const { reasonCode, properties } = await connack(fixture, { clientId: 'two' }, device);
  assert.equal(reasonCode, 0x97);
  assert.match(properties?.reasonString ?? '', /^DEVICE_CONNECTIONS: .*at most 1/);
});

test('the gateway says why it ends a connection', async (t) => {
  const fixture = await createGateway(t, {
    config: { gateway: { mqtt: { port: 0 }, packetBytesMax: '128KiB' } },
  });
  const secret = add(fixture);
  const end = async (how: (client: RawClient) => void, keepalive = 60) => {
    const { client } = await connect(fixture, 'acme/d1', secret, { ...FIVE, keepalive });
    how(client);
    return farewell(client);
  };
  const huge = Buffer.alloc(130 * 1_024);
  const cases: [string, number, (client: RawClient) => void, number?][] = [
    ['PACKET_TOO_LARGE', 0x95, ({ socket }) => socket.write(publishBytes('a', huge, 1, 1, 5))],
    ['PACKET_MALFORMED', 0x81, ({ socket }) => socket.write(Buffer.from([0x36, 4, 0, 1, 97, 0]))],
    ['PACKET_MALFORMED', 0x81, ({ socket }) => socket.write(Buffer.from([0x40, 1, 0]))],
    ['PACKET_UNEXPECTED', 0x82, ({ socket }) => socket.write(Buffer.from([0xf0, 0]))],
    ['KEEP_ALIVE', 0x8d, () => {}, 1],
    [
      'TAKEN_OVER',
      0x8e,
      () => void connect(fixture, 'acme/d1', secret, FIVE).then(({ client }) => client.close()),
    ],
    [
      'SUBSCRIPTION_IDENTIFIER',
      0xa1,
      (client) =>
        client.send({
          cmd: 'subscribe',
          messageId: 1,
          subscriptions: [{ topic: 'me/receipts', qos: 0 }],
          properties: { subscriptionIdentifier: 3 },
        }),
    ],
  ];
  for (const [reason, code, how, keepalive] of cases) {
    const { reasonCode, properties } = await end(how, keepalive);
    assert.deepEqual([reasonCode, properties?.reasonString], [code, reason]);
    // Who took it over has ended since, too.
    if (reason === 'TAKEN_OVER') continue;
    assert.equal(fixture.gateway.view('acme', 'd1').lastConnection?.reason, reason);
  }
  const revoked = await end(() => fixture.registry.removeDevice('acme', 'd1'));
  assert.equal(revoked.reasonCode, 0x98);
});

test('a gateway that stops answers what it has read, and then says so', async (t) => {
  const fixture = await createGateway(t);
  const secret = add(fixture);
  const { client } = await connect(fixture, 'acme/d1', secret, FIVE);
  const acknowledged = client.publish('me/telemetry', '{"temperature":20}', 1);
  await until(() => fixture.counters.messages === 1);
  await fixture.gateway.drain({ closesPerSecond: 100, withinMs: 1_000 });
  await acknowledged;
  const { reasonCode } = await farewell(client);
  assert.equal(reasonCode, 0x8b);
});

test('a session is kept as long as was asked for', async (t) => {
  const fixture = await createGateway(t);
  const secret = add(fixture);
  const present = async (packet: Partial<IConnectPacket>, bye?: IDisconnectPacket) => {
    const { client, connack } = await connect(fixture, 'acme/d1', secret, { ...FIVE, ...packet });
    client.send({
      cmd: 'subscribe',
      messageId: 1,
      subscriptions: [{ topic: 'me/receipts', qos: 1 }],
    });
    await received(client, 'suback', 1);
    if (bye === undefined) client.close();
    else client.send(bye);
    await until(() => inside(fixture).gates.size === 0);
    return connack.sessionPresent;
  };
  const keepFor = (sessionExpiryInterval: number, clean = false) => ({
    clean,
    properties: { sessionExpiryInterval },
  });
  assert.equal(await present(keepFor(100)), false);
  assert.equal(await present(keepFor(100)), true);
  // Begins anew, and is kept again.
  assert.equal(await present(keepFor(100, true)), false);
  assert.equal(await present(keepFor(0)), true);
  // It ended with the connection.
  assert.equal(await present(keepFor(1)), false);
  assert.equal(await present(keepFor(1)), true);
  await sleep(1_100);
  assert.equal(await present(keepFor(100)), false);
  // The farewell changes it.
  assert.equal(
    await present(keepFor(100), { cmd: 'disconnect', properties: { sessionExpiryInterval: 0 } }),
    true,
  );
  assert.equal(await present(keepFor(0)), false);
  // But brings nothing back.
  const { client } = await connect(fixture, 'acme/d1', secret, FIVE);
  client.send({ cmd: 'disconnect', properties: { sessionExpiryInterval: 5 } });
  assert.equal((await farewell(client)).reasonCode, 0x82);
});

test('a will comes when it should: at once, later, or not at all', async (t) => {
  const fixture = await createGateway(t);
  const wills: string[] = [];
  const append = fixture.appender.append.bind(fixture.appender);
  fixture.appender.append = (request, done) => {
    for (const record of request.records) {
      const { will, data } = JSON.parse(record);
      if (will === true) wills.push(data);
    }
    append(request, done);
  };
  const secret = add(fixture);
  const dying = (name: string, willDelayInterval: number, more: Partial<IConnectPacket> = KEPT) =>
    connect(fixture, 'acme/d1', secret, {
      ...more,
      will: {
        topic: 'me/state',
        payload: Buffer.from(JSON.stringify(name)),
        qos: 1,
        retain: true,
        properties: { willDelayInterval },
      },
    } as Partial<IConnectPacket>);
  const ended = () => until(() => inside(fixture).gates.size === 0);
  const said = (count: number) => until(() => wills.length === count, `${wills}`);

  (await dying('at once', 0)).client.close();
  await said(1);
  const polite = await dying('never', 0);
  polite.client.send({ cmd: 'disconnect' });
  await ended();
  const asked = await dying('on request', 0);
  asked.client.send({ cmd: 'disconnect', reasonCode: 4 });
  await said(2);
  assert.equal(fixture.gateway.view('acme', 'd1').lastConnection?.reason, 'DISCONNECT_WITH_WILL');
  // Back in time.
  (await dying('not missed', 1)).client.close();
  await ended();
  const back = await connect(fixture, 'acme/d1', secret, KEPT);
  await sleep(1_200);
  assert.equal(wills.length, 2);
  back.client.send({ cmd: 'disconnect' });
  await ended();
  // Not back in time; a session that ends first; a new one in its place.
  (await dying('missed', 1)).client.close();
  await ended();
  assert.equal(wills.length, 2);
  await said(3);
  (await dying('session over', 100, FIVE)).client.close();
  await said(4);
  (await dying('begun anew', 100)).client.close();
  await ended();
  assert.equal(wills.length, 4);
  const anew = await connect(fixture, 'acme/d1', secret, { ...KEPT, clean: true });
  await said(5);
  anew.client.close();
  (await dying('gateway stops', 100)).client.close();
  await ended();
  await fixture.gateway.stopReading();
  assert.deepEqual(wills, [
    'at once',
    'on request',
    'missed',
    'session over',
    'begun anew',
    'gateway stops',
  ]);
});

test('a name that is too long for a property, and the like, never reaches the broker', async (t) => {
  const fixture = await createGateway(t);
  const secret = add(fixture);
  const bytes = connectPacket('acme/d1', secret, FIVE);
  const client = RawClient.open(fixture.gateway.port, 5);
  client.send({ ...bytes, properties: { userProperties: { a: 'x'.repeat(4_000) } } });
  const [answer] = (await received(client, 'connack', 1)) as IConnackPacket[];
  assert.equal(answer?.reasonCode, 0);
});
