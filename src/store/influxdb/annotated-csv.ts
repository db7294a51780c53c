import { InfluxQueryError } from './errors.ts';

/** Told of each section's columns; returns what takes its rows. */
export type SectionReader = (columns: readonly string[]) => (cells: readonly string[]) => void;

/**
 * Reads InfluxDB's annotated CSV as it comes. A section begins with `#datatype`, then come its header
 * and rows; a query that fails midway ends with a section of `error` and `reference`.
 */
export class AnnotatedCsv {
  private readonly section: SectionReader;
  private readonly decoder = new TextDecoder();
  private row: ((cells: readonly string[]) => void) | undefined;
  private rest = '';

  constructor(section: SectionReader) {
    this.section = section;
  }

  push(piece: Uint8Array): void {
    this.take(this.rest + this.decoder.decode(piece, { stream: true }));
  }

  end(): void {
    this.take(`${this.rest}${this.decoder.decode()}\n`);
  }

  private take(text: string): void {
    let at = 0;
    for (;;) {
      let end = text.indexOf('\n', at);
      if (end < 0) break;
      let cells: string[] | undefined;
      const quote = text.indexOf('"', at);
      if (quote < 0 || quote > end) cells = plainCells(text, at, end);
      else {
        const quoted = quotedCells(text, at);
        if (quoted === undefined) break;
        ({ cells, end } = quoted);
      }
      at = end + 1;
      if (cells === undefined) this.row = undefined;
      else this.line(cells);
    }
    this.rest = text.slice(at);
  }

  private line(cells: readonly string[]): void {
    if (cells[0]?.startsWith('#') === true) {
      this.row = undefined;
    } else if (this.row !== undefined) {
      this.row(cells);
    } else {
      this.row = isFailure(cells) ? fail : this.section(cells);
    }
  }
}

/** These columns alone: metrics may be called so, too. */
function isFailure(columns: readonly string[]): boolean {
  return columns.length <= 3 && columns.at(-2) === 'error' && columns.at(-1) === 'reference';
}

function fail(cells: readonly string[]): never {
  throw new InfluxQueryError(cells.at(-2) ?? 'the query failed');
}

/** Undefined for an empty line. */
function plainCells(text: string, at: number, end: number): string[] | undefined {
  const last = text.charCodeAt(end - 1) === 13 ? end - 1 : end;
  return last <= at ? undefined : text.slice(at, last).split(',');
}

/** Undefined when the line goes on in the next piece. */
function quotedCells(text: string, from: number): { cells: string[]; end: number } | undefined {
  const cells: string[] = [];
  let at = from;
  for (;;) {
    let cell = '';
    if (text.charCodeAt(at) === 34) {
      at += 1;
      for (;;) {
        const quote = text.indexOf('"', at);
        if (quote < 0) return undefined;
        cell += text.slice(at, quote);
        at = quote + 1;
        if (text.charCodeAt(at) !== 34) break;
        cell += '"';
        at += 1;
      }
    }
    const newline = text.indexOf('\n', at);
    if (newline < 0) return undefined;
    const comma = text.indexOf(',', at);
    const end = comma >= 0 && comma < newline ? comma : newline;
    cell += end === newline ? text.slice(at, end).replace(/\r$/, '') : text.slice(at, end);
    cells.push(cell);
    if (end === newline) return { cells, end };
    at = end + 1;
  }
}
