import type { RangeQuery } from '../contract.ts';
import type { FileKind, StoreFile } from './files.ts';

/** Byte order for names, which are ASCII; the order of SQLite's BINARY collation. */
export function compareText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** Files of a kind that may hold times in `[from, to)`. */
export function overlapping(
  files: readonly StoreFile[],
  kind: FileKind,
  range: Pick<RangeQuery, 'from' | 'to'>,
): StoreFile[] {
  return files.filter(
    (file) => file.kind === kind && file.start < range.to && file.end > range.from,
  );
}

export interface OrderedWalk<Row> {
  /** Oldest span first. */
  files: readonly StoreFile[];
  limit: number | undefined;
  /** By series, then time. */
  compare: (a: Row, b: Row) => number;
  /**
   * The first `limit` rows of a file in order. When `before` is given, only series that sort before
   * that of `before` are of use.
   */
  fetch: (file: StoreFile, limit: number, before: Row | undefined) => Row[];
}

/**
 * The first `limit` rows over all files, ordered by series, then time. Holds at most twice the
 * limit. Once the limit is reached, a later file can only add to series before the last one kept,
 * because its times come after all times that were seen.
 */
export function rowsInOrder<Row>({ files, limit, compare, fetch }: OrderedWalk<Row>): Row[] {
  const max = limit ?? Number.POSITIVE_INFINITY;
  if (max <= 0) return [];
  let rows: Row[] = [];
  for (const file of files) {
    const before = rows.length >= max ? rows.at(-1) : undefined;
    const found = fetch(file, max, before);
    if (found.length === 0) continue;
    // Two sorted runs, which the sort recognises and merges.
    rows = rows.length === 0 ? found : rows.concat(found).sort(compare);
    if (rows.length > max) rows.length = max;
  }
  return rows;
}
