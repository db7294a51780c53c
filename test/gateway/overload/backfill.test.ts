import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { quotasOf } from '../../../src/config/quotas.ts';
import { configSchema } from '../../../src/config/schema.ts';
import { ManualClock } from '../../../src/core/clock.ts';
import { BackfillBudget, type BackfillTurn } from '../../../src/gateway/overload/backfill.ts';
import { UsageBook } from '../../../src/gateway/overload/usage.ts';
import { createGateway } from '../../helpers/gateway.ts';

const DAY = 86_400_000;

function setUp(
  t: TestContext,
  limits: Partial<ConstructorParameters<typeof BackfillBudget>[0]> = {},
) {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const clock = new ManualClock(1_000);
  /** `looks`: at the clock. */
  const state = { waiting: 0, looks: 0 };
  const now = () => {
    state.looks += 1;
    return clock.now();
  };
  const quotaOf = quotasOf(configSchema.parse({}));
  const book = new UsageBook({ quotaOf, idleMax: 10, now });
  const budget = new BackfillBudget(
    {
      ...{ readingsPerSecond: 1_000, tenantReadingsPerSecond: 1_000, waitingMax: 5_000 },
      ...{ deviceReadingsPerSecond: 1_000 },
      ...limits,
    },
    now,
    () => state.waiting,
  );
  /** A connection that sends single old readings as fast as it may; counts them. */
  const sender = (tenant: string, device: string) => {
    const made = { sent: 0, turn: undefined as unknown as BackfillTurn };
    const send = () => {
      for (let i = 0; i < 5_000 && !made.turn.isHeld; i += 1) {
        made.turn.take(1);
        made.sent += 1;
      }
    };
    made.turn = budget.turn(book.of(tenant, device), send);
    return { ...made, send, sentNow: () => made.sent, turn: made.turn };
  };
  const pass = (ms: number) => {
    for (let at = 0; at < ms; at += 20) {
      clock.set(clock.now() + 20);
      t.mock.timers.tick(20);
    }
  };
  return { budget, sender, pass, state, book };
}

const within = (value: number, least: number, most: number, what: string) =>
  assert.ok(value >= least && value <= most, `${what}: ${value} is not in ${least} to ${most}`);

test('a device has its rate of old readings, and a second of them at once', (t) => {
  const { sender, pass } = setUp(t, { deviceReadingsPerSecond: 500 });
  const one = sender('acme', 'd1');
  one.send();
  within(one.sentNow(), 200, 500, 'at once');
  pass(10_000);
  within(one.sentNow(), 5_000, 5_800, 'in ten seconds');
});

test('those that wait share the budget, whoever came first and however much each sends', (t) => {
  const { sender, pass } = setUp(t);
  const senders = Array.from({ length: 10 }, (_, i) => sender('acme', `d${i}`));
  senders[0]?.send();
  pass(1_000);
  for (const one of senders.slice(1)) one.send();
  const before = senders.map((one) => one.sentNow());
  pass(40_000);
  const got = senders.map((one, i) => one.sentNow() - (before[i] ?? 0));
  within(
    got.reduce((a, b) => a + b),
    39_000,
    42_000,
    'all',
  );
  for (const each of got) within(each, 3_400, 4_600, 'each');
});

test('turns are given once in a while, however many wait and for how long', (t) => {
  const { sender, pass, state } = setUp(t);
  for (const name of ['d1', 'd2', 'd3', 'd4']) sender('acme', name).send();
  pass(3_000);
  state.looks = 0;
  pass(1_000);
  // 50 times, at each of those that wait.
  within(state.looks, 50, 1_000, 'looks at the clock in a second');
});

test("a tenant's rate bounds its devices together, and leaves others theirs", (t) => {
  const { sender, pass } = setUp(t, { tenantReadingsPerSecond: 300 });
  const many = Array.from({ length: 5 }, (_, i) => sender('acme', `d${i}`));
  const other = sender('globex', 'g1');
  for (const one of [...many, other]) one.send();
  pass(20_000);
  within(
    many.reduce((sum, one) => sum + one.sentNow(), 0),
    6_000,
    7_000,
    'acme',
  );
  within(other.sentNow(), 6_000, 6_700, 'globex');
});

