import { join } from 'node:path';
import type { Clock } from '../../core/clock.ts';
import type { StoreFile } from './files.ts';
import { storeError } from './sqlite-errors.ts';
import { createFile, fileIdentity, SqliteFile } from './sqlite-file.ts';

/** Files open at once; the one used longest ago is closed for the next. */
const OPEN_FILES_MAX = 16;

export interface OpenFilesOptions {
  dir: string;
  readOnly: boolean;
  clock: Clock;
}

/** The open files of a store. Calls are synchronous, so a file cannot be closed while it is used. */
export class OpenFiles {
  private readonly options: OpenFilesOptions;
  /** By name, the one used last at the end. */
  private readonly open = new Map<string, SqliteFile>();

  constructor(options: OpenFilesOptions) {
    this.options = options;
  }

  /**
   * Runs `query` on a file. Undefined when the file is not there or was dropped meanwhile.
   * @throws SpillwayError STORE_CORRUPT, STORE_VERSION, STORE_BUSY
   */
  read<T>(file: StoreFile, query: (db: SqliteFile) => T): T | undefined {
    const path = this.path(file);
    const before = fileIdentity(path);
    if (before === undefined) {
      this.forget(file.name);
      return undefined;
    }
    try {
      return query(this.use(file, path, before));
    } catch (error) {
      // A reader that lost the race with retention may see anything, so only a file that is still
      // there can be at fault.
      this.forget(file.name);
      if (fileIdentity(path) !== before) return undefined;
      throw storeError(error, path);
    }
  }

  /** Runs `work` on a file in one transaction; makes the file when it is missing. */
  write<T>(file: StoreFile, work: (db: SqliteFile) => T): T {
    const path = this.path(file);
    try {
      // Checked each time: writes to a file that someone deleted would be lost without a word.
      if (fileIdentity(path) === undefined) {
        this.forget(file.name);
        createFile(path, file, this.options.clock.now());
      }
      const db = this.use(file, path, fileIdentity(path) ?? '');
      return db.transaction(() => work(db));
    } catch (error) {
      // What was cached of the file may have been rolled back; after an I/O error the next opening
      // starts from what is known to be on disk.
      this.forget(file.name);
      throw storeError(error, path);
    }
  }

  private use(file: StoreFile, path: string, identity: string): SqliteFile {
    const known = this.touch(file.name);
    if (known?.identity === identity) return known;
    if (known !== undefined) this.forget(file.name);
    const opened = new SqliteFile(path, file, identity, this.options.readOnly);
    this.open.set(file.name, opened);
    for (const [name, oldest] of this.open) {
      if (this.open.size <= OPEN_FILES_MAX) break;
      this.open.delete(name);
      oldest.close();
    }
    return opened;
  }

  private touch(name: string): SqliteFile | undefined {
    const known = this.open.get(name);
    if (known !== undefined) {
      this.open.delete(name);
      this.open.set(name, known);
    }
    return known;
  }

  /** Closes a file that failed or is to be dropped. */
  forget(name: string): void {
    const known = this.open.get(name);
    if (known === undefined) return;
    this.open.delete(name);
    known.abandon();
  }

  private path(file: StoreFile): string {
    return join(this.options.dir, file.name);
  }

  close(): void {
    const open = [...this.open.values()];
    this.open.clear();
    for (const db of open) db.close();
  }
}
