import { promisify } from 'node:util';
import { gzip } from 'node:zlib';
import type { Connection } from './connection.ts';
import { messageOf, statusOf, verdictOf } from './errors.ts';

const compress = promisify(gzip);

export interface LineWriterOptions {
  connection: Connection;
  org: string;
  /** Of one request. */
  batchLinesMax: number;
  /** Of one request before compression; a single line may be longer. */
  batchBytesMax: number;
  /** Requests under way at once. */
  concurrency: number;
  /** 0 to 9; 0 sends plain text. */
  gzipLevel: number;
}

/** A line that the database will never take. */
export interface RejectedLine {
  /** Index in the list that was to be written. */
  index: number;
  /** The database's own words. */
  message: string;
}

interface Batch {
  from: number;
  to: number;
}

/** Asked before each attempt of each request; what it throws ends the call. */
export type Admit = () => Promise<void>;

interface Target {
  path: string;
  admit: Admit | undefined;
}

interface Line {
  index: number;
  text: string;
}

/** What keeps a line out because it is older than the bucket keeps data; not a fault of the line. */
const EXPIRED = /outside retention policy|Retention Policy Lower Bound/;

/** True for a line that retention would drop at once. */
export function isExpired({ message }: RejectedLine): boolean {
  return EXPIRED.test(message);
}

/** Writes lines, in no particular order, so that each is durable or known to be refused. */
export class LineWriter {
  private readonly options: LineWriterOptions;
  private underWay = 0;
  private readonly waiting: (() => void)[] = [];

  constructor(options: LineWriterOptions) {
    this.options = options;
  }

  /**
   * Resolves when every line is durable but those returned. No two lines may have the same series and
   * time. Throws InfluxUnavailableError; any part may have been written then.
   */
  async write(
    bucket: string,
    precision: 'ms' | 'ns',
    lines: readonly string[],
    admit?: Admit,
  ): Promise<RejectedLine[]> {
    const { org, concurrency } = this.options;
    if (lines.length === 0) return [];
    const query = new URLSearchParams({ org, bucket, precision });
    const target = { path: `/api/v2/write?${query}`, admit };
    const batches = this.batches(lines);
    const rejected: RejectedLine[] = [];
    let next = 0;
    const work = async (): Promise<void> => {
      for (let batch = batches[next++]; batch !== undefined; batch = batches[next++]) {
        await this.enter();
        try {
          for (const one of await this.writeBatch(target, lines, batch)) rejected.push(one);
        } finally {
          this.leave();
        }
      }
    };
    const workers = Array.from({ length: Math.min(concurrency, batches.length) }, async () => {
      try {
        await work();
      } finally {
        // Ours was the last batch, or failed: then nobody begins another one.
        next = batches.length;
      }
    });
    // All have ended before this does: nothing is written behind the caller's back.
    const results = await Promise.allSettled(workers);
    for (const result of results) if (result.status === 'rejected') throw result.reason;
    return rejected.sort((a, b) => a.index - b.index);
  }

  /** Calls share the requests that may be under way. */
  private async enter(): Promise<void> {
    if (this.underWay < this.options.concurrency) this.underWay += 1;
    else await new Promise<void>((resolve) => this.waiting.push(resolve));
  }

  private leave(): void {
    const next = this.waiting.shift();
    if (next === undefined) this.underWay -= 1;
    else next();
  }

  private batches(lines: readonly string[]): Batch[] {
    const { batchLinesMax, batchBytesMax } = this.options;
    const batches: Batch[] = [];
    let from = 0;
    let bytes = 0;
    lines.forEach((text, to) => {
      // UTF-16 units stand for bytes: exact for names and numbers, at most three times too few for texts.
      if (to - from >= batchLinesMax || (bytes + text.length > batchBytesMax && to > from)) {
        batches.push({ from, to });
        from = to;
        bytes = 0;
      }
      bytes += text.length + 1;
    });
    batches.push({ from, to: lines.length });
    return batches;
  }

  private async writeBatch(
    target: Target,
    lines: readonly string[],
    { from, to }: Batch,
  ): Promise<RejectedLine[]> {
    const error = await this.attempt(target, lines.slice(from, to).join('\n'));
    if (error === undefined) return [];
    const sorted = lines
      .slice(from, to)
      .map((text, index) => ({ index: from + index, text }))
      .sort(bySeriesAndTime);
    return this.isolate(target, sorted, error);
  }

  /**
   * A refused batch is halved until what is refused stands alone: 413 says nothing was written, 400
   * nothing, 422 that the rest was. Which lines a message means is not to be learnt from it: with several
   * faults in one batch it reports one only (seen on 2.7.12). Lines with the same fault are neighbours in
   * the order of type and time, so few halves are mixed.
   */
  private async isolate(
    target: Target,
    lines: readonly Line[],
    error: unknown,
  ): Promise<RejectedLine[]> {
    const message = messageOf(error);
    if (lines.length === 1 || isWhole(error, message, lines.length)) {
      return lines.map(({ index }) => ({ index, message }));
    }
    const middle = lines.length >>> 1;
    const rejected: RejectedLine[] = [];
    for (const half of [lines.slice(0, middle), lines.slice(middle)]) {
      const again = await this.attempt(target, half.map(({ text }) => text).join('\n'));
      if (again !== undefined) rejected.push(...(await this.isolate(target, half, again)));
    }
    return rejected;
  }

  /** Returns the error when the database refuses the lines; throws all others. */
  private async attempt({ path, admit }: Target, text: string): Promise<unknown> {
    const { connection, gzipLevel } = this.options;
    const headers: Record<string, string> = { 'content-type': 'text/plain; charset=utf-8' };
    let body: string | Buffer = text;
    if (gzipLevel > 0) {
      // The client's own compression has level 6: 1.6 µs of CPU a reading against 0.5 with level 1.
      body = await compress(text, { level: gzipLevel });
      headers['content-encoding'] = 'gzip';
    }
    try {
      await connection.write({ method: 'POST', path, headers, body, status: 204 }, admit);
      return undefined;
    } catch (error) {
      if (verdictOf(error) !== 'refused') throw error;
      return error;
    }
  }
}

/** True when the database counted as many dropped points as there are. */
function isWhole(error: unknown, message: string, lines: number): boolean {
  return statusOf(error) === 422 && / dropped=(\d+)/.exec(message)?.[1] === String(lines);
}

function bySeriesAndTime(a: Line, b: Line): number {
  const types = compare(typeOf(a.text), typeOf(b.text));
  return types !== 0 ? types : timeOf(a.text) - timeOf(b.text);
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

function typeOf(line: string): string {
  return line.slice(0, line.indexOf(','));
}

function timeOf(line: string): number {
  return Number(line.slice(line.lastIndexOf(' ') + 1));
}
