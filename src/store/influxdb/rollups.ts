import type { AggregateState, RollupRow, Value } from '../../core/nouns.ts';
import type { RollupQuery } from '../contract.ts';
import { chunks, FluxQuery, parseTime } from './flux.ts';
import {
  fieldKey,
  fieldValue,
  floatValue,
  isLegalName,
  kindOf,
  textValue,
} from './line-protocol.ts';
import { type Admit, isExpired, type LineWriter } from './line-writer.ts';
import { place, type Queries } from './queries.ts';
import { DEVICES_PER_QUERY, deviceCondition } from './raw-times.ts';

/** What people and charts get of a window beside its state. Absent where a window has no numbers. */
export interface Description {
  sum?: number;
  min?: number;
  max?: number;
  mean?: number;
  stddev?: number;
  p50?: number;
  p90?: number;
  p99?: number;
}

/** `rollup/aggregate.ts:finish`, which this room does not know. */
export type Describe = (state: AggregateState) => Description;

export const ROLLUP_MEASUREMENT = 'rollup';
/** The whole row in one field: written and read at once, so no half of it can be from another time. */
export const STATE_FIELD = 'state';

const LEGAL_METRIC = /^[A-Za-z0-9_][A-Za-z0-9_.:/-]{0,63}$/;

/** Fields of {@link Description}, in the order of the line. */
const STATISTICS = ['sum', 'min', 'max', 'mean', 'stddev', 'p50', 'p90', 'p99'] as const;

/**
 * Writes the rows of one window size. Rows that are older than the bucket keeps data are left out by the
 * database, as its retention would at once.
 */
export async function writeRollups(
  lines: LineWriter,
  bucket: string,
  rows: readonly RollupRow[],
  describe: Describe,
  admit: Admit,
): Promise<void> {
  const latest = new Map<string, RollupRow>();
  for (const row of rows) {
    latest.set(`${row.tenant}/${row.device}/${row.start} ${row.metric}`, row);
  }
  const written = latest.size === rows.length ? rows : [...latest.values()];
  const rejected = await lines.write(
    bucket,
    'ms',
    written.map((row) => rollupLine(row, describe)),
    admit,
  );
  const fault = rejected.find((one) => !isExpired(one));
  if (fault === undefined) return;
  const { tenant, device, metric, start } = written[fault.index] ?? {};
  throw new Error(
    `InfluxDB refuses the rollup of ${tenant}/${device} ${metric} at ${start}: ${fault.message}`,
  );
}

function rollupLine(row: RollupRow, describe: Describe): string {
  const { tenant, device, metric, start, state } = row;
  if (!isLegalName(tenant) || !isLegalName(device) || !LEGAL_METRIC.test(metric)) {
    throw new RangeError(`${tenant}/${device} ${metric} is no legal name of a series`);
  }
  let fields = `count=${state.count}i`;
  const description = describe(state);
  for (const name of STATISTICS) {
    const value = description[name];
    const text = value === undefined ? undefined : floatValue(value);
    if (text !== undefined) fields += `,${name}=${text}`;
  }
  fields += valueField('first', state.first) + valueField('last', state.last);
  fields += `,${STATE_FIELD}=${textValue(encodeRow(row))}`;
  return `${ROLLUP_MEASUREMENT},device=${device},metric=${metric},tenant=${tenant} ${fields} ${start}`;
}

function valueField(name: string, value: Value): string {
  const text = fieldValue(value);
  return text === undefined ? '' : `,${fieldKey(name, kindOf(value))}=${text}`;
}

/**
 * `[revision,changedAt,count,sum,min,max,mean,m2,firstTs,lastTs,first,last]` in JSON, behind it the sketch
 * in base64, or `-` where there is none. JSON text has no control character and no unpaired surrogate.
 */
function encodeRow({ revision, changedAt, state }: RollupRow): string {
  const { count, sum, min, max, mean, m2, firstTs, lastTs, first, last, sketch } = state;
  const numbers = [sum, min, max, mean, m2].map((value) => floatValue(value) ?? 'null').join(',');
  const bytes =
    sketch === undefined
      ? '-'
      : Buffer.from(sketch.buffer, sketch.byteOffset, sketch.byteLength).toString('base64');
  return `[${revision},${changedAt},${count},${numbers},${firstTs},${lastTs},${jsonValue(first)},${jsonValue(last)}]${bytes}`;
}

