import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import fc from 'fast-check';
import { SpillwayError } from '../../src/core/errors.ts';
import type { ReadingRecord, Values } from '../../src/core/nouns.ts';
import { Crash, FakeLog } from './fakes.ts';
import { DAY, Harness, type HarnessOptions, HOUR, MINUTE, reading, T0 } from './harness.ts';
import { assertStore } from './naive.ts';

const NOON = T0 + 12 * HOUR;

/** A step: the clock moves, then a batch is appended; all of it is in the store before the next unless it hurries. */
interface Step {
  advance: number;
  hurries?: boolean;
  readings: ReadingRecord[];
}

/** Which store calls and fault points, counted from the start of each life, are a crash. */
interface Faults {
  /** By life: the n-th occasion at which the process dies; none when absent. */
  deaths: readonly number[];
  /** Writes that were only half done when it died. */
  cuts: boolean;
  tracksWriters: boolean;
}

/** Runs the steps with crashes until everything is in the store; returns the number of occasions. */
async function live(run: Harness, steps: readonly Step[], faults: Faults): Promise<number> {
  let occasions = 0;
  let left = Number.POSITIVE_INFINITY;
  const deaths = [...faults.deaths];
  const occasion = () => {
    occasions += 1;
    left -= 1;
    if (left === 0) throw new Crash();
  };
  run.faultPoint = occasion;
  run.store.tracksWriters = faults.tracksWriters;
  run.store.before = occasion;
  run.store.cut = () => faults.cuts && left === 1;
  const begin = () => {
    left = deaths.shift() ?? Number.POSITIVE_INFINITY;
    // Nothing is retried: a crash must end the life at once.
    run.start({ retry: { firstMs: 0, longestMs: 0, attemptsAfterAbort: 0 } });
  };
  const survive = async (life: () => Promise<void>) => {
    try {
      await life();
    } catch (error) {
      if (!(error instanceof Crash)) throw error;
      return false;
    }
    return true;
  };
  begin();
  for (const { advance, readings, hurries } of steps) {
    run.clock.advance(advance);
    if (readings.length > 0) run.log.append(readings, run.clock.now());
    if (hurries === true) continue;
    while (!(await survive(() => run.settle()))) begin();
  }
  for (;;) {
    while (!(await survive(() => run.settle()))) begin();
    if (await survive(() => run.stop())) break;
    begin();
  }
  return occasions;
}

const scenario: Step[] = [
  {
    advance: 0,
    readings: [
      reading('d1', NOON, { a: 1, b: true }),
      reading('d2', NOON + 5_000, { a: -4 }),
      reading('d1', NOON + 1_000, { a: 2 }),
    ],
  },
  {
    advance: 30_000,
    readings: [
      reading('d1', NOON + 30_000, { a: 7 }),
      reading('d1', NOON, { a: 1, b: true }),
      reading('d1', NOON + 1_000, { c: 'x' }),
      reading('d1', NOON + 30_000, { a: 8 }),
    ],
  },
  {
    advance: HOUR,
    readings: [
      reading('d1', NOON + HOUR, { a: 3 }),
      reading('d2', NOON + HOUR, { a: 3 }),
      reading('d1', NOON + 2_000, { a: 5 }, NOON + HOUR),
      reading('d1', NOON + 30_000, { a: 9 }, NOON + HOUR),
    ],
  },
  {
    advance: 10 * MINUTE,
    readings: [
      reading('d1', NOON + HOUR + 10 * MINUTE, { a: 3 }),
      reading('d1', NOON - DAY, { a: 5 }, NOON + HOUR),
      reading('d2', NOON + 5_000, { a: -4, z: 0 }, NOON + HOUR),
    ],
  },
];
const scenarioRecords = scenario.flatMap((step) => step.readings);
const calm: Faults = { deaths: [], cuts: false, tracksWriters: true };

