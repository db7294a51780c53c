import type { LatestQuery } from '../contract.ts';
import type { StoreFile } from './files.ts';
import type { OpenFiles } from './open-files.ts';
import { devicesOf } from './raw-reader.ts';
import type { SqliteFile } from './sqlite-file.ts';

/** Newest event time of each device that has rows: newest file first, until all that are named are found. */
export function latestReadings(
  files: OpenFiles,
  rawFiles: readonly StoreFile[],
  tenant: string,
  { devices, before = Number.MAX_SAFE_INTEGER }: LatestQuery,
): Map<string, number> {
  const latest = new Map<string, number>();
  const missing = devices === undefined ? undefined : new Set(devices);
  for (const file of rawFiles.toReversed()) {
    if (missing?.size === 0) break;
    if (file.start >= before) continue;
    files.read(file, (db) => {
      const query = { before, ...(missing !== undefined && { devices: [...missing] }) };
      addLatest(db, tenant, latest, query);
    });
    for (const device of latest.keys()) missing?.delete(device);
  }
  return latest;
}

/** Raises the newest event times in `latest` to those of one raw file. */
export function addLatest(
  db: SqliteFile,
  tenant: string,
  latest: Map<string, number>,
  { devices, before = Number.MAX_SAFE_INTEGER }: LatestQuery = {},
): void {
  const sql = 'SELECT max(ts) AS ts FROM reading WHERE device = ? AND ts < ?';
  for (const { id, device } of devicesOf(db, tenant, devices)) {
    const ts = db.get<{ ts: number | null }>(sql, id, Math.ceil(before))?.ts ?? undefined;
    if (ts === undefined) continue;
    const known = latest.get(device);
    if (known === undefined || known < ts) latest.set(device, ts);
  }
}
