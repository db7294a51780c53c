import type { Origin, StoredReading } from '../contract.ts';
import type { RawDictionary } from './raw-dictionary.ts';
import type { SqliteFile } from './sqlite-file.ts';
import { decodeValues, encodeValues } from './values.ts';

/** A reading on its way into a file. */
export interface RawRow {
  reading: StoredReading;
  device: number;
  shape: number;
  vals: string;
}

/** A metric that came from another record than the one that created the row: name, partition, offset. */
type Source = [metric: string, partition: number, offset: number];

interface ExistingRow extends Origin {
  shape: number;
  vals: string;
  merged: string | null;
}

const SELECT = `SELECT partition, offset, shape, vals, merged FROM reading
  WHERE device = ? AND ts = ?`;
const UPDATE = 'UPDATE reading SET shape = ?, vals = ?, merged = ? WHERE device = ? AND ts = ?';
const CLAIM = `UPDATE reading SET partition = ?, offset = ?, received = ?, seq = ?
  WHERE device = ? AND ts = ?`;

/**
 * Merges a reading into the row that has its key. Each metric keeps the value of the latest record
 * that had it, whatever the order of arrival: `merged` tells where a metric came from when that is
 * not the row's creator, so a replay of any of the records changes nothing. A reading that claims the row
 * takes the creator's place.
 */
export function mergeReading(db: SqliteFile, dictionary: RawDictionary, row: RawRow): void {
  const { reading } = row;
  const existing = db.get<ExistingRow>(SELECT, row.device, reading.ts);
  if (existing === undefined || isSame(existing, reading)) return;

  const { type, metrics } = dictionary.shape(existing.shape);
  const values = decodeValues(metrics, existing.vals);
  const sources = new Map<string, Origin>(parseMerged(existing.merged ?? '[]'));

  let changed = false;
  const { claims = false } = reading;
  if (claims) {
    const creator = { partition: existing.partition, offset: existing.offset };
    for (const metric of metrics) if (!sources.has(metric)) sources.set(metric, creator);
  }
  for (const [metric, value] of Object.entries(reading.values)) {
    const current = Object.hasOwn(values, metric) ? (sources.get(metric) ?? existing) : undefined;
    if (current !== undefined && !isLater(reading, current)) {
      if (claims && isSame(reading, current)) sources.delete(metric);
      continue;
    }
    values[metric] = value;
    if (claims) sources.delete(metric);
    else sources.set(metric, { partition: reading.partition, offset: reading.offset });
    changed = true;
  }
  if (claims) claim(db, row);
  if (!changed && !claims) return;

  const shape = dictionary.shapeId(type, values);
  dictionary.noteSeries(row.device, shape);
  const merged = [...sources].map(
    ([metric, from]): Source => [metric, from.partition, from.offset],
  );
  const vals = encodeValues(values) ?? '[]';
  db.run(UPDATE, shape, vals, JSON.stringify(merged), row.device, reading.ts);
}

function claim(db: SqliteFile, { reading, device }: RawRow): void {
  const { partition, offset, received, seq, ts } = reading;
  db.run(CLAIM, partition, offset, received, seq ?? null, device, ts);
}

/** Metrics and where they came from, of the column `merged`. */
export function parseMerged(merged: string): [string, Origin][] {
  const sources = JSON.parse(merged) as Source[];
  return sources.map(([metric, partition, offset]) => [metric, { partition, offset }]);
}

function isSame(a: Origin, b: Origin): boolean {
  return a.partition === b.partition && a.offset === b.offset;
}

/**
 * A device stays in one partition, so offsets decide. Should it have moved, the higher partition
 * wins: any fixed order does, as long as the result does not depend on the order of arrival.
 */
function isLater(a: Origin, b: Origin): boolean {
  return a.partition === b.partition ? a.offset > b.offset : a.partition > b.partition;
}
