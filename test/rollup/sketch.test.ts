import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { BINS_MAX, Sketch } from '../../src/rollup/sketch.ts';

function sketchOf(values: Iterable<number>): Sketch {
  const sketch = new Sketch();
  for (const value of values) sketch.add(value);
  return sketch;
}

function assertQuantiles(sketch: Sketch, values: readonly number[]): void {
  const sorted = [...values].sort((a, b) => a - b);
  for (const permille of [0, 1, 250, 500, 900, 990, 1000]) {
    const exact = sorted[Math.floor((permille * (sorted.length - 1)) / 1000)] ?? 0;
    const got = sketch.quantile(permille);
    assert.ok(
      Math.abs(got - exact) <= Math.abs(exact) * 0.0100001,
      `${permille}: ${got}, ${exact}`,
    );
  }
}

const magnitude = fc.integer({ min: -8_000, max: 8_000 }).map((n) => Math.exp(n / 1_000));
const number = fc.oneof(
  magnitude,
  magnitude.map((n) => -n),
  fc.integer({ min: -3, max: 3 }),
);

test('quantiles are within one per cent, for all signs', () => {
  fc.assert(
    fc.property(fc.array(number, { minLength: 1, maxLength: 200 }), (values) => {
      assertQuantiles(sketchOf(values), values);
    }),
    { numRuns: 200 },
  );
});

test('merging equals adding, to the byte, also where bins are shared', () => {
  const any = fc.double({ noNaN: true, noDefaultInfinity: true });
  fc.assert(
    fc.property(fc.array(any), fc.array(any), (a, b) => {
      const ab = sketchOf(a);
      ab.merge(sketchOf(b));
      const ba = sketchOf(b);
      ba.merge(sketchOf(a));
      const all = sketchOf([...b, ...a].reverse());
      assert.deepEqual(ab.encode(), all.encode());
      assert.deepEqual(ba.encode(), all.encode());
      assert.equal(all.count, a.length + b.length);
      assert.deepEqual(Sketch.decode(all.encode()).encode(), all.encode());
    }),
    { numRuns: 300 },
  );
});

test('a side keeps its largest magnitudes exact and at most its bound of bins', () => {
  const values: number[] = [];
  for (let exponent = -300; exponent <= 300; exponent += 0.01) values.push(10 ** exponent);
  const sketch = sketchOf(values);
  assert.ok(sketch.encode().length < BINS_MAX * 2);
  const exact = values[Math.floor((990 * (values.length - 1)) / 1000)] ?? 0;
  assert.ok(Math.abs(sketch.quantile(990) - exact) <= exact * 0.0100001);
});

test('the encoding is small and stable', () => {
  const sketch = sketchOf([0, 0, 1, 1.001, 20, -3]);
  assert.equal(Buffer.from(sketch.encode()).toString('hex'), '0102970100010100940101' + '016e01');
  assert.deepEqual(sketchOf([]).encode(), Uint8Array.of(1, 0, 0, 0));
  const minute = Array.from({ length: 60 }, (_, n) => 20 + Math.sin(n / 10) * 5);
  assert.ok(sketchOf(minute).encode().length < 48);
});

test('counts beyond 32 bits survive', () => {
  const sketch = sketchOf([7]);
  for (let doubling = 0; doubling < 40; doubling += 1) {
    sketch.merge(Sketch.decode(sketch.encode()));
  }
  assert.equal(sketch.count, 2 ** 40);
  assert.equal(Sketch.decode(sketch.encode()).count, 2 ** 40);
});

test('what cannot be an encoding is refused', () => {
  const good = sketchOf([1, 50, -2, 0]).encode();
  for (let cut = 0; cut < good.length; cut += 1) {
    assert.throws(() => Sketch.decode(good.subarray(0, cut)), { code: 'STORE_CORRUPT' });
  }
  for (const bad of [
    [1, 0, 0, 0, 0],
    [1, 0, 1, 0, 0, 1, 0],
    [1, 0, 3, 0, 1, 0, 9, 1, 0],
    [1, 0, 3, 0, 1, 0, 0, 1, 0],
    [1, 0, 0xff, 0xff, 0x01, 0],
    [1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0, 0],
    [1, 0, 1, 0xff, 0xff, 0xff, 0x7f, 1, 0],
  ]) {
    assert.throws(() => Sketch.decode(Uint8Array.from(bad)), { code: 'STORE_CORRUPT' });
  }
  assert.throws(() => Sketch.decode(Uint8Array.of(2, 0, 0, 0)), { code: 'STORE_VERSION' });
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 40 }), (bytes) => {
      try {
        const sketch = Sketch.decode(Uint8Array.of(1, ...bytes));
        sketch.quantile(500);
      } catch (error) {
        assert.equal((error as { code?: string }).code, 'STORE_CORRUPT');
      }
    }),
  );
});

test('what is taken back was never there, to the byte', () => {
  fc.assert(
    fc.property(
      fc.array(number, { maxLength: 60 }),
      fc.array(number, { minLength: 1, maxLength: 60 }),
      fc.boolean(),
      (stays, goes, isBackwards) => {
        const sketch = sketchOf(stays);
        for (const value of goes) sketch.add(value);
        for (const value of isBackwards ? goes.toReversed() : goes) {
          assert.equal(sketch.remove(value), true);
        }
        assert.deepEqual(sketch.encode(), sketchOf(stays).encode());
        assert.equal(sketch.count, stays.length);
        sketch.add(7);
        assert.deepEqual(sketch.encode(), sketchOf([...stays, 7]).encode());
      },
    ),
    { numRuns: 200 },
  );
});

test('nothing is taken back that is not there, or not apart from others', () => {
  const sketch = sketchOf([1, 100]);
  for (const value of [50, -1, 0]) assert.equal(sketch.remove(value), false);
  assert.deepEqual(sketch.encode(), sketchOf([1, 100]).encode());
  const shared = sketchOf([1e-300, 1e-299, 1e300]);
  assert.equal(shared.remove(1e-299), false);
  assert.equal(shared.count, 3);
});
