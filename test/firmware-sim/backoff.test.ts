import assert from 'node:assert/strict';
import { test } from 'node:test';
import { attemptAfter, backoffDelay } from '../../firmware-sim/backoff.ts';
import { createRandom } from '../../firmware-sim/random.ts';

const policy = { base: 500, cap: 30_000, resetAfter: 10_000 };
const highest = () => 1 - 2 ** -32;

test('the ceiling doubles with each attempt up to the cap', () => {
  const ceilings = [0, 1, 2, 3, 6, 7, 60, 5000].map((attempt) =>
    Math.round(backoffDelay(attempt, policy, highest)),
  );
  assert.deepEqual(ceilings, [500, 1000, 2000, 4000, 30_000, 30_000, 30_000, 30_000]);
});

test('the jitter is full: waits spread evenly from 0 to the ceiling', () => {
  const random = createRandom(7);
  const quarters = [0, 0, 0, 0];
  for (let i = 0; i < 4000; i++) {
    const quarter = Math.floor(backoffDelay(2, policy, random) / 500);
    quarters[quarter] = (quarters[quarter] ?? 0) + 1;
  }
  assert.equal(quarters.length, 4);
  for (const count of quarters) assert.ok(count > 900 && count < 1100, String(quarters));
});

test('only a connection that lasted starts the count again', () => {
  assert.equal(attemptAfter(4, 0, policy), 5);
  assert.equal(attemptAfter(4, 9_999, policy), 5);
  assert.equal(attemptAfter(4, 10_000, policy), 0);
});
