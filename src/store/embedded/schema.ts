import type { FileKind } from './files.ts';

/**
 * The tables of each kind of file, as `docs/store-format.md` draws them. A change here needs a new
 * {@link STORE_VERSION} and a way to read the version before.
 */
export const STORE_FORMAT = 'spillway-store';
export const STORE_VERSION = 1;

const META = 'CREATE TABLE meta(key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;';

const DEVICE = `CREATE TABLE device(
  id INTEGER PRIMARY KEY, tenant TEXT NOT NULL, device TEXT NOT NULL, UNIQUE(tenant, device));`;

/** Came later than version 1: files of the first release get it when it is first needed. */
export const SOURCE_TABLE = `CREATE TABLE IF NOT EXISTS source(
  consumer TEXT, partition INTEGER, source TEXT, number INTEGER NOT NULL,
  PRIMARY KEY(consumer, partition, source)) WITHOUT ROWID;`;

/** The same of what consumers note before they write. */
export const NOTE_TABLE = `CREATE TABLE IF NOT EXISTS note(
  consumer TEXT, partition INTEGER, number INTEGER, text TEXT NOT NULL,
  PRIMARY KEY(consumer, partition, number)) WITHOUT ROWID;`;

/** Came later than version 1: files of the first release get them when they are next written. */
export const LETTER_COLUMNS = [
  'type_version TEXT',
  'attempt INTEGER',
  'replayed INTEGER',
  'purged INTEGER',
] as const;

/** `value`-like columns have no type: a typed REAL column would store -0.0 as 0 (measured). */
export const SCHEMA: Record<FileKind, string> = {
  raw: `${META} ${DEVICE}
    CREATE TABLE shape(
      id INTEGER PRIMARY KEY, type TEXT NOT NULL, metrics TEXT NOT NULL, UNIQUE(type, metrics));
    CREATE TABLE series(device INTEGER, shape INTEGER, PRIMARY KEY(device, shape)) WITHOUT ROWID;
    CREATE TABLE reading(
      device INTEGER, ts INTEGER, received INTEGER NOT NULL, seq INTEGER,
      partition INTEGER NOT NULL, offset INTEGER NOT NULL,
      shape INTEGER NOT NULL, vals TEXT NOT NULL, merged TEXT,
      PRIMARY KEY(device, ts)) WITHOUT ROWID;`,
  rollup: `${META}
    CREATE TABLE series(
      id INTEGER PRIMARY KEY, tenant TEXT NOT NULL, device TEXT NOT NULL, metric TEXT NOT NULL,
      UNIQUE(tenant, device, metric));
    CREATE TABLE rollup(
      series INTEGER, start INTEGER, count INTEGER NOT NULL,
      sum, min, max, mean, m2,
      first_ts INTEGER NOT NULL, first NOT NULL, last_ts INTEGER NOT NULL, last NOT NULL,
      sketch BLOB, revision INTEGER NOT NULL, changed_at INTEGER NOT NULL,
      PRIMARY KEY(series, start)) WITHOUT ROWID;`,
  deadletters: `${META}
    CREATE TABLE letter(
      partition INTEGER NOT NULL, offset INTEGER NOT NULL,
      tenant TEXT NOT NULL, device TEXT NOT NULL, type TEXT NOT NULL, received INTEGER NOT NULL,
      code TEXT NOT NULL, message TEXT NOT NULL, path TEXT, expected TEXT, actual TEXT,
      topic TEXT NOT NULL, payload NOT NULL, payload_bytes INTEGER NOT NULL,
      ${LETTER_COLUMNS.join(', ')},
      UNIQUE(partition, offset));
    CREATE INDEX letter_by_time ON letter(tenant, received);
    CREATE INDEX letter_by_code ON letter(tenant, code, received);
    CREATE INDEX letter_by_device ON letter(tenant, device, received, code);`,
  ledger: `${META} ${DEVICE}
    CREATE TABLE ledger(
      device INTEGER, hour INTEGER, outcome TEXT, code TEXT, count INTEGER NOT NULL,
      PRIMARY KEY(device, hour, outcome, code)) WITHOUT ROWID;
    CREATE TABLE total(
      device INTEGER, outcome TEXT, count INTEGER NOT NULL,
      PRIMARY KEY(device, outcome)) WITHOUT ROWID;
    CREATE TABLE position(
      consumer TEXT, partition INTEGER, next_offset INTEGER NOT NULL,
      PRIMARY KEY(consumer, partition)) WITHOUT ROWID;
    ${SOURCE_TABLE}
    ${NOTE_TABLE}`,
};

/** Page cache of one open file, KiB, for the writer; readers take a quarter. */
export const CACHE_KIB: Record<FileKind, number> = {
  raw: 4096,
  rollup: 2048,
  deadletters: 1024,
  ledger: 1024,
};
