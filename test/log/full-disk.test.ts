import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { range } from '../suites/log.ts';

const CHILD = fileURLToPath(new URL('full-disk-child.ts', import.meta.url));

/** Commands that give a child a small file system of its own; undefined where this user may not. */
function namespace(): string[] | undefined {
  const dir = mkdtempSync(join(tmpdir(), 'spillway-mount-'));
  try {
    for (const command of [
      ['unshare', '-m'],
      ['unshare', '-rm'],
    ]) {
      const [name = '', ...rest] = command;
      const tried = spawnSync(name, [...rest, 'mount', '-t', 'tmpfs', '-o', 'size=1m', 'x', dir]);
      if (tried.status === 0) return command;
    }
    return undefined;
  } finally {
    rmSync(dir, { recursive: true });
  }
}

const command = namespace();

test('a full disk: nothing is acknowledged until there is space, nothing is lost or doubled', {
  skip: command === undefined && 'unshare can not mount a small file system here',
}, (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'spillway-full-'));
  t.after(() => rmSync(dir, { recursive: true }));
  const [name = '', ...rest] = command ?? [];
  const script = 'mount -t tmpfs -o size=11m tmpfs "$1" && exec "$2" "$3" "$1"';
  const child = spawnSync(name, [...rest, 'sh', '-c', script, 'sh', dir, process.execPath, CHILD], {
    encoding: 'utf8',
    timeout: 30_000,
  });
  assert.equal(child.status, 0, child.stderr);
  const result = JSON.parse(child.stdout);
  assert.deepEqual(result.failures, []);
  assert.deepEqual(result.errors, []);
  assert.deepEqual(result.fulls, ['full disk', 'space']);
  const { freeBytes, readable, ...whileFull } = result.whileFull;
  assert.ok(freeBytes < 64 * 2 ** 10, `${freeBytes} bytes were free`);
  assert.deepEqual(whileFull, { acknowledged: 0, isFull: true, commit: 'LOG_FULL' });
  // What was acknowledged can be read all the while.
  assert.ok(result.before > 50 && readable === result.before - 4);
  assert.deepEqual(result.order, range(0, 600));
  assert.deepEqual(result.readings, range(4, 600));
  assert.deepEqual(
    result.received.map(({ outcome, count }: { outcome: string; count: number }) => [
      outcome,
      count,
    ]),
    [['reading', 600]],
  );
});
