import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { open, readFile, rm, truncate, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { describe, test } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { SpillwayError } from '../../src/core/errors.ts';
import { dayFile, parseFileName, rollupFile } from '../../src/store/embedded/files.ts';
import { isExpired } from '../../src/store/embedded/retention.ts';
import { letter, reading, rollup } from '../suites/store.ts';
import { ALL, DAY, MINUTE, NOON, openIn, temporaryDir } from './store-dir.ts';

const HOUR = 3_600_000;
const RAW = 'raw-2026-03-14.db';

function coded(code: string, name: string): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof SpillwayError, String(error));
    assert.equal(error.code, code);
    assert.ok(error.message.includes(name), error.message);
    return true;
  };
}

describe('embedded store: files', () => {
  test('are named by kind, window and span, and names are read back', () => {
    const files = [
      dayFile('raw', NOON),
      dayFile('deadletters', NOON),
      rollupFile(MINUTE, NOON),
      rollupFile(HOUR, NOON),
      rollupFile(DAY, NOON),
      rollupFile(7 * DAY, NOON),
    ];
    assert.deepEqual(
      files.map(({ name }) => name),
      [
        'raw-2026-03-14.db',
        'deadletters-2026-03-14.db',
        'rollup-60000-2026-03-14.db',
        'rollup-3600000-2026-03.db',
        'rollup-86400000-2026.db',
        'rollup-604800000-2026.db',
      ],
    );
    for (const file of files) {
      assert.deepEqual(parseFileName(file.name), file);
      assert.ok(file.start <= NOON && NOON < file.end);
    }
    const foreign = [
      'lock.db',
      'raw-2026-03-14.db-wal',
      'raw-2026-02-30.db',
      'raw-2026-3-14.db',
      'rollup-60000-2026-03.db',
      'rollup-060000-2026-03-14.db',
      'rollup-3600000-2026-03-14.db',
      'raw-2026-03-14.db.new',
      '../raw-2026-03-14.db',
    ];
    for (const name of foreign) assert.equal(parseFileName(name), undefined, name);
  });

  test('expire when their whole span is past its retention', () => {
    const retention = {
      rawMs: DAY,
      deadLettersMs: 0,
      rollupsMs: new Map([[HOUR, DAY]]),
    };
    const raw = dayFile('raw', NOON);
    assert.equal(isExpired(raw, retention, raw.end + DAY - 1), false);
    assert.equal(isExpired(raw, retention, raw.end + DAY), true);
    const letters = dayFile('deadletters', NOON);
    assert.equal(isExpired(letters, retention, letters.end + 9_999 * DAY), false);
    const hours = rollupFile(HOUR, NOON);
    assert.equal(isExpired(hours, retention, hours.end + DAY + HOUR - 1), false);
    assert.equal(isExpired(hours, retention, hours.end + DAY + HOUR), true);
    const minutes = rollupFile(MINUTE, NOON);
    assert.equal(isExpired(minutes, retention, minutes.end + 9_999 * DAY), false);
  });

  test('are dropped completely while writes go on', async (t) => {
    const dir = await temporaryDir(t);
    const store = openIn(t, dir, { retention: { rawMs: DAY } });
    const old = NOON - 40 * DAY;
    for (let day = 0; day < 5; day++) {
      await store.writeReadings([reading({ ts: old + day * DAY, offset: day })]);
    }
    // Retention closes and drops files between these writes, some of which make them again.
    let running = true;
    const work = store.applyRetention(NOON).finally(() => {
      running = false;
    });
    let written = 0;
    while (running) {
      const offset = 10 + written;
      const again = old + (written % 5) * DAY;
      await store.writeReadings([reading({ ts: NOON + offset, offset })]);
      await store.writeReadings([reading({ ts: again, offset, values: { again: 1 } })]);
      written++;
      await nextTurn();
    }
    assert.equal((await work).length, 5);
    assert.ok(written > 1);
    assert.equal((await store.readings({ ...ALL, from: NOON })).length, written);
    await store.applyRetention(NOON);
    const left = readdirSync(dir).filter((name) => !/-(wal|shm)$/.test(name));
    assert.deepEqual(left.sort(), ['lock.db', RAW]);
    await store.close();
    assert.deepEqual(readdirSync(dir).sort(), ['lock.db', RAW], 'closing leaves no WAL');
  });

  test('left over by a crash are removed by the next writer', async (t) => {
    const dir = await temporaryDir(t);
    const leftovers = [
      'raw-2026-01-01.db.new',
      'raw-2026-01-01.db.new-journal',
      'raw-2026-01-02.db.dropped',
      'raw-2026-01-03.db-wal',
      'raw-2026-01-03.db-shm',
    ];
    for (const name of leftovers) await writeFile(join(dir, name), 'x');
    await writeFile(join(dir, 'notes.txt'), 'kept');
    const store = openIn(t, dir);
    assert.deepEqual(readdirSync(dir).sort(), ['lock.db', 'notes.txt']);
    assert.deepEqual(await store.readings(ALL), []);
  });

  test('do not take over the WAL of a file that was there before', async (t) => {
    const dir = await temporaryDir(t);
    const before = openIn(t, dir);
    await before.writeReadings([reading({ device: 'before' })]);
    const wal = await readFile(join(dir, `${RAW}-wal`));
    assert.ok(wal.length > 0);
    await before.close();
    await rm(join(dir, RAW));

    const store = openIn(t, dir);
    await writeFile(join(dir, `${RAW}-wal`), wal);
    await store.writeReadings([reading({ device: 'after' })]);
    assert.deepEqual(await store.countReadings(ALL), new Map([['after', 1]]));
  });

  test('are read again for devices and metrics when they change', async (t) => {
    const dir = await temporaryDir(t);
    const store = openIn(t, dir, { retention: { rawMs: DAY } });
    const reader = openIn(t, dir, { readOnly: true });
    const settle = async (): Promise<void> => {
      const past = (Date.now() - 60_000) / 1_000;
      for (const name of readdirSync(dir)) await utimes(join(dir, name), past, past);
    };
    const seen = async (): Promise<string[]> => {
      const [latest, series] = [await reader.latest('acme'), await reader.series('acme')];
      return series.map(({ device, metrics }) => `${device} ${latest.get(device)} ${metrics}`);
    };
    const old = NOON - 40 * DAY;
    assert.deepEqual(await seen(), []);
    await store.writeReadings([reading({ device: 'a', ts: old, values: { x: 1 } })]);
    await store.writeReadings([reading({ device: 'b', values: { x: 1 } })]);
    await settle();
    assert.deepEqual(await seen(), [`a ${old} x`, `b ${NOON} x`]);
    assert.deepEqual(await seen(), [`a ${old} x`, `b ${NOON} x`]);
    await store.writeReadings([reading({ device: 'a', ts: old + 1, values: { y: 1 } })]);
    assert.deepEqual(await seen(), [`a ${old + 1} x,y`, `b ${NOON} x`]);
    await settle();
    await store.applyRetention(NOON);
    assert.deepEqual(await seen(), [`b ${NOON} x`]);
  });

  test('more than can be open at once are all reached', async (t) => {
    const dir = await temporaryDir(t);
    const store = openIn(t, dir);
    const rows = Array.from({ length: 40 }, (_, i) => reading({ ts: NOON + i * DAY, offset: i }));
    await store.writeReadings(rows);
    await store.writeReadings([...rows].reverse());
    assert.deepEqual(await store.readings(ALL), rows);
    const reader = openIn(t, dir, { readOnly: true });
    assert.deepEqual(await reader.readings(ALL), rows);
    assert.deepEqual(await reader.latest('acme'), new Map([['dev-1', NOON + 39 * DAY]]));
  });

  test('that are corrupt are named and hold up no other', async (t) => {
    const damages: Record<string, (path: string) => Promise<void>> = {
      'another header': (path) =>
        writeFile(path, 'this is no database, but long enough '.repeat(200)),
      'nothing left': (path) => truncate(path, 0),
      'pages overwritten': async (path) => {
        const file = await open(path, 'r+');
        const { size } = await file.stat();
        await file.write(Buffer.alloc(size - 4096, 0xa5), 0, size - 4096, 4096);
        await file.close();
      },
    };
    for (const [damage, apply] of Object.entries(damages)) {
      const dir = await temporaryDir(t);
      const store = openIn(t, dir);
      await store.writeReadings(
        Array.from({ length: 500 }, (_, i) => reading({ ts: NOON + i, offset: i })),
      );
      await store.writeReadings([reading({ ts: NOON + DAY, offset: 500 })]);
      await store.close();
      await apply(join(dir, RAW));
      for (const readOnly of [true, false]) {
        const damaged = openIn(t, dir, { readOnly });
        await assert.rejects(damaged.readings(ALL), coded('STORE_CORRUPT', RAW), damage);
        const next = await damaged.readings({ ...ALL, from: NOON + DAY });
        assert.equal(next.length, 1, damage);
        await damaged.close();
      }
      const writer = openIn(t, dir);
      const rejected = writer.writeReadings([reading({ ts: NOON + 1_000, offset: 900 })]);
      await assert.rejects(rejected, coded('STORE_CORRUPT', RAW), damage);
      await writer.writeReadings([reading({ ts: NOON + DAY + 1, offset: 901 })]);
      await writer.close();
    }
  });

  test('of a newer version are refused', async (t) => {
    const dir = await temporaryDir(t);
    const store = openIn(t, dir);
    await store.writeReadings([reading()]);
    await store.writeRollups([rollup()]);
    await store.writeDeadLetters([letter()]);
    await store.commit({ group: 'g', partition: 0, nextOffset: 1, ledger: [] });
    await store.close();
    const setVersion = (name: string, version: number): void => {
      const db = new DatabaseSync(join(dir, name));
      db.prepare("UPDATE meta SET value = ? WHERE key = 'version'").run(BigInt(version));
      db.close();
    };
    setVersion(RAW, 2);
    for (const readOnly of [true, false]) {
      const opened = openIn(t, dir, { readOnly });
      await assert.rejects(opened.readings(ALL), coded('STORE_VERSION', RAW));
      assert.equal((await opened.rollups({ ...ALL, windowMs: MINUTE })).length, 1);
      await opened.close();
    }
    setVersion('ledger.db', 2);
    assert.throws(() => openIn(t, dir), coded('STORE_VERSION', 'ledger.db'));
    setVersion('ledger.db', 1);
    await openIn(t, dir).close();
  });

  test('of the first release are read as they are, and completed when they are written', async (t) => {
    const dir = await temporaryDir(t);
    const store = openIn(t, dir);
    const old = letter({ offset: 1 });
    await store.writeDeadLetters([old]);
    await store.close();
    const path = join(dir, 'deadletters-2026-03-14.db');
    const columns = (db: DatabaseSync) =>
      db
        .prepare("SELECT name FROM pragma_table_info('letter')")
        .all()
        .map(({ name }) => String(name));
    const later = ['type_version', 'attempt', 'replayed', 'purged'];
    const first = new DatabaseSync(path);
    for (const column of later) first.exec(`ALTER TABLE letter DROP COLUMN ${column}`);
    assert.equal(columns(first).length, 14);
    first.close();

    const reader = openIn(t, dir, { readOnly: true });
    for (const more of [{}, { state: 'open' as const }, { typeVersion: '' }]) {
      assert.deepEqual(await reader.deadLetters({ ...ALL, ...more }), [old]);
      assert.equal((await reader.groupDeadLetters({ ...ALL, ...more }))[0]?.open, 1);
    }
    assert.deepEqual(await reader.deadLetters({ ...ALL, typeVersion: 'cafecafe' }), []);

    const writer = openIn(t, dir);
    const { received, code, type, tenant, device } = old;
    const mark = { tenant, device, partition: 0, offset: 1, received, code, type };
    await writer.markDeadLetters([{ ...mark, attempt: 1, replayed: NOON }]);
    await writer.writeDeadLetters([letter({ offset: 2, typeVersion: 'cafecafe' })]);
    assert.deepEqual(await reader.deadLetters({ ...ALL, oldestFirst: true }), [
      { ...old, attempt: 1, replayed: NOON },
      letter({ offset: 2, typeVersion: 'cafecafe' }),
    ]);
    await writer.close();
    const completed = new DatabaseSync(path);
    assert.deepEqual(columns(completed).slice(-4), later);
    // The release before names the columns that it writes.
    completed.exec(`INSERT OR REPLACE INTO letter(partition, offset, tenant, device, type, received,
      code, message, path, expected, actual, topic, payload, payload_bytes)
      SELECT partition, 3, tenant, device, type, received, code, message, path, expected, actual,
      topic, payload, payload_bytes FROM letter WHERE offset = 1`);
    completed.close();
    assert.equal((await reader.deadLetters(ALL)).length, 3);
  });

  test('what is purged is not found in the file either', async (t) => {
    const dir = await temporaryDir(t);
    const store = openIn(t, dir);
    const secret = Buffer.from('a secret of a customer '.repeat(400));
    const payload = { payload: secret.toString('base64'), payloadBytes: secret.length };
    await store.writeDeadLetters([letter({ offset: 1, ...payload }), letter({ offset: 2 })]);
    const purge = { tenant: 'acme', device: 'dev-1', from: 0, to: NOON + 1, purged: NOON + 2 };
    await store.purgeDeadLetters({ ...purge, letters: [[0, 1]] });
    await store.close();
    const bytes = readFileSync(join(dir, 'deadletters-2026-03-14.db'));
    assert.equal(bytes.includes('a secret of a customer'), false);
    assert.equal(bytes.includes('temperature'), true);
  });

  test('that were renamed to another kind are not taken for it', async (t) => {
    const dir = await temporaryDir(t);
    const store = openIn(t, dir);
    await store.writeDeadLetters([letter()]);
    await store.close();
    const copy = new DatabaseSync(join(dir, 'deadletters-2026-03-14.db'));
    copy.prepare('VACUUM INTO ?').run(join(dir, RAW));
    copy.close();
    await assert.rejects(openIn(t, dir).readings(ALL), coded('STORE_CORRUPT', RAW));
  });
});

