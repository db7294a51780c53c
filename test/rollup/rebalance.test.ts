import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { ManualClock } from '../../src/core/clock.ts';
import { SpillwayError } from '../../src/core/errors.ts';
import type { LogRecord, Values } from '../../src/core/nouns.ts';
import { type RollupStats, runRollupWorker } from '../../src/rollup/worker.ts';
import type { Store } from '../../src/store/contract.ts';
import { FakeStore } from './fakes.ts';
import { GroupLog } from './group-log.ts';
import { DAY, HOUR, MINUTE, reading, T0 } from './harness.ts';
import { assertStore } from './naive.ts';

const NOON = T0 + 12 * HOUR;
/** Partitions of each topic. */
const GROUPS = 3;
/** Readings, dead letters, readings of another way in. */
const TOPICS = 3;
const NUMBERS = Array.from({ length: TOPICS }, (_, topic) =>
  Array.from({ length: GROUPS }, (_, n) => topic * 1024 + n),
).flat();

function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

async function turns(count: number): Promise<void> {
  for (let n = 0; n < count; n += 1) await turn();
}

interface WorkerPlan {
  /** Turns of the event loop that calls of the store take, in rotation; what they do is done at once. */
  delays: readonly number[];
  flushEvery: number;
  batchRecordsMax: number;
  devicesMax: number;
}

/** A worker, as in a process of its own. */
class Process {
  readonly ended: Promise<void>;
  readonly warnings: string[] = [];
  stats: RollupStats | undefined;
  error: unknown;
  isRunning = true;
  /** Dies at the n-th occasion from now. */
  dieAfter = Number.POSITIVE_INFINITY;
  /** Store calls fail while true, with an error that may pass. */
  isCutOff = false;
  /** Waited for behind each call of the store. */
  hold: (call: string) => Promise<void> = async () => {};
  private readonly stopping = new AbortController();
  private calls = 0;
  private ticks = 0;

  constructor(log: GroupLog, store: FakeStore, clock: ManualClock, plan: WorkerPlan) {
    const { flushEvery, batchRecordsMax, devicesMax } = plan;
    this.ended = runRollupWorker({
      consumer: log.consumer(),
      store: this.remote(store, plan.delays),
      clock,
      config: {
        rollup: {
          baseWindow: MINUTE,
          lateness: 2 * MINUTE,
          flushInterval: flushEvery,
          openReadingsMax: 10_000,
          devicesMax,
          batchRecordsMax,
        },
        types: {},
        store: { retention: { raw: 0 } },
      },
      signal: this.stopping.signal,
      faultPoint: () => this.occasion(),
      monotonicNow: () => this.ticks++,
      retry: { firstMs: 1, longestMs: 2 },
      onStats: (stats) => {
        this.stats = stats;
      },
      logger: { info: () => {}, warn: (_, message) => this.warnings.push(message) },
    }).then(
      () => {
        this.isRunning = false;
      },
      (error: unknown) => {
        this.isRunning = false;
        this.error = error;
      },
    );
  }

  private occasion(): void {
    this.dieAfter -= 1;
    // An error that nobody tries to get over.
    if (this.dieAfter <= 0) throw new SpillwayError('STORE_CORRUPT', 'killed');
  }

  private remote(store: FakeStore, delays: readonly number[]): Store {
    return new Proxy<Store>(store, {
      get: (target, name) => {
        const value: unknown = Reflect.get(target, name);
        if (typeof value !== 'function') return value;
        return async (...args: unknown[]) => {
          if (this.isCutOff) {
            await turn();
            throw new Error('cut off');
          }
          this.occasion();
          const result: unknown = await Reflect.apply(value, target, args);
          this.calls += 1;
          await turns(delays[this.calls % delays.length] ?? 0);
          await this.hold(String(name));
          this.occasion();
          return result;
        };
      },
    });
  }

  stop(): Promise<void> {
    this.stopping.abort();
    return this.ended;
  }
}

interface World {
  log: GroupLog;
  store: FakeStore;
  clock: ManualClock;
  processes: Process[];
  /** All that was appended, by partition. */
  records: Map<number, LogRecord[]>;
}

