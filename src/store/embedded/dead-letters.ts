import type { DeadLetterQuery, StoredDeadLetter } from '../contract.ts';
import { dayFile, type StoreFile } from './files.ts';
import type { OpenFiles } from './open-files.ts';
import { compareText, overlapping } from './ordered.ts';
import type { SqliteFile } from './sqlite-file.ts';

const WRITE = `INSERT OR REPLACE INTO letter(partition, offset, tenant, device, type, received,
    code, message, path, expected, actual, topic, payload, payload_bytes)
  VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`;

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

/** Newest first; at the same time the higher partition and offset first. */
export function queryDeadLetters(
  files: OpenFiles,
  listed: readonly StoreFile[],
  query: DeadLetterQuery,
): StoredDeadLetter[] {
  const limit = query.limit ?? Number.POSITIVE_INFINITY;
  const found: StoredDeadLetter[] = [];
  for (const file of overlapping(listed, 'deadletters', query).reverse()) {
    const left = limit - found.length;
    if (left <= 0) break;
    const letters = files.read(file, (db) => fetchLetters(db, query, left));
    for (const letter of letters ?? []) found.push(letter);
  }
  return found;
}

function fetchLetters(db: SqliteFile, query: DeadLetterQuery, limit: number): StoredDeadLetter[] {
  const sqlLimit = Number.isFinite(limit) ? limit : -1;
  const rows = deviceFilters(query).flatMap((device) => {
    const { where, params } = filter(query, device);
    const sql = `SELECT * FROM letter WHERE ${where}
      ORDER BY received DESC, partition DESC, offset DESC LIMIT ?`;
    return db.all<StoredLetter>(sql, ...params, sqlLimit);
  });
  rows.sort((a, b) => b.received - a.received || b.partition - a.partition || b.offset - a.offset);
  return rows.slice(0, limit).map(toLetter);
}

/** Each device named, or once `undefined` for all devices. */
function deviceFilters({ devices }: DeadLetterQuery): (string | undefined)[] {
  return devices === undefined ? [undefined] : [...new Set(devices)];
}

/** One of four constant conditions with its parameters. */
function filter(
  { tenant, code, from, to }: DeadLetterQuery,
  device: string | undefined,
): { where: string; params: (string | number)[] } {
  let where = 'tenant = ?';
  const params: (string | number)[] = [tenant];
  if (device !== undefined) {
    where += ' AND device = ?';
    params.push(device);
  }
  if (code !== undefined) {
    where += ' AND code = ?';
    params.push(code);
  }
  params.push(from, to);
  return { where: `${where} AND received >= ? AND received < ?`, params };
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
  return letter;
}

/** Counts by device and code, ordered by both; `limit` does not apply. */
export function countDeadLetters(
  files: OpenFiles,
  listed: readonly StoreFile[],
  query: DeadLetterQuery,
): { device: string; code: string; count: number }[] {
  const counts = new Map<string, Map<string, number>>();
  for (const file of overlapping(listed, 'deadletters', query)) {
    files.read(file, (db) => {
      for (const filtered of deviceFilters(query)) {
        const { where, params } = filter(query, filtered);
        const sql = `SELECT device, code, count(*) AS count FROM letter WHERE ${where}
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
