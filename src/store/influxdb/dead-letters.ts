import type {
  DeadLetterGroup,
  DeadLetterPage,
  DeadLetterQuery,
  StoredDeadLetter,
} from '../contract.ts';
import { chunks, FluxQuery, parseTime } from './flux.ts';
import {
  ATTEMPT_FIELD,
  LETTER_FIELD,
  LETTER_MEASUREMENT,
  type LetterPoint,
  letterSeries,
  letterTime,
  MESSAGE_FIELD,
  OFFSET_FIELD,
  PURGED_FIELD,
  REPLAYED_FIELD,
} from './letter-point.ts';
import { decodeTag, encodeTag, textValue } from './line-protocol.ts';
import { isExpired, type LineWriter } from './line-writer.ts';
import { place, type Queries } from './queries.ts';
import { DEVICES_PER_QUERY, deviceCondition } from './raw-times.ts';

/** A text field of InfluxDB holds 1 MiB. */
const CONTENTS_BYTES_MAX = 1_000_000;

/** What is there already, with its marks, stays as it is: the same point gets the same fields. */
export async function writeDeadLetters(
  lines: LineWriter,
  bucket: string,
  letters: readonly StoredDeadLetter[],
): Promise<void> {
  const latest = new Map(letters.map((one) => [`${one.partition}/${one.offset}`, one]));
  const points = [...latest.values()];
  await writePoints(lines, bucket, points, points.map(letterLine));
}

/** Throws when the database refuses one that retention would keep. */
export async function writePoints(
  lines: LineWriter,
  bucket: string,
  points: readonly LetterPoint[],
  texts: readonly string[],
): Promise<void> {
  const rejected = await lines.write(bucket, 'ns', texts);
  const fault = rejected.find((one) => !isExpired(one));
  if (fault === undefined) return;
  const { partition, offset } = points[fault.index] ?? {};
  throw new Error(`InfluxDB refuses the dead letter ${partition}/${offset}: ${fault.message}`);
}

function letterLine(letter: StoredDeadLetter): string {
  const { tenant, device, code, partition, offset, received, replayed: _, ...rest } = letter;
  const text = contentsOf(rest);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: a table in a chart shows plain text
  const message = letter.message.toWellFormed().replaceAll(/[\u0000-\u001f\u007f]/g, ' ');
  const fields = [
    `${LETTER_FIELD}=${textValue(text)}`,
    `${MESSAGE_FIELD}=${textValue(message)}`,
    `${OFFSET_FIELD}=${offset}i`,
  ];
  return `${letterSeries(letter)} ${fields.join(',')} ${letterTime(letter)}`;
}

/** In JSON; a payload for which the database has no room is cut once more. */
function contentsOf(letter: { payload: string }): string {
  const text = JSON.stringify(letter).replaceAll('\u007f', '\\u007f');
  const excess = Buffer.byteLength(text) - CONTENTS_BYTES_MAX;
  if (excess <= 0 || letter.payload === '') return text;
  // Whole groups of base64.
  const kept = Math.max(0, Math.floor((letter.payload.length - excess) / 4) * 4);
  return contentsOf({ ...letter, payload: letter.payload.slice(0, kept) });
}

/** By received, then partition and offset; newest first unless told otherwise. */
export async function queryDeadLetters(
  queries: Queries,
  bucket: string,
  { after, ...page }: DeadLetterPage,
): Promise<StoredDeadLetter[]> {
  if (after === undefined) return queryPage(queries, bucket, page);
  const { received } = after;
  const sign = page.oldestFirst === true ? 1 : -1;
  // All of that ms: a limit could be used up by those that are not behind `after`.
  const { limit, ...all } = page;
  const sameTime = await queryPage(queries, bucket, { ...all, from: received, to: received + 1 });
  const isWithin = received >= page.from && received < page.to;
  const behind = sameTime.filter((one) => isWithin && sign * inTime(one, after) > 0);
  if (limit !== undefined && behind.length >= limit) return behind.slice(0, limit);
  const rest = await queryPage(queries, bucket, {
    ...page,
    ...(sign > 0
      ? { from: Math.max(page.from, received + 1) }
      : { to: Math.min(page.to, received) }),
    ...(limit !== undefined && { limit: limit - behind.length }),
  });
  return [...behind, ...rest];
}

type Place = Pick<StoredDeadLetter, 'received' | 'partition' | 'offset'>;

function inTime(a: Place, b: Place): number {
  return a.received - b.received || a.partition - b.partition || a.offset - b.offset;
}

