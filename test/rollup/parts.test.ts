import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { countStored, DeviceTable } from '../../src/rollup/device-table.ts';
import { KeptValues } from '../../src/rollup/kept-values.ts';
import { PartitionState } from '../../src/rollup/partition-state.ts';
import { ReadingIndex } from '../../src/rollup/reading-index.ts';
import { hashText, hashValues, rehash } from '../../src/rollup/value-hash.ts';
import { checkBaseWindow, DAY_MS, HOUR_MS, windowStart } from '../../src/rollup/windows.ts';
import { reading } from './harness.ts';

test('windows lie on multiples of their length, in UTC, also before 1970', () => {
  const table: [string, number, string][] = [
    ['2025-03-10T12:34:56.789Z', 60_000, '2025-03-10T12:34:00.000Z'],
    ['2025-03-10T12:34:00.000Z', 60_000, '2025-03-10T12:34:00.000Z'],
    ['2025-03-10T12:34:59.999Z', 10_000, '2025-03-10T12:34:50.000Z'],
    ['2025-03-10T23:59:59.999Z', HOUR_MS, '2025-03-10T23:00:00.000Z'],
    ['2025-03-30T01:30:00.000Z', DAY_MS, '2025-03-30T00:00:00.000Z'],
    ['1969-12-31T23:59:59.999Z', DAY_MS, '1969-12-31T00:00:00.000Z'],
  ];
  for (const [time, length, start] of table) {
    assert.equal(new Date(windowStart(Date.parse(time), length)).toISOString(), start);
  }
});

test('a base window divides an hour', () => {
  for (const good of [1_000, 10_000, 60_000, 900_000, HOUR_MS]) checkBaseWindow(good);
  for (const bad of [0, -1, 0.5, 7_000, 2 * HOUR_MS]) {
    assert.throws(() => checkBaseWindow(bad), { code: 'CONFIG_INVALID' });
  }
});

test('the index of readings finds what was inserted, in any order', () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: -50, max: 500 }), { maxLength: 300 }), (times) => {
      const index = new ReadingIndex();
      const known = new Map<number, number>();
      times.forEach((ts, hash) => {
        const place = index.search(ts);
        assert.equal(place >= 0, known.has(ts));
        if (place >= 0) assert.equal(index.hashAt(place), known.get(ts));
        else {
          index.insert(~place, ts, hash);
          known.set(ts, hash);
        }
      });
      assert.equal(index.size, known.size);
      for (const [ts, hash] of known) assert.equal(index.hashAt(index.search(ts)), hash);
    }),
    { numRuns: 100 },
  );
});

test('hashes depend on names and values, not on the order of metrics', () => {
  assert.equal(hashValues({ a: 1, b: 'x' }), hashValues({ b: 'x', a: 1 }));
  assert.equal(hashValues({ a: 0 }), hashValues({ a: -0 }));
  const all = [
    { a: 1 },
    { b: 1 },
    { a: 2 },
    { a: true },
    { a: '1' },
    { a: 1, b: 2 },
    { a: 2, b: 1 },
    { a: 1.5 },
    { a: -1 },
    {},
  ].map((values) => hashValues(values));
  assert.equal(new Set(all).size, all.length);
  const many = new Set(Array.from({ length: 20_000 }, (_, n) => hashValues({ a: n / 8 })));
  assert.ok(many.size > 19_998);
});

test('a device that moves to another partition leaves its counts with the first', () => {
  const devices = new DeviceTable({ baseMs: 60_000, latenessMs: 0, types: new Map() });
  const [first, second] = [new PartitionState(0, 0), new PartitionState(1, 0)];
  countStored(devices.touch(reading('d1', 5, { a: 1 }), first, 5), 5);
  devices.touch(reading('d1', 6, { a: 1 }), second, 6);
  assert.equal(first.tally.read()[0]?.count, 1);
  assert.deepEqual(second.tally.read(), []);
});

test('kept values are those that were set, wherever readings are inserted', () => {
  const value = fc.oneof(fc.integer(), fc.boolean(), fc.constantFrom('a', ''));
  const write = fc.record({
    ts: fc.integer({ min: 0, max: 120 }),
    slot: fc.integer({ min: 0, max: 3 }),
    value,
    partition: fc.integer({ min: 0, max: 2 }),
  });
  fc.assert(
    fc.property(fc.array(write, { maxLength: 300 }), (writes) => {
      const kept = new KeptValues(0);
      const index = new ReadingIndex();
      const known = new Map<string, (typeof writes)[number]>();
      for (const one of writes) {
        const place = index.search(one.ts);
        if (place < 0) {
          index.insert(~place, one.ts, 0);
          kept.insert(~place);
        }
        kept.set(place < 0 ? ~place : place, one.ts, one.slot, one.value, one.partition);
        known.set(`${one.ts}/${one.slot}`, one);
      }
      const slots = new Set(writes.map(({ slot }) => slot)).size;
      assert.equal(kept.cells, index.size * slots);
      for (let place = 0; place < index.size; place += 1) {
        const ts = index.tsAt(place);
        for (const slot of [0, 1, 2, 3]) {
          const want = known.get(`${ts}/${slot}`);
          assert.equal(kept.get(place, ts, slot), want?.value);
          assert.equal(kept.partitionOf(ts, slot), want?.partition ?? 0);
        }
      }
    }),
    { numRuns: 200 },
  );
});

test('a hash follows the metrics that change', () => {
  const one = hashValues({ a: 1, b: 'x' });
  assert.equal(rehash(one, hashText('a'), 1, true), hashValues({ a: true, b: 'x' }));
  assert.equal(rehash(one, hashText('c'), undefined, 5), hashValues({ a: 1, b: 'x', c: 5 }));
});
