import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import type { TestContext } from 'node:test';
import type { Retention, Store } from '../../src/store/contract.ts';
import { openEmbeddedStore } from '../../src/store/embedded/store.ts';

export const MINUTE = 60_000;
export const DAY = 86_400_000;
export const NOON = Date.UTC(2026, 2, 14, 12);
export const ALL = { tenant: 'acme', from: 0, to: NOON + 400 * DAY };

/** A directory that is gone after the test. */
export async function temporaryDir(t: TestContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'spillway-store-'));
  t.after(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

/** Opens the store in `dir`; closed after the test. */
export function openIn(
  t: TestContext,
  dir: string,
  options: { readOnly?: boolean; retention?: Partial<Retention> } = {},
): Store {
  const store = openEmbeddedStore({
    dir,
    retention: { rawMs: 0, deadLettersMs: 0, rollupsMs: new Map(), ...options.retention },
    windowsMs: [MINUTE],
    readOnly: options.readOnly ?? false,
  });
  t.after(() => store.close());
  return store;
}

export interface Child {
  process: ChildProcess;
  lines: Interface;
  /** The last line that it printed. */
  last(): string | undefined;
  /** SIGKILL, then waits for its end and for all that it printed. */
  kill(): Promise<void>;
}

/** Runs a script of this folder in a process of its own; killed after the test. */
export function runChild(t: TestContext, script: string, ...args: string[]): Child {
  const child = spawn(process.execPath, [join(import.meta.dirname, script), ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const lines = createInterface({ input: child.stdout });
  let last: string | undefined;
  lines.on('line', (line) => {
    last = line;
  });
  const ended = Promise.all([once(child, 'exit'), once(lines, 'close')]);
  const kill = async (): Promise<void> => {
    child.kill('SIGKILL');
    await ended;
  };
  t.after(kill);
  return { process: child, lines, last: () => last, kill };
}
