import { SpillwayError } from '../../core/errors.ts';
import type { LedgerCount } from '../../core/nouns.ts';
import type { RecountQuery } from '../contract.ts';
import { FluxQuery, parseTime } from './flux.ts';
import { LETTER_MEASUREMENT, OFFSET_FIELD } from './letter-point.ts';
import { decodeTag, encodeTag } from './line-protocol.ts';
import { place, type Queries, type RowMaker } from './queries.ts';
import { ORIGIN_FIELD, parseCreator } from './raw-origin.ts';

/** Counts rows of raw readings and dead letters by hour of gateway time: a look at each of them. */

const HOUR_MS = 3_600_000;
/** Spans that are asked for at a time; one whose answer is too large is halved, down to this. */
const SPAN_MS = 24 * HOUR_MS;
const SPAN_MIN_MS = 1_000;

export interface RecountBuckets {
  raw: string;
  deadLetters: string;
}

/** Nothing stands in the buckets before `keptFrom`, ms. */
export async function recount(
  queries: Queries,
  buckets: RecountBuckets,
  query: RecountQuery,
  keptFrom: { raw: number; deadLetters: number },
): Promise<LedgerCount[]> {
  const tally = new Tally(query);
  for (const [from, to] of spans(Math.max(keptFrom.raw, query.tsFrom), query.tsTo)) {
    await eachHalf(from, to, (a, b) => countRows(queries, buckets.raw, query, a, b, tally));
  }
  for (const [from, to] of spans(Math.max(keptFrom.deadLetters, query.from), query.to)) {
    await eachHalf(from, to, (a, b) =>
      countLetters(queries, buckets.deadLetters, query, a, b, tally),
    );
  }
  return tally.lines();
}

class Tally {
  private readonly query: RecountQuery;
  private counts = new Map<string, LedgerCount>();

  constructor(query: RecountQuery) {
    this.query = query;
  }

  add(
    outcome: 'stored' | 'deadLetter',
    row: { device: string; code: string; received: number; partition: number; offset: number },
  ): void {
    const { tenant, from, to, before } = this.query;
    const { device, code, received, partition, offset } = row;
    if (received < from || received >= to || offset >= (before.get(partition) ?? 0)) return;
    const hour = Math.floor(received / HOUR_MS) * HOUR_MS;
    const key = `${device}/${hour}/${outcome}/${code}`;
    const known = this.counts.get(key);
    if (known !== undefined) known.count += 1;
    else this.counts.set(key, { tenant, device, hour, outcome, code, count: 1 });
  }

  /** What a span adds counts as a whole or not at all: an answer that was too large is asked for again. */
  async whole(work: (tally: Tally) => Promise<void>): Promise<void> {
    const part = new Tally(this.query);
    await work(part);
    for (const [key, line] of part.counts) {
      const known = this.counts.get(key);
      if (known === undefined) this.counts.set(key, line);
      else known.count += line.count;
    }
  }

  lines(): LedgerCount[] {
    return [...this.counts.values()];
  }
}

function* spans(from: number, to: number): Generator<[number, number]> {
  for (let at = from; at < to; ) {
    const next = Math.min(to, Math.floor(at / SPAN_MS) * SPAN_MS + SPAN_MS);
    yield [at, next];
    at = next;
  }
}

async function eachHalf(
  from: number,
  to: number,
  work: (from: number, to: number) => Promise<void>,
): Promise<void> {
  try {
    await work(from, to);
  } catch (error) {
    const isTooLarge = error instanceof SpillwayError && error.code === 'QUERY_TOO_LARGE';
    if (!isTooLarge || to - from <= SPAN_MIN_MS) throw error;
    const middle = Math.floor((from + to) / 2);
    await eachHalf(from, middle, work);
    await eachHalf(middle, to, work);
  }
}

async function countRows(
  queries: Queries,
  bucket: string,
  { tenant }: RecountQuery,
  from: number,
  to: number,
  tally: Tally,
): Promise<void> {
  const query = new FluxQuery();
  query.flux = `from(bucket: ${query.text(bucket)})
    |> range(start: ${query.time(from)}, stop: ${query.time(to)})
    |> filter(fn: (r) => r.tenant == ${query.text(tenant)} and r._field == ${query.text(ORIGIN_FIELD)})
    |> keep(columns: ["_value", "device"])`;
  await tally.whole(async (part) => {
    await queries.rows(
      query,
      counting((columns) => {
        const [device, value] = [place(columns, 'device'), place(columns, '_value')];
        return (cells) =>
          part.add('stored', {
            device: cells[device] ?? '',
            code: '',
            ...parseCreator(cells[value] ?? ''),
          });
      }),
    );
  });
}

async function countLetters(
  queries: Queries,
  bucket: string,
  { tenant }: RecountQuery,
  from: number,
  to: number,
  tally: Tally,
): Promise<void> {
  const query = new FluxQuery();
  query.flux = `from(bucket: ${query.text(bucket)})
    |> range(start: ${query.time(from)}, stop: ${query.time(to)})
    |> filter(fn: (r) => r._measurement == ${query.text(LETTER_MEASUREMENT)}
      and r.tenant == ${query.text(encodeTag(tenant))} and r._field == ${query.text(OFFSET_FIELD)})
    |> keep(columns: ["_time", "_value", "device", "code", "partition"])`;
  await tally.whole(async (part) => {
    await queries.rows(
      query,
      counting((columns) => {
        const [device, code] = [place(columns, 'device'), columns.indexOf('code')];
        const [time, offset] = [place(columns, '_time'), place(columns, '_value')];
        const partition = place(columns, 'partition');
        return (cells) =>
          part.add('deadLetter', {
            device: decodeTag(cells[device] ?? ''),
            code: decodeTag(cells[code] ?? ''),
            received: parseTime(cells[time] ?? '').ms,
            partition: Number(cells[partition]),
            offset: Number(cells[offset]),
          });
      }),
    );
  });
}

/** Rows that are counted, not kept. */
function counting(
  make: (columns: readonly string[]) => (cells: readonly string[]) => void,
): RowMaker<never> {
  return (columns) => {
    const count = make(columns);
    return (cells) => {
      count(cells);
      return undefined;
    };
  };
}
