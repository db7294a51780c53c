import { rawDictionary } from './raw-dictionary.ts';
import { seriesOf } from './rollups.ts';
import type { SqliteFile } from './sqlite-file.ts';

/** Adds the metrics of each device of a tenant in one raw or rollup file to `devices`. */
export function addSeries(db: SqliteFile, tenant: string, devices: Map<string, Set<string>>): void {
  for (const { device, metrics } of db.file.kind === 'raw'
    ? rawSeries(db, tenant)
    : rollupSeries(db, tenant)) {
    const known = devices.get(device);
    if (known === undefined) devices.set(device, new Set(metrics));
    else for (const metric of metrics) known.add(metric);
  }
}

interface DeviceMetrics {
  device: string;
  metrics: readonly string[];
}

function rawSeries(db: SqliteFile, tenant: string): DeviceMetrics[] {
  const dictionary = rawDictionary(db);
  const sql = `SELECT device.device, series.shape FROM device JOIN series ON series.device = device.id
    WHERE device.tenant = ?`;
  return db
    .all<{ device: string; shape: number }>(sql, tenant)
    .map(({ device, shape }) => ({ device, metrics: dictionary.shape(shape).metrics }));
}

function rollupSeries(db: SqliteFile, tenant: string): DeviceMetrics[] {
  return seriesOf(db, { tenant }).map(({ device, metric }) => ({ device, metrics: [metric] }));
}