test('a crash at any point, and a restart, change nothing of what is counted', async () => {
  const run = new Harness();
  const occasions = await live(run, scenario, calm);
  assertStore(run.store, scenarioRecords, MINUTE, true);
  assert.ok(occasions > 40, `${occasions}`);
  for (let death = 1; death <= occasions; death += 1) {
    for (const cuts of [false, true]) {
      const crashed = new Harness();
      await live(crashed, scenario, { deaths: [death], cuts, tracksWriters: cuts });
      assertStore(crashed.store, scenarioRecords, MINUTE, true);
    }
  }
});

test('a merge that a crash left in the store is one when it comes again', async () => {
  const run = new Harness({ flushEvery: 9 });
  run.log.append([reading('d1', NOON, { a: 1 })], NOON);
  run.start({ retry: { firstMs: 0, longestMs: 0, attemptsAfterAbort: 0 } });
  await run.settle();
  run.faultPoint = (name) => {
    if (name === 'rollupsWritten') throw new Crash();
  };
  run.log.append([reading('d1', NOON, { b: 2 })], NOON);
  await assert.rejects(run.ended(), Crash);
  assert.deepEqual(run.store.values('d1', NOON), { a: 1, b: 2 });
  run.faultPoint = () => {};
  run.start();
  await run.settle();
  await run.stop();
  assertStore(
    run.store,
    [reading('d1', NOON, { a: 1 }), reading('d1', NOON, { b: 2 })],
    MINUTE,
    true,
  );
});

test('base rows that a crash left do not keep hours and days from being written', async () => {
  const run = new Harness();
  const readings = [reading('d1', NOON, { a: 1 }), reading('d1', NOON, { a: 2, b: 1 })];
  run.log.append(readings, NOON);
  let isDead = false;
  run.store.cut = (call) => {
    isDead ||= call === 'writeRollups';
    return isDead;
  };
  run.store.before = () => {
    if (isDead) throw new SpillwayError('STORE_TAKEN_OVER', 'nothing is written any more');
  };
  run.start({ retry: { firstMs: 0, longestMs: 0 } });
  await assert.rejects(run.ended(), { code: 'STORE_TAKEN_OVER' });
  const left = [...run.store.rollupRows.values()].map(({ windowMs }) => windowMs);
  assert.ok(left.includes(MINUTE) && !left.includes(DAY), `${left}`);
  run.store.before = () => {};
  run.store.cut = () => false;
  run.start();
  await run.settle();
  await run.stop();
  assertStore(run.store, readings, MINUTE, true);
});

test('rows that a crash left of metrics that come later do not keep the day from having them', async () => {
  const run = new Harness({ baseWindow: HOUR });
  const [first, second, third] = [
    reading('d1', NOON, { a: 1 }),
    reading('d1', NOON + 10_000, { a: 2 }),
    reading('d1', NOON + 20_000, { b: 3 }),
  ] as const;
  run.log.append([first], NOON);
  run.start();
  await run.settle();
  await run.stop();
  // Hours are written of all three, days of none.
  let isDead = false;
  run.store.cut = (call) => {
    isDead ||= call === 'writeRollups';
    return isDead;
  };
  run.store.before = () => {
    if (isDead) throw new SpillwayError('STORE_TAKEN_OVER', 'nothing is written any more');
  };
  run.log.append([second, third], NOON);
  run.start({ retry: { firstMs: 0, longestMs: 0 } });
  await assert.rejects(run.ended(), { code: 'STORE_TAKEN_OVER' });
  assert.equal(run.store.state('d1', 'b', HOUR, NOON).count, 1);
  assert.equal(run.store.row('d1', 'b', DAY, T0), undefined);
  run.store.before = () => {};
  run.store.cut = () => false;
  // The third comes when the second is in the store already.
  const slow = new FakeLog();
  slow.append([first], NOON);
  slow.append([second], NOON);
  const reached = async () => {
    while (run.store.positions.get('rollup/0') !== slow.end) await turn();
  };
  run.start({ consumer: slow });
  await reached();
  slow.append([third], NOON);
  await reached();
  await run.stop();
  assertStore(run.store, [first, second, third], HOUR, true);
});

