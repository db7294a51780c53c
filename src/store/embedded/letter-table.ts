import type { DeadLetterQuery } from '../contract.ts';
import { LETTER_COLUMNS } from './schema.ts';
import type { SqliteFile } from './sqlite-file.ts';

/** The table of dead letters, whose file an earlier release may have made. */

const HAS_COLUMNS = "SELECT 1 FROM pragma_table_info('letter') WHERE name = 'purged'";
const ABSENT = LETTER_COLUMNS.map((column) => `NULL AS ${column.split(' ')[0]}`).join(', ');

/** What to select from: the table, or the table with the columns that its file lacks. */
export function letterTable(db: SqliteFile): string {
  return db.get(HAS_COLUMNS) === undefined ? `(SELECT *, ${ABSENT} FROM letter)` : 'letter';
}

/** Adds the columns that the file lacks; within the transaction of a write. */
export function completeLetterTable(db: SqliteFile): void {
  if (db.get(HAS_COLUMNS) !== undefined) return;
  for (const column of LETTER_COLUMNS) db.run(`ALTER TABLE letter ADD COLUMN ${column}`);
}

export interface Condition {
  where: string;
  params: (string | number)[];
}

/** A constant text for each set of filters. `device`: undefined for all of them. */
export function letterCondition(
  { tenant, code, type, typeVersion, state, from, to }: DeadLetterQuery,
  device: string | undefined,
): Condition {
  let where = 'tenant = ?';
  const params: (string | number)[] = [tenant];
  const add = (condition: string, value: string | undefined): void => {
    if (value === undefined) return;
    where += ` AND ${condition}`;
    params.push(value);
  };
  add('device = ?', device);
  add('code = ?', code);
  add('type = ?', type);
  add("coalesce(type_version, '') = ?", typeVersion);
  if (state !== undefined) where += ` AND replayed IS ${state === 'open' ? '' : 'NOT '}NULL`;
  params.push(from, to);
  return { where: `${where} AND received >= ? AND received < ?`, params };
}

/** Each device named, or once `undefined` for all devices. */
export function deviceFilters({ devices }: DeadLetterQuery): (string | undefined)[] {
  return devices === undefined ? [undefined] : [...new Set(devices)];
}
