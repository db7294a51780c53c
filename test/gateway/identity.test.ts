import assert from 'node:assert/strict';
import { join } from 'node:path';
import { type Duplex, duplexPair } from 'node:stream';
import { test } from 'node:test';
import type { EventRecord } from '../../src/core/nouns.ts';
import { openGateway } from '../../src/gateway/open.ts';
import { createGateway, type GatewayFixture, readLog } from '../helpers/gateway.ts';
import { encode, PROTOCOL_VERSION, RawClient } from '../helpers/raw-client.ts';
import { connect, connectPacket, inside, newDevice, received, subscribe, until } from './raw.ts';

const READING = '{"temperature":20}';

function add(fixture: GatewayFixture, device: string, tenant = 'acme'): string {
  return fixture.registry.addDevice({ tenant, device, type: 'thermostat' }).secret;
}

async function events(fixture: GatewayFixture): Promise<string[]> {
  await fixture.appender.flush();
  return (await readLog(join(fixture.dir, 'log')))
    .filter((record): record is EventRecord => record.kind === 'event')
    .map(
      ({ device, event, data }) => `${device} ${event} ${(data as { clientId: string }).clientId}`,
    );
}

test('who can not prove who it is gets CONNACK 4, whatever is wrong with it', async (t) => {
  const fixture = await createGateway(t);
  const mine = add(fixture, 'd1');
  const theirs = add(fixture, 'd1', 'other');
  for (const [username, secret] of [
    ['acme/d1', theirs],
    ['acme/d1', `${mine} `],
    ['acme/d2', mine],
    ['other/d1', mine],
    ['acme', mine],
    ['', mine],
    ['acme/d1/x', mine],
    ['acme/+', mine],
    ['../d1', mine],
  ] as const) {
    const { client, connack } = await connect(fixture, username, secret);
    assert.equal(connack.returnCode, 4, username);
    await client.ended();
  }
  const anonymous = RawClient.open(fixture.gateway.port);
  const connack = anonymous.next(({ cmd }) => cmd === 'connack');
  const { username: _u, password: _p, ...packet } = connectPacket('', '');
  anonymous.send(packet);
  assert.equal(((await connack) as { returnCode: number }).returnCode, 4);
  await anonymous.ended();
  assert.equal(fixture.counters.refusedConnections.get('BAD_CREDENTIALS'), 10);
  assert.deepEqual(await events(fixture), []);
});

test('a wrong secret is logged with the device, and neither it nor a name that nobody has', async (t) => {
  const linesOf = async (claim: (secret: string) => [username: string, password: string]) => {
    const lines: string[] = [];
    const fixture = await createGateway(t);
    const { options } = fixture.gateway as unknown as {
      options: { logger: { warn(fields: object): void } };
    };
    options.logger = { ...options.logger, warn: (fields) => lines.push(JSON.stringify(fields)) };
    const { client } = await connect(fixture, ...claim(add(fixture, 'd1')));
    await client.ended();
    return lines;
  };
  const wrong = await linesOf(() => ['acme/d1', 'guessed-secret']);
  assert.deepEqual(wrong, ['{"code":"BAD_CREDENTIALS","device":"acme/d1"}']);
  const swapped = await linesOf((secret) => [secret, 'acme/d1']);
  assert.deepEqual(swapped, ['{"code":"BAD_CREDENTIALS"}']);
});

test('a client id that is too long, or empty for a kept session, is rejected with CONNACK 2', async (t) => {
  const fixture = await createGateway(t);
  const secret = add(fixture, 'd1');
  const long = encode(connectPacket('acme/d1', secret, { clientId: 'x'.repeat(129) }));
  // [MQTT-3.1.3-8], which the library knows: the flag of the clean session is taken back by hand.
  const empty = encode(connectPacket('acme/d1', secret, { clientId: '' }));
  empty[9] = (empty[9] ?? 0) & ~2;
  // MQTT 5 gives it an id.
  for (const bytes of PROTOCOL_VERSION === 5 ? [long] : [long, empty]) {
    const client = RawClient.open(fixture.gateway.port);
    client.socket.write(bytes);
    const [connack] = await received(client, 'connack', 1);
    assert.equal(connack?.cmd === 'connack' && connack.returnCode, 2);
    await client.ended();
  }
  for (const clientId of ['x'.repeat(128), '', '__proto__', 'a/b', '$SYS', '\u{1F600}']) {
    const { client, connack } = await connect(fixture, 'acme/d1', secret, { clientId });
    assert.equal(connack.returnCode, 0, JSON.stringify(clientId));
    await client.publish('me/telemetry', READING, 1);
    client.close();
  }
});

