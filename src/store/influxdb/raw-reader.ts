import type { Values } from '../../core/nouns.ts';
import type { Origin, RangeQuery, StoredReading } from '../contract.ts';
import { chunks, FluxQuery, parseTime } from './flux.ts';
import { type FieldKind, fieldKeys, parseFieldKey, parseValue } from './line-protocol.ts';
import { place, type Queries } from './queries.ts';
import {
  isLater,
  MERGED_FIELD,
  ORIGIN_FIELD,
  parseCreator,
  parseMerged,
  type Sources,
} from './raw-origin.ts';
import { DEVICES_PER_QUERY, deviceCondition } from './raw-times.ts';

type Range = Omit<RangeQuery, 'limit'>;

/**
 * With more metrics than this their fields are picked here: the database evaluates many fields and many
 * devices in product (measured: 1,024 keys and 200 devices take 20 s).
 */
const METRICS_MAX = 8;
const NOT_MERGED: Sources = new Map();

/** Ordered by device, then ts. With `metrics`, rows that have none of them are left out. */
export async function queryReadings(
  queries: Queries,
  bucket: string,
  query: RangeQuery,
): Promise<StoredReading[]> {
  const { limit, ...range } = normal(query);
  if (isEmpty(range) || limit === 0) return [];
  if (limit === undefined) return fetchReadings(queries, bucket, range, undefined);
  const devices = await devicesForLimit(queries, bucket, range, limit);
  if (devices.length === 0) return [];
  if (range.metrics === undefined) {
    const rows = await fetchReadings(queries, bucket, { ...range, devices }, limit);
    return rows.slice(0, limit);
  }
  // A limit on fields would count rows without the metrics: the time of the last row that is wanted
  // is found first.
  const times = await fetchTimes(queries, bucket, { ...range, devices }, limit);
  const wanted = devices.flatMap((device) => times.get(device) ?? []).slice(0, limit);
  if (wanted.length === 0) return [];
  const to = wanted.reduce((latest, ts) => Math.max(latest, ts), 0) + 1;
  const rows = await fetchReadings(queries, bucket, { ...range, devices, to }, undefined);
  return rows.slice(0, limit);
}

/** Rows by device over the range; `limit` does not apply. */
export async function countReadings(
  queries: Queries,
  bucket: string,
  query: RangeQuery,
): Promise<Map<string, number>> {
  const range = normal(query);
  if (isEmpty(range)) return new Map();
  const counts = new Map<string, number>();
  const unsure: string[] = [];
  for (const [device, fields] of await countFields(queries, bucket, range)) {
    if (fields.length === 1) counts.set(device, fields[0] ?? 0);
    else unsure.push(device);
  }
  if (unsure.length > 0) {
    const times = await fetchTimes(queries, bucket, { ...range, devices: unsure }, undefined);
    for (const [device, list] of times) counts.set(device, list.length);
  }
  return counts;
}

function normal(query: RangeQuery): RangeQuery {
  if (query.devices === undefined) return query;
  return { ...query, devices: [...new Set(query.devices)].sort() };
}

function isEmpty({ from, to, devices, metrics }: Range): boolean {
  return !(from < to) || devices?.length === 0 || metrics?.length === 0;
}

/** The first devices that have `limit` rows together, in order; all that have rows when they have fewer. */
async function devicesForLimit(
  queries: Queries,
  bucket: string,
  range: Range,
  limit: number,
): Promise<string[]> {
  if (range.devices?.length === 1) return [...range.devices];
  const counts = await countFields(queries, bucket, range);
  const devices: string[] = [];
  let rows = 0;
  for (const device of [...counts.keys()].sort()) {
    if (rows >= limit) break;
    devices.push(device);
    // There are at least as many rows as any one field has values.
    rows += Math.max(...(counts.get(device) ?? []));
  }
  return devices;
}

