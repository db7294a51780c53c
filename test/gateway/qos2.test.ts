import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createGateway, type GatewayFixture } from '../helpers/gateway.ts';
import { publishBytes, type RawClient } from '../helpers/raw-client.ts';
import { connect, inside, newDevice, received, until } from './raw.ts';

function publish(client: RawClient, id: number, temperature: number, dup = false): void {
  const payload = Buffer.from(JSON.stringify({ temperature }));
  const bytes = publishBytes('me/telemetry', payload, 2, id);
  if (dup) bytes[0] = (bytes[0] ?? 0) | 0x08;
  client.socket.write(bytes);
}

async function release(client: RawClient, id: number): Promise<void> {
  const pubcomp = client.next((packet) => packet.cmd === 'pubcomp' && packet.messageId === id);
  client.send({ cmd: 'pubrel', messageId: id });
  await pubcomp;
}

async function temperatures(fixture: GatewayFixture): Promise<unknown[]> {
  return (await fixture.records()).map(
    (record) => record.kind === 'reading' && record.values.temperature,
  );
}

/** Keeps commits from being called back until it is told to. */
function hold(fixture: GatewayFixture): () => void {
  const { appender } = fixture;
  const append = appender.append.bind(appender);
  const held: (() => void)[] = [];
  let holding = true;
  appender.append = (request, done) => {
    append(request, (error) => {
      if (holding) held.push(() => done(error));
      else done(error);
    });
  };
  return () => {
    holding = false;
    for (const go of held.splice(0)) go();
  };
}

for (const fastPath of [true, false]) {
  const path = fastPath ? 'fast path' : 'broker path';

  test(`${path}: a repeated publish before PUBREL is answered and not taken again [MQTT-4.3.3-2]`, async (t) => {
    const fixture = await createGateway(t, { fastPath });
    const { client } = await newDevice(fixture, 'd1');
    publish(client, 1, 20);
    await received(client, 'pubrec', 1);
    publish(client, 1, 20, true);
    await received(client, 'pubrec', 2);
    // Without the flag as well: what counts is the id.
    publish(client, 1, 20);
    await received(client, 'pubrec', 3);
    assert.deepEqual(await temperatures(fixture), [20]);
    await release(client, 1);
    // Also when nothing is known of it any more.
    await release(client, 1);
    publish(client, 1, 21);
    await received(client, 'pubrec', 4);
    assert.deepEqual(await temperatures(fixture), [20, 21]);
  });

  test(`${path}: a repeat that comes while the first waits for its commit is not taken again`, async (t) => {
    const fixture = await createGateway(t, { fastPath });
    const { client } = await newDevice(fixture, 'd1');
    const go = hold(fixture);
    publish(client, 1, 20);
    await until(() => fixture.counters.messages === 1);
    publish(client, 1, 20, true);
    publish(client, 2, 21);
    await until(() => fixture.counters.messages === 2);
    assert.equal(client.packets.filter(({ cmd }) => cmd === 'pubrec').length, 0);
    go();
    await received(client, 'pubrec', 3);
    assert.deepEqual(await temperatures(fixture), [20, 21]);
    await release(client, 1);
    await release(client, 2);
  });
}

test('a kept session knows its ids again after a new connection, also those still on their way', async (t) => {
  const fixture = await createGateway(t);
  const kept = { clean: false };
  const { client: first, secret } = await newDevice(fixture, 'd1', kept);
  publish(first, 1, 20);
  await received(first, 'pubrec', 1);
  const go = hold(fixture);
  publish(first, 2, 21);
  await until(() => fixture.counters.messages === 2);
  first.close();
  await until(() => inside(fixture).gates.size === 0);
  const { client: second } = await connect(fixture, 'acme/d1', secret, kept);
  publish(second, 1, 20, true);
  publish(second, 2, 21, true);
  await received(second, 'pubrec', 1);
  go();
  await received(second, 'pubrec', 2);
  assert.deepEqual(await temperatures(fixture), [20, 21]);
  await release(second, 1);
  await release(second, 2);
  publish(second, 2, 22);
  await received(second, 'pubrec', 3);
  assert.deepEqual(await temperatures(fixture), [20, 21, 22]);
});

test('a clean session begins with no ids: the same id is another message', async (t) => {
  const fixture = await createGateway(t);
  const { client: first, secret } = await newDevice(fixture, 'd1');
  publish(first, 1, 20);
  await received(first, 'pubrec', 1);
  const go = hold(fixture);
  publish(first, 2, 21);
  await until(() => fixture.counters.messages === 2);
  const { client: second } = await connect(fixture, 'acme/d1', secret);
  await first.ended();
  publish(second, 1, 30);
  publish(second, 2, 31);
  await until(() => fixture.counters.messages === 4);
  go();
  await received(second, 'pubrec', 2);
  assert.deepEqual(await temperatures(fixture), [20, 21, 30, 31]);
});

test('what a kept session leaves behind when a clean one follows it harms no later message', async (t) => {
  const fixture = await createGateway(t);
  const kept = { clean: false };
  const { client: first, secret } = await newDevice(fixture, 'd1', kept);
  const go = hold(fixture);
  publish(first, 1, 20);
  await until(() => fixture.counters.messages === 1);
  const { client: clean } = await connect(fixture, 'acme/d1', secret);
  await first.ended();
  go();
  await fixture.appender.flush();
  await clean.publish('me/telemetry', '{"temperature":21}', 1);
  clean.close();
  await until(() => inside(fixture).gates.size === 0);
  const { client: last } = await connect(fixture, 'acme/d1', secret, kept);
  publish(last, 1, 22);
  await received(last, 'pubrec', 1);
  assert.deepEqual(await temperatures(fixture), [20, 21, 22]);
});

test('a device that never sends PUBREL is cut, and keeps nothing', async (t) => {
  const fixture = await createGateway(t);
  const { client } = await newDevice(fixture, 'd1');
  for (let id = 1; id <= 1_200; id++) publish(client, id, 20);
  await until(() => client.closed);
  assert.ok((await fixture.records()).length >= 1_000);
});
