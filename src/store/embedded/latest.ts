import type { StoreFile } from './files.ts';
import type { OpenFiles } from './open-files.ts';
import { devicesOf } from './raw-reader.ts';
import type { SqliteFile } from './sqlite-file.ts';

/** Newest event time of each named device that has rows: newest file first, until all are found. */
export function latestReadings(
  files: OpenFiles,
  rawFiles: readonly StoreFile[],
  tenant: string,
  devices: readonly string[],
): Map<string, number> {
  const latest = new Map<string, number>();
  const missing = new Set(devices);
  for (const file of rawFiles.toReversed()) {
    if (missing.size === 0) break;
    files.read(file, (db) => {
      addLatest(db, tenant, latest, [...missing]);
    });
    for (const device of latest.keys()) missing.delete(device);
  }
  return latest;
}

/** Raises the newest event times in `latest` to those of one raw file; all devices when none are named. */
export function addLatest(
  db: SqliteFile,
  tenant: string,
  latest: Map<string, number>,
  devices?: readonly string[],
): void {
  const sql = 'SELECT max(ts) AS ts FROM reading WHERE device = ?';
  for (const { id, device } of devicesOf(db, tenant, devices)) {
    const ts = db.get<{ ts: number | null }>(sql, id)?.ts ?? undefined;
    if (ts === undefined) continue;
    const known = latest.get(device);
    if (known === undefined || known < ts) latest.set(device, ts);
  }
}
