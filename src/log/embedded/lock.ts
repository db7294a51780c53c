import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { SpillwayError } from '../../core/errors.ts';

/**
 * Makes this process the only writer of a directory. The kernel holds the lock, so it ends with the
 * process, however that ends. Throws DATA_DIR_LOCKED.
 */
export function lockDirectory(dir: string): { release(): void } {
  mkdirSync(dir, { recursive: true });
  const db = new DatabaseSync(join(dir, 'lock.db'));
  try {
    db.exec('PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = MEMORY; BEGIN EXCLUSIVE;');
  } catch (cause) {
    db.close();
    // Anything but SQLITE_BUSY is the disk's or the file's fault, and no other process.
    if ((Number((cause as { errcode?: number }).errcode) & 0xff) !== 5) throw cause;
    throw new SpillwayError('DATA_DIR_LOCKED', `another process writes ${dir}`, { cause });
  }
  return { release: () => db.close() };
}