test('while too much waits to be processed nobody has a turn; who leaves has none', (t) => {
  const { sender, pass, state, budget } = setUp(t);
  const [one, two] = [sender('acme', 'd1'), sender('acme', 'd2')];
  state.waiting = 5_000;
  one.send();
  two.send();
  assert.deepEqual([one.sentNow(), two.sentNow(), budget.held], [1, 1, 2]);
  pass(3_000);
  assert.deepEqual([one.sentNow(), two.sentNow()], [1, 1]);
  two.turn.leave();
  assert.equal(budget.held, 1);
  state.waiting = 4_999;
  pass(1_000);
  assert.ok(one.sentNow() > 500);
  assert.equal(two.sentNow(), 1);
});

test('a message of many old readings goes into debt, which is paid before the next', (t) => {
  const { budget, book, pass } = setUp(t);
  let turns = 0;
  const turn = budget.turn(book.of('acme', 'd1'), () => {
    turns += 1;
  });
  turn.take(4_000);
  assert.equal(turn.isHeld, true);
  pass(2_960);
  assert.equal(turns, 0);
  pass(200);
  assert.deepEqual([turns, turn.isHeld], [1, false]);
});

for (const fastPath of [true, false]) {
  test(`a device that sends old readings is slowed, not refused, and uses no quota (fast path ${fastPath})`, async (t) => {
    const fixture = await createGateway(t, {
      fastPath,
      config: {
        quotas: { default: { device: { messages: ['50/1h'] } } },
        backfill: { deviceReadingsPerSecond: 400 },
      },
    });
    const device = await fixture.device('d1');
    const from = Date.now() - 2 * DAY;
    const old = (i: number) => `{"ts":${from + i},"seq":${i},"values":{"temperature":1}}`;
    const began = performance.now();
    const sent = Array.from({ length: 1_000 }, (_, i) =>
      device.client.publishAsync(device.topic, old(i), { qos: 1 }),
    );
    await Promise.all(sent);
    const ms = performance.now() - began;
    // 400 at once, the others at 400 a second.
    assert.ok(ms > 1_200, `${ms} ms`);
    assert.equal(fixture.counters.backfill.readings, 1_000);
    const view = fixture.gateway.view('acme', 'd1');
    assert.equal(view.backfill?.readings, 1_000);
    assert.deepEqual([view.backfill?.oldest, view.backfill?.ts], [from, from + 999]);
    assert.ok(
      view.decisions.some(({ what, code }) => what === 'slowed' && code === 'BACKFILL_RATE'),
    );
    assert.equal(view.connections.length, 1);
    assert.equal(view.lastConnection, null);
    // None of the 1,000 was charged to the quota of 50 messages an hour.
    for (let i = 0; i < 40; i += 1) {
      await device.client.publishAsync(device.topic, '{"temperature":2}', { qos: 1 });
    }
    const records = await fixture.records();
    const lanes = Map.groupBy(records, (one) => (one.kind === 'reading' ? one.lane : one.kind));
    assert.deepEqual(
      [...lanes].map(([lane, its]) => [lane, its.length]),
      [
        ['backfill', 1_000],
        [undefined, 40],
      ],
    );
  });
}

test('a message of old and new readings: each takes its lane, and the message counts', async (t) => {
  const fixture = await createGateway(t, { config: { backfill: { after: '10m' } } });
  const device = await fixture.device('d1');
  const now = Date.now();
  const ages = [0, 9 * 60_000, 11 * 60_000, 2 * DAY];
  const payload = ages.map((age) => ({ ts: now - age, values: { temperature: 1 } }));
  payload.push({ ts: now - DAY, values: { temperature: 1_000 } });
  await device.client.publishAsync(device.topic, JSON.stringify(payload), { qos: 1 });
  const [receipt] = await device.receipt();
  assert.equal(receipt?.code, 'VALUE_BOUNDS');
  const records = await fixture.records();
  assert.deepEqual(
    records.map((one) => (one.kind === 'reading' ? (one.lane ?? 'live') : one.kind)),
    ['live', 'live', 'backfill', 'backfill', 'deadLetter'],
  );
});

test('without the lane old readings are as any', async (t) => {
  const fixture = await createGateway(t, { config: { backfill: { enabled: false } } });
  const device = await fixture.device('d1');
  const payload = `{"ts":${Date.now() - DAY},"values":{"temperature":1}}`;
  await device.client.publishAsync(device.topic, payload, { qos: 1 });
  await sleep(10);
  const [record] = await fixture.records();
  assert.ok(record?.kind === 'reading' && record.lane === undefined);
  assert.equal(fixture.counters.backfill.readings, 0);
});
