import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { AggregateState, Value } from '../../src/core/nouns.ts';
import {
  Accumulator,
  finish,
  mergeStates,
  sameState,
  stateOf,
} from '../../src/rollup/aggregate.ts';
import { assertStats } from './naive.ts';

const at = (values: Value[], from = 0) => values.map((value, ts) => ({ ts: from + ts, value }));
const number = fc.oneof(
  fc.integer({ min: -1000, max: 1000 }),
  // Fractions above 1: beside booleans, those below may be taken for booleans.
  fc.integer({ min: 4096, max: 1e9 }).map((n) => n / 4096),
);
const value = fc.oneof(
  { weight: 8, arbitrary: number },
  { weight: 1, arbitrary: fc.boolean() },
  { weight: 1, arbitrary: fc.constantFrom('open', 'shut') },
);
const points = fc.uniqueArray(fc.record({ ts: fc.integer({ min: 0, max: 10_000 }), value }), {
  selector: ({ ts }) => ts,
  minLength: 1,
  maxLength: 60,
});

test('statistics equal a plain computation, however the values are split and merged', () => {
  fc.assert(
    fc.property(points, fc.array(fc.nat()), (values, cuts) => {
      assertStats(finish(stateOf(values)), values, 'whole');
      const parts: (typeof values)[] = [[], [], []];
      values.forEach((one, index) => {
        parts[(cuts[index % Math.max(1, cuts.length)] ?? index) % 3]?.push(one);
      });
      const [a, b, c] = parts.map((part) => stateOf(part)) as [
        AggregateState,
        AggregateState,
        AggregateState,
      ];
      const left = mergeStates(mergeStates(a, b), c);
      assertStats(finish(left), values, 'left');
      assert.ok(sameState(left, mergeStates(c, mergeStates(b, a))));
      assert.ok(sameState(left, stateOf(values)));
    }),
    { numRuns: 300 },
  );
});

test('ties of first and last end the same in any order', () => {
  const a = stateOf([{ ts: 5, value: 3 }]);
  const b = stateOf([{ ts: 5, value: 1 }]);
  const c = stateOf([{ ts: 5, value: 'x' }]);
  const merged = mergeStates(mergeStates(a, b), c);
  assert.deepEqual([merged.first, merged.last], [1, 'x']);
  assert.ok(sameState(merged, mergeStates(c, mergeStates(b, a))));
});

test('the sum does not lose small values beside large ones', () => {
  const values = at([1e16, ...new Array<number>(1_000).fill(1), -1e16]);
  assert.equal(finish(stateOf(values)).sum, 1_000);
});

test('the deviation of values far from zero is right', () => {
  const values = at(Array.from({ length: 1_000 }, (_, n) => 1e9 + (n % 2)));
  const { stddev } = finish(stateOf(values));
  assert.ok(Math.abs((stddev ?? 0) - Math.sqrt(250 / 999)) < 1e-9, `${stddev}`);
});

test('extreme doubles saturate instead of becoming NaN', () => {
  const stats = finish(stateOf(at([1.7e308, 1.7e308, -1.7e308, 5e-324])));
  for (const [name, got] of Object.entries(stats)) {
    assert.ok(typeof got !== 'number' || Number.isFinite(got), `${name}: ${got}`);
  }
});

test('texts have a count, a first and a last', () => {
  assert.deepEqual(finish(stateOf(at(['open', 'shut']))), {
    count: 2,
    first: 'open',
    last: 'shut',
  });
});

test('booleans count as 0 and 1, and their percentiles are exact', () => {
  const stats = finish(stateOf(at([true, false, true])));
  assert.deepEqual([stats.sum, stats.min, stats.max, stats.p50], [2, 0, 1, 1]);
});

test('one value has no deviation; none has no statistics', () => {
  assert.equal(finish(stateOf(at([4]))).stddev, undefined);
  assert.equal(stateOf([]).count, 0);
  const one = stateOf(at([4]));
  assert.ok(sameState(mergeStates(stateOf([]), one), one));
});

test('a replaced value leaves no trace, or the aggregate says that it must be made anew', () => {
  let replaced = 0;
  let refused = 0;
  fc.assert(
    fc.property(
      points,
      fc.array(fc.tuple(fc.nat(), value), { maxLength: 30 }),
      (values, changes) => {
        let accumulator = new Accumulator();
        for (const { ts, value } of values) accumulator.add(ts, value);
        for (const [index, next] of changes) {
          const point = values[index % values.length];
          assert.ok(point !== undefined);
          const before = accumulator.state();
          const old = point.value;
          point.value = next;
          if (accumulator.replace(point.ts, old, next)) {
            replaced += 1;
            assertStats(finish(accumulator.state()), values, 'replaced');
            const anew = stateOf(values);
            assert.ok(sameState(accumulator.state(), anew));
            assert.deepEqual(accumulator.state().sketch, anew.sketch);
          } else {
            refused += 1;
            assert.deepEqual(accumulator.state(), before, 'nothing has changed');
            accumulator = new Accumulator();
            for (const { ts, value } of values) accumulator.add(ts, value);
          }
        }
      },
    ),
    { numRuns: 300, seed: 3 },
  );
  assert.ok(replaced > 500 && refused > 500, `${replaced} ${refused}`);
});

test('extremes and the hundredth replacement have the aggregate made anew', () => {
  const values = at(Array.from({ length: 400 }, (_, n) => 20 + (n % 10)));
  const made = () => {
    const accumulator = new Accumulator();
    for (const { ts, value } of values) accumulator.add(ts, value);
    return accumulator;
  };
  assert.equal(made().replace(0, 20, 21), false);
  assert.equal(made().replace(9, 29, 21), false);
  const often = made();
  let times = 0;
  while (often.replace(5, times % 2 === 0 ? 25 : 26, times % 2 === 0 ? 26 : 25)) times += 1;
  assert.ok(times >= 50 && times < 100, `${times}`);
});
