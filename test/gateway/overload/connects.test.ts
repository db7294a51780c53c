import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect as connectSocket } from 'node:net';
import { test } from 'node:test';
import mqtt, { type IConnackPacket } from 'mqtt-packet';
import { ManualClock } from '../../../src/core/clock.ts';
import { parseRate, type RateLimit } from '../../../src/core/units.ts';
import { readConnect, refusingConnack } from '../../../src/gateway/connect-packet.ts';
import { Addresses } from '../../../src/gateway/overload/addresses.ts';
import { Distinct } from '../../../src/gateway/overload/distinct.ts';
import { Farewells } from '../../../src/gateway/overload/farewells.ts';
import { Handshakes } from '../../../src/gateway/overload/handshakes.ts';
import { PenaltyBox } from '../../../src/gateway/overload/penalty-box.ts';
import type { CredentialVerifier } from '../../../src/tenants/contract.ts';
import { createGateway, type GatewayFixture } from '../../helpers/gateway.ts';
import { RawClient } from '../../helpers/raw-client.ts';
import { connect, connectPacket, inside, newDevice, received, until } from '../raw.ts';

function rates(...texts: string[]): RateLimit[] {
  return texts.flatMap((text) => parseRate(text) ?? []);
}

/** Who verifies credentials, to be slowed down. */
function verifierOf(fixture: GatewayFixture): CredentialVerifier {
  const { options } = fixture.gateway as unknown as { options: { verifier: CredentialVerifier } };
  return options.verifier;
}

test('addresses count alone, IPv6 ones by their network; trusted ones not at all', () => {
  const addresses = new Addresses({
    limits: rates('2/1s'),
    trusted: ['127.0.0.0/8', '::1', '10.1.0.0/16', '2001:db8:aaaa::/48'],
    entriesMax: 10,
    now: () => 0,
  });
  const keys = {
    '127.0.0.1': undefined,
    '::ffff:127.9.9.9': undefined,
    '10.1.2.3': undefined,
    '10.2.2.3': '10.2.2.3',
    '::ffff:10.2.2.3': '10.2.2.3',
    '::1': undefined,
    '2001:db8:aaaa::17': undefined,
    '2001:db8:1:2:3:4:5:6': '2001:db8:1:2::/64',
    '2001:0db8:1:2::6': '2001:db8:1:2::/64',
    '2001:db8::1': '2001:db8:0:0::/64',
    'fe80::1%eth0': 'fe80:0:0:0::/64',
    '::': '0:0:0:0::/64',
    nonsense: undefined,
  };
  for (const [address, key] of Object.entries(keys))
    assert.equal(addresses.keyOf(address), key, address);
});

test('an address that connects too often is refused until its rate allows it; few are remembered', () => {
  const clock = new ManualClock(0);
  const addresses = new Addresses({
    limits: rates('2/1s', '4/1m'),
    trusted: [],
    entriesMax: 3,
    now: () => clock.now(),
  });
  assert.deepEqual(
    [1, 2, 3].map(() => addresses.admits('a')),
    [true, true, false],
  );
  clock.advance(500);
  assert.deepEqual(
    [1, 2].map(() => addresses.admits('a')),
    [true, false],
  );
  clock.advance(1_000);
  assert.equal(addresses.admits('a'), true);
  assert.equal(addresses.admits('a'), false, 'the longer window is used up');
  for (const other of ['b', 'c', 'd']) addresses.admits(other);
  assert.equal(addresses.admits('a'), true, 'it was forgotten');
});

test('the penalty box: each wait is twice the one before, and a quiet time ends that', () => {
  const clock = new ManualClock(1_000_000);
  const box = new PenaltyBox({
    ...{ limits: rates('3/1m'), firstMs: 10_000, maxMs: 30_000, entriesMax: 2 },
    now: () => clock.now(),
  });
  const untilBoxed = () => {
    let count = 1;
    while (!box.count('d')) count++;
    return count;
  };
  const waits = [];
  for (let i = 0; i < 4; i++) {
    assert.equal(untilBoxed(), 4);
    waits.push(box.waitMs('d'));
    // Attempts meanwhile change nothing.
    assert.equal(box.count('d'), false);
    clock.advance(box.waitMs('d'));
  }
  assert.deepEqual(waits, [10_000, 20_000, 30_000, 30_000]);
  assert.equal(box.waitMs('d'), 0);
  clock.advance(60_001);
  untilBoxed();
  assert.equal(box.waitMs('d'), 10_000);
  for (const other of ['e', 'f']) box.count(other);
  assert.equal(box.waitMs('d'), 0, 'of two the oldest was forgotten');
});

