import { existsSync, renameSync, rmSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Retention } from '../contract.ts';
import { listFiles, listNames, type StoreFile } from './files.ts';
import type { OpenFiles } from './open-files.ts';
import { NEW_SUFFIX } from './sqlite-file.ts';

/** Suffix of a file that is being dropped; a crash leaves it for {@link sweep} of the next writer. */
const DROPPED_SUFFIX = '.dropped';

/** Whether all of a file's span is older than its retention. */
export function isExpired(file: StoreFile, retention: Retention, now: number): boolean {
  const keepMs = retentionOf(file, retention);
  // A window that begins before the end of the span may end up to its own length later.
  return keepMs > 0 && file.end + file.windowMs <= now - keepMs;
}

function retentionOf(file: StoreFile, retention: Retention): number {
  if (file.kind === 'raw') return retention.rawMs;
  if (file.kind === 'deadletters') return retention.deadLettersMs;
  if (file.kind === 'rollup') return retention.rollupsMs.get(file.windowMs) ?? 0;
  return 0;
}

/**
 * Drops the files that have expired. A file leaves its name at once, between two writes; freeing
 * its blocks, which takes long for a large file, happens on another thread.
 */
export async function dropExpired(
  dir: string,
  files: OpenFiles,
  retention: Retention,
  now: number,
): Promise<string[]> {
  const dropped: string[] = [];
  for (const file of listFiles(dir)) {
    if (!isExpired(file, retention, now)) continue;
    const path = join(dir, file.name);
    files.forget(file.name);
    renameSync(path, path + DROPPED_SUFFIX);
    removeSideFiles(path);
    dropped.push(file.name);
    await rm(path + DROPPED_SUFFIX, { force: true });
  }
  sweep(dir);
  return dropped;
}

/**
 * Removes what a crash or a reader that lost a race may leave: unfinished and half dropped files,
 * and WAL and shared-memory files without their database. Only for the writer.
 */
export function sweep(dir: string): void {
  for (const name of listNames(dir)) {
    const base = name.replace(/-(?:wal|shm|journal)$/, '');
    const isLeftover =
      base.endsWith(`.db${NEW_SUFFIX}`) ||
      base.endsWith(`.db${DROPPED_SUFFIX}`) ||
      (base !== name && base.endsWith('.db') && !existsSync(join(dir, base)));
    if (isLeftover) rmSync(join(dir, name), { force: true });
  }
}

function removeSideFiles(path: string): void {
  for (const suffix of ['-wal', '-shm']) rmSync(path + suffix, { force: true });
}
