import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { ReadingRecord } from '../../src/core/nouns.ts';
import { SequenceWatch } from '../../src/ops/sequence-watch.ts';

const NOW = Date.UTC(2026, 3, 1);

function reading(seq: number, second: number, more: Partial<ReadingRecord> = {}): ReadingRecord {
  const at = NOW + second * 1_000;
  return {
    ...{ kind: 'reading', tenant: 'acme', device: 'd1', type: 'probe', ts: at, received: at },
    ...{ seq, values: { v: 1 } },
    ...more,
  };
}

const counts = (watch: SequenceWatch, second: number) => {
  watch.look(NOW + second * 1_000);
  const { gaps, missing, restarts, unwatched } = watch.counts();
  return [gaps, missing, restarts, unwatched];
};

test('a gap counts when nothing has closed it for half a minute', () => {
  const watch = new SequenceWatch(10);
  for (const [seq, second] of [
    [1, 1],
    [2, 2],
    [6, 3],
  ] as const)
    watch.take(reading(seq, second));
  assert.deepEqual(counts(watch, 32), [0, 0, 0, 0]);
  assert.deepEqual(counts(watch, 33), [1, 3, 0, 0]);
  assert.deepEqual(counts(watch, 300), [1, 3, 0, 0]);
  watch.take(reading(4, 301));
  assert.deepEqual(counts(watch, 302), [1, 2, 0, 0]);
  watch.take(reading(3, 303));
  watch.take(reading(5, 303));
  assert.deepEqual(counts(watch, 400), [1, 0, 0, 0]);
});

test('what comes out of order, again, or by the lane of old readings is no gap and no restart', () => {
  const watch = new SequenceWatch(10);
  for (const seq of [10, 12, 11, 14, 13, 15]) watch.take(reading(seq, seq));
  // A worker that begins anew takes records again.
  for (const seq of [11, 12, 13]) watch.take(reading(seq, seq));
  for (const seq of [1, 2, 5]) watch.take(reading(seq, -5_000 + seq, { lane: 'backfill' }));
  watch.take(reading(3, 40, { attempt: 1 }));
  assert.deepEqual(counts(watch, 1_000), [0, 0, 0, 0]);
  watch.take(reading(20, 20));
  watch.take(reading(17, 17, { lane: 'backfill' }));
  assert.deepEqual(counts(watch, 1_000), [2, 3, 0, 0]);
});

test('a counter that goes back with newer readings began anew', () => {
  const watch = new SequenceWatch(10);
  for (const [seq, second] of [
    [100, 1],
    [105, 2],
    [0, 3],
    [1, 4],
  ] as const)
    watch.take(reading(seq, second));
  assert.deepEqual(counts(watch, 1_000), [0, 0, 1, 0]);
});

test('so many devices and gaps are remembered, and no more', () => {
  const watch = new SequenceWatch(2);
  for (const device of ['a', 'b', 'c']) watch.take(reading(1, 1, { device }));
  assert.deepEqual(counts(watch, 1), [0, 0, 0, 1]);
  for (let i = 1; i <= 100; i += 1) watch.take(reading(1 + 2 * i, 1 + i, { device: 'a' }));
  assert.deepEqual(counts(watch, 1_000).slice(0, 2), [16, 16]);
  watch.forget(({ device }) => device === 'a');
  assert.deepEqual(counts(watch, 2_000).slice(0, 2), [16, 0]);
  watch.take(reading(1, 1, { device: 'c' }));
  assert.equal(counts(watch, 2_000)[3], 1);
});