test('distinct names are those of a day', () => {
  const day = 86_400_000;
  const distinct = new Distinct(2);
  assert.deepEqual(
    ['a', 'b', 'c', 'a'].map((name) => distinct.admits(name, 5 * day)),
    [true, true, false, true],
  );
  assert.equal(distinct.admits('c', 6 * day - 1), false);
  assert.equal(distinct.admits('c', 6 * day), true);
  const free = new Distinct(0);
  for (let i = 0; i < 1_000; i++) assert.ok(free.admits(`${i}`, 0));
});

test('handshakes: so many at a time, in their order, and no more that wait than are allowed', async () => {
  const handshakes = new Handshakes<{ id: number }>({
    activeMax: 4,
    waitingMax: 20,
    now: () => performance.now(),
  });
  const started: number[] = [];
  const gates = Array.from({ length: 30 }, (_, id) => ({ id }));
  const taken = gates.map((gate) => handshakes.offer(gate, () => started.push(gate.id)));
  assert.equal(taken.filter(Boolean).length, 20);
  const turn = () => new Promise((resolve) => setImmediate(() => setImmediate(resolve)));
  await turn();
  assert.deepEqual(started, [0, 1, 2, 3]);
  for (const id of [5, 1, 2]) handshakes.done(gates[id] as { id: number });
  await turn();
  assert.deepEqual(started, [0, 1, 2, 3, 4, 6]);
  handshakes.loaded = true;
  for (const id of [0, 3, 4]) handshakes.done(gates[id] as { id: number });
  await turn();
  assert.deepEqual(started.slice(6), [7], 'half as many');
  assert.equal(handshakes.underWay, 2);
  handshakes.stop();
});

test('handshakes: turns that take long begin few, quick ones more each time; all get their turn', async () => {
  let now = 0;
  const handshakes = new Handshakes<object>({
    activeMax: 1_000,
    waitingMax: 1_000,
    now: () => now,
  });
  let begun = 0;
  const offer = (count: number) => {
    for (let i = 0; i < count; i++) handshakes.offer({}, () => begun++);
  };
  const turns = async (count: number, ms: number) => {
    const before = begun;
    for (let i = 0; i < count; i++) {
      now += ms;
      await new Promise((resolve) => setImmediate(resolve));
    }
    return begun - before;
  };
  offer(600);
  const slow = await turns(10, 20);
  assert.ok(slow >= 20 && slow <= 40, `${slow} in ten slow turns`);
  const quick = await turns(10, 1);
  assert.ok(quick >= 60 && quick <= 100, `${quick} in ten quick turns`);
  await turns(100, 1);
  assert.equal(begun, 600);
  handshakes.stop();
});

test('farewells: a few connections that are lost end at once, of thousands so many in a turn', async () => {
  const ended: number[] = [];
  const farewells = new Farewells<{ id: number }>(({ id }) => ended.push(id));
  const gates = Array.from({ length: 200 }, (_, id) => ({ id }));
  farewells.add(gates[0] as { id: number });
  assert.deepEqual(ended, [0]);
  for (const gate of gates.slice(1)) farewells.add(gate);
  assert.equal(ended.length, 32);
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(ended.length, 64);
  farewells.flush();
  assert.deepEqual(ended, [...gates.keys()]);
  assert.equal(farewells.size, 0);
});

test('a CONNECT is read as far as it is needed, whatever it holds', () => {
  const summary = (packet: Parameters<typeof connectPacket>[2]) => {
    const bytes = mqtt.generate(
      connectPacket('acme/d1', 'secret', { protocolVersion: 4, ...packet }),
    );
    return readConnect(bytes.subarray(2));
  };
  const will = { topic: 'me/state', payload: Buffer.from('gone'), qos: 1 as const, retain: false };
  assert.deepEqual(summary({}), { version: 4, username: 'acme/d1' });
  assert.deepEqual(summary({ will }), { version: 4, username: 'acme/d1' });
  assert.deepEqual(summary({ protocolVersion: 5, will, properties: { receiveMaximum: 7 } }), {
    version: 5,
    username: 'acme/d1',
  });
  assert.deepEqual(summary({ protocolId: 'MQIsdp', protocolVersion: 3 }), {
    version: 3,
    username: 'acme/d1',
  });
  const {
    username: _u,
    password: _p,
    ...anonymous
  } = connectPacket('', '', { protocolVersion: 4 });
  assert.deepEqual(readConnect(mqtt.generate(anonymous).subarray(2)), {
    version: 4,
    username: undefined,
  });
  const bytes = mqtt
    .generate(connectPacket('acme/d1', 'secret', { will, protocolVersion: 4 }))
    .subarray(2);
  for (let end = 0; end < bytes.length - 'secret'.length - 2; end++)
    assert.equal(readConnect(bytes.subarray(0, end)), undefined, `cut at ${end}`);
  assert.equal(readConnect(Buffer.from('GET / HTTP/1.1')), undefined);
});

