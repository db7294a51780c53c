import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { ManualClock, systemClock } from '../../src/core/clock.ts';
import { ERRORS, type ErrorCode, SpillwayError } from '../../src/core/errors.ts';
import { isMetricName, isName, RESERVED_METRICS } from '../../src/core/names.ts';
import { DUPLICATES, REFUSALS, SHED_REASONS } from '../../src/core/refusals.ts';
import { formatDuration, parseBytes, parseDuration } from '../../src/core/units.ts';

test('durations have a unit, and come back as they were written', () => {
  const cases: [string, number][] = [
    ['0s', 0],
    ['500ms', 500],
    ['10s', 10_000],
    ['1.5m', 90_000],
    ['2h', 7_200_000],
    ['30d', 2_592_000_000],
    ['1w', 604_800_000],
    [' 1s ', 1_000],
  ];
  for (const [text, ms] of cases) assert.equal(parseDuration(text), ms, text);
  for (const text of ['', '10', 's', '-1s', '1 s', '1S', '1e3s', '.5s', '1.s', '1s1m', '١s']) {
    assert.equal(parseDuration(text), undefined, text);
  }
  fc.assert(fc.property(fc.nat(), (ms) => assert.equal(parseDuration(formatDuration(ms)), ms)));
});

test('sizes have a unit', () => {
  const cases: [string, number][] = [
    ['0B', 0],
    ['512B', 512],
    ['64KiB', 65_536],
    ['1.5GiB', 1_610_612_736],
    ['1TiB', 2 ** 40],
  ];
  for (const [text, size] of cases) assert.equal(parseBytes(text), size, text);
  for (const text of ['', '10', '10KB', '10kib', '-1B', '1e3B', '1 B']) {
    assert.equal(parseBytes(text), undefined, text);
  }
});

test('an amount that is not exact is none', () => {
  assert.equal(parseDuration(`${'9'.repeat(16)}s`), undefined);
  assert.equal(parseDuration(`${'9'.repeat(400)}ms`), undefined);
  assert.equal(parseBytes(`${'9'.repeat(400)}B`), undefined);
  assert.equal(parseBytes('8191TiB'), 8_191 * 2 ** 40);
  assert.equal(parseBytes('8192TiB'), undefined);
});

test('names are 1 to 64 of A-Z a-z 0-9 _ -, and nothing else', () => {
  for (const name of ['a', 'A-1_b', '-', '__proto__', 'a'.repeat(64)]) assert.ok(isName(name));
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      const good = text.length >= 1 && text.length <= 64 && !/[^A-Za-z0-9_-]/.test(text);
      return isName(text) === good;
    }),
  );
  for (const name of ['', 'a/b', 'a\n', 'a b', '+', '#', '$SYS', 'ä', 'a.b', 'a'.repeat(65)]) {
    assert.ok(!isName(name), JSON.stringify(name));
  }
});

test('metric names take a few more characters, and no word with a meaning', () => {
  for (const name of ['a', 'co2', 'a.b/c:d-e_f', '3D0', 'a'.repeat(64)]) {
    assert.ok(isMetricName(name), name);
  }
  for (const name of [
    '',
    '.a',
    '/a',
    '-a',
    ':a',
    'a b',
    'a,b',
    'a=b',
    'a"',
    'a\n',
    'a'.repeat(65),
  ]) {
    assert.ok(!isMetricName(name), JSON.stringify(name));
  }
  for (const name of RESERVED_METRICS) assert.ok(!isMetricName(name), name);
});

test('an error says what to do next, and whether the same call may succeed later', () => {
  for (const code of Object.keys(ERRORS) as ErrorCode[]) {
    const cause = new Error('cause');
    const error = new SpillwayError(code, 'what happened', { cause });
    assert.equal(error.code, code);
    assert.equal(error.message, 'what happened');
    assert.equal(error.retryable, ERRORS[code].retryable);
    assert.match(error.next, /^\p{Lu}.*\.$/su, code);
    assert.equal(error.cause, cause);
    assert.ok(error instanceof Error);
  }
});

test('codes are words in capitals', () => {
  for (const catalogue of [ERRORS, REFUSALS, SHED_REASONS, DUPLICATES]) {
    for (const code of Object.keys(catalogue)) assert.match(code, /^[A-Z]+(_[A-Z]+)*$/);
  }
  for (const sentence of Object.values({ ...REFUSALS, ...SHED_REASONS, ...DUPLICATES })) {
    assert.match(sentence, /\.$/);
  }
});

test('a clock that moves when it is told to', () => {
  const clock = new ManualClock(1_000);
  clock.advance(500);
  assert.equal(clock.now(), 1_500);
  clock.set(10);
  assert.equal(clock.now(), 10);
  assert.ok(Math.abs(systemClock.now() - Date.now()) < 1_000);
});
