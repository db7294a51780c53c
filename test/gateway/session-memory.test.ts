import assert from 'node:assert/strict';
import { test } from 'node:test';
import { SessionMemory } from '../../src/gateway/session-memory.ts';

const RECEIPTS = { topic: 'me/receipts', qos: 1 } as const;

function kept(id: string) {
  return { id, clean: false };
}

test('a kept session is found again by its id, a clean one is not', async () => {
  const memory = new SessionMemory({ devicesMax: 10 });
  for (const clean of [true, false]) {
    const client = { id: `acme/d1/${clean}`, clean };
    await memory.addSubscriptions(client, [RECEIPTS]);
    await memory.incomingStorePacket(client, { messageId: 7 });
    assert.deepEqual(await memory.incomingGetPacket(client, { messageId: 7 }), { messageId: 7 });
    const again = { id: client.id, clean };
    assert.deepEqual(
      await memory.subscriptionsByClient({ id: client.id }),
      clean ? [] : [RECEIPTS],
    );
    assert.equal(memory.of(again).incoming.has(7), !clean);
    await memory.cleanSubscriptions({ id: client.id });
    assert.deepEqual(await memory.subscriptionsByClient({ id: client.id }), []);
    assert.equal(memory.of({ id: client.id, clean: false }).incoming.has(7), false);
  }
});

test('only filters that a device may have are kept', async () => {
  const memory = new SessionMemory({ devicesMax: 10 });
  const client = kept('acme/d1/c');
  await memory.addSubscriptions(client, [
    RECEIPTS,
    ...Array.from({ length: 1_000 }, (_, i) => ({ topic: `junk/${i}`, qos: 0 }) as const),
    { topic: 't/acme/d/d2/commands', qos: 0 },
    { topic: 't/acme/d/d1/commands', qos: 2 },
    { topic: '#', qos: 0 },
  ]);
  assert.deepEqual(
    (await memory.subscriptionsByClient(client)).map(({ topic }) => topic),
    ['me/receipts', 't/acme/d/d1/commands'],
  );
  await memory.removeSubscriptions(client, ['me/receipts', 'junk/1']);
  assert.equal((await memory.subscriptionsByClient(client)).length, 1);
});

test('what is not acknowledged is kept up to a number and a size, the latest of it', async () => {
  const memory = new SessionMemory({ devicesMax: 10 });
  const client = kept('acme/d1/c');
  const enqueue = (brokerCounter: number, payload: string) =>
    memory.outgoingEnqueue(
      { clientId: client.id },
      { cmd: 'publish', brokerId: 'b', brokerCounter, payload },
    );
  for (let i = 1; i <= 100; i++) await enqueue(i, 'x');
  const { outgoing } = memory.of(client);
  assert.equal(outgoing.length, 64);
  assert.equal(outgoing[0]?.brokerCounter, 37);
  await memory.outgoingUpdate(client, {
    cmd: 'publish',
    brokerId: 'b',
    brokerCounter: 50,
    messageId: 5,
  });
  // One that was dropped meanwhile is no error.
  await memory.outgoingUpdate(client, {
    cmd: 'publish',
    brokerId: 'b',
    brokerCounter: 1,
    messageId: 6,
  });
  const cleared = await memory.outgoingClearMessageId(client, { cmd: 'puback', messageId: 5 });
  assert.equal(cleared?.brokerCounter, 50);
  assert.equal(
    await memory.outgoingClearMessageId(client, { cmd: 'puback', messageId: 5 }),
    undefined,
  );
  assert.equal(outgoing.length, 63);
  for (let i = 0; i < 5; i++) await enqueue(200 + i, 'x'.repeat(400_000));
  assert.equal(outgoing.length, 2);
  await enqueue(300, 'x'.repeat(5_000_000));
  assert.equal(outgoing.length, 1);
  assert.equal(memory.of(client).outgoingBytes, 5_000_000);
});

test('sessions of a device, and devices, are bounded; the least used go first', async () => {
  const memory = new SessionMemory({ devicesMax: 3 });
  const has = async (id: string) => (await memory.subscriptionsByClient({ id })).length > 0;
  for (let i = 0; i < 100; i++) {
    await memory.addSubscriptions(kept(`acme/d1/c${i}`), [RECEIPTS]);
    // A reconnect counts as a use.
    memory.of(kept('acme/d1/c0'));
  }
  assert.equal(await has('acme/d1/c0'), true);
  assert.equal(await has('acme/d1/c92'), false);
  assert.equal(await has('acme/d1/c93'), true);
  for (let i = 2; i <= 4; i++) await memory.addSubscriptions(kept(`acme/d${i}/c`), [RECEIPTS]);
  assert.equal(await has('acme/d1/c0'), false);
  assert.equal(await has('acme/d4/c'), true);
});