function world(): World {
  return {
    log: new GroupLog(NUMBERS),
    store: new FakeStore(),
    clock: new ManualClock(NOON),
    processes: [],
    records: new Map(NUMBERS.map((number) => [number, []])),
  };
}

function deviceOf(n: number, k: number): string {
  return `d${n}-${k}`;
}

function feed(all: World, partition: number, records: LogRecord[]): void {
  all.log.append(partition, records, all.clock.now());
  all.records.get(partition)?.push(...records);
}

function start(all: World, plan: WorkerPlan): Process {
  const process = new Process(all.log, all.store, all.clock, plan);
  all.processes.push(process);
  return process;
}

/** Has the process joined, or ended? */
async function joined(all: World, before: number, process: Process): Promise<void> {
  while (all.log.joins === before && process.isRunning) await turn();
}

function isCaughtUp({ log, store }: World): boolean {
  return NUMBERS.every(
    (number) => (store.positions.get(`rollup/${number}`) ?? 0) >= log.end(number),
  );
}

/** With healthy members until everything is in the store. */
async function settle(all: World, plan: WorkerPlan): Promise<void> {
  for (const process of all.processes) {
    process.isCutOff = false;
    process.dieAfter = Number.POSITIVE_INFINITY;
  }
  const deal = () => all.log.rebalance((n) => n, { turns: 10_000 });
  await deal();
  const deadline = Date.now() + 10_000;
  while (!isCaughtUp(all)) {
    if (Date.now() > deadline) {
      const positions = JSON.stringify([...all.store.positions]);
      const errors = all.processes.map(({ error }) => String(error)).join();
      throw new Error(`it does not catch up: ${positions}; ${errors}`);
    }
    // The last of them may have been killed already, and only now be gone.
    if (!all.processes.some(({ isRunning }) => isRunning)) {
      const before = all.log.joins;
      await joined(all, before, start(all, plan));
      await deal();
    }
    await turn();
  }
  await Promise.all(all.processes.map((process) => process.stop()));
}

function assertAll({ store, records, processes }: World): void {
  for (const { error } of processes) {
    if (error !== undefined) assert.match(String(error), /killed/);
  }
  assertStore(store, [...records.values()].flat(), MINUTE, false);
  const letters = [...records.values()].flat().filter(({ kind }) => kind === 'deadLetter');
  assert.equal(store.letters.size, letters.length);
}

const calm: WorkerPlan = { delays: [0], flushEvery: 3, batchRecordsMax: 100, devicesMax: 100 };

function letter(device: string, received: number): LogRecord {
  const from = { tenant: 'acme', device, type: 'sensor', received, topic: 't' };
  const refusal = { code: 'JSON_INVALID', message: '', payload: '', payloadBytes: 0 };
  return { kind: 'deadLetter', ...from, ...refusal };
}

test('a revoked partition is flushed, forgotten, and rebuilt by its new owner', async () => {
  const all = world();
  const first = start(all, { ...calm, flushEvery: 1_000_000 });
  await joined(all, 0, first);
  await all.log.rebalance(() => 0, { turns: 100 });
  for (let n = 0; n < GROUPS; n += 1) {
    feed(all, n, [reading(deviceOf(n, 0), NOON, { a: 1 })]);
    feed(all, 1024 + n, [letter(deviceOf(n, 0), NOON)]);
  }
  while (all.log.yielded < 6) await turn();
  await turns(5);
  assert.equal(all.store.positions.size, 0);
  const second = start(all, calm);
  await joined(all, 1, second);
  // The first keeps n = 1.
  await all.log.rebalance((n) => (n === 1 ? 0 : 1), { turns: 10_000 });
  assert.equal(all.store.positions.size, 6);
  for (let n = 0; n < GROUPS; n += 1) {
    feed(all, n, [reading(deviceOf(n, 0), NOON + 1, { a: 2 })]);
    feed(all, 2048 + n, [
      reading(deviceOf(n, 0), NOON, { a: 1 }),
      reading(deviceOf(n, 0), NOON + 2, { b: 1 }),
    ]);
  }
  // Its interval is too long to wait for.
  await first.stop();
  assert.equal(first.stats?.devices, 1);
  await settle(all, calm);
  assertAll(all);
});

