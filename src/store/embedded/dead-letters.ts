import type {
  DeadLetterGroup,
  DeadLetterPage,
  DeadLetterQuery,
  StoredDeadLetter,
} from '../contract.ts';
import { dayFile, type StoreFile } from './files.ts';
import {
  completeLetterTable,
  deviceFilters,
  letterCondition,
  letterTable,
} from './letter-table.ts';
import type { OpenFiles } from './open-files.ts';
import { compareText, overlapping } from './ordered.ts';
import type { SqliteFile } from './sqlite-file.ts';

const WRITE = `INSERT INTO letter(partition, offset, tenant, device, type, received,
    code, message, path, expected, actual, topic, payload, payload_bytes, type_version, attempt)
  VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`;

interface StoredLetter {
  partition: number;
  offset: number;
  tenant: string;
  device: string;
  type: string;
  received: number;
  code: string;
  message: string;
  path: string | null;
  expected: string | null;
  actual: string | null;
  topic: string;
  payload: string | Uint8Array;
  payload_bytes: number;
  type_version: string | null;
  attempt: number | null;
  replayed: number | null;
}

/** Writes dead letters, one transaction for each UTC day of `received`. */
export function writeDeadLetters(files: OpenFiles, letters: readonly StoredDeadLetter[]): void {
  const byFile = new Map<string, { file: StoreFile; letters: StoredDeadLetter[] }>();
  for (const letter of letters) {
    const file = dayFile('deadletters', letter.received);
    const group = byFile.get(file.name);
    if (group === undefined) byFile.set(file.name, { file, letters: [letter] });
    else group.letters.push(letter);
  }
  for (const group of byFile.values()) {
    files.write(group.file, (db) => {
      completeLetterTable(db);
      for (const letter of group.letters) writeLetter(db, letter);
    });
  }
}

function writeLetter(db: SqliteFile, letter: StoredDeadLetter): void {
  db.run(
    WRITE,
    letter.partition,
    letter.offset,
    letter.tenant,
    letter.device,
    letter.type,
    letter.received,
    letter.code,
    letter.message,
    letter.path ?? null,
    letter.expected ?? null,
    letter.actual ?? null,
    letter.topic,
    encodePayload(letter.payload),
    letter.payloadBytes,
    letter.typeVersion ?? null,
    letter.attempt ?? null,
  );
}

/** The bytes themselves take a quarter less than base64; text that is not canonical base64 stays. */
function encodePayload(payload: string): string | Uint8Array {
  const bytes = Buffer.from(payload, 'base64');
  return bytes.toString('base64') === payload ? bytes : payload;
}

function decodePayload(stored: string | Uint8Array): string {
  return typeof stored === 'string' ? stored : Buffer.from(stored).toString('base64');
}

/** By received, then partition and offset; newest first unless told otherwise. */
export function queryDeadLetters(
  files: OpenFiles,
  listed: readonly StoreFile[],
  page: DeadLetterPage,
): StoredDeadLetter[] {
  const limit = page.limit ?? Number.POSITIVE_INFINITY;
  const found: StoredDeadLetter[] = [];
  const inOrder = overlapping(listed, 'deadletters', rangeOf(page));
  if (page.oldestFirst !== true) inOrder.reverse();
  for (const file of inOrder) {
    const left = limit - found.length;
    if (left <= 0) break;
    const letters = files.read(file, (db) => fetchLetters(db, page, left));
    for (const letter of letters ?? []) found.push(letter);
  }
  return found;
}

/** The range without what lies before `after`. */
function rangeOf({ from, to, after, oldestFirst }: DeadLetterPage): { from: number; to: number } {
  if (after === undefined) return { from, to };
  return oldestFirst === true
    ? { from: Math.max(from, after.received), to }
    : { from, to: Math.min(to, after.received + 1) };
}

