import assert from 'node:assert/strict';
import { once } from 'node:events';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { SpillwayError } from '../../src/core/errors.ts';
import { letter, reading } from '../suites/store.ts';
import { ALL, DAY, MINUTE, NOON, openIn, runChild, temporaryDir } from './store-dir.ts';

const READINGS_PER_BATCH = 200;

describe('embedded store: several processes', () => {
  test('a killed writer loses nothing that was resolved', async (t) => {
    const dir = await temporaryDir(t);
    let first = 0;
    for (const extraMs of [0, 3, 17, 58, 131]) {
      const child = runChild(t, 'writing-child.ts', dir, String(first));
      await once(child.lines, 'line');
      await delay(extraMs);
      await child.kill();
      const resolved = Number(child.last());
      assert.ok(resolved >= first);

      // A reader must cope with what the dead writer left before the next writer does.
      for (const readOnly of [true, false]) {
        const store = openIn(t, dir, { readOnly });
        const counts = await store.countReadings(ALL);
        const readings = [...counts.values()].reduce((sum, count) => sum + count, 0);
        const position = (await store.position('g')).get(0) ?? 0;
        const stored = (await store.ledgerTotals({})).get('stored') ?? 0;
        assert.ok(readings >= (resolved + 1) * READINGS_PER_BATCH);
        assert.ok((await store.deadLetters(ALL)).length >= resolved + 1);
        assert.ok(position >= (resolved + 1) * READINGS_PER_BATCH);
        assert.ok(readings >= position, 'the position never runs ahead of the data');
        assert.equal(stored, position, 'the ledger and the position move together');
        const revisions = (await store.rollups({ ...ALL, windowMs: MINUTE })).map(
          (r) => r.revision,
        );
        assert.ok(Math.max(...revisions) >= resolved);
        await store.close();
        first = position / READINGS_PER_BATCH;
      }
    }
  });

  test('a second writer is refused until the first closes or dies', async (t) => {
    const dir = await temporaryDir(t);
    const locked = (error: unknown): boolean =>
      error instanceof SpillwayError && error.code === 'DATA_DIR_LOCKED';
    const child = runChild(t, 'writing-child.ts', dir);
    await once(child.lines, 'line');
    assert.throws(() => openIn(t, dir), locked);
    await child.kill();

    const store = openIn(t, dir);
    assert.throws(() => openIn(t, dir), locked, 'also in the same process');
    await store.close();
    await openIn(t, dir).close();
  });

  test('a reader follows a writer in another process', async (t) => {
    const dir = join(await temporaryDir(t), 'later');
    const reader = openIn(t, dir, { readOnly: true });
    assert.deepEqual(await reader.readings(ALL), []);
    assert.deepEqual(await reader.position('g'), new Map());

    const child = runChild(t, 'writing-child.ts', dir);
    for await (const line of child.lines) {
      const batch = Number(line);
      const found = await reader.countReadings(ALL);
      const count = [...found.values()].reduce((sum, one) => sum + one, 0);
      assert.ok(count >= (batch + 1) * READINGS_PER_BATCH, `batch ${batch} has ${count}`);
      assert.ok((await reader.latest('acme')).size === 7);
      if (batch >= 20) break;
    }
    await child.kill();
  });

  test('a reader passes over files that are dropped and finds their successors', async (t) => {
    const dir = await temporaryDir(t);
    const writer = openIn(t, dir, { retention: { rawMs: DAY, deadLettersMs: DAY } });
    const reader = openIn(t, dir, { readOnly: true });
    const old = NOON - 30 * DAY;
    for (let round = 0; round < 3; round++) {
      const values = { round };
      await writer.writeReadings([reading({ ts: old, values }), reading({ offset: 1, values })]);
      await writer.writeDeadLetters([letter({ received: old })]);
      const before = await reader.readings(ALL);
      assert.deepEqual(
        before.map((row) => row.ts),
        [old, NOON],
      );
      assert.equal(before[0]?.values.round, round, 'not the dropped file of the same name');
      assert.equal((await reader.deadLetters(ALL)).length, 1);

      const dropped = await writer.applyRetention(NOON);
      assert.deepEqual(dropped.sort(), ['deadletters-2026-02-12.db', 'raw-2026-02-12.db']);
      assert.equal((await reader.readings(ALL)).length, 1);
      assert.deepEqual(await reader.deadLetters(ALL), []);
      assert.deepEqual(await reader.latest('acme'), new Map([['dev-1', NOON]]));
    }
  });
});
