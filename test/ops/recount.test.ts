import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { recountJson, recountText } from '../../src/ops/audit-format.ts';
import { type RecountOptions, recount } from '../../src/ops/recount.ts';
import { MemoryStore, probeType } from '../reports/memory-store.ts';

const HOUR = 3_600_000;
const DAY = 24 * HOUR;
const NOW = 1_800_000_000_000 - (1_800_000_000_000 % HOUR) + 20 * 60_000;
const RECENT = NOW - (NOW % HOUR);

/** Three rows and two letters in the last hour, and their ledger. */
function filled() {
  const store = new MemoryStore();
  for (const i of [0, 1, 2]) store.add('a', RECENT + i, { v: 1 }, { received: RECENT + i });
  for (const i of [0, 1]) store.addLetter('a', i === 0 ? 'X' : 'Y', RECENT + i);
  const line = { tenant: 'acme', device: 'a', hour: RECENT };
  store.lines.push(
    { ...line, outcome: 'stored', code: '', count: 3 },
    { ...line, outcome: 'deadLetter', code: 'X', count: 1 },
    { ...line, outcome: 'deadLetter', code: 'Y', count: 1 },
    { ...line, outcome: 'duplicate', code: 'IDENTICAL', count: 9 },
    { ...line, outcome: 'shed', code: 'LOG_FULL', count: 9 },
  );
  store.positions.set(0, 20_000);
  return store;
}

function run(store: MemoryStore, more: Partial<RecountOptions> = {}) {
  return recount({
    ...{ store, group: 'rollup', tenants: ['acme'], from: RECENT - DAY, to: NOW + HOUR, now: NOW },
    retention: { rawMs: 30 * DAY, deadLettersMs: 30 * DAY, rollupsMs: new Map() },
    types: new Map([['probe', probeType(1_000)]]),
    ...more,
  });
}

test('data that is what the ledger says is proven', async () => {
  const result = await run(filled());
  assert.equal(result.proven, true);
  assert.deepEqual(result.stored, { ledger: 3, counted: 3 });
  assert.deepEqual(result.deadLettered, { ledger: 2, counted: 2 });
  assert.deepEqual([result.lines, result.beyondRetention, result.note], [3, 0, '']);
  assert.match(recountText(result), /The data is what the ledger says\.\n$/);
});

describe('a difference is found', () => {
  test('when a row is missing', async () => {
    const store = filled();
    store.raw.pop();
    const result = await run(store);
    assert.equal(result.proven, false);
    assert.deepEqual(
      result.differences.map((row) => [row.device, row.outcome, row.ledger, row.counted]),
      [['a', 'stored', 3, 2]],
    );
    assert.match(recountText(result), /a .* stored: 3 in the ledger, 2 counted\n(.|\n)*NOT PROVEN/);
    assert.equal((recountJson(result).differences as unknown[]).length, 1);
  });

  test('when there is one more', async () => {
    const store = filled();
    store.add('b', RECENT, { v: 1 }, { received: RECENT });
    assert.deepEqual(
      (await run(store)).differences.map((row) => [row.device, row.ledger, row.counted]),
      [['b', 0, 1]],
    );
  });

  test('when a letter is filed under another code', async () => {
    const store = filled();
    Object.assign(store.letters[0] ?? {}, { code: 'Z' });
    assert.deepEqual(
      (await run(store)).differences.map((row) => [row.code, row.ledger, row.counted]),
      [
        ['X', 1, 0],
        ['Z', 0, 1],
      ],
    );
  });
});

test('what the workers write meanwhile is not looked at', async () => {
  const store = filled();
  store.add('a', RECENT + 9, { v: 1 }, { received: RECENT + 9, offset: 20_000 });
  assert.equal((await run(store)).proven, true);
});

test('where retention may have been, less data is no difference, more is', async () => {
  const store = filled();
  const old = RECENT - 25 * DAY;
  store.lines.push({
    ...{ tenant: 'acme', device: 'a', hour: old, outcome: 'stored', code: '', count: 5 },
  });
  store.add('a', old, { v: 1 }, { received: old });
  const result = await run(store, { from: 0 });
  assert.deepEqual([result.proven, result.beyondRetention], [true, 1]);
  assert.match(recountText(result), /^1 line is so old/m);
  for (let i = 1; i < 6; i += 1) store.add('a', old + i, { v: 1 }, { received: old });
  assert.equal((await run(store, { from: 0 })).proven, false);
});

test('types that let through what is as old as raw data say that nothing missing can be told', async () => {
  const types = new Map([['probe', { ...probeType(1_000), pastMs: 30 * DAY }]]);
  const store = filled();
  store.raw.pop();
  const result = await run(store, { types });
  assert.equal(result.proven, true);
  assert.match(result.note, /can not be told/);
});

test('a ledger that never stands still decides nothing', async () => {
  const store = filled();
  let position = 20_000;
  store.position = async () => new Map([[0, position++]]);
  assert.equal((await run(store)).proven, null);
});
