import assert from 'node:assert/strict';
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, rmSync, statSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { EmbeddedAppender } from '../../src/log/embedded/appender.ts';
import { EmbeddedConsumer } from '../../src/log/embedded/consumer.ts';
import { appended, message, messageOf, range, seqs, take } from '../suites/log.ts';
import { OPTIONS, openEmbedded } from './embedded-log.ts';

for (const compression of ['zstd', 'none'] as const) {
  test(`a flipped bit is found and its batch named, and what stands before it is delivered (${compression})`, async (t) => {
    const log = await openEmbedded(t, { compression });
    const appender = await log.appender();
    for (const first of [0, 10, 20]) await appended(appender, messageOf('d1', first, 10));
    log.edit((db) => {
      const row = db.prepare('SELECT payload FROM batch WHERE first_offset = 10').get();
      const payload = Buffer.from(row?.payload as Uint8Array);
      payload[payload.length >> 1] = (payload[payload.length >> 1] ?? 0) ^ 1;
      db.prepare('UPDATE batch SET payload = ? WHERE first_offset = 10').run(payload);
    });
    const consumer = log.consumer();
    assert.deepEqual(seqs(await take(consumer, 'g', 10, { recordsMax: 1 }), 'd1'), range(0, 10));
    const damaged = { code: 'LOG_CORRUPT', message: /offset 10 is damaged/ };
    await assert.rejects(take(consumer, 'g', 11, { recordsMax: 1 }), damaged);
    await assert.rejects(take(consumer, 'g', 1, { from: new Map([[0, 15]]) }), damaged);
    // Whoever moves past it by hand reads on.
    const rest = await take(consumer, 'g', 10, { from: new Map([[0, 20]]) });
    assert.deepEqual(seqs(rest, 'd1'), range(20, 30));
  });
}

test('a batch that holds other than it says is found', async (t) => {
  const log = await openEmbedded(t);
  const appender = await log.appender();
  await appended(appender, messageOf('d1', 0, 10));
  await appended(appender, messageOf('d1', 10, 10));
  const consumer = log.consumer();
  log.edit((db) => db.exec('UPDATE batch SET records = 9 WHERE first_offset = 10'));
  await assert.rejects(take(consumer, 'g', 20, { from: new Map([[0, 10]]) }), {
    code: 'LOG_CORRUPT',
    message: /offset 10 is damaged: it holds 10 records/,
  });
  log.edit((db) => db.exec('UPDATE batch SET codec = 9 WHERE first_offset = 0'));
  await assert.rejects(take(consumer, 'g', 20), { code: 'LOG_CORRUPT', message: /codec 9/ });
});

test('a file that is no database, and one with damaged pages, are LOG_CORRUPT', async (t) => {
  const log = await openEmbedded(t);
  writeFileSync(
    join(log.dir, 'log.db'),
    'this is no database at all, as anyone can see'.repeat(100),
  );
  await assert.rejects(log.appender(), { code: 'LOG_CORRUPT' });
  await assert.rejects(take(log.consumer(), 'g', 1), { code: 'LOG_CORRUPT' });
  rmSync(join(log.dir, 'log.db'));

  // The lock of the attempt that failed is gone.
  const appender = await log.appender({ compression: 'none' });
  for (const seq of range(0, 200)) appender.append(message('d1', seq), () => {});
  await appended(appender, message('d1', 200, { text: 'x'.repeat(100_000) }));
  await appender.close();
  const path = join(log.dir, 'log.db');
  const fd = openSync(path, 'r+');
  for (let page = 1; page < statSync(path).size / 4_096; page++) {
    writeSync(fd, Buffer.alloc(4_096, 0xff), 0, 4_096, page * 4_096);
  }
  closeSync(fd);
  await assert.rejects(take(log.consumer(), 'g', 1), { code: 'LOG_CORRUPT' });
});

test('a later version is refused by writer and reader, and stays as it is', async (t) => {
  const log = await openEmbedded(t);
  const later = `
    PRAGMA journal_mode = WAL;
    CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    INSERT INTO meta VALUES ('version', 3);
    CREATE TABLE received (other INTEGER);`;
  log.edit((db) => db.exec(later));
  const refused = { code: 'LOG_VERSION', message: /version 3.*up to 2/ };
  await assert.rejects(log.appender(), refused);
  await assert.rejects(take(log.consumer(), 'g', 1, { from: new Map() }), refused);
  const tables = log.edit((db) =>
    db
      .prepare('SELECT name FROM sqlite_schema ORDER BY name')
      .all()
      .map(({ name }) => name),
  );
  assert.deepEqual(tables, ['meta', 'received']);
});

