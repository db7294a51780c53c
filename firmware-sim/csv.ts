import { createReadStream } from 'node:fs';
import { InputError } from './yaml-file.ts';

/** A quoted field may span lines, so a missing quote must not swallow the file. */
const RECORD_CHARS_MAX = 64 * 1024;

/** One record of a CSV file. */
export interface CsvRecord {
  /** Line of the file where it begins, from 1. */
  line: number;
  fields: string[];
}

/**
 * Reads CSV (RFC 4180: quotes, doubled quotes, line breaks in quotes; CRLF or LF; a BOM is skipped; blank
 * lines are skipped) record by record, so that a file may be larger than memory.
 * @throws InputError when the file can't be read or a record is longer than 64 Ki characters
 */
export async function* readCsv(path: string): AsyncGenerator<CsvRecord> {
  const splitter = new RecordSplitter(path);
  const stream = createReadStream(path, { encoding: 'utf8' });
  try {
    for await (const chunk of stream) yield* splitter.feed(String(chunk));
  } catch (error) {
    if (error instanceof InputError) throw error;
    throw new InputError(`${path}: cannot be read: ${(error as Error).message}`);
  }
  yield* splitter.end();
}

class RecordSplitter {
  readonly #path: string;
  #fields: string[] = [];
  #field = '';
  #chars = 0;
  #line = 1;
  #recordLine = 1;
  #quoted = false;
  #quoteSeen = false;
  #first = true;

  constructor(path: string) {
    this.#path = path;
  }

  *feed(chunk: string): Generator<CsvRecord> {
    for (const char of this.#first ? chunk.replace(/^\uFEFF/, '') : chunk) {
      if (char === '\n') this.#line++;
      if (++this.#chars > RECORD_CHARS_MAX) {
        throw new InputError(
          `${this.#path}:${this.#recordLine}: expected a record of at most ${RECORD_CHARS_MAX} characters (a quote not closed?)`,
        );
      }
      if (this.#quoted) {
        if (char !== '"') this.#field += char;
        else {
          this.#quoted = false;
          this.#quoteSeen = true;
        }
      } else if (char === '"' && this.#quoteSeen) {
        this.#field += '"';
        this.#quoted = true;
      } else if (char === '"' && this.#field === '') {
        this.#quoted = true;
      } else if (char === ',') {
        this.#endField();
      } else if (char === '\n') {
        yield* this.#endRecord();
      } else if (char !== '\r') {
        this.#field += char;
      }
    }
    this.#first = false;
  }

  *end(): Generator<CsvRecord> {
    if (this.#quoted) {
      throw new InputError(`${this.#path}:${this.#recordLine}: expected a closing quote`);
    }
    yield* this.#endRecord();
  }

  #endField(): void {
    this.#fields.push(this.#field);
    this.#field = '';
    this.#quoteSeen = false;
  }

  *#endRecord(): Generator<CsvRecord> {
    const blank = this.#fields.length === 0 && this.#field === '' && !this.#quoteSeen;
    this.#endField();
    const record = { line: this.#recordLine, fields: this.#fields };
    this.#fields = [];
    this.#chars = 0;
    this.#recordLine = this.#line;
    if (!blank) yield record;
  }
}
