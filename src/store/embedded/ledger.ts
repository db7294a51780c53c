import { setImmediate as nextTurn } from 'node:timers/promises';
import type { LedgerCount, Outcome } from '../../core/nouns.ts';
import type { LedgerQuery, Progress } from '../contract.ts';
import { deviceIds } from './device-ids.ts';
import { LEDGER_FILE } from './files.ts';
import type { OpenFiles } from './open-files.ts';
import { NOTE_TABLE, SOURCE_TABLE } from './schema.ts';
import type { SqliteFile } from './sqlite-file.ts';

const POSITION = 'SELECT next_offset FROM position WHERE consumer = ? AND partition = ?';
const MOVE = `INSERT INTO position(consumer, partition, next_offset) VALUES (?, ?, ?)
  ON CONFLICT DO UPDATE SET next_offset = excluded.next_offset`;
const ADD = `INSERT INTO ledger(device, hour, outcome, code, count) VALUES (?, ?, ?, ?, ?)
  ON CONFLICT DO UPDATE SET count = count + excluded.count`;
const ADD_TOTAL = `INSERT INTO total(device, outcome, count) VALUES (?, ?, ?)
  ON CONFLICT DO UPDATE SET count = count + excluded.count`;
const NUMBER = `INSERT INTO source(consumer, partition, source, number) VALUES (?, ?, ?, ?)
  ON CONFLICT DO UPDATE SET number = excluded.number`;

/** Adds ledger lines and moves the position in one transaction; nothing when already there. */
export function commitProgress(files: OpenFiles, progress: Progress): void {
  const { group, partition, nextOffset } = progress;
  files.write(LEDGER_FILE, (db) => {
    const stored = db.get<{ next_offset: number }>(POSITION, group, partition)?.next_offset;
    if (stored !== undefined && stored >= nextOffset) return;
    for (const line of progress.ledger) addLine(db, line);
    db.run(MOVE, group, partition, nextOffset);
    if (progress.sources !== undefined) setSources(db, group, partition, progress.sources);
  });
}

/** Sources that are not named keep their number. */
function setSources(
  db: SqliteFile,
  group: string,
  partition: number,
  sources: ReadonlyMap<string, number>,
): void {
  db.run(SOURCE_TABLE);
  for (const [source, number] of sources) db.run(NUMBER, group, partition, source, number);
}

/** In one transaction. */
export function writeNotes(
  files: OpenFiles,
  group: string,
  partition: number,
  notes: readonly string[],
): void {
  files.write(LEDGER_FILE, (db) => {
    db.run(NOTE_TABLE);
    db.run('DELETE FROM note WHERE consumer = ? AND partition = ?', group, partition);
    notes.forEach((text, number) => {
      db.run('INSERT INTO note VALUES (?, ?, ?, ?)', group, partition, number, text);
    });
  });
}

export function queryNotes(files: OpenFiles, group: string): Map<number, string[]> {
  const rows = files.read(LEDGER_FILE, (db) => {
    if (!hasTable(db, 'note')) return [];
    return db.all<{ partition: number; text: string }>(
      'SELECT partition, text FROM note WHERE consumer = ? ORDER BY partition, number',
      group,
    );
  });
  const notes = new Map<number, string[]>();
  for (const { partition, text } of rows ?? []) {
    notes.set(partition, [...(notes.get(partition) ?? []), text]);
  }
  return notes;
}

function hasTable(db: SqliteFile, name: string): boolean {
  const sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name = ?";
  return db.get(sql, name) !== undefined;
}

function addLine(db: SqliteFile, line: LedgerCount): void {
  const device = deviceIds(db).obtain(line.tenant, line.device);
  db.run(ADD, device, line.hour, line.outcome, line.code, line.count);
  db.run(ADD_TOTAL, device, line.outcome, line.count);
}

/** Devices whose old lines are dropped in one transaction. */
const FORGET_STEP = 500;

