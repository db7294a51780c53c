import { closeSync, fsyncSync, openSync, renameSync, rmSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { DatabaseSync, type SQLInputValue, type StatementSync } from 'node:sqlite';
import { SpillwayError } from '../../core/errors.ts';
import type { StoreFile } from './files.ts';
import { CACHE_KIB, SCHEMA, STORE_FORMAT, STORE_VERSION } from './schema.ts';

/** How long a call waits for another connection's lock, ms. Only WAL recovery and closing take one. */
const BUSY_TIMEOUT_MS = 2_000;
/** Pages in the WAL that start a checkpoint: 8 MiB. */
const CHECKPOINT_PAGES = 2_000;
/** Size that a WAL is cut to after it was checkpointed, bytes. */
const WAL_BYTES_KEPT = 16 * 2 ** 20;

/** Suffix of a file that is being made; a crash leaves it for {@link sweep} of the next writer. */
export const NEW_SUFFIX = '.new';

/** One open database file with its prepared statements. */
export class SqliteFile {
  readonly file: StoreFile;
  readonly path: string;
  /** Tells a file from another one of the same name that was made after the first was dropped. */
  readonly identity: string;
  private readonly db: DatabaseSync;
  private readonly readOnly: boolean;
  /** Keyed by SQL text; bounded because all texts are constants of this room. */
  private readonly statements = new Map<string, StatementSync>();

  constructor(path: string, file: StoreFile, identity: string, readOnly: boolean) {
    this.path = path;
    this.file = file;
    this.identity = identity;
    this.readOnly = readOnly;
    this.db = new DatabaseSync(path, { readOnly, timeout: BUSY_TIMEOUT_MS });
    try {
      const cacheKib = readOnly ? CACHE_KIB[file.kind] / 4 : CACHE_KIB[file.kind];
      this.db.exec(`PRAGMA cache_size = -${cacheKib}`);
      if (!readOnly) {
        this.db.exec(`PRAGMA synchronous = FULL;
          PRAGMA wal_autocheckpoint = ${CHECKPOINT_PAGES};
          PRAGMA journal_size_limit = ${WAL_BYTES_KEPT};`);
      }
      this.checkMeta();
    } catch (error) {
      this.db.close();
      throw error;
    }
  }

  private checkMeta(): void {
    const tables = this.all<{ name: string }>("SELECT name FROM sqlite_schema WHERE name = 'meta'");
    // Files get their final name when they are complete, so one without tables has lost them.
    if (tables.length === 0) throw this.corrupt('it has no meta table');
    const meta = new Map(
      this.all<{ key: string; value: unknown }>('SELECT key, value FROM meta').map((row) => [
        row.key,
        row.value,
      ]),
    );
    const version = meta.get('version');
    if (meta.get('format') !== STORE_FORMAT || typeof version !== 'number') {
      throw this.corrupt('its meta table does not name a Spillway store');
    }
    if (version > STORE_VERSION) {
      throw new SpillwayError(
        'STORE_VERSION',
        `${this.path} has format version ${version}; this release reads up to ${STORE_VERSION}`,
      );
    }
    if (meta.get('kind') !== this.file.kind) {
      throw this.corrupt(`it holds ${String(meta.get('kind'))} data under another name`);
    }
  }

  private corrupt(detail: string): SpillwayError {
    return new SpillwayError('STORE_CORRUPT', `${this.path}: ${detail}`);
  }

  prepare(sql: string): StatementSync {
    let statement = this.statements.get(sql);
    if (statement === undefined) {
      statement = this.db.prepare(sql);
      this.statements.set(sql, statement);
    }
    return statement;
  }

  /** All rows; `Row` is what the SQL selects. */
  all<Row>(sql: string, ...params: SQLInputValue[]): Row[] {
    return this.prepare(sql).all(...params) as unknown as Row[];
  }

  get<Row>(sql: string, ...params: SQLInputValue[]): Row | undefined {
    return this.prepare(sql).get(...params) as unknown as Row | undefined;
  }

  /** Rows one by one; the caller may stop early. */
  iterate<Row>(sql: string, ...params: SQLInputValue[]): Iterable<Row> {
    return this.prepare(sql).iterate(...params) as unknown as Iterable<Row>;
  }

  run(sql: string, ...params: SQLInputValue[]): number {
    return Number(this.prepare(sql).run(...params).changes);
  }

  /** Runs `work` in one transaction: durable when this returns, undone when it throws. */
  transaction<T>(work: () => T): T {
    this.db.exec('BEGIN IMMEDIATE');
    try {
      const result = work();
      this.db.exec('COMMIT');
      return result;
    } catch (error) {
      // SQLite may have rolled back on its own (disk full, I/O error).
      if (this.db.isTransaction) this.db.exec('ROLLBACK');
      throw error;
    }
  }

  /** Closes. A writer's WAL is moved into the file first, as far as readers allow without waiting. */
  close(): void {
    try {
      if (!this.readOnly) this.db.exec('PRAGMA busy_timeout = 0; PRAGMA wal_checkpoint(TRUNCATE)');
    } catch {
      // Nothing is lost: the WAL keeps what could not be moved, and the next opening reads it.
    } finally {
      this.db.close();
    }
  }

  /** Closes without a word: for a file that just failed, whose error is already on its way. */
  abandon(): void {
    this.db.close();
  }
}

/** Identity of the file at a path; undefined when there is none. */
export function fileIdentity(path: string): string | undefined {
  const stat = statSync(path, { throwIfNoEntry: false });
  return stat === undefined ? undefined : `${stat.ino}:${stat.birthtimeMs}`;
}

/** Makes a file with its tables where there is none. It appears under its name only when it is complete and on disk. */
export function createFile(path: string, file: StoreFile, now: number): void {
  const unfinished = path + NEW_SUFFIX;
  removeFile(unfinished);
  const db = new DatabaseSync(unfinished);
  try {
    db.exec(`PRAGMA synchronous = FULL; BEGIN; ${SCHEMA[file.kind]}`);
    const meta = db.prepare('INSERT INTO meta(key, value) VALUES (?, ?)');
    meta.run('format', STORE_FORMAT);
    meta.run('version', BigInt(STORE_VERSION));
    meta.run('kind', file.kind);
    meta.run('created', BigInt(Math.trunc(now)));
    db.exec('COMMIT; PRAGMA journal_mode = WAL');
  } finally {
    db.close();
  }
  // A WAL that was left behind by a dropped file of this name would be played into the new one.
  removeFile(path);
  renameSync(unfinished, path);
  syncDirectory(dirname(path));
}

/** Removes a database with its WAL and shared-memory files. */
export function removeFile(path: string): void {
  for (const suffix of ['', '-wal', '-shm', '-journal']) rmSync(path + suffix, { force: true });
}

function syncDirectory(dir: string): void {
  const fd = openSync(dir, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