test('a refusal in MQTT 5 has its reason code, words, and the time to wait', () => {
  const parser = mqtt.parser({ protocolVersion: 5 });
  const packets: IConnackPacket[] = [];
  parser.on('packet', (packet) => packets.push(packet as IConnackPacket));
  parser.parse(refusingConnack(5, 'busy', 'overloaded', { retryAfterMs: 4_200 }));
  parser.parse(refusingConnack(5, 'quota', 'x'.repeat(300)));
  parser.parse(refusingConnack(5, 'rate', 'words', { retryAfterMs: 1, packetBytesMax: 20 }));
  assert.deepEqual(
    packets.map(({ reasonCode, sessionPresent }) => [reasonCode, sessionPresent]),
    [
      [0x89, false],
      [0x97, false],
      [0x9f, false],
    ],
  );
  assert.equal(packets[0]?.properties?.reasonString, 'overloaded');
  assert.equal(packets[0]?.properties?.userProperties?.['retry-after'], '5');
  assert.equal(packets[1]?.properties?.reasonString?.length, 300);
  assert.equal(packets[2]?.properties, undefined);
  assert.deepEqual(
    refusingConnack(4, 'busy', 'overloaded', { retryAfterMs: 4_200 }),
    Buffer.from([0x20, 2, 0, 3]),
  );
});

test('connections of an address beyond its rate are reset before anything is read from them', async (t) => {
  const fixture = await createGateway(t, {
    config: { overload: { connects: { perAddress: ['3/1m'], trusted: [] } } },
  });
  const outcomes: string[] = [];
  for (let i = 0; i < 6; i++) {
    const socket = connectSocket(fixture.gateway.port, '127.0.0.1');
    const [outcome] = await Promise.race([
      once(socket, 'error').then(([error]) => [(error as NodeJS.ErrnoException).code]),
      once(socket, 'connect').then(async () => {
        const ended = await Promise.race([
          once(socket, 'error').then(([error]) => (error as NodeJS.ErrnoException).code),
          new Promise((resolve) => setTimeout(resolve, 200)).then(() => 'open'),
        ]);
        return [ended];
      }),
    ]);
    outcomes.push(String(outcome));
    socket.on('error', () => {});
    socket.destroy();
  }
  assert.deepEqual(outcomes, ['open', 'open', 'open', ...Array(3).fill('ECONNRESET')]);
  assert.equal(fixture.counters.refusedConnections.get('ADDRESS_CONNECTS'), 3);
  assert.equal(fixture.counters.connectionsTotal, 3);
});

test('a device that reconnects in a loop waits in the penalty box, and is let in after it', async (t) => {
  const monotonic = new ManualClock(1_000_000);
  const fixture = await createGateway(t, {
    monotonic,
    config: { overload: { penalty: { connects: ['5/1m'], time: '10s' } } },
  });
  const { client, secret } = await newDevice(fixture, 'd1');
  client.close();
  const { client: steady } = await newDevice(fixture, 'steady');
  const codes: (number | undefined)[] = [];
  for (let i = 0; i < 8; i++) {
    const { client, connack } = await connect(fixture, 'acme/d1', secret);
    codes.push(connack.returnCode);
    client.close();
  }
  // The sixth connect is the one too many, and the last one that is let in.
  assert.deepEqual(codes, [0, 0, 0, 0, 0, 3, 3, 3]);
  assert.equal(fixture.counters.refusedConnections.get('PENALTY'), 3);
  assert.equal(fixture.gateway.overload.limitedBy('acme', 'd1')?.code, 'PENALTY');
  // It is told in MQTT 5 for how long.
  const five = RawClient.open(fixture.gateway.port);
  five.socket.write(mqtt.generate(connectPacket('acme/d1', secret, { protocolVersion: 5 })));
  const [bytes] = (await once(five.socket, 'data')) as [Buffer];
  assert.equal(bytes[3], 0x9f);
  assert.match(bytes.toString('latin1'), /PENALTY.*a wait of 10s.*retry-after..10/s);
  // Nobody else is boxed, also not by claiming its name.
  await steady.publish('me/telemetry', '{"temperature":20}', 1);
  for (let i = 0; i < 10; i++) await connect(fixture, 'acme/steady', 'wrong');
  steady.close();
  const steadySecret = fixture.registry.addDevice({
    tenant: 'acme',
    device: 'other',
    type: 'thermostat',
  }).secret;
  assert.equal((await connect(fixture, 'acme/other', steadySecret)).connack.returnCode, 0);
  monotonic.advance(10_000);
  assert.equal((await connect(fixture, 'acme/d1', secret)).connack.returnCode, 0);
});

