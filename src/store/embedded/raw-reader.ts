import type { RangeQuery, StoredReading } from '../contract.ts';
import { deviceIds } from './device-ids.ts';
import type { StoreFile } from './files.ts';
import type { OpenFiles } from './open-files.ts';
import { compareText, overlapping, rowsInOrder } from './ordered.ts';
import { type RawDictionary, rawDictionary } from './raw-dictionary.ts';
import { parseMerged } from './raw-merge.ts';
import type { SqliteFile } from './sqlite-file.ts';
import { decodeValues } from './values.ts';

interface ReadingRow {
  ts: number;
  received: number;
  seq: number | null;
  partition: number;
  offset: number;
  shape: number;
  vals: string;
  merged: string | null;
}

const SELECT = `SELECT ts, received, seq, partition, offset, shape, vals, merged FROM reading
  WHERE device = ? AND ts >= ? AND ts < ? ORDER BY ts`;
const COUNT = 'SELECT count(*) AS count FROM reading WHERE device = ? AND ts >= ? AND ts < ?';
const COUNT_BY_SHAPE = `SELECT shape, count(*) AS count FROM reading
  WHERE device = ? AND ts >= ? AND ts < ? GROUP BY shape`;

/** Ordered by device, then ts. With `metrics`, rows that have none of them are left out. */
export function queryReadings(
  files: OpenFiles,
  listed: readonly StoreFile[],
  query: RangeQuery,
): StoredReading[] {
  return rowsInOrder({
    files: rawFiles(listed, query),
    limit: query.limit,
    compare: (a: StoredReading, b) => compareText(a.device, b.device) || a.ts - b.ts,
    fetch: (file, limit, before) =>
      files.read(file, (db) => fetchReadings(db, query, limit, before?.device)) ?? [],
  });
}

function rawFiles(listed: readonly StoreFile[], query: RangeQuery): StoreFile[] {
  return overlapping(listed, 'raw', query);
}

function fetchReadings(
  db: SqliteFile,
  query: RangeQuery,
  limit: number,
  beforeDevice: string | undefined,
): StoredReading[] {
  const dictionary = rawDictionary(db);
  const wanted = query.metrics === undefined ? undefined : new Set(query.metrics);
  const found: StoredReading[] = [];
  for (const device of devicesOf(db, query.tenant, query.devices)) {
    if (beforeDevice !== undefined && compareText(device.device, beforeDevice) >= 0) break;
    if (found.length >= limit) break;
    for (const row of rowsOf(db, device.id, query, limit - found.length)) {
      const reading = toReading(dictionary, query, device.device, row, wanted);
      if (reading !== undefined) found.push(reading);
      if (found.length >= limit) break;
    }
  }
  return found;
}

/** At least the first `limit` rows that fit, as there are; when metrics may thin them out, one by one. */
function rowsOf(
  db: SqliteFile,
  device: number,
  { from, to, metrics }: RangeQuery,
  limit: number,
): Iterable<ReadingRow> {
  return metrics === undefined && Number.isFinite(limit)
    ? db.all<ReadingRow>(`${SELECT} LIMIT ?`, device, from, to, limit)
    : db.iterate<ReadingRow>(SELECT, device, from, to);
}

function toReading(
  dictionary: RawDictionary,
  { tenant, mergedFrom = false }: RangeQuery,
  device: string,
  row: ReadingRow,
  wanted: ReadonlySet<string> | undefined,
): StoredReading | undefined {
  const shape = dictionary.shape(row.shape);
  if (wanted !== undefined && !shape.metrics.some((metric) => wanted.has(metric))) return undefined;
  const all = decodeValues(shape.metrics, row.vals);
  const values =
    wanted === undefined
      ? all
      : Object.fromEntries(Object.entries(all).filter(([metric]) => wanted.has(metric)));
  const reading: StoredReading = {
    tenant,
    device,
    type: shape.type,
    ts: row.ts,
    received: row.received,
    values,
    partition: row.partition,
    offset: row.offset,
  };
  if (row.seq !== null) reading.seq = row.seq;
  if (mergedFrom && row.merged !== null) {
    reading.mergedFrom = Object.fromEntries(
      parseMerged(row.merged).filter(([metric]) => Object.hasOwn(values, metric)),
    );
  }
  return reading;
}

/** Rows by device over the range; `limit` does not apply. */
export function countReadings(
  files: OpenFiles,
  listed: readonly StoreFile[],
  query: RangeQuery,
): Map<string, number> {
  const counts = new Map<string, number>();
  for (const file of rawFiles(listed, query)) {
    files.read(file, (db) => {
      const dictionary = rawDictionary(db);
      for (const { id, device } of devicesOf(db, query.tenant, query.devices)) {
        const count = countDevice(db, dictionary, id, query);
        if (count > 0) counts.set(device, (counts.get(device) ?? 0) + count);
      }
    });
  }
  return counts;
}

function countDevice(
  db: SqliteFile,
  dictionary: RawDictionary,
  device: number,
  query: RangeQuery,
): number {
  const { metrics, from, to } = query;
  if (metrics === undefined) {
    return db.get<{ count: number }>(COUNT, device, from, to)?.count ?? 0;
  }
  let sum = 0;
  const rows = db.all<{ shape: number; count: number }>(COUNT_BY_SHAPE, device, from, to);
  for (const { shape, count } of rows) {
    if (dictionary.shape(shape).metrics.some((metric) => metrics.includes(metric))) sum += count;
  }
  return sum;
}

/** Ids of a tenant's devices in one file, ordered by name; all of them when none are named. */
export function devicesOf(
  db: SqliteFile,
  tenant: string,
  names: readonly string[] | undefined,
): { id: number; device: string }[] {
  if (names === undefined) {
    return db.all('SELECT id, device FROM device WHERE tenant = ? ORDER BY device', tenant);
  }
  const found: { id: number; device: string }[] = [];
  for (const device of [...new Set(names)].sort(compareText)) {
    const id = deviceIds(db).find(tenant, device);
    if (id !== undefined) found.push({ id, device });
  }
  return found;
}