test('a crash with several batches under way', async () => {
  const hurried = scenario.map((step) => ({ ...step, hurries: true }));
  for (let death = 1; death <= 40; death += 1) {
    for (const flushEvery of [1, 3, 9]) {
      const crashed = new Harness({ flushEvery });
      await live(crashed, hurried, { deaths: [death], cuts: false, tracksWriters: false });
      assertStore(crashed.store, scenarioRecords, MINUTE, true);
    }
  }
});

test('crash upon crash comes through', async () => {
  const run = new Harness();
  const deaths = Array.from({ length: 120 }, (_, life) => 1 + ((life * 7) % 23));
  await live(run, scenario, { deaths, cuts: true, tracksWriters: false });
  assertStore(run.store, scenarioRecords, MINUTE, true);
});

const value = fc.oneof(
  { weight: 6, arbitrary: fc.integer({ min: -50, max: 50 }) },
  { weight: 3, arbitrary: fc.integer({ min: -1e9, max: -1000 }).map((n) => n / 1000) },
  { weight: 1, arbitrary: fc.boolean() },
  { weight: 1, arbitrary: fc.constantFrom('open', 'shut') },
);
const values = fc.dictionary(fc.constantFrom('a', 'b', 'c'), value, {
  minKeys: 1,
  maxKeys: 3,
  noNullPrototype: true,
});
/** Event time before gateway time: mostly now, sometimes late, sometimes days, sometimes ahead. */
const age = fc.oneof(
  { weight: 8, arbitrary: fc.integer({ min: 0, max: 40 }).map((n) => n * 1_000) },
  { weight: 3, arbitrary: fc.integer({ min: 0, max: 90 }).map((n) => n * MINUTE) },
  { weight: 1, arbitrary: fc.integer({ min: 0, max: 50 }).map((n) => n * HOUR) },
  { weight: 1, arbitrary: fc.constantFrom(-400 * DAY, -3 * MINUTE, -1_000) },
);
interface Draw {
  device: string;
  age: number;
  values: Values;
}
const draw = fc.record<Draw>({ device: fc.constantFrom('d1', 'd2', 'd3'), age, values });
const step = fc.record({
  advance: fc.constantFrom(0, 1_000, 1_000, 7_000, 2 * MINUTE, 11 * MINUTE, HOUR, 5 * HOUR),
  hurries: fc.boolean(),
  draws: fc.array(draw, { maxLength: 12 }),
});
const harness = fc.record<HarnessOptions>({
  baseWindow: fc.constantFrom(MINUTE, 10 * MINUTE, HOUR),
  lateness: fc.constantFrom(0, MINUTE, 5 * MINUTE),
  devicesMax: fc.constantFrom(1, 2, 100),
  openReadingsMax: fc.constantFrom(3, 20, 10_000),
  batchRecordsMax: fc.constantFrom(2, 8, 1_000),
  flushEvery: fc.constantFrom(1, 4, 9),
});
const faults = fc.record<Faults>({
  deaths: fc.array(fc.integer({ min: 1, max: 60 }), { maxLength: 6 }),
  cuts: fc.boolean(),
  tracksWriters: fc.boolean(),
});

test('whatever comes in whatever order: raw rows, rollups and ledger are right', async () => {
  await fc.assert(
    fc.asyncProperty(
      harness,
      fc.array(step, { minLength: 1, maxLength: 8 }),
      fc.integer({ min: 1, max: 5 }),
      faults,
      async (options, drawn, perBatch, plan) => {
        const run = new Harness(options);
        let now = run.clock.now();
        const steps: Step[] = [];
        for (const { advance, draws, hurries } of drawn) {
          now += advance;
          const readings = draws.map((one) => reading(one.device, now - one.age, one.values, now));
          steps.push({ advance, hurries, readings: readings.splice(0, perBatch) });
          while (readings.length > 0) {
            steps.push({ advance: 0, hurries, readings: readings.splice(0, perBatch) });
          }
        }
        await live(run, steps, plan);
        const records = steps.flatMap((one) => one.readings);
        assertStore(run.store, records, options.baseWindow ?? 0, true);
      },
    ),
    { numRuns: Number(process.env.ROLLUP_RUNS ?? 120), seed: Number(process.env.ROLLUP_SEED ?? 7) },
  );
});