async function queryPage(
  queries: Queries,
  bucket: string,
  page: Omit<DeadLetterPage, 'after'>,
): Promise<StoredDeadLetter[]> {
  const { limit, oldestFirst = false } = page;
  if (isEmpty(page) || limit === 0) return [];
  const found: StoredDeadLetter[] = [];
  for (const devices of deviceParts(page)) {
    const last =
      limit === undefined ? undefined : await timeOfLast(queries, bucket, page, devices, limit);
    if (limit !== undefined && last === undefined) continue;
    const part = { ...page };
    if (last !== undefined && oldestFirst) part.to = Math.min(page.to, last + 1);
    else if (last !== undefined) part.from = last;
    const letters = await fetchLetters(queries, bucket, part, devices);
    for (const letter of letters) found.push(letter);
  }
  found.sort(oldestFirst ? inTime : (a, b) => inTime(b, a));
  return limit === undefined ? found : found.slice(0, limit);
}

/** Gateway time of the last letter within the limit, from small fields: letters themselves are large. */
async function timeOfLast(
  queries: Queries,
  bucket: string,
  page: Omit<DeadLetterPage, 'after'>,
  devices: readonly string[] | undefined,
  limit: number,
): Promise<number | undefined> {
  const query = new FluxQuery();
  const descending = page.oldestFirst === true ? 'false' : 'true';
  query.flux = `${selectKept(query, bucket, page, devices, [OFFSET_FIELD])}
    |> keep(columns: ["_time"])
    |> group()
    |> sort(columns: ["_time"], desc: ${descending})
    |> limit(n: ${query.int(limit)})`;
  const times = await queries.rows(query, (columns) => {
    const time = place(columns, '_time');
    return (cells) => parseTime(cells[time] ?? '').ms;
  });
  return times.at(-1);
}

async function fetchLetters(
  queries: Queries,
  bucket: string,
  letters: DeadLetterQuery,
  devices: readonly string[] | undefined,
): Promise<StoredDeadLetter[]> {
  const query = new FluxQuery();
  query.flux = selectKept(query, bucket, letters, devices, [
    LETTER_FIELD,
    OFFSET_FIELD,
    ATTEMPT_FIELD,
  ]);
  return queries.rows(query, (columns) => {
    const [time, device] = [place(columns, '_time'), place(columns, 'device')];
    const code = columns.indexOf('code');
    const [partition, offset] = [place(columns, 'partition'), place(columns, OFFSET_FIELD)];
    const text = columns.indexOf(LETTER_FIELD);
    const [attempt, replayed] = [columns.indexOf(ATTEMPT_FIELD), columns.indexOf(REPLAYED_FIELD)];
    return (cells) => {
      const letter: StoredDeadLetter = {
        ...(JSON.parse(cells[text] ?? '') as Omit<StoredDeadLetter, 'tenant' | 'device' | 'code'>),
        tenant: letters.tenant,
        device: decodeTag(cells[device] ?? ''),
        code: decodeTag(cells[code] ?? ''),
        received: parseTime(cells[time] ?? '').ms,
        partition: Number(cells[partition]),
        offset: Number(cells[offset]),
      };
      const attempts = Math.max(letter.attempt ?? 0, Number(cells[attempt] ?? ''));
      if (attempts > 0) letter.attempt = attempts;
      if ((cells[replayed] ?? '') !== '') letter.replayed = Number(cells[replayed]);
      return letter;
    };
  });
}

/** Ordered by device, code, type, version. */
export async function groupDeadLetters(
  queries: Queries,
  bucket: string,
  letters: DeadLetterQuery,
): Promise<DeadLetterGroup[]> {
  if (isEmpty(letters)) return [];
  const groups: DeadLetterGroup[] = [];
  for (const devices of deviceParts(letters)) {
    const query = new FluxQuery();
    query.flux = `${selectKept(query, bucket, letters, devices, [OFFSET_FIELD])}
      |> group(columns: ["device", "code", "type", "type_version"])
      |> reduce(
        identity: {count: 0, open: 0, oldest: ${query.int(Number.MAX_SAFE_INTEGER)}, newest: 0},
        fn: (r, accumulator) => {
          ms = int(v: r._time) / 1000000
          return {
            count: accumulator.count + 1,
            open: accumulator.open + (if exists r.${REPLAYED_FIELD} then 0 else 1),
            oldest: if ms < accumulator.oldest then ms else accumulator.oldest,
            newest: if ms > accumulator.newest then ms else accumulator.newest,
          }
        },
      )`;
    const rows = await queries.rows(query, (columns) => {
      const at = (name: string) => columns.indexOf(name);
      const [device, code, type, version] = [
        at('device'),
        at('code'),
        at('type'),
        at('type_version'),
      ];
      const [count, open] = [place(columns, 'count'), place(columns, 'open')];
      const [oldest, newest] = [place(columns, 'oldest'), place(columns, 'newest')];
      return (cells) => ({
        device: decodeTag(cells[device] ?? ''),
        code: decodeTag(cells[code] ?? ''),
        type: decodeTag(cells[type] ?? ''),
        typeVersion: decodeTag(cells[version] ?? ''),
        count: Number(cells[count]),
        open: Number(cells[open]),
        oldest: Number(cells[oldest]),
        newest: Number(cells[newest]),
      });
    });
    for (const row of rows) groups.push(row);
  }
  return groups.sort(
    (a, b) =>
      compare(a.device, b.device) ||
      compare(a.code, b.code) ||
      compare(a.type, b.type) ||
      compare(a.typeVersion, b.typeVersion),
  );
}

