import { InfluxUnavailableError } from './errors.ts';
import { FluxQuery, parseTime } from './flux.ts';
import { decodeTag, encodeTag, textValue } from './line-protocol.ts';
import { place, type Queries } from './queries.ts';
import { boundsOf, CELL_FIELD, partitionKey, readSessions, type Sessions } from './sessions.ts';

/** What a cell counts: a measurement and its tags but for those of the session. */
export interface CellKey {
  measurement: 'ledger' | 'ledger_total' | 'source';
  /** ms; 0 where the count has no time. */
  time: number;
  /** Names that are absent or empty are no tags. */
  tags: Readonly<Record<string, string>>;
}

/** Values of a cell that are kept: so many commits may pass while somebody reads it, less one. */
const VERSIONS = 4;

/** The state of a cell after a commit; `state`: before it, undefined for a new cell. */
export function nextState(state: string | undefined, value: number, position: number): string {
  if (state === undefined) return `${value} ${position}`;
  const older = state.split(' ', (VERSIONS - 1) * 2);
  return `${value} ${position} ${older.join(' ')}`;
}

/** The newest value of a cell; 0 for a new one. */
export function newestValue(state: string | undefined): number {
  return state === undefined ? 0 : Number(state.slice(0, state.indexOf(' ')));
}

/**
 * The value that was right at a position; undefined when the cell was not there yet, 'gone' when
 * so much came after it that nobody knows any more.
 */
export function valueAt(state: string, position: number): number | 'gone' | undefined {
  const versions = state.split(' ').map(Number);
  for (let at = 0; at < versions.length; at += 2) {
    if ((versions[at + 1] ?? 0) <= position) return versions[at];
  }
  return versions.length < VERSIONS * 2 ? undefined : 'gone';
}

/** The point of a cell. */
export function cellLine(
  group: string,
  partition: number,
  number: number,
  key: CellKey,
  state: string,
): string {
  const tags: Record<string, string> = { ...key.tags, group, partition: `${partition}` };
  let line: string = key.measurement;
  for (const name of Object.keys(tags).sort()) {
    const text = tags[name] ?? '';
    if (text !== '') line += `,${name}=${encodeTag(text)}`;
  }
  const fields = `count=${newestValue(state)}i,${CELL_FIELD}=${textValue(state)}`;
  return `${line} ${fields} ${nanoseconds(key.time, number)}`;
}

/** The number of the session in the ns within a ms. */
function nanoseconds(ms: number, number: number): string {
  return ms === 0 ? `${number}` : `${ms}${String(number).padStart(6, '0')}`;
}

export interface Cell {
  partition: number;
  /** ms */
  time: number;
  tags: Record<string, string>;
  value: number;
}

export interface CellQuery {
  measurement: CellKey['measurement'];
  group?: string;
  tags?: Readonly<Record<string, string | undefined>>;
  /** ms; all times when absent. */
  from?: number;
  to?: number;
}

/** How often cells are read again because too many commits passed meanwhile. */
const READS_MAX = 5;

/** Values of cells as of one moment between two commits of each partition. Throws when commits storm past. */
export async function readCells(
  queries: Queries,
  bucket: string,
  query: CellQuery,
): Promise<Cell[]> {
  for (let reads = 1; ; reads += 1) {
    const sessions = await readSessions(queries, bucket, query.group);
    const cells = resolve(await fetchCells(queries, bucket, query), sessions);
    if (cells !== undefined) return cells;
    if (reads === READS_MAX)
      throw new InfluxUnavailableError('The ledger changes too fast to read');
  }
}

interface StoredCell {
  group: string;
  partition: number;
  time: number;
  number: number;
  tags: Record<string, string>;
  state: string;
}

async function fetchCells(
  queries: Queries,
  bucket: string,
  { measurement, group, tags = {}, from, to }: CellQuery,
): Promise<StoredCell[]> {
  const query = new FluxQuery();
  let conditions = `r._measurement == ${query.text(measurement)}
    and r._field == ${query.text(CELL_FIELD)}`;
  for (const [name, text] of Object.entries({ ...tags, group })) {
    if (text !== undefined) conditions += ` and r.${name} == ${query.text(encodeTag(text))}`;
  }
  query.flux = `from(bucket: ${query.text(bucket)})
    |> range(start: ${query.time(from ?? 0)}, stop: ${query.time(to ?? Number.POSITIVE_INFINITY)})
    |> filter(fn: (r) => ${conditions})
    |> drop(columns: ["_start", "_stop", "_measurement", "_field"])`;
  return queries.rows(query, (columns) => {
    const [time, value] = [place(columns, '_time'), place(columns, '_value')];
    const own = new Set(['', 'result', 'table', '_time', '_value']);
    const tagPlaces = columns.flatMap((name, index) => (own.has(name) ? [] : [{ name, index }]));
    return (cells) => {
      const { ms, ns } = parseTime(cells[time] ?? '');
      const found: Record<string, string> = {};
      for (const { name, index } of tagPlaces) found[name] = decodeTag(cells[index] ?? '');
      return {
        group: found.group ?? '',
        partition: Number(found.partition),
        time: ms,
        number: ns,
        tags: found,
        state: cells[value] ?? '',
      };
    };
  });
}

/** Undefined when a cell does not know its value any more. */
function resolve(cells: readonly StoredCell[], sessions: Sessions): Cell[] | undefined {
  const bounds = new Map([...sessions].map(([key, records]) => [key, boundsOf(records)]));
  const resolved: Cell[] = [];
  for (const { group, partition, time, number, tags, state } of cells) {
    const bound = bounds.get(partitionKey(group, partition))?.get(number) ?? -1;
    // A session that began after the positions were read, or never got anywhere.
    if (bound < 0) continue;
    const value = valueAt(state, bound);
    if (value === 'gone') return undefined;
    if (value !== undefined) resolved.push({ partition, time, tags, value });
  }
  return resolved;
}
