import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { DuplicateKind } from '../../src/core/refusals.ts';
import { Repeats } from '../../src/rollup/repeats.ts';

const KINDS = ['IDENTICAL', 'MERGED', 'CONFLICT'] as const;
const other = (kind: DuplicateKind): DuplicateKind =>
  kind === 'CONFLICT' ? 'IDENTICAL' : 'CONFLICT';

const repeats = fc
  .uniqueArray(fc.integer({ min: 0, max: 400 }), { maxLength: 200 })
  .map((offsets) => offsets.sort((a, b) => a - b))
  .chain((offsets) =>
    fc
      .array(fc.constantFrom(...KINDS), { minLength: offsets.length, maxLength: offsets.length })
      .map((kinds) => offsets.map((offset, i) => [offset, kinds[i] ?? 'MERGED'] as const)),
  );

test('what was noted is what records count as when they come again, whatever is found then', () => {
  fc.assert(
    fc.property(repeats, fc.nat(400), (all, seen) => {
      const first = new Repeats();
      for (const [offset, kind] of all) assert.equal(first.take(offset, kind), kind);
      // A second life gets to `seen` only, and notes again; a third one takes all.
      const second = new Repeats(first.notes(401));
      for (const [offset, kind] of all) {
        if (offset < seen) assert.equal(second.take(offset, other(kind)), kind);
      }
      const third = new Repeats(second.notes(seen));
      for (const [offset, kind] of all) assert.equal(third.take(offset, other(kind)), kind);
    }),
  );
});

test('long notes are cut into some that can be read alone', () => {
  const first = new Repeats();
  const count = 60_000;
  for (let i = 0; i < count; i += 1) first.take(i * 2, i % 3 === 0 ? 'MERGED' : 'IDENTICAL');
  const notes = first.notes(count * 2);
  assert.ok(notes.length > 5, `${notes.length}`);
  assert.ok(notes.every((note) => note.length < 20_000));
  const again = new Repeats(notes.reverse());
  for (let i = 0; i < count; i += 1) {
    assert.equal(again.take(i * 2, 'CONFLICT'), i % 3 === 0 ? 'MERGED' : 'IDENTICAL');
  }
});

test('runs of one kind take next to nothing, and what is committed is forgotten', () => {
  const first = new Repeats();
  for (let offset = 1_000_000; offset < 1_100_000; offset += 1) first.take(offset, 'IDENTICAL');
  assert.equal(first.areDue, false, 'these change no row');
  first.take(1_100_000, 'MERGED');
  assert.equal(first.areDue, true);
  assert.deepEqual(first.notes(1_100_001), ['I1000000+99999M0']);
  first.committed();
  assert.equal(first.areDue, false);
  assert.deepEqual(first.notes(1_100_001), []);
});
