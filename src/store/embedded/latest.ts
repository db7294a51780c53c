import type { LatestQuery, RowTimes } from '../contract.ts';
import { keepNewest } from '../newest-rows.ts';
import type { StoreFile } from './files.ts';
import type { OpenFiles } from './open-files.ts';
import { devicesOf } from './raw-reader.ts';
import type { SqliteFile } from './sqlite-file.ts';

/**
 * The row with the newest event time of each device that has rows: newest file first, until all that are named
 * are found.
 */
export function latestReadings(
  files: OpenFiles,
  rawFiles: readonly StoreFile[],
  tenant: string,
  { devices, before = Number.MAX_SAFE_INTEGER }: LatestQuery,
): Map<string, RowTimes> {
  const latest = new Map<string, RowTimes>();
  const missing = devices === undefined ? undefined : new Set(devices);
  for (const file of rawFiles.toReversed()) {
    if (missing?.size === 0) break;
    if (file.start >= before) continue;
    files.read(file, (db) => {
      addLatest(db, tenant, latest, { before, devices: missing && [...missing] });
    });
    for (const device of latest.keys()) missing?.delete(device);
  }
  return latest;
}

/** Puts the rows of one raw file in `latest` that are newer than what is there. */
export function addLatest(
  db: SqliteFile,
  tenant: string,
  latest: Map<string, RowTimes>,
  { devices, before = Number.MAX_SAFE_INTEGER }: LatestQuery = {},
): void {
  const sql =
    'SELECT ts, received FROM reading WHERE device = ? AND ts < ? ORDER BY ts DESC LIMIT 1';
  for (const { id, device } of devicesOf(db, tenant, devices)) {
    const row = db.get<{ ts: number; received: number }>(sql, id, Math.ceil(before));
    if (row === undefined) continue;
    keepNewest(latest, device, { ts: row.ts, received: row.received });
  }
}