test('ids that await their PUBREL are bounded', async () => {
  const memory = new SessionMemory({ devicesMax: 3 });
  const client = { id: 'acme/d1/c', clean: true };
  for (let messageId = 1; messageId <= 1_000; messageId++)
    await memory.incomingStorePacket(client, { messageId });
  await assert.rejects(memory.incomingStorePacket(client, { messageId: 1_001 }));
  await memory.incomingDelPacket(client, { messageId: 1 });
  await assert.rejects(memory.incomingDelPacket(client, { messageId: 1 }));
  await memory.incomingStorePacket(client, { messageId: 1_001 });
});

test('what a connection stores after its session was thrown away goes nowhere', async () => {
  const memory = new SessionMemory({ devicesMax: 3 });
  const old = kept('acme/d1/c');
  memory.of(old);
  await memory.cleanSubscriptions({ id: old.id });
  await memory.incomingStorePacket(old, { messageId: 7 });
  assert.equal(memory.of(kept('acme/d1/c')).incoming.has(7), false);
});

test('what all sessions together have not acknowledged is bounded; who was sent nothing for longest loses it', async () => {
  const memory = new SessionMemory({ devicesMax: 100, outgoingTotalBytesMax: 1_000 });
  const enqueue = (id: string, payload: string) =>
    memory.outgoingEnqueue({ clientId: id }, { cmd: 'publish', messageId: 1, payload });
  for (let i = 0; i < 10; i++) await enqueue(`acme/d${i}/c`, 'x'.repeat(100));
  assert.deepEqual(memory.outgoing, { sessions: 10, bytes: 1_000 });
  await enqueue('acme/d0/c', 'x'.repeat(150));
  assert.deepEqual(memory.outgoing, { sessions: 8, bytes: 950 });
  assert.equal(memory.of(kept('acme/d0/c')).outgoing.length, 2);
  assert.equal(memory.of(kept('acme/d1/c')).outgoing.length, 0);
  assert.equal(memory.of(kept('acme/d2/c')).outgoing.length, 0);
  // One message larger than everything is kept alone.
  await enqueue('acme/d3/c', 'x'.repeat(5_000));
  assert.deepEqual(memory.outgoing, { sessions: 1, bytes: 5_100 });
  const client = kept('acme/d3/c');
  await memory.outgoingUpdate(client, { cmd: 'pubrel', messageId: 1 });
  assert.deepEqual(memory.outgoing, { sessions: 1, bytes: 5_000 });
  await memory.outgoingClearMessageId(client, { cmd: 'puback', messageId: 1 });
  await memory.outgoingClearMessageId(client, { cmd: 'puback', messageId: 1 });
  assert.deepEqual(memory.outgoing, { sessions: 0, bytes: 0 });
});

test('a session that is thrown away takes its messages along', async () => {
  const memory = new SessionMemory({ devicesMax: 2 });
  const enqueue = (id: string) =>
    memory.outgoingEnqueue({ clientId: id }, { cmd: 'publish', messageId: 1, payload: 'xx' });
  await enqueue('acme/d1/c');
  const old = kept('acme/d1/c');
  memory.of(old);
  await memory.cleanSubscriptions({ id: 'acme/d1/c' });
  assert.deepEqual(memory.outgoing, { sessions: 0, bytes: 0 });
  await memory.outgoingClearMessageId(old, { cmd: 'puback', messageId: 1 });
  for (let i = 0; i < 20; i++) await enqueue(`acme/d1/c${i}`);
  assert.deepEqual(memory.outgoing, { sessions: 8, bytes: 16 });
  for (let i = 2; i < 20; i++) await enqueue(`acme/d${i}/c`);
  assert.deepEqual(memory.outgoing, { sessions: 2, bytes: 4 });
});

test('a session that waits for its device holds nothing of the connection before', () => {
  let now = 0;
  const memory = new SessionMemory({ devicesMax: 10, now: () => now });
  const [first, second] = [kept('acme/d1/c'), kept('acme/d1/c')];
  memory.of(first);
  assert.equal(memory.holder('acme/d1/c'), first);
  memory.leave(first, Number.POSITIVE_INFINITY);
  assert.equal(memory.holder('acme/d1/c'), undefined);
  now = 1e12;
  memory.of(second);
  // Who left it to another one has no say any more.
  memory.leave(first, 0);
  assert.equal(memory.holder('acme/d1/c'), second);
  memory.leave(second, 1_000);
  now += 999;
  assert.equal(memory.has('acme/d1/c'), true);
  now += 1;
  assert.equal(memory.has('acme/d1/c'), false);
});
