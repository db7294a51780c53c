import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { ManualClock } from '../../../src/core/clock.ts';
import {
  LEVELS,
  type Level,
  LevelMachine,
  type Signals,
  type Transition,
} from '../../../src/gateway/overload/levels.ts';

const TIMES = { riseMs: 300, dwellMs: { brake: 2_000, shed: 2_000, refuse: 5_000 } };
const STEP_MS = 100;
type Name = 'delay' | 'disk';

function signals(delay: number, disk = 0): Signals<Name> {
  return {
    delay: { value: delay, thresholds: { brake: 50, shed: 250, refuse: 5_000 } },
    disk: { value: disk, thresholds: { brake: 0.7, shed: 0.85, refuse: 0.95 }, hard: true },
  };
}

function createMachine() {
  const clock = new ManualClock(1_000);
  const machine = new LevelMachine<Name>({ clock, times: TIMES });
  const seen: Transition<Name>[] = [];
  return {
    machine,
    seen,
    clock,
    /** The signals stand for so long. */
    hold(of: Signals<Name>, ms: number): Level {
      for (let t = 0; t < ms; t += STEP_MS) {
        const transition = machine.step(of);
        if (transition !== undefined) seen.push(transition);
        clock.advance(STEP_MS);
      }
      return machine.level;
    },
  };
}

test('one late turn of the loop is no overload; one that lasts is', () => {
  const { hold, seen } = createMachine();
  assert.equal(hold(signals(400), 300), 'normal');
  assert.equal(hold(signals(0), 1_000), 'normal');
  assert.equal(hold(signals(400), 300), 'normal');
  assert.equal(hold(signals(400), 100), 'brake');
  assert.deepEqual(
    seen.map(({ from, to, cause, value }) => [from, to, cause, value]),
    [['normal', 'brake', 'delay', 400]],
  );
});

test('a soft signal rises level by level, each having had its time', () => {
  const { hold, seen, clock } = createMachine();
  const begun = clock.now();
  assert.equal(hold(signals(9_000), 5_000), 'refuse');
  assert.deepEqual(
    seen.map(({ at, to }) => [at - begun, to]),
    [
      [300, 'brake'],
      [700, 'shed'],
      [1_100, 'refuse'],
    ],
  );
});

test('a hard signal rises at once, over several levels', () => {
  const { hold, seen } = createMachine();
  assert.equal(hold(signals(0, 0.96), 100), 'refuse');
  assert.deepEqual(
    seen.map(({ from, to, cause }) => [from, to, cause]),
    [['normal', 'refuse', 'disk']],
  );
});

test('it falls level by level, after the dwell time of each', () => {
  const { hold, seen, clock } = createMachine();
  hold(signals(0, 0.99), 100);
  const begun = clock.now();
  hold(signals(0), 20_000);
  assert.deepEqual(
    seen.slice(1).map(({ at, to }) => [at - begun, to]),
    [
      [4_900, 'shed'],
      [6_900, 'brake'],
      [8_900, 'normal'],
    ],
  );
});

test('between release and threshold it neither rises nor falls', () => {
  const { hold } = createMachine();
  assert.equal(hold(signals(45), 60_000), 'normal');
  hold(signals(60), 400);
  assert.equal(hold(signals(45), 60_000), 'brake');
  assert.equal(hold(signals(39), 2_100), 'normal');
});

test('another signal that holds the level keeps it, and is the cause when it ends', () => {
  const { hold, seen } = createMachine();
  hold(signals(60), 400);
  hold(signals(0, 0.75), 10_000);
  hold(signals(0, 0), 3_000);
  assert.deepEqual(
    seen.map(({ to, cause }) => [to, cause]),
    [
      ['brake', 'delay'],
      ['normal', 'disk'],
    ],
  );
});

test('a level without a threshold is never reached by that signal', () => {
  const machine = new LevelMachine<'wait'>({
    clock: new ManualClock(0),
    times: { ...TIMES, riseMs: 0 },
  });
  const of = { wait: { value: 1e9, thresholds: { brake: 10 } } };
  for (let i = 0; i < 100; i++) machine.step(of);
  assert.equal(machine.level, 'brake');
});

test('whatever the signals do, levels hold their dwell time and move by the rules', () => {
  const phase = fc.record({
    delay: fc.oneof(fc.constant(0), fc.double({ min: 0, max: 10_000, noNaN: true })),
    disk: fc.oneof(fc.constant(0), fc.double({ min: 0, max: 1, noNaN: true })),
    steps: fc.integer({ min: 1, max: 60 }),
  });
  fc.assert(
    fc.property(fc.array(phase, { maxLength: 40 }), (phases) => {
      const { machine, hold, seen, clock } = createMachine();
      const begun = clock.now();
      for (const { delay, disk, steps } of phases) hold(signals(delay, disk), steps * STEP_MS);
      let at = begun;
      let level: Level = 'normal';
      for (const transition of seen) {
        const up = LEVELS.indexOf(transition.to) - LEVELS.indexOf(transition.from);
        assert.equal(transition.from, level);
        if (up < 0) {
          assert.equal(up, -1);
          assert.ok(transition.at - at >= TIMES.dwellMs[level as 'brake']);
        } else if (transition.cause === 'delay') {
          assert.equal(up, 1);
          assert.ok(transition.at - at >= TIMES.riseMs);
        }
        at = transition.at;
        level = transition.to;
      }
      assert.equal(machine.level, level);
      // And it always comes back.
      assert.equal(hold(signals(0), 9_500), 'normal');
    }),
    { numRuns: 300 },
  );
});
