import { readdirSync } from 'node:fs';

/**
 * Names and spans of the store's files. A file holds one span of time, so that retention drops
 * whole files and a query opens only files that overlap its range.
 */

const HOUR_MS = 3_600_000;
export const DAY_MS = 24 * HOUR_MS;

/** First and last time that a file name can carry: 1970-01-01 to 9999-12-31. */
export const TIME_MIN = 0;
export const TIME_MAX = 253_402_300_799_999;

export type FileKind = 'raw' | 'rollup' | 'deadletters' | 'ledger';

export interface StoreFile {
  name: string;
  kind: FileKind;
  /** Window of the rollups in it, ms; 0 for the other kinds. */
  windowMs: number;
  /** The span, ms since the epoch, `[start, end)`. */
  start: number;
  end: number;
}

export const LEDGER_FILE: StoreFile = {
  name: 'ledger.db',
  kind: 'ledger',
  windowMs: 0,
  start: TIME_MIN,
  end: TIME_MAX,
};

/** Name of the file that the writer locks; it stays empty. */
export const LOCK_FILE = 'lock.db';

/** The file of the UTC day that holds `ms`; of event time for `raw`, of gateway time for `deadletters`. */
export function dayFile(kind: 'raw' | 'deadletters', ms: number): StoreFile {
  const start = Math.floor(ms / DAY_MS) * DAY_MS;
  const day = new Date(start).toISOString().slice(0, 10);
  return { name: `${kind}-${day}.db`, kind, windowMs: 0, start, end: start + DAY_MS };
}

/** The file of rollups of `windowMs` that begin at `ms`: a UTC day, month or year, by the window's size. */
export function rollupFile(windowMs: number, ms: number): StoreFile {
  const date = new Date(ms);
  const year = date.getUTCFullYear();
  const month = date.getUTCMonth();
  if (windowMs < HOUR_MS) {
    const start = Math.floor(ms / DAY_MS) * DAY_MS;
    return rollupSpan(windowMs, date.toISOString().slice(0, 10), start, start + DAY_MS);
  }
  if (windowMs < DAY_MS) {
    const text = date.toISOString().slice(0, 7);
    return rollupSpan(windowMs, text, Date.UTC(year, month, 1), Date.UTC(year, month + 1, 1));
  }
  const text = date.toISOString().slice(0, 4);
  return rollupSpan(windowMs, text, Date.UTC(year, 0, 1), Date.UTC(year + 1, 0, 1));
}

function rollupSpan(windowMs: number, text: string, start: number, end: number): StoreFile {
  return { name: `rollup-${windowMs}-${text}.db`, kind: 'rollup', windowMs, start, end };
}

const DAY_NAME = /^(raw|deadletters)-(\d{4}-\d\d-\d\d)\.db$/;
const ROLLUP_NAME = /^rollup-(\d{1,15})-(\d{4}(?:-\d\d){0,2})\.db$/;

/** What names stand for: every query lists the directory. */
const PARSED = new Map<string, StoreFile | undefined>();
const PARSED_MAX = 50_000;

/** The file that a name stands for; undefined for names that are not ours or are not canonical. */
export function parseFileName(name: string): StoreFile | undefined {
  const known = PARSED.get(name);
  if (known !== undefined || PARSED.has(name)) return known;
  const file = parsed(name);
  if (PARSED.size >= PARSED_MAX) PARSED.clear();
  PARSED.set(name, file);
  return file;
}

function parsed(name: string): StoreFile | undefined {
  if (name === LEDGER_FILE.name) return LEDGER_FILE;
  const day = DAY_NAME.exec(name);
  const rollup = day === null ? ROLLUP_NAME.exec(name) : null;
  const time = Date.parse(day?.[2] ?? rollup?.[2] ?? '');
  if (!Number.isFinite(time) || time < TIME_MIN) return undefined;
  const file =
    day !== null
      ? dayFile(day[1] as 'raw' | 'deadletters', time)
      : rollupFile(Number(rollup?.[1]), time);
  return file.name === name ? file : undefined;
}

/** All names in the directory; none when it does not exist (yet). */
export function listNames(dir: string): string[] {
  try {
    return readdirSync(dir);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}

/** The store's files in a directory, oldest span first. */
export function listFiles(dir: string): StoreFile[] {
  const files: StoreFile[] = [];
  for (const name of listNames(dir)) {
    const file = parseFileName(name);
    if (file !== undefined) files.push(file);
  }
  return files.sort((a, b) => a.start - b.start || (a.name < b.name ? -1 : 1));
}
