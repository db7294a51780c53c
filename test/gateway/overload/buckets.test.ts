import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { parseByteRate, parseRate } from '../../../src/core/units.ts';
import { Baseline } from '../../../src/gateway/overload/baseline.ts';
import { Bucket } from '../../../src/gateway/overload/buckets.ts';
import { Rates } from '../../../src/gateway/overload/rates.ts';

test('rates are read with their window', () => {
  assert.deepEqual(parseRate('500/1s'), { amount: 500, windowMs: 1_000 });
  assert.deepEqual(parseRate(' 20000 / 1m '), { amount: 20_000, windowMs: 60_000 });
  assert.deepEqual(parseByteRate('64KiB/500ms'), { amount: 65_536, windowMs: 500 });
  for (const wrong of [
    '500',
    '500/s',
    '/1s',
    '0/1s',
    '1.5/1s',
    '5/1s/1m',
    '-1/1s',
    '1/0s',
    '1KiB/1s',
  ])
    assert.equal(parseRate(wrong), undefined, wrong);
  for (const wrong of ['500/1s', '0B/1s', '1KiB']) assert.equal(parseByteRate(wrong), undefined);
});

test('a bucket gives its amount at once, then what flows in', () => {
  const bucket = new Bucket({ amount: 10, windowMs: 1_000 }, 0);
  assert.equal(bucket.left(0), 10);
  bucket.take(12);
  assert.equal(bucket.left(0), -2);
  assert.equal(bucket.waitMs(1), 300);
  assert.equal(bucket.left(200), 0);
  assert.equal(bucket.left(300), 1);
  assert.equal(bucket.isFull(1_199), false);
  assert.equal(bucket.isFull(1_200), true);
  assert.equal(bucket.left(9_000), 10);
});

test('whoever takes whenever something is left keeps within amount and rate', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 1_000 }),
      fc.integer({ min: 1, max: 60_000 }),
      fc.array(fc.tuple(fc.integer({ min: 0, max: 5_000 }), fc.integer({ min: 1, max: 50 }))),
      (amount, windowMs, asks) => {
        const bucket = new Bucket({ amount, windowMs }, 0);
        let now = 0;
        let taken = 0;
        let last = 0;
        for (const [after, size] of asks) {
          now += after;
          if (bucket.left(now) <= 0) continue;
          bucket.take(size);
          taken += size;
          last = size;
        }
        // The last one may have gone into debt.
        assert.ok(taken - last <= amount + (now * amount) / windowMs + 1e-6);
      },
    ),
  );
});

test('of several windows the tightest one counts, and is named', () => {
  const burst = { amount: 10, windowMs: 1_000 };
  const sustained = { amount: 20, windowMs: 60_000 };
  const rates = new Rates(
    { messages: [burst, sustained], bytes: [{ amount: 1e6, windowMs: 1_000 }] },
    0,
  );
  assert.equal(rates.left(0).messages, 10);
  rates.take(10, 100);
  assert.equal(rates.left(0).messages, 0);
  assert.deepEqual(rates.exceeded(), { what: 'messages', limit: burst, waitMs: 100 });
  assert.equal(Math.floor(rates.left(1_000).messages), 10);
  rates.take(10, 100);
  assert.ok(rates.left(2_000).messages < 1);
  assert.deepEqual(rates.exceeded()?.limit, sustained);
  assert.deepEqual(rates.left(2_000).bytes, 1e6);
});

test('a baseline follows the machine slowly, and nothing beyond its bound', () => {
  const baseline = new Baseline({ max: 100 });
  assert.equal(baseline.value, 0);
  baseline.learn(90);
  assert.equal(baseline.value, 0.9);
  for (let i = 0; i < 1_000; i++) baseline.learn(20);
  assert.ok(Math.abs(baseline.value - 20) < 0.01);
  baseline.learn(Number.NaN);
  baseline.learn(-1);
  assert.ok(Math.abs(baseline.value - 20) < 0.01);
  for (let i = 0; i < 10_000; i++) baseline.learn(1e9);
  assert.ok(baseline.value <= 100 && baseline.value > 99);
});
