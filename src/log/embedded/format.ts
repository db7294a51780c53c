import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { crc32, constants as zlib, zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import { SpillwayError } from '../../core/errors.ts';

/**
 * The files of the embedded log, drawn in `docs/log-format.md`:
 *
 *   log/log.db      batch(first_offset, records, at, codec, crc, tally, payload), backfill(the same and after),
 *                   received(…), meta(…)
 *   log/offsets.db  committed(grp, partition, next_offset), committed_backfill(the same)
 *
 * A release reads every version up to its own and refuses later ones. The log says version 2 only while its
 * lane of old readings holds some that are not processed, or not in the account: the release before does
 * not know of the lane.
 */
const LOG_VERSION = 2;
export const VERSION_DRAINED = 1;
export const VERSION_BACKFILLING = 2;
const OFFSETS_VERSION = 1;

/** A sequence of records with offsets of its own: a partition. Tables, and keys of `meta`. */
export interface Lane {
  partition: number;
  batches: 'batch' | 'backfill';
  end: 'end' | 'backfillEnd';
  folded: 'folded' | 'backfillFolded';
  committed: 'committed' | 'committed_backfill';
}

export const LIVE: Lane = {
  partition: 0,
  batches: 'batch',
  end: 'end',
  folded: 'folded',
  committed: 'committed',
};
export const BACKFILL: Lane = {
  partition: 1,
  batches: 'backfill',
  end: 'backfillEnd',
  folded: 'backfillFolded',
  committed: 'committed_backfill',
};
export const LANES: readonly Lane[] = [LIVE, BACKFILL];

export const CODECS = { none: 0, zstd: 1 } as const;
export type CodecName = keyof typeof CODECS;

const ZSTD = { params: { [zlib.ZSTD_c_compressionLevel]: 1 } };
/** A batch is 16 Mi UTF-16 units (up to 48 MiB) and one message at most, far below this. */
const UNPACKED_BYTES_MAX = 256 * 2 ** 20;

export function encodeBatch(text: string, codec: CodecName): { payload: Buffer; crc: number } {
  const raw = Buffer.from(text, 'utf8');
  const payload = codec === 'zstd' ? zstdCompressSync(raw, ZSTD) : raw;
  return { payload, crc: crc32(payload) };
}

/** The records of a batch, one JSON text each. Throws LOG_CORRUPT. */
export function decodeBatch(row: {
  first_offset: number;
  codec: number;
  crc: number;
  payload: Uint8Array;
}): string[] {
  const { first_offset: offset, codec, crc, payload } = row;
  if (crc32(payload) !== crc) throw corrupt(offset, 'its checksum does not match');
  if (codec === CODECS.none) return Buffer.from(payload).toString('utf8').split('\n');
  if (codec !== CODECS.zstd) throw corrupt(offset, `codec ${codec} is not known`);
  try {
    return zstdDecompressSync(payload, { maxOutputLength: UNPACKED_BYTES_MAX })
      .toString('utf8')
      .split('\n');
  } catch (cause) {
    throw corrupt(offset, 'it does not unpack', cause);
  }
}

export function corrupt(offset: number, why: string, cause?: unknown): SpillwayError {
  return new SpillwayError(
    'LOG_CORRUPT',
    `the log's batch at offset ${offset} is damaged: ${why}`,
    { cause },
  );
}

export function logPath(dir: string): string {
  return join(dir, 'log.db');
}

/** Opens `log.db` for its one writer; creates it when absent. Throws LOG_VERSION, LOG_CORRUPT. */
export function openLogForWriting(dir: string): DatabaseSync {
  mkdirSync(dir, { recursive: true });
  const db = new DatabaseSync(logPath(dir));
  try {
    db.exec('PRAGMA busy_timeout = 5000');
    // Before anything is made: a later release's tables stay as they are.
    if (hasTable(db, 'meta')) checkVersion(db);
    db.exec(`
      PRAGMA journal_mode = WAL;
      PRAGMA synchronous = FULL;
      PRAGMA cache_size = -1024;
      PRAGMA journal_size_limit = 16777216;
      CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
      CREATE TABLE IF NOT EXISTS batch (
        first_offset INTEGER PRIMARY KEY,
        records INTEGER NOT NULL,
        at INTEGER NOT NULL,
        codec INTEGER NOT NULL,
        crc INTEGER NOT NULL,
        tally TEXT NOT NULL,
        payload BLOB NOT NULL
      );
      CREATE TABLE IF NOT EXISTS backfill (
        first_offset INTEGER PRIMARY KEY,
        records INTEGER NOT NULL,
        at INTEGER NOT NULL,
        codec INTEGER NOT NULL,
        crc INTEGER NOT NULL,
        tally TEXT NOT NULL,
        payload BLOB NOT NULL,
        after INTEGER NOT NULL
      );
      CREATE TABLE IF NOT EXISTS received (
        tenant TEXT NOT NULL,
        device TEXT NOT NULL,
        hour INTEGER NOT NULL,
        outcome TEXT NOT NULL,
        code TEXT NOT NULL,
        count INTEGER NOT NULL,
        PRIMARY KEY (tenant, device, hour, outcome, code)
      ) WITHOUT ROWID;
      CREATE INDEX IF NOT EXISTS received_hour ON received (hour);
      INSERT OR IGNORE INTO meta VALUES ('version', ${VERSION_DRAINED}), ('end', 0), ('folded', 0),
        ('backfillEnd', 0), ('backfillFolded', 0);
    `);
    return db;
  } catch (error) {
    db.close();
    throw asLogError(error);
  }
}

/** Opens `log.db` for reading beside its writer; undefined while the writer has not made its tables. */
export function openLogForReading(dir: string): DatabaseSync | undefined {
  const db = new DatabaseSync(logPath(dir), { readOnly: true });
  try {
    db.exec('PRAGMA busy_timeout = 5000; PRAGMA cache_size = -1024;');
    if (!hasTable(db, 'received') || !checkVersion(db)) {
      db.close();
      return undefined;
    }
    return db;
  } catch (error) {
    db.close();
    throw asLogError(error);
  }
}

/** Opens the consumers' offsets; any process may write them. */
export function openOffsets(dir: string): DatabaseSync {
  mkdirSync(dir, { recursive: true });
  const db = new DatabaseSync(join(dir, 'offsets.db'));
  try {
    db.exec('PRAGMA busy_timeout = 5000');
    const version = Number(db.prepare('PRAGMA user_version').get()?.user_version);
    if (version > OFFSETS_VERSION) {
      throw new SpillwayError(
        'LOG_VERSION',
        `offsets.db has version ${version}, this release reads up to ${OFFSETS_VERSION}`,
      );
    }
    db.exec(`
      PRAGMA journal_mode = WAL;
      PRAGMA synchronous = FULL;
      PRAGMA cache_size = -64;
      CREATE TABLE IF NOT EXISTS committed (
        grp TEXT NOT NULL,
        partition INTEGER NOT NULL,
        next_offset INTEGER NOT NULL,
        PRIMARY KEY (grp, partition)
      ) WITHOUT ROWID;
      CREATE TABLE IF NOT EXISTS committed_backfill (
        grp TEXT NOT NULL,
        partition INTEGER NOT NULL,
        next_offset INTEGER NOT NULL,
        PRIMARY KEY (grp, partition)
      ) WITHOUT ROWID;
    `);
    if (version < OFFSETS_VERSION) db.exec(`PRAGMA user_version = ${OFFSETS_VERSION}`);
    return db;
  } catch (error) {
    db.close();
    throw asLogError(error);
  }
}

export function hasTable(db: DatabaseSync, name: string): boolean {
  return db.prepare('SELECT 1 FROM sqlite_schema WHERE name = ?').get(name) !== undefined;
}

function checkVersion(db: DatabaseSync): boolean {
  const row = db.prepare("SELECT value FROM meta WHERE key = 'version'").get();
  if (row === undefined) return false;
  const version = Number(row.value);
  if (version > LOG_VERSION) {
    throw new SpillwayError(
      'LOG_VERSION',
      `the log has version ${version}, this release reads up to ${LOG_VERSION}`,
    );
  }
  return true;
}

/** SQLITE_FULL, or SQLITE_IOERR_SHMSIZE: the index of a WAL could not grow. */
export function isDiskFull(error: unknown): boolean {
  const { errcode } = error as { errcode?: number };
  return errcode === 13 || errcode === 4_874;
}

/** SQLite's findings of damage as LOG_CORRUPT; any other error as it is. */
export function asLogError(error: unknown): unknown {
  // SQLITE_CORRUPT and SQLITE_NOTADB, without their extended parts.
  const code = Number((error as { errcode?: number }).errcode) & 0xff;
  if (code === 11 || code === 26) {
    return new SpillwayError('LOG_CORRUPT', 'the file of the log is damaged', { cause: error });
  }
  return error;
}
