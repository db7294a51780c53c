import type { LatestQuery, RowTimes } from '../contract.ts';
import { keepNewest } from '../newest-rows.ts';
import { chunks, FluxQuery, parseTime } from './flux.ts';
import { place, type Queries } from './queries.ts';
import { ORIGIN_FIELD, parseCreator } from './raw-origin.ts';

/** Devices of one condition. */
export const DEVICES_PER_QUERY = 200;

/** The row with the newest event time of each device that has rows. */
export async function newestRows(
  queries: Queries,
  bucket: string,
  tenant: string,
  { devices, before = Number.POSITIVE_INFINITY }: LatestQuery = {},
): Promise<Map<string, RowTimes>> {
  const latest = new Map<string, RowTimes>();
  const parts =
    devices === undefined ? [undefined] : chunks([...new Set(devices)], DEVICES_PER_QUERY);
  for (const part of parts) {
    const query = new FluxQuery();
    query.flux = `from(bucket: ${query.text(bucket)})
      |> range(start: ${query.time(Number.NEGATIVE_INFINITY)}, stop: ${query.time(before)})
      |> filter(fn: (r) => r._field == ${query.text(ORIGIN_FIELD)}
        and r.tenant == ${query.text(tenant)}${deviceCondition(query, part)})
      |> last()
      |> keep(columns: ["_time", "_value", "device"])`;
    const rows = await queries.rows(query, (columns) => {
      const time = place(columns, '_time');
      const origin = place(columns, '_value');
      const device = place(columns, 'device');
      return (cells) => ({
        device: cells[device] ?? '',
        ts: parseTime(cells[time] ?? '').ms,
        received: parseCreator(cells[origin] ?? '').received,
      });
    });
    for (const { device, ts, received } of rows) {
      // A device whose type was changed has rows in two measurements.
      keepNewest(latest, device, { ts, received });
    }
  }
  return latest;
}

/** ` and (…)`, or nothing for all devices. */
export function deviceCondition(query: FluxQuery, devices: readonly string[] | undefined): string {
  return devices === undefined ? '' : ` and ${query.anyOf('device', devices)}`;
}
