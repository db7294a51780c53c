import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { type Sequence, sequenceOf } from '../../src/reports/sequence.ts';
import { MemoryStore } from './memory-store.ts';

const RANGE = { tenant: 'acme', device: 'a', from: 0, to: Number.MAX_SAFE_INTEGER };

/** Of readings with these numbers, one each second of event time. */
async function of(seqs: readonly (number | undefined)[]): Promise<Sequence | undefined> {
  const store = new MemoryStore();
  seqs.forEach((seq, i) => {
    store.add('a', 1_000 * (i + 1), { v: 1 }, seq === undefined ? {} : { seq });
  });
  return sequenceOf(store, RANGE);
}

const gapsOf = (sequence: Sequence | undefined) =>
  sequence?.gaps.map(({ first, last, missing }) => [first, last, missing]);

test('without numbers nothing is said, and without gaps nothing is missing', async () => {
  assert.equal(await of([]), undefined);
  assert.equal(await of([undefined, undefined]), undefined);
  assert.deepEqual(await of([4, undefined, 5, 6]), {
    ...{ readings: 3, missing: 0, restarts: 0, gaps: [], gapCount: 0 },
    ...{ firstSeq: 4, lastSeq: 6, complete: true },
  });
});

test('a gap is named with the readings around it; what fills it later closes or splits it', async () => {
  const sequence = await of([1, 2, 6, 7]);
  assert.deepEqual(sequence?.gaps, [
    { first: 3, last: 5, missing: 3, after: 2_000, before: 3_000 },
  ]);
  const split = await of([1, 2, 6, 4, 7]);
  assert.deepEqual(gapsOf(split), [
    [3, 3, 1],
    [5, 5, 1],
  ]);
  assert.deepEqual([split?.missing, split?.restarts, split?.gapCount], [2, 0, 2]);
  const closed = await of([1, 2, 6, 5, 3, 4, 7]);
  assert.deepEqual([closed?.missing, closed?.gapCount, closed?.restarts], [0, 0, 0]);
});

test('a counter that begins anew lacks nothing by that, and does not fill what was missing before', async () => {
  const sequence = await of([5, 6, 9, 0, 1, 7, 8]);
  assert.equal(sequence?.restarts, 1);
  assert.deepEqual(gapsOf(sequence), [
    [7, 8, 2],
    [2, 6, 5],
  ]);
  assert.deepEqual([sequence?.firstSeq, sequence?.lastSeq], [5, 8]);
});

test('the same number twice is no restart', async () => {
  const sequence = await of([5, 6, 6, 7]);
  assert.deepEqual([sequence?.restarts, sequence?.missing], [0, 0]);
});

test('of many gaps the newest are named and all counted', async () => {
  const sequence = await of(Array.from({ length: 1_000 }, (_, i) => i * 3));
  assert.deepEqual([sequence?.gapCount, sequence?.missing], [999, 1_998]);
  assert.equal(sequence?.gaps.length, 100);
  assert.deepEqual(gapsOf(sequence)?.at(-1), [2_995, 2_996, 2]);
});

test('more readings than a page, to the last of them', async () => {
  const seqs = Array.from({ length: 25_000 }, (_, i) => i).filter((i) => i % 10_000 !== 9_999);
  const sequence = await of(seqs);
  assert.deepEqual(gapsOf(sequence), [
    [9_999, 9_999, 1],
    [19_999, 19_999, 1],
  ]);
});

test('what is missing is what was left out, whatever neighbours changed places', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.boolean(), { minLength: 3, maxLength: 60 }),
      fc.array(fc.nat(59), { maxLength: 20 }),
      async (kept, swaps) => {
        const seqs = kept.flatMap((isKept, seq) => (isKept ? seq : []));
        for (const at of swaps) {
          const [a, b] = [seqs[at], seqs[at + 1]];
          if (at === 0 || a === undefined || b === undefined || a > b) continue;
          seqs[at] = b;
          seqs[at + 1] = a;
        }
        const sequence = await of(seqs);
        if (sequence === undefined) return;
        const [least, most] = [Math.min(...seqs), Math.max(...seqs)];
        assert.equal(sequence.restarts, 0);
        assert.equal(sequence.missing, most - least + 1 - new Set(seqs).size);
      },
    ),
  );
});
