import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { auditJson, auditTable } from '../../src/ops/audit-format.ts';
import { type AuditOptions, assertBalanced, audit } from '../../src/ops/ledger.ts';
import { deadLetter, event, MovingSystem, reading, shed } from './moving-system.ts';

const HOUR = 3_600_000;

function run(system: MovingSystem, more: Partial<AuditOptions> = {}) {
  return audit({ store: system.store, consumer: system, group: 'rollup', ...more });
}

function mixed(system: MovingSystem, at = 0): void {
  system.append([
    reading('acme', 'a', at),
    reading('acme', 'b', at),
    event('acme', 'b', at),
    deadLetter('acme', 'a', at),
    shed('beta', 'c', at, 12),
    reading('beta', 'c', at),
  ]);
}

describe('a system at rest', () => {
  test('every outcome by tenant, with what is in flight', async () => {
    const system = new MovingSystem();
    mixed(system);
    mixed(system);
    system.process(7);
    const result = await run(system);
    assert.equal(result.balanced, true);
    assert.deepEqual(auditJson(result).rows, [
      {
        ...{ tenant: 'acme', received: 6, stored: 2, inFlight: 2, difference: 0 },
        ...{ deadLettered: { JSON_INVALID: 1 }, shed: {}, duplicate: { IDENTICAL: 1 } },
      },
      {
        ...{ tenant: 'beta', received: 26, stored: 0, inFlight: 13, difference: 0 },
        ...{ deadLettered: {}, shed: { LOG_FULL: 12 }, duplicate: { IDENTICAL: 1 } },
      },
    ]);
    assert.deepEqual(system.groups, ['audit']);
    assertBalanced(result);
  });

  test('by device, of one tenant', async () => {
    const system = new MovingSystem();
    mixed(system);
    system.process(2);
    const result = await run(system, { tenant: 'acme', by: 'device' });
    assert.deepEqual(
      result.rows.map((r) => [r.tenant, r.device, r.received, r.inFlight, r.difference]),
      [
        ['acme', 'a', 2, 1, 0],
        ['acme', 'b', 1, 0, 0],
      ],
    );
  });

  test('by device and hour: each has to balance', async () => {
    const system = new MovingSystem();
    for (const hour of [0, 1]) mixed(system, hour * HOUR + 5);
    system.process(8);
    const result = await run(system, { tenant: 'acme', by: 'hour' });
    assert.deepEqual(
      result.rows.map((r) => [r.device, (r.hour ?? -1) / HOUR, r.received, r.inFlight]),
      [
        ['a', 0, 2, 0],
        ['a', 1, 2, 1],
        ['b', 0, 1, 0],
        ['b', 1, 1, 0],
      ],
    );
    const table = auditTable(result).split('\n');
    assert.match(table[0] ?? '', /^tenant +device +hour +received/);
    assert.match(table[2] ?? '', /^acme +a +1970-01-01T01:00:00.000Z +2 +/);
    assert.equal(
      (auditJson(result).rows as { hour: string }[])[1]?.hour,
      '1970-01-01T01:00:00.000Z',
    );
    // What one hour lost another one may not make up for.
    const [line] = system.store.lines;
    assert.ok(line !== undefined);
    line.hour += HOUR;
    const wrong = await run(system, { tenant: 'acme', by: 'hour' });
    assert.equal(wrong.balanced, false);
    assert.equal((await run(system, { tenant: 'acme', by: 'device' })).balanced, true);
  });

  test('hours that may have been dropped are left out', async () => {
    const system = new MovingSystem();
    for (const hour of [0, 1]) mixed(system, hour * HOUR + 5);
    system.process(12);
    system.store.lines.splice(0, 3);
    const kept = await run(system, { keptFrom: HOUR });
    assert.deepEqual([kept.balanced, kept.from], [true, HOUR]);
    assert.equal((await run(system, { keptFrom: HOUR, from: 2 * HOUR })).from, 2 * HOUR);
    assert.equal((await run(system)).balanced, false);
  });

  test('by hour: other hours are neither received, stored nor in flight', async () => {
    const system = new MovingSystem();
    for (const hour of [0, 1, 2]) mixed(system, hour * HOUR + 5);
    system.process(8);
    const result = await run(system, { tenant: 'acme', from: HOUR + 1_800_000, to: 2 * HOUR - 1 });
    assert.deepEqual([result.from, result.to], [HOUR, 2 * HOUR]);
    assert.deepEqual(
      result.rows.map((r) => [r.received, r.inFlight, r.difference]),
      [[3, 1, 0]],
    );
  });

  test('nothing at all balances and reads nothing', async () => {
    const system = new MovingSystem();
    const result = await run(system);
    assert.deepEqual([result.rows, result.balanced, system.groups], [[], true, []]);
  });

  test('a lost message is found', async () => {
    const system = new MovingSystem();
    mixed(system);
    mixed(system);
    system.process(9);
    system.store.lines.pop();
    const result = await run(system);
    assert.equal(result.balanced, false);
    assert.deepEqual(
      result.rows.map((r) => [r.tenant, r.difference]),
      [
        ['acme', 1],
        ['beta', 0],
      ],
    );
    assert.throws(() => assertBalanced(result), { code: 'AUDIT_UNBALANCED', message: /acme 1/ });
  });

  test('a message that was counted twice is found', async () => {
    const system = new MovingSystem();
    mixed(system);
    system.process(6);
    const line = system.store.lines[0];
    assert.ok(line);
    system.store.lines.push(line);
    const result = await run(system);
    assert.deepEqual([result.balanced, result.rows[0]?.difference], [false, -1]);
  });
});

