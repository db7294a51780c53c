import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { IConnectPacket } from 'mqtt-packet';
import { DelayedWills } from '../../../src/gateway/delayed-wills.ts';
import { createGateway, type GatewayFixture } from '../../helpers/gateway.ts';
import { type Connected, connect, inside, received, subscribe, until } from '../raw.ts';

const FIVE = { protocolVersion: 5 } as const;
const READING = '{"temperature":20}';

function kept(sessionExpiryInterval: number, clean = false): Partial<IConnectPacket> {
  return { ...FIVE, clean, properties: { sessionExpiryInterval } };
}

/** A CONNECT with a will that says `name`, a minute after the connection has broken. */
function mortal(name: string, more = kept(100)): Partial<IConnectPacket> {
  return {
    ...more,
    will: {
      ...{ topic: 'me/state', payload: Buffer.from(JSON.stringify(name)), qos: 1, retain: false },
      properties: { willDelayInterval: 60 },
    },
  };
}

async function create(t: TestContext) {
  const fixture = await createGateway(t);
  const { secret } = fixture.registry.addDevice({
    ...{ tenant: 'acme', device: 'd1', type: 'thermostat' },
  });
  const wills: unknown[] = [];
  const append = fixture.appender.append.bind(fixture.appender);
  fixture.appender.append = (request, done) => {
    for (const record of request.records) {
      const { will, data } = JSON.parse(record);
      if (will === true) wills.push(data);
    }
    append(request, done);
  };
  const come = (more: Partial<IConnectPacket>): Promise<Connected> =>
    connect(fixture, 'acme/d1', secret, more);
  return { fixture, wills, come };
}

const allGone = (fixture: GatewayFixture) => until(() => inside(fixture).gates.size === 0);

test('a kept session is announced without subscriptions too: the device keeps what it owes [MQTT5-3.2.2-3]', async (t) => {
  const { fixture, come } = await create(t);
  const first = await come(kept(100));
  assert.equal(first.connack.sessionPresent, false);
  await first.client.publish('me/telemetry', READING, 2);
  first.client.close();
  await allGone(fixture);
  const { client, connack } = await come(kept(0));
  assert.equal(connack.sessionPresent, true);
  // It is a repeated one.
  await client.publish('me/telemetry', READING, 2);
  assert.equal((await fixture.records()).length, 1);
  assert.notEqual(inside(fixture).memory.holder('acme/d1/raw'), undefined);
  client.close();
  await allGone(fixture);
  assert.equal((await come(kept(100))).connack.sessionPresent, false);
  assert.equal((await come(kept(100, true))).connack.sessionPresent, false);
  assert.equal((await come(kept(100))).connack.sessionPresent, true);
});

test('a session that ends with its connection is not taken over', async (t) => {
  const { fixture, come } = await create(t);
  const first = await come(kept(0));
  await subscribe(first.client, ['me/commands']);
  const second = await come(kept(100));
  assert.equal(second.connack.sessionPresent, false);
  await first.client.ended();
  assert.equal(fixture.gateway.sendCommand('acme', 'd1', '1'), false);
  await subscribe(second.client, ['me/commands']);
  const third = await come(kept(100));
  assert.equal(third.connack.sessionPresent, true);
  await second.client.ended();
  assert.equal(fixture.gateway.sendCommand('acme', 'd1', '1'), true);
  await received(third.client, 'publish', 1);
});

test('a will waits for no device that is there already', async (t) => {
  const { fixture, wills, come } = await create(t);
  const { client } = await come(mortal('first'));
  await subscribe(client, ['me/commands', 'me/receipts', 't/acme/d/d1/receipts']);
  await come(mortal('second'));
  await client.ended();
  await sleep(50);
  // Nor for a new session, nor beyond the end of the old one.
  await come(mortal('third', kept(100, true)));
  await until(() => wills.length === 1);
  const last = await come({ clean: false, protocolVersion: 4 });
  await sleep(50);
  last.client.close();
  await allGone(fixture);
  assert.deepEqual(wills, ['second']);
});

test('a device of 3.1.1 that goes on with the session has come back in time as well', async (t) => {
  const { fixture, wills, come } = await create(t);
  (await come(mortal('gone'))).client.close();
  await allGone(fixture);
  await come({ clean: false, protocolVersion: 4 });
  await sleep(50);
  assert.deepEqual(wills, []);
});

test('wills wait for nothing when the gateway stops, or the device is removed', async (t) => {
  const { fixture, wills, come } = await create(t);
  (await come({ ...mortal('waits'), clientId: 'one' })).client.close();
  await allGone(fixture);
  await come({ ...mortal('connected'), clientId: 'two' });
  assert.deepEqual(wills, []);
  fixture.registry.removeDevice('acme', 'd1');
  await until(() => wills.length === 2);
  assert.deepEqual(wills.toSorted(), ['connected', 'waits']);
  await allGone(fixture);

  const { secret } = fixture.registry.addDevice({
    ...{ tenant: 'acme', device: 'd2', type: 'thermostat' },
  });
  await connect(fixture, 'acme/d2', secret, mortal('stopped'));
  await fixture.gateway.stopReading();
  await fixture.gateway.close();
  await until(() => wills.length === 3);
  assert.equal(wills[2], 'stopped');
});

test('of a device as many wills wait as sessions are kept of it; the oldest is published first', () => {
  const wills = new DelayedWills({ max: 10 });
  const said: string[] = [];
  const hold = (clientId: string) => wills.hold({ clientId }, 60_000, () => said.push(clientId));
  for (let i = 0; i < 10; i++) hold(`acme/d1/${i}`);
  assert.deepEqual(said, ['acme/d1/0', 'acme/d1/1']);
  // Of the same client the one before.
  hold('acme/d1/2');
  hold('acme/d1/10');
  assert.deepEqual(said.splice(0), ['acme/d1/0', 'acme/d1/1', 'acme/d1/2', 'acme/d1/3']);
  wills.cancel('acme/d1/4');
  // Others' are not pushed out by it, but there is an end.
  for (let i = 0; i < 4; i++) hold(`acme/e${i}/1`);
  assert.deepEqual([wills.size, said.splice(0)], [10, ['acme/e3/1']]);
  wills.endOf(({ clientId }) => clientId.startsWith('acme/d1/'));
  assert.deepEqual([wills.size, said.length], [3, 7]);
  wills.endAll();
  assert.deepEqual([wills.size, said.length], [0, 10]);
});