test('what could not be flushed in time is not written afterwards', async () => {
  const all = world();
  const first = start(all, { ...calm, flushEvery: 1_000_000 });
  await joined(all, 0, first);
  await all.log.rebalance(() => 0, { turns: 100 });
  feed(all, 0, [reading('d0-0', NOON, { a: 1 }), letter('d0-0', NOON)]);
  feed(all, 1, [reading('d1-0', NOON, { a: 5 })]);
  while (all.log.yielded < 2) await turn();
  await turns(5);
  first.isCutOff = true;
  const second = start(all, calm);
  await joined(all, 1, second);
  await all.log.rebalance((n) => (n === 0 ? 1 : 0), { turns: 20 });
  feed(all, 0, [reading('d0-0', NOON + 1, { a: 2 })]);
  while ((all.store.positions.get('rollup/0') ?? 0) < 3) await turn();
  const calls = all.store.calls.length;
  const rows = structuredClone([...all.store.rollupRows.values()]);
  first.isCutOff = false;
  while ((all.store.positions.get('rollup/1') ?? 0) < 1) await new Promise((r) => setTimeout(r, 1));
  assert.ok(all.store.calls.length > calls);
  const ofFirst = [...all.store.rollupRows.values()].filter(({ device }) => device === 'd0-0');
  assert.deepEqual(ofFirst, rows);
  await settle(all, calm);
  assertAll(all);
});

/** A worker that has both partitions, and a record of each that it has not flushed. */
async function startedWithBoth(all: World): Promise<Process> {
  const first = start(all, { ...calm, flushEvery: 1_000_000 });
  await joined(all, 0, first);
  await all.log.rebalance(() => 0, { turns: 100 });
  for (const n of [0, 1]) feed(all, n, [reading(deviceOf(n, 0), NOON, { a: 1 })]);
  while (all.log.yielded < 2) await turn();
  await turns(5);
  return first;
}

test('a flush that is under way commits nothing of what was lost', async () => {
  const all = world();
  const first = await startedWithBoth(all);
  const second = start(all, { ...calm, flushEvery: 1_000_000 });
  await joined(all, 1, second);
  let goOn: () => void = () => {};
  const held = new Promise<void>((resolve) => {
    goOn = resolve;
  });
  first.hold = (call) => (call === 'writeRollups' ? held : Promise.resolve());
  // The first has not committed either partition when it loses one of them.
  await all.log.rebalance((n) => (n === 0 ? 0 : 1), { turns: 20 });
  assert.equal(all.store.positions.size, 0);
  feed(all, 1, [reading('d1-0', NOON + 1, { a: 2 })]);
  while (all.log.yielded < 4) await turn();
  await turns(5);
  goOn();
  await first.stop();
  assert.deepEqual([...all.store.positions.keys()], ['rollup/0']);
  await second.stop();
  await settle(all, calm);
  assertAll(all);
});

test('a store that knows the new owner does not end who has lost a partition and keeps others', async () => {
  const all = world();
  const first = await startedWithBoth(all);
  const second = start(all, calm);
  await joined(all, 1, second);
  const held = Promise.withResolvers<void>();
  let refusals = 0;
  first.hold = async (call) => {
    if (call !== 'writeRollups' || refusals > 0) return;
    await held.promise;
    refusals += 1;
    throw new SpillwayError('STORE_TAKEN_OVER', 'another writer has it');
  };
  await all.log.rebalance((n) => (n === 0 ? 0 : 1), { turns: 20 });
  held.resolve();
  await turns(50);
  assert.equal(first.error, undefined);
  await first.stop();
  assert.equal(refusals, 1);
  assert.ok(all.store.positions.has('rollup/0'));
  await settle(all, calm);
  assertAll(all);
});