describe('a system that moves', () => {
  test('is balanced while gateway and worker go on between any two looks', async () => {
    for (const [every, appended, processed] of [
      [1, 1, 0],
      [1, 2, 9],
      [2, 3, 4],
      [3, 1, 1],
      [5, 4, 20],
    ] as const) {
      const system = new MovingSystem();
      for (let i = 0; i < 5; i += 1) mixed(system);
      system.process(11);
      let looks = 0;
      system.onLook = () => {
        looks += 1;
        if (looks > 400 || looks % every !== 0) return;
        for (let i = 0; i < appended; i += 1) mixed(system);
        system.process(processed);
      };
      const result = await run(system);
      assert.notEqual(result.balanced, false, `every ${every}`);
      if (processed === 0) assert.equal(result.balanced, true);
    }
  });

  test('a loss in a log that grows all the time is never called balanced', async () => {
    const system = new MovingSystem();
    for (let i = 0; i < 5; i += 1) mixed(system);
    system.process(20);
    system.store.lines.splice(3, 1);
    // Each commit holds two records of the tenant, so that one lost record fits nowhere.
    system.onLook = () => system.append([deadLetter('beta', 'c', 0), shed('beta', 'c', 0, 2)]);
    const result = await run(system);
    assert.notEqual(result.balanced, true);
  });

  test('records that were trimmed before they could be counted decide nothing', async () => {
    const system = new MovingSystem();
    for (let i = 0; i < 5; i += 1) mixed(system);
    system.process(6);
    system.first = 12;
    const result = await run(system);
    assert.equal(result.balanced, null);
    assert.match(result.note, /again/);
  });

  test('too large a backlog is not counted', async () => {
    const system = new MovingSystem();
    for (let i = 0; i < 5; i += 1) mixed(system);
    const result = await run(system, { inFlightMax: 29 });
    assert.equal(result.balanced, null);
    assert.match(result.note, /30 records are in flight/);
    assert.deepEqual(system.groups, []);
  });

  test('ends when it is told to', async () => {
    const system = new MovingSystem();
    for (let i = 0; i < 5; i += 1) mixed(system);
    const controller = new AbortController();
    let looks = 0;
    system.onLook = () => {
      looks += 1;
      if (looks === 3) controller.abort(new Error('enough'));
    };
    await assert.rejects(run(system, { signal: controller.signal }), /enough/);
  });
});

test('the table names what there is', async () => {
  const system = new MovingSystem();
  mixed(system);
  system.process(5);
  const lines = auditTable(await run(system)).split('\n');
  assert.match(
    lines[0] ?? '',
    /^tenant +received +stored +dead +shed +duplicate +in flight +difference +codes$/,
  );
  assert.match(lines[2] ?? '', /^beta +13 +0 +0 +12 +0 +1 +0 +LOG_FULL 12$/);
  assert.equal(lines.at(-2), 'Every message is accounted for.');
});