test('nobody takes over the connection of another device by its client id', async (t) => {
  const fixture = await createGateway(t);
  const { client: victim } = await newDevice(fixture, 'd1');
  await victim.publish('me/telemetry', READING, 1);
  const [id] = await events(fixture);
  assert.equal(id, 'd1 connected acme/d1/raw');
  const secret = add(fixture, 'd2');
  for (const clientId of ['raw', 'acme/d1/raw', '../d1/raw', '/acme/d1/raw']) {
    const { connack, client } = await connect(fixture, 'acme/d2', secret, { clientId });
    assert.equal(connack.returnCode, 0);
    await client.publish('me/telemetry', READING, 1);
    client.close();
  }
  // Nor by the victim's name with a secret of one's own.
  const { connack } = await connect(fixture, 'acme/d1', secret);
  assert.equal(connack.returnCode, 4);
  await victim.publish('me/telemetry', READING, 1);
  assert.equal(victim.closed, false);
});

test('the same device with the same client id takes over [MQTT-3.1.4-2]; with another it does not', async (t) => {
  const fixture = await createGateway(t);
  const { client: first, secret } = await newDevice(fixture, 'd1');
  await subscribe(first, ['me/receipts']);
  const { client: beside } = await connect(fixture, 'acme/d1', secret, { clientId: 'other' });
  const { client: second } = await connect(fixture, 'acme/d1', secret);
  await first.ended();
  await second.publish('me/telemetry', READING, 1);
  await beside.publish('me/telemetry', READING, 1);
  assert.equal(inside(fixture).byDevice.get('acme/d1')?.size, 2);
  second.close();
  beside.close();
  await until(() => inside(fixture).byDevice.size === 0);
  assert.deepEqual((await events(fixture)).sort(), [
    'd1 connected acme/d1/other',
    'd1 connected acme/d1/raw',
    'd1 connected acme/d1/raw',
    'd1 disconnected acme/d1/other',
    'd1 disconnected acme/d1/raw',
    'd1 disconnected acme/d1/raw',
  ]);
});

for (const clean of [true, false]) {
  test(`of many that come at once with one client id, one stays (clean session ${clean})`, async (t) => {
    const fixture = await createGateway(t);
    const secret = add(fixture, 'd1');
    // A session with subscriptions takes longer to be restored, and to be ended.
    const { client: first } = await connect(fixture, 'acme/d1', secret, { clean });
    await subscribe(first, ['me/receipts', 'me/commands']);
    const clients = Array.from({ length: 12 }, () => {
      const client = RawClient.open(fixture.gateway.port);
      client.send(connectPacket('acme/d1', secret, { clean }));
      return client;
    });
    await until(
      () => clients.filter(({ closed }) => closed).length === clients.length - 1 && first.closed,
      `${clients.filter(({ closed }) => !closed).length} stay`,
    );
    const [left] = clients.filter(({ closed }) => !closed);
    await left?.publish('me/telemetry', READING, 1);
    assert.equal(inside(fixture).gates.size, 1);
    assert.equal(inside(fixture).sessions.size, 1);
    left?.close();
    await until(() => inside(fixture).gates.size === 0);
    const all = await events(fixture);
    const connected = all.filter((event) => event.includes(' connected')).length;
    assert.equal(all.length, 2 * connected);
    const { clients: registered } = (
      fixture.gateway as unknown as {
        broker: { clients: Record<string, unknown> };
      }
    ).broker;
    assert.deepEqual(Object.keys(registered), []);
  });
}

