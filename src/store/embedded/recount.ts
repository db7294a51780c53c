import type { LedgerCount } from '../../core/nouns.ts';
import type { RecountQuery } from '../contract.ts';
import type { StoreFile } from './files.ts';
import type { OpenFiles } from './open-files.ts';
import { overlapping } from './ordered.ts';
import type { SqliteFile } from './sqlite-file.ts';

/** Counts rows of raw readings and dead letters by hour of gateway time, file by file: a look at all of them. */

const HOUR_MS = 3_600_000;
const HOUR = `received / ${HOUR_MS} * ${HOUR_MS}`;

interface Counted {
  device: string;
  hour: number;
  code: string;
  count: number;
}

export function recount(
  files: OpenFiles,
  listed: readonly StoreFile[],
  query: RecountQuery,
): LedgerCount[] {
  const { tenant } = query;
  const lines = new Map<string, LedgerCount>();
  const add = (outcome: 'stored' | 'deadLetter', rows: readonly Counted[] | undefined) => {
    for (const { device, hour, code, count } of rows ?? []) {
      const key = `${device}/${hour}/${outcome}/${code}`;
      const known = lines.get(key);
      if (known !== undefined) known.count += count;
      else lines.set(key, { tenant, device, hour, outcome, code, count });
    }
  };
  for (const file of overlapping(listed, 'raw', { from: query.tsFrom, to: query.tsTo })) {
    add(
      'stored',
      files.read(file, (db) => countRows(db, query)),
    );
  }
  for (const file of overlapping(listed, 'deadletters', query)) {
    add(
      'deadLetter',
      files.read(file, (db) => countLetters(db, query)),
    );
  }
  return [...lines.values()];
}

function countRows(db: SqliteFile, query: RecountQuery): Counted[] {
  const { sql, params } = isBefore(query);
  return db.all<Counted>(
    `SELECT device.device, ${HOUR} AS hour, '' AS code, count(*) AS count
     FROM device JOIN reading ON reading.device = device.id
     WHERE tenant = ? AND received >= ? AND received < ? AND ${sql}
     GROUP BY device.id, hour`,
    ...[query.tenant, query.from, query.to, ...params],
  );
}

function countLetters(db: SqliteFile, query: RecountQuery): Counted[] {
  const { sql, params } = isBefore(query);
  return db.all<Counted>(
    `SELECT device, ${HOUR} AS hour, code, count(*) AS count FROM letter
     WHERE tenant = ? AND received >= ? AND received < ? AND ${sql}
     GROUP BY device, hour, code`,
    ...[query.tenant, query.from, query.to, ...params],
  );
}

/** A text for each number of partitions. */
function isBefore({ before }: RecountQuery): { sql: string; params: number[] } {
  const cases = 'WHEN ? THEN ? '.repeat(before.size);
  if (before.size === 0) return { sql: 'false', params: [] };
  return { sql: `offset < CASE partition ${cases}ELSE 0 END`, params: [...before].flat() };
}