function fetchLetters(db: SqliteFile, page: DeadLetterPage, limit: number): StoredDeadLetter[] {
  const { after, oldestFirst = false } = page;
  const order = oldestFirst ? 'ASC' : 'DESC';
  const sqlLimit = Number.isFinite(limit) ? limit : -1;
  const behind =
    after === undefined
      ? ''
      : `AND (received, partition, offset) ${oldestFirst ? '>' : '<'} (?, ?, ?)`;
  const cursor = after === undefined ? [] : [after.received, after.partition, after.offset];
  const rows = deviceFilters(page).flatMap((device) => {
    const { where, params } = letterCondition({ ...page, ...rangeOf(page) }, device);
    const sql = `SELECT * FROM ${letterTable(db)} WHERE ${where} AND purged IS NULL ${behind}
      ORDER BY received ${order}, partition ${order}, offset ${order} LIMIT ?`;
    return db.all<StoredLetter>(sql, ...params, ...cursor, sqlLimit);
  });
  const sign = oldestFirst ? -1 : 1;
  rows.sort(
    (a, b) => sign * (b.received - a.received || b.partition - a.partition || b.offset - a.offset),
  );
  return rows.slice(0, limit).map(toLetter);
}

function toLetter(row: StoredLetter): StoredDeadLetter {
  const letter: StoredDeadLetter = {
    partition: row.partition,
    offset: row.offset,
    tenant: row.tenant,
    device: row.device,
    type: row.type,
    received: row.received,
    code: row.code,
    message: row.message,
    topic: row.topic,
    payload: decodePayload(row.payload),
    payloadBytes: row.payload_bytes,
  };
  if (row.path !== null) letter.path = row.path;
  if (row.expected !== null) letter.expected = row.expected;
  if (row.actual !== null) letter.actual = row.actual;
  if (row.type_version !== null) letter.typeVersion = row.type_version;
  if (row.attempt !== null) letter.attempt = row.attempt;
  if (row.replayed !== null) letter.replayed = row.replayed;
  return letter;
}

/** Ordered by device, code, type, version. */
export function groupDeadLetters(
  files: OpenFiles,
  listed: readonly StoreFile[],
  query: DeadLetterQuery,
): DeadLetterGroup[] {
  const groups = new Map<string, DeadLetterGroup>();
  for (const file of overlapping(listed, 'deadletters', query)) {
    files.read(file, (db) => {
      for (const device of deviceFilters(query)) {
        const { where, params } = letterCondition(query, device);
        const sql = `SELECT device, code, type, coalesce(type_version, '') AS typeVersion,
            count(*) AS count, sum(replayed IS NULL) AS open,
            min(received) AS oldest, max(received) AS newest
          FROM ${letterTable(db)} WHERE ${where} AND purged IS NULL
          GROUP BY device, code, type, typeVersion`;
        for (const row of db.all<DeadLetterGroup>(sql, ...params)) addGroup(groups, row);
      }
    });
  }
  return [...groups.values()].sort(
    (a, b) =>
      compareText(a.device, b.device) ||
      compareText(a.code, b.code) ||
      compareText(a.type, b.type) ||
      compareText(a.typeVersion, b.typeVersion),
  );
}

function addGroup(groups: Map<string, DeadLetterGroup>, row: DeadLetterGroup): void {
  const key = JSON.stringify([row.device, row.code, row.type, row.typeVersion]);
  const known = groups.get(key);
  if (known === undefined) {
    groups.set(key, { ...row });
    return;
  }
  known.count += row.count;
  known.open += row.open;
  known.oldest = Math.min(known.oldest, row.oldest);
  known.newest = Math.max(known.newest, row.newest);
}

/** Counts by device and code, ordered by both, whatever became of the letters; `limit` does not apply. */
export function countDeadLetters(
  files: OpenFiles,
  listed: readonly StoreFile[],
  { state: _, ...query }: DeadLetterQuery,
): { device: string; code: string; count: number }[] {
  const counts = new Map<string, Map<string, number>>();
  for (const file of overlapping(listed, 'deadletters', query)) {
    files.read(file, (db) => {
      for (const filtered of deviceFilters(query)) {
        const { where, params } = letterCondition(query, filtered);
        const sql = `SELECT device, code, count(*) AS count FROM ${letterTable(db)} WHERE ${where}
          GROUP BY device, code`;
        const rows = db.all<{ device: string; code: string; count: number }>(sql, ...params);
        for (const { device, code, count } of rows) {
          const ofDevice = counts.get(device) ?? new Map<string, number>();
          ofDevice.set(code, (ofDevice.get(code) ?? 0) + count);
          counts.set(device, ofDevice);
        }
      }
    });
  }
  return [...counts]
    .flatMap(([device, codes]) => [...codes].map(([code, count]) => ({ device, code, count })))
    .sort((a, b) => compareText(a.device, b.device) || compareText(a.code, b.code));
}
