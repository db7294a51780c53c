import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { SpillwayError } from '../../core/errors.ts';
import { LOCK_FILE } from './files.ts';
import { isBusy, storeError } from './sqlite-errors.ts';

/**
 * Makes this the directory's only writer until the returned function is called or the process dies.
 * The lock is an exclusive SQLite lock on an empty database: the kernel releases it with the
 * process, so that nothing stale can be left, and readers never touch it.
 * @throws SpillwayError DATA_DIR_LOCKED
 */
export function lockForWriting(dir: string): () => void {
  const path = join(dir, LOCK_FILE);
  const db = new DatabaseSync(path, { timeout: 0 });
  try {
    // Nothing is ever written, so no journal file needs to be made.
    db.exec('PRAGMA journal_mode = MEMORY; PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE');
  } catch (error) {
    db.close();
    if (isBusy(error)) {
      throw new SpillwayError('DATA_DIR_LOCKED', `Another process writes ${dir}`, { cause: error });
    }
    throw storeError(error, path);
  }
  return () => db.close();
}
