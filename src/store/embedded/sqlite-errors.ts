import { SpillwayError } from '../../core/errors.ts';

/** Primary result codes, https://www.sqlite.org/rescode.html */
const SQLITE_BUSY = 5;
const SQLITE_CORRUPT = 11;
const SQLITE_NOTADB = 26;

/** The primary SQLite result code of an error of `node:sqlite`; undefined for other errors. */
function resultCode(error: unknown): number | undefined {
  if (!(error instanceof Error) || !('errcode' in error)) return undefined;
  return typeof error.errcode === 'number' ? error.errcode & 0xff : undefined;
}

export function isBusy(error: unknown): boolean {
  return resultCode(error) === SQLITE_BUSY;
}

/**
 * An error of SQLite in our terms, naming the file: STORE_CORRUPT, STORE_BUSY, or an `Error` with
 * SQLite's words (disk full, I/O error). Errors of other origin come back unchanged.
 */
export function storeError(error: unknown, path: string): unknown {
  const code = resultCode(error);
  if (code === undefined || !(error instanceof Error)) return error;
  const text = `${path}: ${error.message}`;
  if (code === SQLITE_CORRUPT || code === SQLITE_NOTADB) {
    return new SpillwayError('STORE_CORRUPT', text, { cause: error });
  }
  if (code === SQLITE_BUSY) return new SpillwayError('STORE_BUSY', text, { cause: error });
  return new Error(text, { cause: error });
}
