import { randomInt } from 'node:crypto';
import { FluxQuery, parseTime } from './flux.ts';
import { decodeTag, encodeTag, textValue } from './line-protocol.ts';
import type { Admit, LineWriter } from './line-writer.ts';
import { place, type Queries } from './queries.ts';

/**
 * Exact counts without transactions.
 *
 * A *session* is one writer's time with one partition of a group. It begins by writing a record of its
 * own, which takes over at the position that the session before had reached, and only then writes.
 *
 * A *cell* is one count of one session. It holds its last values, each with the position from which on it
 * is right, the newest first: `<value> <position> <value> <position> …`. A commit writes its cells first
 * and then the session's position, in one point; that point is the commit. Readers take of each cell the
 * value that was right at the session's position, so cells that a crash left without their position do
 * not count, however the same records are cut into commits afterwards: the next session has cells of its
 * own. Nor does it matter that a reader gets positions and cells one after the other.
 *
 * The last session is the current one, and each names the one that it follows. A session counts up to its own
 * position, or up to where its successor took over if that is less; one that none follows does not count: a
 * writer that was paused and does not know yet that it has a successor, or a request that arrives late, changes
 * nothing. Totals are sums over sessions.
 */

/** Measurement of the records, one point for each session: time is the moment of taking over. */
export const POSITION_MEASUREMENT = 'position';
export const CELL_FIELD = 'state';

const NS_PER_MS = 1_000_000;
/** Sessions of one partition: the ns within a cell's ms hold the number. */
const NUMBER_MAX = NS_PER_MS - 1;

export interface SessionRecord {
  group: string;
  partition: number;
  /** When it took over, ms: later ones count. */
  time: number;
  /** Random digits of the ns within the ms, so that two that begin at once are two points. */
  ns: number;
  number: number;
  /** Position at which it took over; null when there was none. */
  base: number | null;
  /** Position that it has reached; null when there is none. */
  next: number | null;
  /** Names the writer. */
  by: string;
  /** `<time> <ns>` of the session that it follows; null when there was none, absent in what earlier releases wrote. */
  after?: string | null;
}

/** All sessions of a partition, oldest first. */
export type Sessions = Map<string, SessionRecord[]>;

export function partitionKey(group: string, partition: number): string {
  return `${partition}/${group}`;
}

/** Sessions by {@link partitionKey}; of all groups when none is named. */
export async function readSessions(
  queries: Queries,
  bucket: string,
  group?: string,
): Promise<Sessions> {
  const query = new FluxQuery();
  const ofGroup = group === undefined ? '' : ` and r.group == ${query.text(encodeTag(group))}`;
  query.flux = `from(bucket: ${query.text(bucket)})
    |> range(start: ${query.time(Number.NEGATIVE_INFINITY)}, stop: ${query.time(Number.POSITIVE_INFINITY)})
    |> filter(fn: (r) => r._measurement == ${query.text(POSITION_MEASUREMENT)}
      and r._field == ${query.text(CELL_FIELD)}${ofGroup})
    |> keep(columns: ["_time", "_value", "group", "partition"])`;
  const records = await queries.rows(query, (columns) => {
    const [time, value] = [place(columns, '_time'), place(columns, '_value')];
    const [name, partition] = [place(columns, 'group'), place(columns, 'partition')];
    return (cells): SessionRecord => {
      const { ms, ns } = parseTime(cells[time] ?? '');
      return {
        group: decodeTag(cells[name] ?? ''),
        partition: Number(cells[partition]),
        ...{ time: ms, ns, by: '' },
        ...(JSON.parse(cells[value] ?? '') as Pick<
          SessionRecord,
          'number' | 'base' | 'next' | 'after'
        >),
      };
    };
  });
  records.sort((a, b) => a.time - b.time || a.ns - b.ns);
  const sessions: Sessions = new Map();
  for (const record of records) {
    const key = partitionKey(record.group, record.partition);
    const list = sessions.get(key);
    if (list === undefined) sessions.set(key, [record]);
    else list.push(record);
  }
  return sessions;
}

/** Up to which position each session's cells count, by its number; those of which nothing does may be absent. */
export function boundsOf(records: readonly SessionRecord[]): Map<number, number> {
  const bounds = new Map<number, number>();
  let taken = Number.POSITIVE_INFINITY;
  let wanted: string | null | undefined;
  for (const record of records.toReversed()) {
    // It arrived when its place was another one's already, which did not begin from it.
    if (wanted !== undefined && idOf(record) !== wanted) continue;
    const { number, base, next } = record;
    // Of two with one number, which a late request can leave behind, the later one is real.
    if (!bounds.has(number)) bounds.set(number, Math.min(next ?? -1, taken));
    taken = Math.min(taken, base ?? -1);
    wanted = record.after;
  }
  return bounds;
}

function idOf({ time, ns }: SessionRecord): string {
  return `${time} ${ns}`;
}

/**
 * The record of a session of `by` that takes over now, at position `base`. `numberMin`: numbers below were
 * tried by this process.
 */
export function successorOf(
  records: readonly SessionRecord[],
  successor: Pick<SessionRecord, 'group' | 'partition' | 'base' | 'by'>,
  now: number,
  numberMin: number,
): SessionRecord {
  const { group, partition, base } = successor;
  const last = records.at(-1);
  const number = records.reduce((most, one) => Math.max(most, one.number + 1), numberMin);
  if (number > NUMBER_MAX) {
    throw new RangeError(`partition ${partition} of ${group} has had too many sessions`);
  }
  return {
    ...successor,
    time: Math.max(now, last === undefined ? now : last.time + 1),
    ns: randomInt(NS_PER_MS),
    number,
    next: base,
    after: last === undefined ? null : idOf(last),
  };
}

/** Moves sessions' positions: the moment at which their cells begin to count. */
export async function writeSessions(
  lines: LineWriter,
  bucket: string,
  records: readonly SessionRecord[],
): Promise<void> {
  await writeAll(lines, bucket, records.map(sessionLine));
}

function sessionLine(record: SessionRecord): string {
  const { group, partition, time, ns, number, base, next, by, after } = record;
  const tags = `group=${encodeTag(group)},partition=${partition}`;
  const state = textValue(JSON.stringify({ number, base, next, by, after }));
  // For people; the state says it too.
  const people = next === null ? '' : `next=${next}i,`;
  return `${POSITION_MEASUREMENT},${tags} ${people}${CELL_FIELD}=${state} ${time}${String(ns).padStart(6, '0')}`;
}

/** Writes lines in ns, all of them. */
export async function writeAll(
  lines: LineWriter,
  bucket: string,
  texts: readonly string[],
  admit?: Admit,
): Promise<void> {
  const [fault] = await lines.write(bucket, 'ns', texts, admit);
  if (fault === undefined) return;
  throw new Error(`InfluxDB refuses a line of the ledger: ${fault.message}`);
}
