import type { DeadLetterQuery, StoredDeadLetter } from '../contract.ts';
import { chunks, FluxQuery, parseTime } from './flux.ts';
import { decodeTag, encodeTag, isLegalName, textValue } from './line-protocol.ts';
import { isExpired, type LineWriter } from './line-writer.ts';
import { place, type Queries } from './queries.ts';
import { DEVICES_PER_QUERY, deviceCondition } from './raw-times.ts';

export const LETTER_MEASUREMENT = 'dead_letter';
/** Everything that is no tag, in JSON. */
const LETTER_FIELD = 'letter';
/** Small, for counting and sorting. */
const OFFSET_FIELD = 'offset';

/** The ns within a ms tell letters of one device and time apart: the last digits of their offset. */
const NS_PER_MS = 1_000_000;

export async function writeDeadLetters(
  lines: LineWriter,
  bucket: string,
  letters: readonly StoredDeadLetter[],
): Promise<void> {
  const latest = new Map(letters.map((one) => [`${one.partition}/${one.offset}`, one]));
  const written = [...latest.values()];
  const rejected = await lines.write(bucket, 'ns', written.map(letterLine));
  const fault = rejected.find((one) => !isExpired(one));
  if (fault === undefined) return;
  const { partition, offset } = written[fault.index] ?? {};
  throw new Error(`InfluxDB refuses the dead letter ${partition}/${offset}: ${fault.message}`);
}

function letterLine(letter: StoredDeadLetter): string {
  const { tenant, device, code, partition, offset, received, ...rest } = letter;
  if (!isLegalName(tenant) || !isLegalName(device)) {
    throw new RangeError(`${tenant}/${device} is no legal name of a device`);
  }
  const text = JSON.stringify(rest).replaceAll('\u007f', '\\u007f');
  // InfluxDB knows no empty tags.
  const ofCode = code === '' ? '' : `code=${encodeTag(code)},`;
  const tags = `${ofCode}device=${device},partition=${partition},tenant=${tenant}`;
  // biome-ignore lint/suspicious/noControlCharactersInRegex: a table in a chart shows plain text
  const message = letter.message.toWellFormed().replaceAll(/[\u0000-\u001f\u007f]/g, ' ');
  const fields = `${LETTER_FIELD}=${textValue(text)},message=${textValue(message)},${OFFSET_FIELD}=${offset}i`;
  const ns = String(offset % NS_PER_MS).padStart(6, '0');
  return `${LETTER_MEASUREMENT},${tags} ${fields} ${received}${ns}`;
}

/** Newest first; at the same time the higher partition and offset first. */
export async function queryDeadLetters(
  queries: Queries,
  bucket: string,
  query: DeadLetterQuery,
): Promise<StoredDeadLetter[]> {
  const { limit } = query;
  if (isEmpty(query) || limit === 0) return [];
  const found: StoredDeadLetter[] = [];
  for (const devices of deviceParts(query)) {
    const from =
      limit === undefined ? query.from : await timeOfLast(queries, bucket, query, devices, limit);
    if (from === undefined) continue;
    const letters = await fetchLetters(queries, bucket, { ...query, from }, devices);
    for (const letter of letters) found.push(letter);
  }
  found.sort((a, b) => b.received - a.received || b.partition - a.partition || b.offset - a.offset);
  return limit === undefined ? found : found.slice(0, limit);
}

/** Gateway time of the last letter within the limit, from the small field: letters themselves are large. */
async function timeOfLast(
  queries: Queries,
  bucket: string,
  letters: DeadLetterQuery,
  devices: readonly string[] | undefined,
  limit: number,
): Promise<number | undefined> {
  const query = new FluxQuery();
  query.flux = `${select(query, bucket, letters, devices, OFFSET_FIELD)}
    |> keep(columns: ["_time"])
    |> group()
    |> sort(columns: ["_time"], desc: true)
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
  query.flux = `${select(query, bucket, letters, devices, undefined)}
    |> filter(fn: (r) => r._field == ${query.text(LETTER_FIELD)} or r._field == ${query.text(OFFSET_FIELD)})
    |> drop(columns: ["_start", "_stop", "_measurement", "tenant"])
    |> pivot(rowKey: ["_time"], columnKey: ["_field"], valueColumn: "_value")`;
  return queries.rows(query, (columns) => {
    const [time, device] = [place(columns, '_time'), place(columns, 'device')];
    const code = columns.indexOf('code');
    const [partition, text, offset] = [
      place(columns, 'partition'),
      place(columns, LETTER_FIELD),
      place(columns, OFFSET_FIELD),
    ];
    return (cells) => ({
      ...(JSON.parse(cells[text] ?? '') as Omit<StoredDeadLetter, 'tenant' | 'device' | 'code'>),
      tenant: letters.tenant,
      device: cells[device] ?? '',
      code: decodeTag(cells[code] ?? ''),
      received: parseTime(cells[time] ?? '').ms,
      partition: Number(cells[partition]),
      offset: Number(cells[offset]),
    });
  });
}

/** Counts by device and code, ordered by both; `limit` does not apply. */
export async function countDeadLetters(
  queries: Queries,
  bucket: string,
  letters: DeadLetterQuery,
): Promise<{ device: string; code: string; count: number }[]> {
  const counts = new Map<string, { device: string; code: string; count: number }>();
  if (isEmpty(letters)) return [];
  for (const devices of deviceParts(letters)) {
    const query = new FluxQuery();
    query.flux = `${select(query, bucket, letters, devices, OFFSET_FIELD)}
      |> count()
      |> keep(columns: ["_value", "device", "code", "partition"])`;
    const rows = await queries.rows(query, (columns) => {
      const device = place(columns, 'device');
      const code = columns.indexOf('code');
      const value = place(columns, '_value');
      return (cells) => ({
        device: cells[device] ?? '',
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
  return devices === undefined ? [undefined] : chunks([...new Set(devices)], DEVICES_PER_QUERY);
}

function select(
  query: FluxQuery,
  bucket: string,
  { tenant, code, from, to }: DeadLetterQuery,
  devices: readonly string[] | undefined,
  field: string | undefined,
): string {
  const onlyCode = code === undefined ? '' : ` and r.code == ${query.text(encodeTag(code))}`;
  const onlyField = field === undefined ? '' : ` and r._field == ${query.text(field)}`;
  return `from(bucket: ${query.text(bucket)})
    |> range(start: ${query.time(from)}, stop: ${query.time(to)})
    |> filter(fn: (r) => r._measurement == ${query.text(LETTER_MEASUREMENT)}
      and r.tenant == ${query.text(tenant)}${onlyCode}${onlyField}${deviceCondition(query, devices)})`;
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