test('a batch in hand is dropped when its partition is taken away', async () => {
  const all = world();
  const first = start(all, { ...calm, delays: [30], batchRecordsMax: 1 });
  await joined(all, 0, first);
  await all.log.rebalance(() => 0, { turns: 100 });
  for (let k = 0; k < 6; k += 1) feed(all, 0, [reading('d0-0', NOON + k, { a: k })]);
  while (all.log.yielded < 2) await turn();
  // One is being processed, the next has been yielded. Away and back at once.
  const other = start(all, calm);
  await joined(all, 1, other);
  await all.log.rebalance(() => 1, { turns: 0 });
  await all.log.rebalance(() => 0, { turns: 0 });
  await settle(all, calm);
  assertAll(all);
});

/** One worker with a reading of each group in the store, and the calls of the store to find readings. */
async function withOneWorker() {
  const all = world();
  const first = start(all, calm);
  await joined(all, 0, first);
  await all.log.rebalance(() => 0, { turns: 100 });
  for (let n = 0; n < GROUPS; n += 1) {
    feed(all, n, [reading(deviceOf(n, 0), NOON, { a: 1 })]);
    feed(all, 2048 + n, [reading(deviceOf(n, 0), NOON + 1, { a: 3 })]);
  }
  while (!isCaughtUp(all)) await turn();
  await turns(5);
  const loads = () => all.store.calls.filter((call) => call === 'readings').length;
  return { all, first, loads };
}

test('who loses everything and gets it back unchanged goes on with the windows in memory', async () => {
  const { all, loads } = await withOneWorker();
  const before = loads();
  all.log.lapse(0);
  feed(all, 0, [reading('d0-0', NOON + 2, { a: 2 }), reading('d0-0', NOON, { a: 1 })]);
  await turns(20);
  await all.log.rebalance(() => 0, { turns: 100 });
  while (!isCaughtUp(all)) await turn();
  assert.equal(loads(), before);
  await settle(all, calm);
  assertAll(all);
});

test('windows in memory are forgotten when somebody else had the partition meanwhile', async () => {
  const { all, loads } = await withOneWorker();
  const other = start(all, calm);
  await joined(all, 1, other);
  all.log.lapse(0);
  await all.log.rebalance(() => 1, { turns: 100 });
  feed(all, 1, [reading('d1-0', NOON + 5, { a: 9 })]);
  while (!isCaughtUp(all)) await turn();
  const before = loads();
  await all.log.rebalance(() => 0, { turns: 100 });
  feed(all, 2, [reading('d2-0', NOON + 2, { a: 2 })]);
  while (!isCaughtUp(all)) await turn();
  assert.ok(loads() > before);
  await settle(all, calm);
  assertAll(all);
});

test('a position behind the end of the log is an error, also when partitions are assigned', async () => {
  const all = world();
  const first = start(all, calm);
  await joined(all, 0, first);
  all.store.positions.set('rollup/1', 7);
  await all.log.rebalance(() => 0, { turns: 100 });
  await first.ended;
  assert.equal((first.error as SpillwayError).code, 'LOG_CORRUPT');
});

const values = fc.dictionary(
  fc.constantFrom('a', 'b', 'c'),
  fc.oneof(fc.integer({ min: -5, max: 5 }), fc.constantFrom(true, 'open')),
  { minKeys: 1, maxKeys: 2, noNullPrototype: true },
);
interface Draw {
  k: number;
  age: number;
  values: Values;
}
const draw = fc.record<Draw>({
  k: fc.integer({ min: 0, max: 1 }),
  age: fc.oneof(
    { weight: 8, arbitrary: fc.integer({ min: 0, max: 20 }).map((n) => n * 1_000) },
    { weight: 2, arbitrary: fc.integer({ min: 0, max: 90 }).map((n) => n * MINUTE) },
    { weight: 1, arbitrary: fc.constantFrom(30 * HOUR, 2 * DAY, -30_000) },
  ),
  values,
});
type Step =
  | { kind: 'feed'; n: number; topic: number; draws: Draw[]; advance: number }
  | { kind: 'rebalance'; owners: number[]; patience: number }
  | { kind: 'lapse'; at: number; meanwhile: number; owners: number[] }
  | { kind: 'join' | 'stop'; at: number }
  | { kind: 'kill'; at: number; after: number }
  | { kind: 'cut'; at: number; turns: number };