/** Counts by device and code, ordered by both, whatever became of the letters; `limit` does not apply. */
export async function countDeadLetters(
  queries: Queries,
  bucket: string,
  letters: DeadLetterQuery,
): Promise<{ device: string; code: string; count: number }[]> {
  const counts = new Map<string, { device: string; code: string; count: number }>();
  if (isEmpty(letters)) return [];
  for (const devices of deviceParts(letters)) {
    const query = new FluxQuery();
    query.flux = `${select(query, bucket, letters, devices, [OFFSET_FIELD])}
      |> count()
      |> keep(columns: ["_value", "device", "code", "partition"])`;
    const rows = await queries.rows(query, (columns) => {
      const device = place(columns, 'device');
      const code = columns.indexOf('code');
      const value = place(columns, '_value');
      return (cells) => ({
        device: decodeTag(cells[device] ?? ''),
        code: decodeTag(cells[code] ?? ''),
        count: Number(cells[value]),
      });
    });
    for (const row of rows) {
      const key = `${row.device} ${row.code}`;
      const known = counts.get(key);
      if (known === undefined) counts.set(key, row);
      else known.count += row.count;
    }
  }
  return [...counts.values()]
    .filter(({ count }) => count > 0)
    .sort((a, b) => compare(a.device, b.device) || compare(a.code, b.code));
}

function isEmpty({ from, to, devices }: DeadLetterQuery): boolean {
  return !(from < to) || devices?.length === 0;
}

function deviceParts({ devices }: DeadLetterQuery): (readonly string[] | undefined)[] {
  if (devices === undefined) return [undefined];
  return chunks([...new Set(devices)].map(encodeTag), DEVICES_PER_QUERY);
}

/** The points, of the named fields alone. */
function select(
  query: FluxQuery,
  bucket: string,
  { tenant, code, type, typeVersion, from, to }: DeadLetterQuery,
  devices: readonly string[] | undefined,
  fields: readonly string[],
): string {
  let conditions = '';
  for (const [tag, value] of Object.entries({ code, type, type_version: typeVersion })) {
    if (value === '') conditions += ` and not exists r.${tag}`;
    else if (value !== undefined) conditions += ` and r.${tag} == ${query.text(encodeTag(value))}`;
  }
  return `from(bucket: ${query.text(bucket)})
    |> range(start: ${query.time(from)}, stop: ${query.time(to)})
    |> filter(fn: (r) => r._measurement == ${query.text(LETTER_MEASUREMENT)}
      and r.tenant == ${query.text(encodeTag(tenant))}${conditions} and ${query.anyOf('_field', fields)}${deviceCondition(query, devices)})`;
}

/** One row for each letter that was not purged and has the state that is asked for. */
function selectKept(
  query: FluxQuery,
  bucket: string,
  letters: DeadLetterQuery,
  devices: readonly string[] | undefined,
  fields: readonly string[],
): string {
  const { state } = letters;
  const ofState =
    state === undefined ? '' : ` and ${state === 'open' ? 'not ' : ''}exists r.${REPLAYED_FIELD}`;
  // A mark whose letter is gone has no offset.
  return `${select(query, bucket, letters, devices, [...fields, REPLAYED_FIELD, PURGED_FIELD])}
    |> drop(columns: ["_start", "_stop", "_measurement", "tenant"])
    |> pivot(rowKey: ["_time"], columnKey: ["_field"], valueColumn: "_value")
    |> filter(fn: (r) => exists r.${OFFSET_FIELD} and not exists r.${PURGED_FIELD}${ofState})`;
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
