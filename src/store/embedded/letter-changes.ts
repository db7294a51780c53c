import type { DevicePurge, LetterMark } from '../contract.ts';
import { dayFile, listFiles, type StoreFile } from './files.ts';
import { completeLetterTable, letterCondition } from './letter-table.ts';
import type { OpenFiles } from './open-files.ts';
import { overlapping } from './ordered.ts';
import type { SqliteFile } from './sqlite-file.ts';

/** What happens to dead letters that are stored: replays are noted, contents are purged. */

const MARK = `UPDATE letter SET attempt = max(coalesce(attempt, 0), ?),
  replayed = coalesce(replayed, ?) WHERE partition = ? AND offset = ?`;
const EMPTY = `message = '', path = NULL, expected = NULL, actual = NULL, topic = '',
  payload = x'', purged = ?`;

/** One transaction for each UTC day of `received`; days whose file is gone are passed over. */
export function markDeadLetters(dir: string, files: OpenFiles, marks: readonly LetterMark[]): void {
  const names = new Set(listFiles(dir).map(({ name }) => name));
  const days = new Map<string, { file: StoreFile; marks: LetterMark[] }>();
  for (const mark of marks) {
    const file = dayFile('deadletters', mark.received);
    if (!names.has(file.name)) continue;
    const day = days.get(file.name);
    if (day === undefined) days.set(file.name, { file, marks: [mark] });
    else day.marks.push(mark);
  }
  for (const day of days.values()) {
    files.write(day.file, (db) => {
      completeLetterTable(db);
      for (const { attempt, replayed, partition, offset } of day.marks) {
        db.run(MARK, attempt, replayed ?? null, partition, offset);
      }
    });
  }
}

export function purgeDeadLetters(dir: string, files: OpenFiles, purge: DevicePurge): void {
  for (const file of overlapping(listFiles(dir), 'deadletters', purge)) {
    files.write(file, (db) => {
      completeLetterTable(db);
      purgeFile(db, purge);
    });
  }
}

function purgeFile(db: SqliteFile, purge: DevicePurge): void {
  // Freed bytes are overwritten: what is purged shall not be found in the file.
  db.get('PRAGMA secure_delete = ON');
  const { where, params } = letterCondition(purge, purge.device);
  const sql = `UPDATE letter SET ${EMPTY} WHERE ${where} AND purged IS NULL`;
  if (purge.letters === undefined) {
    db.run(sql, purge.purged, ...params);
    return;
  }
  for (const [partition, offset] of purge.letters) {
    db.run(`${sql} AND partition = ? AND offset = ?`, purge.purged, ...params, partition, offset);
  }
}
