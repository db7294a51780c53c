import { chmodSync, closeSync, openSync, statSync } from 'node:fs';

/**
 * Makes a file that its owner alone may read, or takes the others' rights away; SQLite makes a database's
 * companions alike. A file that exists is not opened here: closing it would drop the locks that this
 * process holds on it.
 */
export function keepPrivate(path: string): void {
  try {
    closeSync(openSync(path, 'wx', 0o600));
    return;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  }
  if ((statSync(path).mode & 0o077) === 0) return;
  try {
    chmodSync(path, 0o600);
  } catch {
    // Another user's file, who lets us in on purpose.
  }
}