test('later offsets are refused', async (t) => {
  const log = await openEmbedded(t);
  await (await log.appender()).close();
  const offsets = new DatabaseSync(join(log.dir, 'offsets.db'));
  offsets.exec('PRAGMA user_version = 2');
  offsets.close();
  await assert.rejects(log.appender(), { code: 'LOG_VERSION', message: /offsets\.db/ });
  await assert.rejects(log.consumer().committed('g'), { code: 'LOG_VERSION' });
});

test('offsets of another log are found, before what they skip is trimmed unread', async (t) => {
  const log = await openEmbedded(t);
  const appender = await log.appender();
  await appended(appender, messageOf('d1', 0, 10));
  const consumer = log.consumer();
  await consumer.commit('rollup', 0, 10);
  await consumer.close();
  await appender.close();
  rmSync(join(log.dir, 'log.db'));
  await assert.rejects(log.appender(), {
    code: 'LOG_CORRUPT',
    message: /ends at offset 0.*rollup has read up to 10/,
  });
  rmSync(join(log.dir, 'offsets.db'));
  await log.appender();
});

test('a second writer is refused, in this process and in another, until the first has ended', async (t) => {
  const log = await openEmbedded(t);
  const appender = await log.appender();
  await assert.rejects(log.appender(), { code: 'DATA_DIR_LOCKED' });
  await appended(appender, message('d1', 0));
  await appender.close();

  const child = fork(
    fileURLToPath(new URL('appending-child.ts', import.meta.url)),
    [log.dir, '1'],
    {
      stdio: ['ignore', 'pipe', 'inherit', 'ipc'],
    },
  );
  const ended = once(child, 'exit');
  t.after(() => child.kill('SIGKILL'));
  assert.ok(child.stdout);
  await once(child.stdout, 'data');
  await assert.rejects(log.appender(), { code: 'DATA_DIR_LOCKED' });
  child.kill('SIGKILL');
  await ended;
  await log.appender();
});

test('a directory that can not be written is no lock of another process', async (t) => {
  const log = await openEmbedded(t);
  writeFileSync(join(log.dir, 'file'), '');
  const dir = join(log.dir, 'file', 'log');
  await assert.rejects(EmbeddedAppender.open({ dir, ...OPTIONS }), { code: 'LOG_WRITE_FAILED' });
});

test('an error of the disk ends the log: all that waits is refused, and the process told', async (t) => {
  const log = await openEmbedded(t);
  const failures: string[] = [];
  const appender = await log.appender({}, { onFailed: (error) => failures.push(error.code) });
  await appended(appender, message('d1', 0));
  // As a disk would: the next insert fails, and not for want of space.
  log.edit((db) => db.exec('DROP TABLE batch'));
  const both = [message('d1', 1), message('d1', 2)].map((one) => appended(appender, one));
  const results = await Promise.allSettled(both);
  assert.deepEqual(
    results.map((result) => result.status === 'rejected' && result.reason.code),
    ['LOG_WRITE_FAILED', 'LOG_WRITE_FAILED'],
  );
  assert.deepEqual(failures, ['LOG_WRITE_FAILED']);
  await assert.rejects(appended(appender, message('d1', 3)), { code: 'LOG_WRITE_FAILED' });
  await assert.rejects(appender.flush(), { code: 'LOG_WRITE_FAILED' });
  await appender.close();
});

test('a reader may be there before the writer', async (t) => {
  const log = await openEmbedded(t);
  const consumer = new EmbeddedConsumer({ dir: log.dir });
  assert.deepEqual(await consumer.bounds(), new Map([[0, { first: 0, end: 0 }]]));
  assert.deepEqual(await consumer.received({}), []);
  const taken = take(consumer, 'g', 1);
  await appended(await log.appender(), message('d1', 0));
  assert.deepEqual(seqs(await taken, 'd1'), [0]);
  await consumer.close();
});
