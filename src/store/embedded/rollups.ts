import type { RollupRow } from '../../core/nouns.ts';
import type { RollupQuery } from '../contract.ts';
import { newId } from './device-ids.ts';
import { rollupFile, type StoreFile } from './files.ts';
import type { OpenFiles } from './open-files.ts';
import { compareText, overlapping, rowsInOrder } from './ordered.ts';
import type { SqliteFile } from './sqlite-file.ts';
import { decodeValue, encodeValue } from './values.ts';

/** Cached ids for each open file; at the limit the cache starts afresh. */
const CACHED_MAX = 50_000;

const WRITE = `INSERT OR REPLACE INTO rollup(series, start, count, sum, min, max, mean, m2,
    first_ts, first, last_ts, last, sketch, revision, changed_at)
  VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`;
const SELECT = `SELECT start, count, sum, min, max, mean, m2, first_ts, first, last_ts, last, sketch,
    revision, changed_at FROM rollup
  WHERE series = ? AND start >= ? AND start < ? ORDER BY start LIMIT ?`;

interface StoredRollup {
  start: number;
  count: number;
  sum: number | null;
  min: number | null;
  max: number | null;
  mean: number | null;
  m2: number | null;
  first_ts: number;
  first: number | string;
  last_ts: number;
  last: number | string;
  sketch: Uint8Array | null;
  revision: number;
  changed_at: number;
}

/** Writes rollups, one transaction for each file that they fall into. */
export function writeRollups(files: OpenFiles, rows: readonly RollupRow[]): void {
  const byFile = new Map<string, { file: StoreFile; rows: RollupRow[] }>();
  for (const row of rows) {
    const file = rollupFile(row.windowMs, row.start);
    const group = byFile.get(file.name);
    if (group === undefined) byFile.set(file.name, { file, rows: [row] });
    else group.rows.push(row);
  }
  for (const group of byFile.values()) {
    files.write(group.file, (db) => {
      for (const row of group.rows) writeRow(db, row);
    });
  }
}

function writeRow(db: SqliteFile, row: RollupRow): void {
  const { state } = row;
  db.run(
    WRITE,
    seriesId(db, row),
    row.start,
    state.count,
    state.sum,
    state.min,
    state.max,
    state.mean,
    state.m2,
    state.firstTs,
    encodeValue(state.first),
    state.lastTs,
    encodeValue(state.last),
    state.sketch ?? null,
    row.revision,
    row.changedAt,
  );
}

/** Ids of one open file by tenant, device and metric. */
interface SeriesIds {
  count: number;
  ids: Map<string, Map<string, Map<string, number>>>;
}

const seriesIds = new WeakMap<SqliteFile, SeriesIds>();

function seriesId(db: SqliteFile, { tenant, device, metric }: RollupRow): number {
  let cache = seriesIds.get(db);
  if (cache === undefined || cache.count >= CACHED_MAX) {
    cache = { count: 0, ids: new Map() };
    seriesIds.set(db, cache);
  }
  const ofDevice = child(child(cache.ids, tenant), device);
  let id = ofDevice.get(metric);
  if (id === undefined) {
    const find = 'SELECT id FROM series WHERE tenant = ? AND device = ? AND metric = ?';
    const add = 'INSERT INTO series(tenant, device, metric) VALUES (?, ?, ?) RETURNING id';
    const found = db.get<{ id: number }>(find, tenant, device, metric)?.id;
    id = found ?? newId(db, add, tenant, device, metric);
    ofDevice.set(metric, id);
    cache.count++;
  }
  return id;
}

function child<V>(map: Map<string, Map<string, V>>, key: string): Map<string, V> {
  let inner = map.get(key);
  if (inner === undefined) {
    inner = new Map();
    map.set(key, inner);
  }
  return inner;
}

interface Series {
  id: number;
  device: string;
  metric: string;
}

/** Ordered by device, metric, start. */
export function queryRollups(
  files: OpenFiles,
  listed: readonly StoreFile[],
  query: RollupQuery,
): RollupRow[] {
  return rowsInOrder({
    files: overlapping(listed, 'rollup', query).filter(
      ({ windowMs }) => windowMs === query.windowMs,
    ),
    limit: query.limit,
    compare: (a: RollupRow, b) => compareSeries(a, b) || a.start - b.start,
    fetch: (file, limit, before) =>
      files.read(file, (db) => fetchRollups(db, query, limit, before)) ?? [],
  });
}

type SeriesName = Pick<Series, 'device' | 'metric'>;

function compareSeries(a: SeriesName, b: SeriesName): number {
  return compareText(a.device, b.device) || compareText(a.metric, b.metric);
}

function fetchRollups(
  db: SqliteFile,
  query: RollupQuery,
  limit: number,
  before: SeriesName | undefined,
): RollupRow[] {
  const { tenant, windowMs, from, to } = query;
  const found: RollupRow[] = [];
  for (const series of seriesOf(db, query)) {
    if (before !== undefined && compareSeries(series, before) >= 0) break;
    const left = limit - found.length;
    if (left <= 0) break;
    const { device, metric } = series;
    const sqlLimit = Number.isFinite(left) ? left : -1;
    for (const row of db.all<StoredRollup>(SELECT, series.id, from, to, sqlLimit)) {
      found.push(toRollup({ tenant, device, metric, windowMs }, row));
    }
  }
  return found;
}

type RollupKey = Pick<RollupRow, 'tenant' | 'device' | 'metric' | 'windowMs'>;

function toRollup(key: RollupKey, row: StoredRollup): RollupRow {
  const result: RollupRow = {
    ...key,
    start: row.start,
    state: {
      count: row.count,
      sum: number(row.sum),
      min: number(row.min),
      max: number(row.max),
      mean: number(row.mean),
      m2: number(row.m2),
      firstTs: row.first_ts,
      first: decodeValue(row.first),
      lastTs: row.last_ts,
      last: decodeValue(row.last),
    },
    revision: row.revision,
    changedAt: row.changed_at,
  };
  if (row.sketch !== null) result.state.sketch = row.sketch;
  return result;
}

/** SQLite keeps NaN as NULL. */
function number(stored: number | null): number {
  return stored ?? Number.NaN;
}

/** The series of one file that a query asks for, ordered by device, then metric. */
export function seriesOf(
  db: SqliteFile,
  { tenant, devices, metrics }: Pick<RollupQuery, 'tenant' | 'devices' | 'metrics'>,
): Series[] {
  const all = 'SELECT id, device, metric FROM series WHERE tenant = ? ORDER BY device, metric';
  const ofDevice =
    'SELECT id, device, metric FROM series WHERE tenant = ? AND device = ? ORDER BY metric';
  const found =
    devices === undefined
      ? db.all<Series>(all, tenant)
      : [...new Set(devices)]
          .sort(compareText)
          .flatMap((device) => db.all<Series>(ofDevice, tenant, device));
  return metrics === undefined ? found : found.filter(({ metric }) => metrics.includes(metric));
}
