import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { test } from 'node:test';
import { crc32, zstdDecompressSync } from 'node:zlib';
import { appended, message, messageOf, seqs, take } from '../suites/log.ts';
import { openEmbedded } from './embedded-log.ts';

const DOC = readFileSync(new URL('../../docs/log-format.md', import.meta.url), 'utf8');

/** Tables and their columns, in order. */
function tables(db: DatabaseSync): Map<string, string[]> {
  const names = db.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'").all();
  return new Map(
    names.map(({ name }) => [
      String(name),
      db
        .prepare(`PRAGMA table_info(${name})`)
        .all()
        .map((column) => String(column.name)),
    ]),
  );
}

test('docs/log-format.md draws the tables as they are', async (t) => {
  const log = await openEmbedded(t);
  await (await log.appender()).close();
  const offsets = new DatabaseSync(join(log.dir, 'offsets.db'));
  const all = new Map([...log.edit(tables), ...tables(offsets)]);
  offsets.close();
  assert.deepEqual([...all.keys()].sort(), [
    ...['backfill', 'batch', 'committed', 'committed_backfill', 'meta', 'received'],
  ]);
  for (const [table, columns] of all) {
    const start = DOC.search(new RegExp(`^ {4}${table} `, 'm'));
    assert.ok(start >= 0, `${table} is not drawn`);
    const drawing = DOC.slice(start, DOC.indexOf('\n\n', start));
    let at = 0;
    for (const column of columns) {
      const found = drawing.slice(at).search(new RegExp(`\\b${column}\\b`));
      assert.ok(found >= 0, `${table}.${column} is not drawn in its place`);
      at += found;
    }
  }
});

test('a batch is what docs/log-format.md says, for a reader that knows nothing else', async (t) => {
  for (const compression of ['zstd', 'none'] as const) {
    const log = await openEmbedded(t, { compression });
    const appender = await log.appender();
    await appended(appender, messageOf('d1', 0, 3));
    await appended(appender, message('d1', 3, { text: 'a\nb' }));
    const rows = log.edit((db) => db.prepare('SELECT * FROM batch ORDER BY first_offset').all());
    const seen: unknown[] = [];
    for (const row of rows) {
      const payload = row.payload as Uint8Array;
      assert.equal(crc32(payload), row.crc);
      assert.equal(row.codec, compression === 'zstd' ? 1 : 0);
      const text = Buffer.from(row.codec === 1 ? zstdDecompressSync(payload) : payload).toString();
      const lines = text.split('\n');
      assert.equal(lines.length, row.records);
      assert.equal(seen.length, row.first_offset);
      seen.push(...lines.map((line) => JSON.parse(line).seq));
      assert.match(String(row.tally), /^\["\d+\/acme\/d1\/reading\/",\d\]$/);
    }
    assert.deepEqual(seen, [0, 1, 2, 3]);
    assert.deepEqual(
      log.edit((db) => db.prepare("SELECT value FROM meta WHERE key = 'end'").get())?.value,
      4,
    );
  }
});

test('what a later release may add under version 1 does no harm', async (t) => {
  const log = await openEmbedded(t);
  await (await log.appender()).close();
  log.edit((db) =>
    db.exec(
      "CREATE TABLE later (x); INSERT INTO meta VALUES ('later', 7); INSERT INTO later VALUES (1)",
    ),
  );
  const appender = await log.appender();
  const { records, tallyKeys } = message('d1', 0);
  const withField = records.map((record) => record.replace(/\}$/, ',"later":{"a":1}}'));
  await appended(appender, { records: withField, tallyKeys });
  await appended(appender, message('d1', 1));
  assert.deepEqual(seqs(await take(log.consumer(), 'g', 2), 'd1'), [0, 1]);
});