/** Number of values by device, of each field that the rows are found by. */
async function countFields(
  queries: Queries,
  bucket: string,
  range: Range,
): Promise<Map<string, number[]>> {
  const counts = new Map<string, number[]>();
  await eachPart(range, async (part) => {
    const query = new FluxQuery();
    const isFinder = finderTest(part);
    query.flux = `${select(query, bucket, part, finders(part))}
      |> count()
      |> keep(columns: ["_value", "_field", "_measurement", "device"])`;
    const rows = await queries.rows(query, (columns) => {
      const [device, value] = [place(columns, 'device'), place(columns, '_value')];
      const field = place(columns, '_field');
      return (cells) => {
        const count = isFinder(cells[field] ?? '') ? Number(cells[value]) : 0;
        return { device: cells[device] ?? '', count };
      };
    });
    for (const { device, count } of rows) {
      if (count === 0) continue;
      const known = counts.get(device);
      if (known === undefined) counts.set(device, [count]);
      else known.push(count);
    }
  });
  return counts;
}

/** Times of the rows that have one of the metrics, ascending by device; of each the first `limit`. */
async function fetchTimes(
  queries: Queries,
  bucket: string,
  range: Range,
  limit: number | undefined,
): Promise<Map<string, number[]>> {
  const times = new Map<string, Set<number>>();
  await eachPart(range, async (part) => {
    const query = new FluxQuery();
    const isFinder = finderTest(part);
    query.flux = `${select(query, bucket, part, finders(part))}${limited(query, limit)}
      |> keep(columns: ["_time", "_field", "device"])`;
    const rows = await queries.rows(query, (columns) => {
      const [device, time] = [place(columns, 'device'), place(columns, '_time')];
      const field = place(columns, '_field');
      return (cells) =>
        isFinder(cells[field] ?? '')
          ? { device: cells[device] ?? '', ts: parseTime(cells[time] ?? '').ms }
          : undefined;
    });
    for (const { device, ts } of rows) {
      const known = times.get(device);
      if (known === undefined) times.set(device, new Set([ts]));
      else known.add(ts);
    }
  });
  return new Map(
    [...times].map(([device, set]) => [device, [...set].sort((a, b) => a - b).slice(0, limit)]),
  );
}

/** Rows in order; with `limit` at least the first ones of each device. */
async function fetchReadings(
  queries: Queries,
  bucket: string,
  range: Range,
  limit: number | undefined,
): Promise<StoredReading[]> {
  const readings: StoredReading[] = [];
  await eachPart(range, async (part) => {
    const query = new FluxQuery();
    const found = part.metrics === undefined ? undefined : finders(part);
    const fields = found === undefined ? undefined : [...found, ORIGIN_FIELD, MERGED_FIELD];
    query.flux = `${select(query, bucket, part, fields)}${limited(query, limit)}
      |> drop(columns: ["_start", "_stop", "tenant"])
      |> pivot(rowKey: ["_time"], columnKey: ["_field"], valueColumn: "_value")`;
    const rows = await queries.rows(query, (columns) => rowMaker(columns, part));
    for (const row of rows) readings.push(row);
  });
  return readings.sort((a, b) =>
    a.device < b.device ? -1 : a.device > b.device ? 1 : a.ts - b.ts,
  );
}

/** The fields whose values tell which rows there are; undefined for too many to be named. */
function finders({ metrics }: Range): string[] | undefined {
  if (metrics === undefined) return [ORIGIN_FIELD];
  const names = [...new Set(metrics)];
  return names.length > METRICS_MAX ? undefined : names.flatMap(fieldKeys);
}

function finderTest({ metrics }: Range): (field: string) => boolean {
  if (metrics === undefined) return (field) => field === ORIGIN_FIELD;
  const wanted = new Set(metrics.flatMap(fieldKeys));
  return (field) => wanted.has(field);
}

async function eachPart(range: Range, work: (part: Range) => Promise<void>): Promise<void> {
  if (range.devices === undefined) return work(range);
  for (const devices of chunks(range.devices, DEVICES_PER_QUERY)) await work({ ...range, devices });
}

