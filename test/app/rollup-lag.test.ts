import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { Backlog } from '../../src/app/backlog.ts';
import { LagWatch } from '../../src/app/rollup-lag.ts';
import { ManualClock } from '../../src/core/clock.ts';
import { LevelMachine } from '../../src/gateway/overload/levels.ts';
import { Pace } from '../../src/gateway/overload/pace.ts';
import { PaceKeeper } from '../../src/gateway/overload/pace-keeper.ts';
import type { LogStats } from '../../src/log/contract.ts';

const BRAKE_MS = 60_000;
const STEP_MS = 10;
const FLUSH_MS = 1_000;
/** CPU of a record in the gateway and in the worker, ms. */
const GATEWAY = 0.005;
const WORKER = 0.009;
/** What both do for ever on one core, records/ms. */
const BOTH = 1 / (GATEWAY + WORKER);
/** Part of the CPU that the worker gets at least. */
const LEAST = 0.1;
const COST = 250;

/**
 * One core, of which the gateway has what it wants and the worker what is left; the worker's store may stop answering.
 * `waiting`: records in the log at the start.
 */
function createWorld(options: { offeredPerMs: number; waiting?: number; storeAnswers?: boolean }) {
  const clock = new ManualClock(0);
  const now = () => clock.now();
  const world = { storeAnswers: true, restricted: 0, ...options };
  let end = options.waiting ?? 0;
  let processed = 0;
  let taken = 0;
  const stats = () =>
    ({ firstOffset: 0, endOffset: end, diskBytes: 0, diskBytesMax: 1 }) as LogStats;
  const backlog = new Backlog(stats);
  const watch = new LagWatch(stats, backlog, now);
  const pace = new Pace(now);
  const keeper = new PaceKeeper(pace, now);
  const machine = new LevelMachine<'lag' | 'backlog' | 'memory'>({
    clock,
    times: { riseMs: 300, dwellMs: { brake: 2_000, shed: 2_000, refuse: 5_000 } },
  });
  let demand = 0;
  let usedMs = 0;
  const step = () => {
    clock.advance(STEP_MS);
    const most = Math.min(world.offeredPerMs, (1 - LEAST) / GATEWAY) * STEP_MS;
    const came = pace.allows() ? most : 0;
    pace.take(came * COST);
    taken += came * COST;
    end += came;
    const free = STEP_MS - came * GATEWAY;
    const done = world.storeAnswers ? Math.min(end - processed, free / WORKER) : 0;
    processed += done;
    usedMs += done * WORKER;
    demand += end > processed && world.storeAnswers ? 1 : done / (free / WORKER);
    if (now() % 100 === 0) look();
    if (now() % FLUSH_MS > 0) return;
    if (world.storeAnswers) {
      backlog.told(end - processed);
      watch.flushed(usedMs);
    }
    watch.heard((demand * STEP_MS) / FLUSH_MS);
    demand = 0;
  };
  const look = () => {
    const lag = watch.look();
    const none = { value: 0, thresholds: {} };
    const signals = {
      lag: { value: lag.ms, thresholds: { brake: BRAKE_MS }, hard: true },
      ...{ backlog: none, memory: none },
    };
    machine.step(signals);
    if (now() % 1_000 === 0) keeper.look(signals, taken, lag);
    if (pace.rate !== undefined) world.restricted++;
  };
  return {
    ...{ world, machine, pace, watch },
    waiting: () => end - processed,
    taken: () => taken / COST,
    run(ms: number) {
      let worst = 0;
      for (let t = 0; t < ms; t += STEP_MS) {
        step();
        worst = Math.max(worst, watch.look().ms);
      }
      return worst;
    },
  };
}

const MINUTE = 60_000;

