import { FluxQuery } from './flux.ts';
import { parseFieldKey } from './line-protocol.ts';
import { place, type Queries } from './queries.ts';
import { ROLLUP_MEASUREMENT, STATE_FIELD } from './rollups.ts';

/** Devices of a tenant with the metrics that each has in raw rows or rollups, both in order. */
export async function querySeries(
  queries: Queries,
  raw: string,
  rollups: Iterable<string>,
  tenant: string,
): Promise<{ device: string; metrics: string[] }[]> {
  const found = await Promise.all([
    rawSeries(queries, raw, tenant),
    ...[...rollups].map((bucket) => rollupSeries(queries, bucket, tenant)),
  ]);
  const devices = new Map<string, Set<string>>();
  for (const [device, metric] of found.flat()) {
    const metrics = devices.get(device);
    if (metrics === undefined) devices.set(device, new Set([metric]));
    else metrics.add(metric);
  }
  return [...devices.keys()].sort().map((device) => ({
    device,
    metrics: [...(devices.get(device) ?? [])].sort(),
  }));
}

type Series = [device: string, metric: string];

async function rawSeries(queries: Queries, bucket: string, tenant: string): Promise<Series[]> {
  return readSeries(queries, bucket, tenant, '', '_field', (key) => parseFieldKey(key)?.metric);
}

async function rollupSeries(queries: Queries, bucket: string, tenant: string): Promise<Series[]> {
  const query = new FluxQuery();
  const only = ` and r._measurement == ${query.text(ROLLUP_MEASUREMENT)}
    and r._field == ${query.text(STATE_FIELD)}`;
  return readSeries(queries, bucket, tenant, only, 'metric', (metric) => metric, query);
}

/** `last` is answered from the ends of blocks: 100 ms for 1,000 series of 1,200 points each. */
async function readSeries(
  queries: Queries,
  bucket: string,
  tenant: string,
  only: string,
  column: string,
  metricOf: (cell: string) => string | undefined,
  query = new FluxQuery(),
): Promise<Series[]> {
  query.flux = `from(bucket: ${query.text(bucket)})
    |> range(start: ${query.time(Number.NEGATIVE_INFINITY)}, stop: ${query.time(Number.POSITIVE_INFINITY)})
    |> filter(fn: (r) => r.tenant == ${query.text(tenant)}${only})
    |> last()
    |> keep(columns: ["device", ${column === 'metric' ? '"metric"' : '"_field"'}])`;
  return queries.rows(query, (columns) => {
    const [device, metric] = [place(columns, 'device'), place(columns, column)];
    return (cells): Series | undefined => {
      const name = metricOf(cells[metric] ?? '');
      return name === undefined ? undefined : [cells[device] ?? '', name];
    };
  });
}