test('an address whose CONNECTs fail again and again waits as well', async (t) => {
  const fixture = await createGateway(t, {
    config: { overload: { penalty: { connects: ['5/1m'] }, connects: { trusted: [] } } },
  });
  const { secret } = await newDevice(fixture, 'd1');
  for (let i = 0; i < 6; i++) await connect(fixture, 'acme/d1', 'wrong');
  const boxed = RawClient.open(fixture.gateway.port);
  boxed.send(connectPacket('acme/d1', secret));
  await until(() => boxed.closed);
  assert.deepEqual(boxed.packets, []);
  assert.equal(fixture.counters.refusedConnections.get('PENALTY'), 1);
});

test('a storm of connects: all are let in, in turns, and who is connected goes on', async (t) => {
  const COUNT = 300;
  const fixture = await createGateway(t, {
    config: { overload: { connects: { handshakesMax: 16 } } },
  });
  const { client: steady } = await newDevice(fixture, 'steady');
  const added = fixture.registry.addDevices({ tenant: 'acme', type: 'thermostat', count: COUNT });
  const verified = { now: 0, most: 0 };
  const verifier = verifierOf(fixture);
  const verify = verifier.verify.bind(verifier);
  verifier.verify = async (presented) => {
    verified.now++;
    verified.most = Math.max(verified.most, verified.now);
    await new Promise((resolve) => setTimeout(resolve, 1));
    const identity = await verify(presented);
    verified.now--;
    return identity;
  };
  const clients = added.map(({ device, secret }) => {
    const client = RawClient.open(fixture.gateway.port);
    client.send(connectPacket(`acme/${device}`, secret));
    return client;
  });
  let slowest = 0;
  let connected = false;
  const goingOn = (async () => {
    while (!connected) {
      const asked = performance.now();
      await steady.publish('me/telemetry', '{"temperature":20}', 1);
      slowest = Math.max(slowest, performance.now() - asked);
    }
  })();
  for (const client of clients) await until(() => client.packets.length > 0, 'no CONNACK');
  connected = true;
  await goingOn;
  assert.ok(
    clients.every(
      ({ packets: [connack] }) => connack?.cmd === 'connack' && connack.returnCode === 0,
    ),
  );
  assert.ok(verified.most <= 16, `${verified.most} at a time`);
  assert.ok(verified.most > 1);
  assert.ok(slowest < 1_500, `a PUBACK took ${slowest} ms`);
  for (const client of clients) client.close();
});

test('CONNECTs beyond those that may wait are refused politely', async (t) => {
  const fixture = await createGateway(t, {
    config: { overload: { connects: { handshakesMax: 1, waitingMax: 2 } } },
  });
  const added = fixture.registry.addDevices({ tenant: 'acme', type: 'thermostat', count: 6 });
  let release: () => void = () => {};
  const held = new Promise<void>((resolve) => {
    release = resolve;
  });
  const verifier = verifierOf(fixture);
  const verify = verifier.verify.bind(verifier);
  verifier.verify = async (presented) => {
    await held;
    return verify(presented);
  };
  const clients: RawClient[] = [];
  for (const { device, secret } of added) {
    const client = RawClient.open(fixture.gateway.port);
    client.send(connectPacket(`acme/${device}`, secret));
    clients.push(client);
    await until(
      () => inside(fixture).gates.size === clients.length || client.packets.length > 0,
      'it was not accepted',
    );
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  await until(() => fixture.counters.refusedConnections.get('CONNECTS_WAITING') === 3);
  release();
  await Promise.all(clients.map((client) => received(client, 'connack', 1)));
  const codes = clients.map(({ packets: [first] }) => first?.cmd === 'connack' && first.returnCode);
  assert.deepEqual(codes, [0, 0, 0, 3, 3, 3]);
});