test('nor do two that take over in the same turn both stay [MQTT-3.1.4-2]', async (t) => {
  const fixture = await createGateway(t);
  const { client: first, secret } = await newDevice(fixture, 'd1');
  await subscribe(first, ['me/receipts', 'me/commands']);
  const { reception } = fixture.gateway as unknown as {
    reception: { arrive(socket: Duplex): void };
  };
  const closed: number[] = [];
  const devices = [1, 2, 3].map((number) => {
    const [device, socket] = duplexPair();
    reception.arrive(socket);
    device.resume().on('end', () => closed.push(number));
    device.write(encode(connectPacket('acme/d1', secret)));
    return device;
  });
  await first.ended();
  await until(() => inside(fixture).gates.size === 1, 'more than one stays');
  await until(() => closed.length === 2);
  assert.equal(inside(fixture).byDevice.get('acme/d1')?.size, 1);
  // The one that stays is known to the broker: another takes over from it.
  const { client: last } = await connect(fixture, 'acme/d1', secret);
  await until(() => closed.length === 3);
  await last.publish('me/telemetry', READING, 1);
  for (const device of devices) device.destroy();
});

test('connections that end at any moment of their beginning leave nothing behind', async (t) => {
  const fixture = await createGateway(t);
  await fixture.registry.importDevices([
    { tenant: 'acme', device: 'slow', type: 'thermostat', secret: 'hunter2!' },
  ]);
  const quick = add(fixture, 'quick');
  const waits = [0, 1, 2, 3, 5, 8];
  await Promise.all(
    Array.from({ length: 120 }, async (_, i) => {
      const client = RawClient.open(fixture.gateway.port);
      const slow = i % 4 === 0;
      const name = slow ? 'acme/slow' : 'acme/quick';
      const more = { clean: i % 2 === 0, clientId: `c${i % 7}` };
      client.send(connectPacket(name, slow ? 'hunter2!' : quick, more));
      if (i % 3 === 0) {
        client.send({
          cmd: 'subscribe',
          messageId: 1,
          subscriptions: [{ topic: 'me/receipts', qos: 1 }],
        });
      }
      await new Promise((resolve) => client.socket.once('connect', resolve));
      await new Promise((resolve) => setTimeout(resolve, waits[i % waits.length]));
      if (i % 5 === 0) client.socket.resetAndDestroy();
      else client.socket.destroy();
    }),
  );
  await until(() => inside(fixture).gates.size === 0, 'a gate is left');
  // Those that were verified meanwhile have found out that nobody is there.
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.equal(inside(fixture).sessions.size, 0);
  assert.equal(inside(fixture).byDevice.size, 0);
  assert.equal(fixture.counters.connections, 0);
  const { clients } = (
    fixture.gateway as unknown as {
      broker: { clients: Record<string, unknown> };
    }
  ).broker;
  assert.deepEqual(Object.keys(clients), []);
  const all = await events(fixture);
  assert.equal(
    all.filter((event) => event.includes(' connected')).length,
    all.filter((event) => event.includes(' disconnected')).length,
  );
});

test('a device that is removed, or whose secret changes, is disconnected within seconds; others stay', async (t) => {
  const fixture = await createGateway(t);
  const removed = await newDevice(fixture, 'removed');
  const changed = await newDevice(fixture, 'changed');
  const other = await newDevice(fixture, 'other');
  fixture.registry.removeDevice('acme', 'removed');
  fixture.registry.removeDevice('acme', 'changed');
  const secret = add(fixture, 'changed');
  await Promise.all([removed.client.ended(), changed.client.ended()]);
  await other.client.publish('me/telemetry', READING, 1);
  const again = async (device: string, secret: string) =>
    (await connect(fixture, `acme/${device}`, secret)).connack.returnCode;
  assert.equal(await again('removed', removed.secret), 4);
  assert.equal(await again('changed', changed.secret), 4);
  assert.equal(await again('changed', secret), 0);
});

test('a secret that changes while it is verified is not good any more', async (t) => {
  const fixture = await createGateway(t);
  const device = { tenant: 'acme', device: 'd1', type: 'thermostat' };
  await fixture.registry.importDevices([{ ...device, secret: 'hunter2!' }]);
  const look = fixture.registry.device.bind(fixture.registry);
  let change: (() => void) | undefined = () => {
    change = undefined;
    setImmediate(() => {
      fixture.registry.removeDevice('acme', 'd1');
      fixture.registry.addDevice(device);
    });
  };
  // The first look is the verifier's.
  fixture.registry.device = (tenant, name) => {
    const entry = look(tenant, name);
    change?.();
    return entry;
  };
  const { connack } = await connect(fixture, 'acme/d1', 'hunter2!');
  assert.equal(connack.returnCode, 4);
});

