import { chunks, FluxQuery, parseTime } from './flux.ts';
import { place, type Queries } from './queries.ts';
import {
  type Creator,
  MERGED_FIELD,
  ORIGIN_FIELD,
  parseCreator,
  parseMerged,
  type Sources,
} from './raw-origin.ts';
import { DEVICES_PER_QUERY, deviceCondition } from './raw-times.ts';

export interface RawKey {
  tenant: string;
  device: string;
  ts: number;
}

/** What has to be known of a row to merge a reading into it: no values. */
export interface ExistingRow {
  /** The measurement. */
  type: string;
  creator: Creator;
  /** Keys of its metrics' fields. */
  fields: Set<string>;
  merged: Sources;
}

export function keyText({ tenant, device, ts }: RawKey): string {
  return `${tenant}/${device}/${ts}`;
}

/** Keys so near to each other are asked for together, ms. */
const GAP_MS = 60_000;
/** Ranges of one tenant; where there would be more, the smallest gaps are read through. */
const RANGES_MAX = 64;

/** Rows of the store that have one of the keys, by {@link keyText}. */
export async function existingRows(
  queries: Queries,
  bucket: string,
  keys: readonly RawKey[],
): Promise<Map<string, ExistingRow>> {
  // First the keys alone: of late readings few have a row, and then one field of them is read.
  const found = await readFields(queries, bucket, keys, true);
  if (found.length === 0) return new Map();
  const hits = new Set(found.map((cell) => keyText(cell)));
  const rows = new Map<string, ExistingRow>();
  const cells = await readFields(
    queries,
    bucket,
    keys.filter((key) => hits.has(keyText(key))),
    false,
  );
  for (const cell of found) {
    rows.set(keyText(cell), {
      type: cell.type,
      creator: parseCreator(cell.value),
      fields: new Set(),
      merged: new Map(),
    });
  }
  for (const cell of cells) {
    const row = rows.get(keyText(cell));
    if (row === undefined) continue;
    if (cell.field === MERGED_FIELD) row.merged = parseMerged(cell.value);
    else if (cell.field !== ORIGIN_FIELD) row.fields.add(cell.field);
  }
  return rows;
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
  originOnly: boolean,
): Promise<Cell[]> {
  const wanted = new Set(keys.map(keyText));
  const tenants = new Map<string, RawKey[]>();
  for (const key of keys) {
    const list = tenants.get(key.tenant);
    if (list === undefined) tenants.set(key.tenant, [key]);
    else list.push(key);
  }
  const cells: Cell[] = [];
  for (const [tenant, ofTenant] of tenants) {
    for (const group of nearGroups(ofTenant)) {
      const devices = [...new Set(group.map(({ device }) => device))];
      for (const part of chunks(devices, DEVICES_PER_QUERY)) {
        const query = new FluxQuery();
        const field = originOnly ? ` and r._field == ${query.text(ORIGIN_FIELD)}` : '';
        query.flux = `from(bucket: ${query.text(bucket)})
          |> range(start: ${query.time(group[0]?.ts ?? 0)}, stop: ${query.time((group.at(-1)?.ts ?? 0) + 1)})
          |> filter(fn: (r) => r.tenant == ${query.text(tenant)}${field}${deviceCondition(query, part)})
          |> drop(columns: ["_start", "_stop", "tenant"])`;
        const found = await queries.rows(query, (columns) => cellMaker(columns, tenant, wanted));
        for (const cell of found) cells.push(cell);
      }
    }
  }
  return cells;
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

/** Keys in groups of near times, each in the order of time. */
function nearGroups(keys: readonly RawKey[]): RawKey[][] {
  const sorted = [...keys].sort((a, b) => a.ts - b.ts);
  const gaps = sorted.slice(1).map((key, index) => key.ts - (sorted[index]?.ts ?? key.ts));
  const largest = gaps.filter((gap) => gap > GAP_MS).sort((a, b) => b - a);
  const least = largest[RANGES_MAX - 1] ?? GAP_MS;
  const groups: RawKey[][] = [];
  sorted.forEach((key, index) => {
    if (index === 0 || (gaps[index - 1] ?? 0) > least) groups.push([key]);
    else groups.at(-1)?.push(key);
  });
  return groups;
}
