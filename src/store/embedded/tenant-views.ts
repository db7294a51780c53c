import { statSync } from 'node:fs';
import { join } from 'node:path';
import type { StoreFile } from './files.ts';
import { fileIdentity } from './sqlite-file.ts';

/** Views kept; the one used longest ago makes room. */
const VIEWS_MAX = 64;
/** A file that changed within this time is read again: its time stamps may be too coarse, ms. */
const SETTLED_MS = 2_000;

interface SeenFile {
  identity: string;
  /** Sizes and times of the file and its WAL; undefined while it may still change unnoticed. */
  stamp: string | undefined;
}

interface View<Value> {
  value: Value;
  seen: Map<string, SeenFile>;
}

/**
 * What all files say of one tenant, gathered once and then only from files that changed. Opening
 * 365 files takes 0.2 to 0.4 s, comparing their time stamps a few ms.
 *
 * For values that only grow while files only grow: rows are never removed one by one. When a file
 * has gone, the view is gathered afresh.
 */
export class TenantViews<Value> {
  private readonly dir: string;
  private readonly empty: () => Value;
  /** Adds what a file has; adding it again must change nothing. */
  private readonly add: (value: Value, file: StoreFile, tenant: string) => void;
  /** By tenant, the one used last at the end. */
  private readonly views = new Map<string, View<Value>>();

  constructor(
    dir: string,
    empty: () => Value,
    add: (value: Value, file: StoreFile, tenant: string) => void,
  ) {
    this.dir = dir;
    this.empty = empty;
    this.add = add;
  }

  /** The value over `files`; it belongs to the view and must not be changed. */
  get(tenant: string, files: readonly StoreFile[]): Value {
    const now = new Map(files.map((file) => [file.name, this.look(file.name)]));
    const known = this.views.get(tenant);
    const view =
      known !== undefined &&
      [...known.seen].every(([name, { identity }]) => now.get(name)?.identity === identity)
        ? known
        : { value: this.empty(), seen: new Map<string, SeenFile>() };
    this.views.delete(tenant);
    for (const file of files) {
      const current = now.get(file.name);
      if (current === undefined) continue;
      const { stamp } = current;
      if (stamp !== undefined && view.seen.get(file.name)?.stamp === stamp) continue;
      this.add(view.value, file, tenant);
      view.seen.set(file.name, current);
    }
    this.keep(tenant, view);
    return view.value;
  }

  private keep(tenant: string, view: View<Value>): void {
    this.views.set(tenant, view);
    for (const oldest of this.views.keys()) {
      if (this.views.size <= VIEWS_MAX) break;
      this.views.delete(oldest);
    }
  }

  private look(name: string): SeenFile | undefined {
    const path = join(this.dir, name);
    const identity = fileIdentity(path);
    if (identity === undefined) return undefined;
    let stamp = '';
    for (const part of [path, `${path}-wal`]) {
      const stat = statSync(part, { throwIfNoEntry: false });
      // Readers make an empty WAL, which says no more than none.
      if (stat === undefined || stat.size === 0) continue;
      if (Date.now() - stat.mtimeMs <= SETTLED_MS) return { identity, stamp: undefined };
      stamp += ` ${part === path ? 'db' : 'wal'} ${stat.size} ${stat.mtimeMs}`;
    }
    return { identity, stamp };
  }
}