test('beyond the limit a connection is told to come later, and there is room again when one ends', async (t) => {
  const fixture = await createGateway(t, {
    // With it, a gateway without a free place is at the level refuse, for its dwell time.
    config: { overload: { protection: false }, gateway: { mqtt: { port: 0 }, connectionsMax: 2 } },
  });
  const one = await newDevice(fixture, 'd1');
  const two = await newDevice(fixture, 'd2');
  for (let i = 0; i < 5; i++) {
    const { client: third, connack } = await connect(fixture, 'acme/d1', one.secret);
    assert.equal(connack.returnCode, 3);
    await third.ended();
  }
  assert.equal(fixture.counters.refusedConnections.get('CONNECTIONS_MAX'), 5);
  await one.client.publish('me/telemetry', READING, 1);
  two.client.close();
  await until(() => inside(fixture).gates.size === 1);
  const { connack } = await connect(fixture, 'acme/d1', one.secret, { clientId: 'third' });
  assert.equal(connack.returnCode, 0);
});

test('who does not say CONNECT in time is cut, however busy it looks', async (t) => {
  const fixture = await createGateway(t, {
    config: { gateway: { mqtt: { port: 0 }, connectTimeout: '300ms' } },
  });
  const silent = RawClient.open(fixture.gateway.port);
  const dribbling = RawClient.open(fixture.gateway.port);
  dribbling.socket.write(Buffer.from([0x10, 100]));
  const timer = setInterval(() => dribbling.socket.write(Buffer.from([0])), 50);
  await Promise.all([silent, dribbling].map((client) => until(() => client.closed)));
  clearInterval(timer);
  const { client } = await newDevice(fixture, 'd1');
  await new Promise((resolve) => setTimeout(resolve, 400));
  assert.equal(client.closed, false);
});

for (const fastPath of [true, false]) {
  test(`no client can be ended by a message about it (fast path ${fastPath})`, async (t) => {
    const fixture = await createGateway(t, { fastPath });
    const { client: victim } = await newDevice(fixture, 'd1');
    const { client: attacker } = await newDevice(fixture, 'd2', {
      will: {
        topic: '$SYS/x/new/clients',
        payload: Buffer.from('acme/d1/raw'),
        qos: 0,
        retain: false,
      },
    });
    for (const qos of [0, 1, 2] as const) {
      for (const topic of ['$SYS/x/new/clients', '$SYS/x/birth', '$share/x'])
        await attacker.publish(topic, 'acme/d1/raw', qos);
    }
    attacker.close();
    await until(() => inside(fixture).gates.size === 1);
    await victim.publish('me/telemetry', READING, 1);
    assert.equal(victim.closed, false);
    const codes = (await fixture.records()).map((record) =>
      record.kind === 'deadLetter' ? record.code : record.kind,
    );
    assert.deepEqual(codes, ['WILL_NOT_ALLOWED', ...Array(9).fill('TOPIC_INVALID'), 'reading']);
  });
}

test('a port that is taken is said so, and nothing stays behind that would keep the process', async (t) => {
  const fixture = await createGateway(t);
  const { config, appender, registry, counters, gateway } = fixture;
  const timers = () => process.getActiveResourcesInfo().filter((kind) => kind === 'Timeout').length;
  const before = timers();
  await assert.rejects(
    openGateway({
      config: {
        ...config,
        gateway: { ...config.gateway, mqtt: { host: '127.0.0.1', port: gateway.port } },
      },
      appender,
      directory: registry,
      verifier: { verify: async () => undefined },
      counters,
      clock: { now: () => 0 },
      logger: { info() {}, warn() {} },
    }),
    { code: 'LISTEN_FAILED', message: new RegExp(`127.0.0.1:${gateway.port}: .*EADDRINUSE`) },
  );
  assert.equal(timers(), before);
});
