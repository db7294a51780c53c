import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  halfRanges,
  type KeyRange,
  keyRanges,
  type RawKey,
} from '../../src/store/influxdb/key-ranges.ts';

const GAP = 1_000;
const key = (device: string, ts: number): RawKey => ({ tenant: 'acme', device, ts });
const shape = (ranges: readonly KeyRange[]) =>
  ranges.map(({ from, to, devices }) => [from, to, [...devices].sort().join()]);
const ranges = (keys: RawKey[]) => shape(keyRanges(keys, () => GAP));

test('keys of one device share a range unless what lies between costs more than another one', () => {
  const keys = [5_000, 100, 1_100, 9_999, 5_000].map((ts) => key('a', ts));
  assert.deepEqual(ranges(keys), [
    [100, 1_100, 'a'],
    [5_000, 5_000, 'a'],
    [9_999, 9_999, 'a'],
  ]);
});

test('devices that are late by the same time share a range', () => {
  const keys = [0, 1, 2, 3].flatMap((n) => [0, 400, 800].map((ts) => key(`d-${n}`, 50_000 + ts)));
  assert.deepEqual(ranges(keys), [[50_000, 50_800, 'd-0,d-1,d-2,d-3']]);
});

test('a device whose keys are spread does not make the others read all of that time', () => {
  const spread = Array.from({ length: 100 }, (_, n) => key('a', n * 900));
  const short = Array.from({ length: 20 }, (_, n) => key(`d-${n}`, 45_000 + n));
  assert.deepEqual(ranges([...spread, ...short]), [
    [0, 89_100, 'a'],
    [
      45_000,
      45_019,
      Array.from({ length: 20 }, (_, n) => `d-${n}`)
        .sort()
        .join(),
    ],
  ]);
});

test('every key is covered once, and no more is read than the keys one by one would cost', () => {
  const anyKey = fc.record({
    tenant: fc.constant('acme'),
    device: fc.constantFrom('a', 'b', 'c', 'd'),
    ts: fc.integer({ min: 0, max: 30_000 }),
  });
  const covers = ({ from, to, devices, keys }: KeyRange) =>
    keys.every(({ device, ts }) => devices.has(device) && ts >= from && ts <= to);
  fc.assert(
    fc.property(fc.array(anyKey, { maxLength: 60 }), (keys) => {
      const found = keyRanges(keys, () => GAP);
      assert.ok(found.every(covers));
      const texts = (all: readonly RawKey[]) =>
        all.map(({ device, ts }) => `${device} ${ts}`).sort();
      assert.deepEqual(texts(found.flatMap((one) => one.keys)), texts(keys));
      const cost = found.reduce(
        (sum, { from, to, devices }) => sum + GAP + devices.size * (to - from),
        0,
      );
      assert.ok(cost <= 2 * GAP * keys.length, `${cost} for ${keys.length} keys`);
    }),
  );
});

test('a range is halved down to one row, and no further', () => {
  const [range] = keyRanges([key('a', 1), key('a', 2), key('b', 1), key('b', 1)], () => GAP);
  if (range === undefined) throw new Error('no range');
  const leaves: KeyRange[] = [];
  const split = (one: KeyRange): void => {
    const halves = halfRanges(one);
    if (halves === undefined) leaves.push(one);
    else for (const half of halves.flat()) split(half);
  };
  split(range);
  assert.deepEqual(shape(leaves), [
    [1, 1, 'a'],
    [2, 2, 'a'],
    [1, 1, 'b'],
  ]);
});