describe('a rollup worker that lacks the CPU', () => {
  test('a flood that it can work off within the bound is left to the log', () => {
    const { run, world, machine, taken } = createWorld({ offeredPerMs: 500 });
    const floodMs = 30_000;
    run(floodMs);
    assert.equal(machine.level, 'normal');
    assert.equal(Math.round(taken() / floodMs), (1 - LEAST) / GATEWAY);
    world.offeredPerMs = 10;
    run(2 * MINUTE);
    assert.equal(world.restricted, 0);
    assert.ok(run(10_000) < 2_000);
  });

  test('a longer one is paced to what both can do, and ends with it', () => {
    const { run, world, machine, taken, pace } = createWorld({ offeredPerMs: 500 });
    // What came before the first cut is behind what comes after it, and is worked off a little at a time.
    assert.ok(run(10 * MINUTE) < 2.7 * BRAKE_MS);
    run(10 * MINUTE);
    const before = taken();
    assert.ok(run(10 * MINUTE) < 1.2 * BRAKE_MS);
    assert.equal(machine.level, 'brake');
    const part = (taken() - before) / (10 * MINUTE) / BOTH;
    assert.ok(part > 0.9 && part < 1.05, `${part} of what is possible`);
    world.offeredPerMs = 10;
    run(3 * MINUTE);
    assert.equal(machine.level, 'normal');
    assert.equal(pace.rate, undefined);
    assert.ok(run(10_000) < 2_000);
  });

  test('a store that does not answer fills the log and holds up nobody, not even while it is caught up with', () => {
    const { run, world, machine, waiting } = createWorld({ offeredPerMs: 20 });
    run(MINUTE);
    world.storeAnswers = false;
    assert.equal(run(60 * MINUTE), 0);
    assert.equal(machine.level, 'normal');
    world.storeAnswers = true;
    run(20 * MINUTE);
    assert.ok(waiting() < 1_000);
    assert.equal(machine.level, 'normal');
    assert.equal(world.restricted, 0);
  });

  test('what a start finds in the log holds up nobody while it gets less', () => {
    const { run, world, machine, waiting } = createWorld({ offeredPerMs: 20, waiting: 50e6 });
    run(MINUTE);
    assert.equal(machine.level, 'brake');
    run(11 * MINUTE);
    assert.ok(waiting() < 1_000);
    assert.equal(machine.level, 'normal');
    assert.equal(world.restricted, 0);
  });
});

describe('how far the worker is behind', () => {
  function createWatch() {
    const clock = new ManualClock(0);
    let endOffset = 100;
    let used = 0;
    const stats = () => ({ firstOffset: 40, endOffset }) as LogStats;
    const backlog = new Backlog(stats);
    const watch = new LagWatch(stats, backlog, () => clock.now());
    return {
      ...{ clock, watch },
      /** A second in which so many records come; the worker flushes, and then so many wait, and says what it used. */
      second(records: number, said: { waiting?: number; demand?: number; usedMs?: number }) {
        clock.advance(1_000);
        endOffset += records;
        const { waiting, demand, usedMs = 0 } = said;
        used += usedMs;
        if (demand !== undefined) watch.heard(demand);
        if (waiting !== undefined) {
          backlog.told(waiting);
          watch.flushed(used);
        }
        return watch.look().ms;
      },
    };
  }

  test('is the age of the first record behind the last flush, and nothing when there is none', () => {
    const { second, watch } = createWatch();
    for (let s = 0; s < 5; s++) second(10, { demand: 1 });
    assert.equal(second(10, { waiting: 30, demand: 1 }), 2_000);
    assert.deepEqual(watch.look(), { ms: 2_000, flush: { arrived: 160, processed: 130 } });
    // The worker comes to nothing.
    assert.equal(second(10, {}), 3_000);
    assert.equal(second(0, {}), 4_000);
    assert.equal(second(0, { waiting: 0 }), 0);
    for (let s = 0; s < 5_000; s++) second(1, { demand: 1 });
    const age = second(1, { demand: 1 });
    assert.ok(Math.abs(age - 5_000_000) < 10_000, `${age} ms`);
  });

  test('what was in the log before is as old as the process', () => {
    const { second } = createWatch();
    for (let s = 0; s < 9; s++) second(10, { waiting: 150, demand: 1 });
    assert.equal(second(10, { waiting: 150, demand: 1 }), 10_000);
    assert.equal(second(10, { waiting: 120, demand: 1 }), 11_000);
    assert.equal(second(10, { waiting: 100, demand: 1 }), 9_000);
  });

  test('is the CPU that what waits needs, where that is more', () => {
    const { second } = createWatch();
    // 10 ms each, however long the worker has to wait for them.
    for (let s = 0; s < 20; s++) second(50, { waiting: 0, demand: 1, usedMs: 500 });
    assert.equal(second(1_050, { waiting: 1_000, demand: 1, usedMs: 500 }), 10_000);
    assert.equal(second(1_000, { demand: 1 }), 20_000);
    assert.equal(second(0, { waiting: 0, demand: 1 }), 0);
  });

  test('counts only where the worker lacks the CPU, and says so', () => {
    const { second } = createWatch();
    for (let s = 0; s < 10; s++) assert.equal(second(10, { waiting: 50, demand: 0.1 }), 0);
    for (let s = 0; s < 10; s++) second(10, { waiting: 50, demand: 1 });
    assert.equal(second(10, {}), 5_000);
    for (let s = 0; s < 29; s++) second(10, {});
    assert.equal(second(10, {}), 0);
  });
});