/**
 * Drops the lines of hours before `cutoff`, ms, a few devices at a time; the position stays. Running
 * totals go on: they are as many as there are devices.
 */
export async function forgetLedger(files: OpenFiles, cutoff: number): Promise<number> {
  let dropped = 0;
  let last = 0;
  for (;;) {
    const ids = files.read(LEDGER_FILE, (db) =>
      db.all<{ id: number }>(
        'SELECT id FROM device WHERE id > ? ORDER BY id LIMIT ?',
        last,
        FORGET_STEP,
      ),
    );
    const end = ids?.at(-1)?.id;
    if (end === undefined) return dropped;
    dropped += files.write(LEDGER_FILE, (db) =>
      db.run(
        `DELETE FROM ledger WHERE device IN (SELECT id FROM device WHERE id > ? AND id <= ?)
         AND hour < ?`,
        last,
        end,
        cutoff,
      ),
    );
    last = end;
    await nextTurn();
  }
}

/** Ordered by tenant, device, hour, outcome, code. */
export function queryLedger(files: OpenFiles, query: LedgerQuery): LedgerCount[] {
  const { where, params } = filter(query);
  const sql = `SELECT tenant, device.device, hour, outcome, code, count
    FROM device JOIN ledger ON ledger.device = device.id WHERE ${where}
    ORDER BY tenant, device.device, hour, outcome, code LIMIT ?`;
  return (
    files.read(LEDGER_FILE, (db) =>
      // Fresh objects: rows of SQLite have no prototype.
      db.all<LedgerCount>(sql, ...params, query.limit ?? -1).map((row) => ({ ...row })),
    ) ?? []
  );
}

/** Sums by outcome. Without a range of hours they come from running totals, not from all lines. */
export function queryLedgerTotals(files: OpenFiles, query: LedgerQuery): Map<Outcome, number> {
  const { where, params } = filter(query);
  const lines = query.from === undefined && query.to === undefined ? 'total' : 'ledger';
  const sql = `SELECT outcome, sum(count) AS count
    FROM device JOIN ${lines} AS lines ON lines.device = device.id WHERE ${where}
    GROUP BY outcome ORDER BY outcome`;
  const rows = files.read(LEDGER_FILE, (db) =>
    db.all<{ outcome: Outcome; count: number }>(sql, ...params),
  );
  return new Map((rows ?? []).map(({ outcome, count }) => [outcome, count]));
}

function filter({ tenant, device, from, to }: LedgerQuery): {
  where: string;
  params: (string | number)[];
} {
  const params: (string | number)[] = [];
  let where = 'true';
  const add = (condition: string, value: string | number | undefined): void => {
    if (value === undefined) return;
    where += ` AND ${condition}`;
    params.push(value);
  };
  add('device.tenant = ?', tenant);
  add('device.device = ?', device);
  add('hour >= ?', from);
  add('hour < ?', to);
  return { where, params };
}

/** Next offset to process by partition. */
export function queryPosition(files: OpenFiles, group: string): Map<number, number> {
  const sql = 'SELECT partition, next_offset FROM position WHERE consumer = ? ORDER BY partition';
  const rows = files.read(LEDGER_FILE, (db) =>
    db.all<{ partition: number; next_offset: number }>(sql, group),
  );
  return new Map((rows ?? []).map((row) => [row.partition, row.next_offset]));
}

/** The last number processed by partition and source. */
export function querySources(files: OpenFiles, group: string): Map<number, Map<string, number>> {
  const rows = files.read(LEDGER_FILE, (db) => {
    if (!hasTable(db, 'source')) return [];
    const sql = `SELECT partition, source, number FROM source WHERE consumer = ?
      ORDER BY partition, source`;
    return db.all<{ partition: number; source: string; number: number }>(sql, group);
  });
  const partitions = new Map<number, Map<string, number>>();
  for (const { partition, source, number } of rows ?? []) {
    const sources = partitions.get(partition) ?? new Map<string, number>();
    partitions.set(partition, sources.set(source, number));
  }
  return partitions;
}