describe('embedded store: calls', () => {
  test('a failing write leaves nothing behind and the next one works', async (t) => {
    const dir = await temporaryDir(t);
    const store = openIn(t, dir);
    const broken = { ...letter({ offset: 2, device: 'new' }), code: null as unknown as string };
    await assert.rejects(store.writeDeadLetters([letter({ offset: 1 }), broken]), /letter\.code/);
    assert.deepEqual(await store.deadLetters(ALL), []);
    await store.writeDeadLetters([letter({ offset: 1 })]);
    assert.equal((await store.deadLetters(ALL)).length, 1);

    const line = {
      tenant: 'acme',
      device: 'dev-9',
      hour: 0,
      outcome: 'stored' as const,
      code: '',
      count: 1,
    };
    const bad = { ...line, count: null as unknown as number };
    const progress = { group: 'g', partition: 0, nextOffset: 5 };
    await assert.rejects(store.commit({ ...progress, ledger: [line, bad] }), /ledger\.count/);
    assert.deepEqual(await store.position('g'), new Map());
    await store.commit({ ...progress, ledger: [line] });
    assert.deepEqual(await store.ledger({}), [line]);
  });

  test('readings that no file can take are given back with the reason', async (t) => {
    const store = openIn(t, await temporaryDir(t));
    const bad = [
      reading({ ts: -1 }),
      reading({ ts: 1.5 }),
      reading({ ts: 1e300 }),
      reading({ ts: Number.NaN }),
      reading({ seq: 2 ** 60 }),
      reading({ received: Number.NaN }),
      reading({ values: { x: Number.POSITIVE_INFINITY } }),
    ];
    const refused = await store.writeReadings(bad);
    assert.deepEqual(
      refused.map((one) => one.reading),
      bad,
    );
    assert.match(refused[0]?.message ?? '', /ts -1/);
    assert.deepEqual(await store.readings(ALL), []);
  });

  test('writing is refused to readers, after closing, and for unknown windows', async (t) => {
    const dir = await temporaryDir(t);
    const reader = openIn(t, join(dir, 'none'), { readOnly: true });
    await assert.rejects(reader.writeReadings([reading()]), /read only/);
    await assert.rejects(reader.applyRetention(NOON), /read only/);
    assert.equal(existsSync(join(dir, 'none')), false);
    const store = openIn(t, dir);
    await assert.rejects(store.writeRollups([rollup({ windowMs: 7 })]), /7 ms/);
    await store.close();
    await assert.rejects(store.readings(ALL), /closed/);
    await assert.rejects(store.commit({ group: 'g', partition: 0, nextOffset: 1, ledger: [] }));
    await store.close();
  });
});