function jsonValue(value: Value): string {
  if (typeof value === 'number') return floatValue(value) ?? 'null';
  // DEL is no control character to JSON.
  return JSON.stringify(value).replaceAll('\u007f', '\\u007f');
}

type EncodedRow = [
  revision: number,
  changedAt: number,
  count: number,
  sum: number | null,
  min: number | null,
  max: number | null,
  mean: number | null,
  m2: number | null,
  firstTs: number,
  lastTs: number,
  first: Value | null,
  last: Value | null,
];

function decodeRow(text: string): Pick<RollupRow, 'revision' | 'changedAt' | 'state'> {
  const end = text.lastIndexOf(']') + 1;
  const [revision, changedAt, count, sum, min, max, mean, m2, firstTs, lastTs, first, last] =
    JSON.parse(text.slice(0, end)) as EncodedRow;
  const state: AggregateState = {
    count,
    sum: sum ?? Number.NaN,
    min: min ?? Number.NaN,
    max: max ?? Number.NaN,
    mean: mean ?? Number.NaN,
    m2: m2 ?? Number.NaN,
    firstTs,
    first: first ?? Number.NaN,
    lastTs,
    last: last ?? Number.NaN,
  };
  const bytes = text.slice(end);
  if (bytes !== '-') state.sketch = new Uint8Array(Buffer.from(bytes, 'base64'));
  return { revision, changedAt, state };
}

/** Ordered by device, metric, start. */
export async function queryRollups(
  queries: Queries,
  bucket: string,
  query: RollupQuery,
): Promise<RollupRow[]> {
  const { from, to, limit, metrics } = query;
  const devices = query.devices === undefined ? undefined : [...new Set(query.devices)].sort();
  if (!(from < to) || limit === 0 || devices?.length === 0 || metrics?.length === 0) return [];
  const rows: RollupRow[] = [];
  const parts = devices === undefined ? [undefined] : chunks(devices, DEVICES_PER_QUERY);
  for (const part of parts) {
    // Parts are in order, so those behind a full limit have nothing to add.
    if (limit !== undefined && rows.length >= limit) break;
    const found = await fetchRollups(queries, bucket, query, part);
    for (const row of found) rows.push(row);
  }
  return limit === undefined ? rows : rows.slice(0, limit);
}

async function fetchRollups(
  queries: Queries,
  bucket: string,
  range: RollupQuery,
  devices: readonly string[] | undefined,
): Promise<RollupRow[]> {
  const query = new FluxQuery();
  const { tenant, from, to, metrics, limit, windowMs } = range;
  const metric =
    metrics === undefined ? '' : ` and ${query.anyOf('metric', [...new Set(metrics)])}`;
  // Of each series; all series together may have more.
  const first = limit === undefined ? '' : `|> limit(n: ${query.int(limit)})`;
  query.flux = `from(bucket: ${query.text(bucket)})
    |> range(start: ${query.time(from)}, stop: ${query.time(to)})
    |> filter(fn: (r) => r._measurement == ${query.text(ROLLUP_MEASUREMENT)}
      and r._field == ${query.text(STATE_FIELD)} and r.tenant == ${query.text(tenant)}
      ${metric}${deviceCondition(query, devices)})
    ${first}
    |> keep(columns: ["_time", "_value", "device", "metric"])`;
  const rows = await queries.rows(query, (columns) => {
    const [time, value] = [place(columns, '_time'), place(columns, '_value')];
    const [device, name] = [place(columns, 'device'), place(columns, 'metric')];
    return (cells): RollupRow => ({
      tenant,
      device: cells[device] ?? '',
      metric: cells[name] ?? '',
      windowMs,
      start: parseTime(cells[time] ?? '').ms,
      ...decodeRow(cells[value] ?? ''),
    });
  });
  return rows.sort(
    (a, b) => compare(a.device, b.device) || compare(a.metric, b.metric) || a.start - b.start,
  );
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
