import { SpillwayError } from '../../core/errors.ts';
import { AnnotatedCsv } from './annotated-csv.ts';
import type { Connection } from './connection.ts';
import { InfluxQueryError, messageOf, statusOf } from './errors.ts';
import type { FluxQuery } from './flux.ts';

/** Columns of a section → what makes a row of its cells; undefined leaves the row out. */
export type RowMaker<Row> = (
  columns: readonly string[],
) => (cells: readonly string[]) => Row | undefined;

export interface QueriesOptions {
  connection: Connection;
  org: string;
  /** Bytes of one answer. */
  answerBytesMax: number;
}

/** Runs Flux. */
export class Queries {
  private readonly options: QueriesOptions;
  private readonly path: string;

  constructor(options: QueriesOptions) {
    this.options = options;
    this.path = `/api/v2/query?org=${encodeURIComponent(options.org)}`;
  }

  /**
   * Throws InfluxUnavailableError, InfluxQueryError, and QUERY_TOO_LARGE for an answer of more than
   * `bytesMax`, which may be below the configured bound. A bucket that is not there yet has no rows.
   */
  async rows<Row>(
    query: FluxQuery,
    make: RowMaker<Row>,
    bytesMax = Number.POSITIVE_INFINITY,
  ): Promise<Row[]> {
    const { connection } = this.options;
    const answerBytesMax = Math.min(bytesMax, this.options.answerBytesMax);
    const body = query.body();
    try {
      return await connection.query(async (send) => {
        const rows: Row[] = [];
        let bytes = 0;
        const csv = new AnnotatedCsv((columns) => {
          const maker = make(columns);
          return (cells) => {
            const row = maker(cells);
            if (row !== undefined) rows.push(row);
          };
        });
        await send({
          method: 'POST',
          path: this.path,
          headers: { 'content-type': 'application/json; charset=utf-8', accept: 'application/csv' },
          body,
          status: 200,
          onData: (piece) => {
            bytes += piece.length;
            if (bytes > answerBytesMax) throw tooLarge(answerBytesMax);
            csv.push(piece);
          },
        });
        csv.end();
        return rows;
      });
    } catch (error) {
      const status = statusOf(error) ?? statusOf((error as Error).cause);
      if (status === 404 && /could not find bucket|bucket .* not found/.test(messageOf(error))) {
        return [];
      }
      if (status === 400 || status === 422) {
        throw new InfluxQueryError(messageOf(error), { cause: error });
      }
      throw error;
    }
  }
}

function tooLarge(bytesMax: number): SpillwayError {
  return new SpillwayError('QUERY_TOO_LARGE', `InfluxDB's answer has more than ${bytesMax} bytes`);
}

/** Index of a column, which the query must have asked for. */
export function place(columns: readonly string[], name: string): number {
  const index = columns.indexOf(name);
  if (index < 0) throw new InfluxQueryError(`the answer has no column ${name}`);
  return index;
}