const n = fc.integer({ min: 0, max: GROUPS - 1 });
const owners = fc.array(fc.integer({ min: 0, max: 2 }), { minLength: GROUPS, maxLength: GROUPS });
const rebalance = fc.record({
  kind: fc.constant('rebalance' as const),
  owners,
  patience: fc.constantFrom(0, 1, 4, 1_000),
});
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant('feed' as const),
      n,
      topic: fc.constantFrom(0, 0, 0, 1, 2),
      draws: fc.array(draw, { minLength: 1, maxLength: 6 }),
      advance: fc.constantFrom(0, 500, 10_000, MINUTE, 11 * MINUTE),
    }),
  },
  { weight: 5, arbitrary: rebalance },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant('lapse' as const),
      at: n,
      meanwhile: fc.integer({ min: 0, max: 12 }),
      // Often everything goes to one member.
      owners: fc.oneof(owners, fc.constantFrom<number[]>([0, 0, 0], [1, 1, 1])),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constantFrom('join' as const, 'stop' as const), at: n }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant('kill' as const),
      at: n,
      after: fc.integer({ min: 0, max: 30 }),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant('cut' as const),
      at: n,
      turns: fc.integer({ min: 1, max: 30 }),
    }),
  },
);
const plan = fc.record<WorkerPlan>({
  delays: fc.array(fc.integer({ min: 0, max: 5 }), { minLength: 1, maxLength: 7 }),
  flushEvery: fc.constantFrom(1, 3, 8),
  batchRecordsMax: fc.constantFrom(1, 5, 1_000),
  devicesMax: fc.constantFrom(1, 3, 100),
});

async function take(all: World, one: Step, with_: WorkerPlan): Promise<void> {
  const running = all.processes.filter(({ isRunning }) => isRunning);
  if (one.kind === 'feed') {
    all.clock.advance(one.advance);
    const now = all.clock.now();
    const records = one.draws.map((drawn) => {
      const device = deviceOf(one.n, drawn.k);
      return one.topic === 1
        ? letter(device, now)
        : reading(device, now - drawn.age, drawn.values, now);
    });
    feed(all, one.topic * 1024 + one.n, records);
    return;
  }
  if (one.kind === 'rebalance') {
    await all.log.rebalance((group) => one.owners[group] ?? 0, { turns: one.patience });
    return;
  }
  if (one.kind === 'lapse') {
    all.log.lapse(one.at);
    await turns(one.meanwhile);
    await all.log.rebalance((group) => one.owners[group] ?? 0, { turns: 100 });
    return;
  }
  if (one.kind === 'join') {
    if (running.length >= 3) return;
    const before = all.log.joins;
    await joined(all, before, start(all, with_));
    return;
  }
  const target = running[one.at % Math.max(1, running.length)];
  if (target === undefined) return;
  if (one.kind === 'kill') target.dieAfter = one.after;
  if (one.kind === 'stop') await target.stop();
  if (one.kind === 'cut') {
    target.isCutOff = true;
    await turns(one.turns);
    target.isCutOff = false;
  }
}

test('workers share partitions that change hands at any time: everything counts once', async () => {
  await fc.assert(
    fc.asyncProperty(
      plan,
      fc.array(fc.record({ step, pause: fc.integer({ min: 0, max: 12 }) }), {
        minLength: 5,
        maxLength: 40,
      }),
      async (with_, steps) => {
        const all = world();
        for (const before of [0, 1]) await joined(all, before, start(all, with_));
        await all.log.rebalance((group) => group, { turns: 100 });
        for (const { step: one, pause } of steps) {
          await take(all, one, with_);
          await turns(pause);
        }
        await settle(all, calm);
        assertAll(all);
      },
    ),
    {
      numRuns: Number(process.env.ROLLUP_RUNS ?? 150),
      seed: Number(process.env.ROLLUP_SEED ?? 11),
      endOnFailure: true,
    },
  );
});