function select(
  query: FluxQuery,
  bucket: string,
  { tenant, devices, from, to }: Range,
  fields: readonly string[] | undefined,
): string {
  const field = fields === undefined ? '' : ` and ${query.anyOf('_field', fields)}`;
  return `from(bucket: ${query.text(bucket)})
    |> range(start: ${query.time(from)}, stop: ${query.time(to)})
    |> filter(fn: (r) => r.tenant == ${query.text(tenant)}${field}${deviceCondition(query, devices)})`;
}

function limited(query: FluxQuery, limit: number | undefined): string {
  return limit === undefined ? '' : `|> limit(n: ${query.int(limit)})`;
}

interface MetricColumn {
  place: number;
  key: string;
  metric: string;
  kind: FieldKind;
}

function rowMaker(
  columns: readonly string[],
  range: Range,
): (cells: readonly string[]) => StoredReading | undefined {
  const { tenant } = range;
  const wanted = range.metrics === undefined ? undefined : finderTest(range);
  const type = place(columns, '_measurement');
  const device = place(columns, 'device');
  const time = place(columns, '_time');
  const origin = columns.indexOf(ORIGIN_FIELD);
  const merged = columns.indexOf(MERGED_FIELD);
  const own = new Set(['', 'result', 'table', '_measurement', 'device', '_time']);
  const metrics: MetricColumn[] = [];
  columns.forEach((key, index) => {
    const isWanted = !own.has(key) && (wanted === undefined || wanted(key));
    const parsed = isWanted ? parseFieldKey(key) : undefined;
    if (parsed !== undefined) metrics.push({ place: index, key, ...parsed });
  });
  return (cells) => {
    const creator = cells[origin] ?? '';
    // Without its creator a row is not ours, or beyond the limit.
    if (creator === '') return undefined;
    const { received, seq, ...creatorOf } = parseCreator(creator);
    const { partition, offset } = creatorOf;
    const mergedText = cells[merged] ?? '';
    const sources = mergedText === '' ? NOT_MERGED : parseMerged(mergedText);
    const latest = sources.size === 0 ? metrics : latestOf(metrics, cells, creatorOf, sources);
    const values = plainValues(latest, cells);
    if (values === undefined) return undefined;
    const reading: StoredReading = {
      tenant,
      device: cells[device] ?? '',
      type: cells[type] ?? '',
      ts: parseTime(cells[time] ?? '').ms,
      received,
      values,
      partition,
      offset,
    };
    if (seq !== undefined) reading.seq = seq;
    if (range.mergedFrom && sources.size > 0) {
      reading.mergedFrom = Object.fromEntries(
        latest.flatMap(({ key, metric }) => {
          const source = sources.get(key);
          return source === undefined ? [] : [[metric, source]];
        }),
      );
    }
    return reading;
  };
}

/** Undefined when there is none. */
function plainValues(
  metrics: readonly MetricColumn[],
  cells: readonly string[],
): Values | undefined {
  const values: Values = {};
  let isEmpty = true;
  for (const { place, metric, kind } of metrics) {
    const cell = cells[place] ?? '';
    if (cell === '') continue;
    values[metric] = parseValue(kind, cell);
    isEmpty = false;
  }
  return isEmpty ? undefined : values;
}

/** A metric may have fields of several kinds: the one of the latest record counts. */
function latestOf(
  metrics: readonly MetricColumn[],
  cells: readonly string[],
  creator: Origin,
  sources: Sources,
): MetricColumn[] {
  const latest = new Map<string, { column: MetricColumn; source: Origin }>();
  for (const column of metrics) {
    if ((cells[column.place] ?? '') === '') continue;
    const source = sources.get(column.key) ?? creator;
    const known = latest.get(column.metric);
    if (known === undefined || isLater(source, known.source)) {
      latest.set(column.metric, { column, source });
    }
  }
  return [...latest.values()].map(({ column }) => column);
}
