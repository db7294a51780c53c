import { SpillwayError } from '../../core/errors.ts';
import type { StoredReading } from '../contract.ts';
import { chunks, FluxQuery, parseTime } from './flux.ts';
import { halfRanges, type KeyRange, keyRanges, type RawKey } from './key-ranges.ts';
import { fieldKeys } from './line-protocol.ts';
import { place, type Queries } from './queries.ts';
import {
  type Creator,
  MERGED_FIELD,
  ORIGIN_FIELD,
  parseCreator,
  parseMerged,
  type Sources,
} from './raw-origin.ts';
import { deviceCondition } from './raw-times.ts';

/** What has to be known of a row to merge readings into it: no values. */
export interface ExistingRow {
  /** The measurement. */
  type: string;
  creator: Creator;
  /** Field keys of the readings' metrics that it has. */
  fields: Set<string>;
  merged: Sources;
}

export function keyText({ tenant, device, ts }: RawKey): string {
  return `${tenant}/${device}/${ts}`;
}

/** Ranges of one query. */
const RANGES_PER_QUERY = 64;
/** An answer that grows larger is given up, and two smaller ones are asked for. */
const ANSWER_BYTES_MAX = 16 * 2 ** 20;
/** With more metrics than this all fields are read: naming them would cost more. */
const METRICS_MAX = 8;

type Reading = RawKey & Pick<StoredReading, 'values'>;
type GapOf = (key: RawKey) => number;

/**
 * Rows of the store that have the key of one of the readings, by {@link keyText}. `gapOf`: keys of a device
 * that lie no further apart are read in one range, ms.
 */
export async function existingRows(
  queries: Queries,
  bucket: string,
  readings: readonly Reading[],
  gapOf: GapOf,
): Promise<Map<string, ExistingRow>> {
  // First the keys alone: of late readings few have a row, and then one field of them is read.
  const found = await readFields(queries, bucket, readings, gapOf, [ORIGIN_FIELD]);
  const rows = new Map<string, ExistingRow>();
  for (const cell of found) {
    const { type, value } = cell;
    rows.set(keyText(cell), {
      ...{ type, creator: parseCreator(value) },
      ...{ fields: new Set(), merged: new Map() },
    });
  }
  const known = readings.filter((reading) => rows.has(keyText(reading)));
  for (const cell of await readFields(queries, bucket, known, gapOf, fieldsOf(known))) {
    const row = rows.get(keyText(cell));
    if (row === undefined) continue;
    if (cell.field === MERGED_FIELD) row.merged = parseMerged(cell.value);
    else if (cell.field !== ORIGIN_FIELD) row.fields.add(cell.field);
  }
  return rows;
}

/** Undefined for all. */
function fieldsOf(readings: readonly Reading[]): string[] | undefined {
  const metrics = new Set(readings.flatMap(({ values }) => Object.keys(values)));
  if (metrics.size > METRICS_MAX) return undefined;
  return [MERGED_FIELD, ...[...metrics].flatMap(fieldKeys)];
}

interface Cell extends RawKey {
  type: string;
  field: string;
  value: string;
}

async function readFields(
  queries: Queries,
  bucket: string,
  keys: readonly RawKey[],
  gapOf: GapOf,
  fields: readonly string[] | undefined,
): Promise<Cell[]> {
  const cells: Cell[] = [];
  for (const [tenant, ofTenant] of byTenant(keys)) {
    const wanted = new Set(ofTenant.map(keyText));
    const ask = async (ranges: readonly KeyRange[]): Promise<void> => {
      const query = rangesQuery(bucket, tenant, ranges, fields);
      const halves = halvesOf(ranges);
      const make = (columns: readonly string[]) => cellMaker(columns, tenant, wanted);
      try {
        const found = await queries.rows(query, make, halves && ANSWER_BYTES_MAX);
        for (const cell of found) cells.push(cell);
      } catch (error) {
        if (halves === undefined || !isTooLarge(error)) throw error;
        for (const half of halves) await ask(half);
      }
    };
    for (const part of chunks(keyRanges(ofTenant, gapOf), RANGES_PER_QUERY)) await ask(part);
  }
  return cells;
}

function byTenant(keys: readonly RawKey[]): Map<string, RawKey[]> {
  const tenants = new Map<string, RawKey[]>();
  for (const key of keys) {
    const list = tenants.get(key.tenant);
    if (list === undefined) tenants.set(key.tenant, [key]);
    else list.push(key);
  }
  return tenants;
}

function rangesQuery(
  bucket: string,
  tenant: string,
  ranges: readonly KeyRange[],
  fields: readonly string[] | undefined,
): FluxQuery {
  const query = new FluxQuery();
  const field = fields === undefined ? '' : ` and ${query.anyOf('_field', fields)}`;
  const tables = ranges.map(
    ({ from, to, devices }) => `from(bucket: ${query.text(bucket)})
      |> range(start: ${query.time(from)}, stop: ${query.time(to + 1)})
      |> filter(fn: (r) => r.tenant == ${query.text(tenant)}${field}${deviceCondition(query, [...devices])})
      |> drop(columns: ["_start", "_stop", "tenant"])`,
  );
  query.flux = tables.length === 1 ? (tables[0] ?? '') : `union(tables: [${tables.join(', ')}])`;
  return query;
}

function cellMaker(
  columns: readonly string[],
  tenant: string,
  wanted: ReadonlySet<string>,
): (cells: readonly string[]) => Cell | undefined {
  const [type, device, field, time, value] = [
    place(columns, '_measurement'),
    place(columns, 'device'),
    place(columns, '_field'),
    place(columns, '_time'),
    place(columns, '_value'),
  ];
  return (cells) => {
    const key = { tenant, device: cells[device] ?? '', ts: parseTime(cells[time] ?? '').ms };
    if (!wanted.has(keyText(key))) return undefined;
    return {
      ...key,
      type: cells[type] ?? '',
      field: cells[field] ?? '',
      value: cells[value] ?? '',
    };
  };
}

function isTooLarge(error: unknown): boolean {
  return error instanceof SpillwayError && error.code === 'QUERY_TOO_LARGE';
}

/** Undefined for what cannot be halved: one row. */
function halvesOf(ranges: readonly KeyRange[]): [KeyRange[], KeyRange[]] | undefined {
  const [only] = ranges;
  if (only === undefined) return undefined;
  if (ranges.length > 1) {
    const middle = ranges.length >>> 1;
    return [ranges.slice(0, middle), ranges.slice(middle)];
  }
  return halfRanges(only);
}
