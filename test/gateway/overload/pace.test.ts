import assert from 'node:assert/strict';
import { test } from 'node:test';
import { configSchema } from '../../../src/config/schema.ts';
import { NO_LAG } from '../../../src/gateway/overload/lag-pace.ts';
import { Pace } from '../../../src/gateway/overload/pace.ts';
import { PaceKeeper } from '../../../src/gateway/overload/pace-keeper.ts';
import { SignalScale } from '../../../src/gateway/overload/signals.ts';

const CURRENT = { value: 0, thresholds: { brake: 60_000 } };

/** A disk of so many units, emptied at `drainPerMs`, and a flood that takes whatever the pace allows. */
function createWorld(options: { offeredPerMs: number; drainPerMs: number; size: number }) {
  let now = 0;
  let taken = 0;
  let filled = 0;
  const pace = new Pace(() => now);
  const keeper = new PaceKeeper(pace, () => now);
  const signals = () => ({
    backlog: { value: filled / options.size, thresholds: { brake: 0.7, shed: 0.85, refuse: 0.95 } },
    memory: { value: 0.5, thresholds: { brake: 0.7 } },
    lag: CURRENT,
  });
  return {
    pace,
    options,
    share: () => filled / options.size,
    taken: () => taken,
    run(ms: number) {
      for (let i = 0; i < ms; i++) {
        now++;
        if (pace.allows()) {
          taken += options.offeredPerMs;
          filled += options.offeredPerMs;
          pace.take(options.offeredPerMs);
        }
        filled = Math.max(0, filled - options.drainPerMs);
        if (now % 1_000 === 0) keeper.look(signals(), taken, NO_LAG);
      }
    },
  };
}

test('a disk that fills is filled no further, as fast as it empties, and the pace ends with it', () => {
  const world = createWorld({ offeredPerMs: 30_000, drainPerMs: 10_000, size: 4e9 });
  world.run(130_000);
  assert.equal(world.pace.rate, undefined);
  assert.ok(world.share() > 0.6);
  let most = 0;
  for (let s = 0; s < 300; s++) {
    world.run(1_000);
    most = Math.max(most, world.share());
  }
  assert.ok(most < 0.8, `${most} of the disk was used`);
  const before = world.taken();
  world.run(120_000);
  const part = (world.taken() - before) / (120_000 * 10_000);
  assert.ok(part > 0.9 && part < 1.1, `${part} of what it empties`);
  world.options.offeredPerMs = 1_000;
  world.run(120_000);
  assert.equal(world.pace.rate, undefined);
});

test('a signal that stays high does not hold the pace down for ever', () => {
  let now = 0;
  const pace = new Pace(() => now);
  const keeper = new PaceKeeper(pace, () => now);
  let taken = 0;
  const look = (memory: number) => {
    now += 1_000;
    taken += 1e6;
    keeper.look(
      {
        backlog: { value: 0, thresholds: { brake: 0.7 } },
        memory: { value: memory, thresholds: { brake: 0.7 } },
        lag: CURRENT,
      },
      taken,
      NO_LAG,
    );
    return pace.rate ?? Number.POSITIVE_INFINITY;
  };
  assert.equal(look(0.6), Number.POSITIVE_INFINITY);
  const first = look(0.71);
  assert.equal(first, 800);
  assert.ok(look(0.73) < first);
  for (let i = 0; i < 100; i++) look(0.73 + (i % 2) * 0.001);
  assert.ok(look(0.73) > 10_000);
  assert.equal(look(0.5), Number.POSITIVE_INFINITY);
});

test('the pace never stops everything', () => {
  let now = 0;
  const pace = new Pace(() => now);
  const keeper = new PaceKeeper(pace, () => now);
  for (let i = 0; i < 100; i++) {
    now += 1_000;
    keeper.look(
      {
        backlog: { value: 0.9 + i / 1_000, thresholds: { brake: 0.7 } },
        memory: { value: 0, thresholds: {} },
        lag: CURRENT,
      },
      0,
      NO_LAG,
    );
  }
  assert.equal(pace.rate, 50);
  now += 1;
  assert.ok(pace.allows());
});

test('what waits for the sake of the rollup worker is no reason to drop anything', () => {
  const scale = new SignalScale(configSchema.parse({}).overload);
  const readings = { loopDelay: 0, commit: 0, demand: 1, wait: 60_000, lag: 1e9 };
  const signals = (paced: boolean) =>
    scale.signals({ ...readings, backlog: 0, memory: 0, sockets: 0 }, paced);
  assert.deepEqual(signals(false).wait.thresholds, { shed: 5_000 });
  assert.deepEqual(signals(true).wait.thresholds, {});
  assert.deepEqual(signals(true).lag.thresholds, { brake: 10_000 });
});

test('a pace is for the rollup worker while nothing else holds it', () => {
  let now = 0;
  const pace = new Pace(() => now);
  const keeper = new PaceKeeper(pace, () => now);
  let taken = 0;
  let flush = { arrived: 0, processed: 0 };
  /** Seconds in which ten records a ms come, and the worker does so many; four are measured at a time. */
  const look = (lag: number, donePerMs: number, memory = 0, seconds = 4) => {
    for (let s = 0; s < seconds; s++) {
      now += 1_000;
      taken += 1e6;
      flush = { arrived: flush.arrived + 10_000, processed: flush.processed + donePerMs * 1_000 };
      const signals = {
        backlog: { value: 0, thresholds: {} },
        memory: { value: memory, thresholds: { brake: 0.7 } },
        lag: { value: lag, thresholds: { brake: 60_000 } },
      };
      keeper.look(signals, taken, { ms: lag, flush });
    }
    return [pace.rate && Math.round(pace.rate), keeper.isForRollups];
  };
  look(0, 5, 0, 1);
  assert.deepEqual(look(59_000, 5), [undefined, false]);
  assert.deepEqual(look(61_000, 10), [900, true]);
  assert.deepEqual(look(61_000, 8), [720, true]);
  // No more than half of it at once, nor more than a quarter above it.
  assert.deepEqual(look(61_000, 1), [500, true]);
  assert.deepEqual(look(61_000, 50), [1_250, true]);
  assert.deepEqual(look(61_000, 50, 0.6), [1_250, false]);
  assert.deepEqual(look(47_000, 10), [undefined, false]);
});
