import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import type { TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { stringify } from 'yaml';
import { type Config, configSchema } from '../../src/config/schema.ts';
import { openConsumer, openRegistry, openStore, ROLLUP_GROUP } from '../../src/engines.ts';
import type { LogConsumer } from '../../src/log/contract.ts';
import type { Store } from '../../src/store/contract.ts';

export const CLI = fileURLToPath(new URL('../../src/spillway.js', import.meta.url));
const HEAP_PROBE = new URL('../helpers/heap-probe.mjs', import.meta.url).href;
export const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const START_MS = 20_000;
const STOP_MS = 40_000;
const BACKFILL_MS = 120_000;
const OUTPUT_CHARS_MAX = 4 * 2 ** 20;

/** The one setting that a whole run of the tests may change: `npm run test:broker-path`. */
const FAST_PATH = 'SPILLWAY_GATEWAY_FAST_PATH';

/** This process' environment without what else would change the program. */
export function cleanEnvironment(extra: Record<string, string> = {}): NodeJS.ProcessEnv {
  const kept = Object.entries(process.env).filter(
    ([name]) =>
      name === FAST_PATH || (!name.startsWith('SPILLWAY_') && name !== 'NODE_TEST_CONTEXT'),
  );
  return { ...Object.fromEntries(kept), ...extra };
}

/** A child process with what it printed; killed when the test ends, whatever happens. */
export class Child {
  readonly process: ChildProcess;
  stdout = '';
  stderr = '';
  /** The exit code, or the signal's name. */
  readonly ended: Promise<number | string>;
  private readonly waiting = new Set<() => void>();
  private over = false;

  constructor(t: TestContext, args: string[], options: { cwd?: string; env?: NodeJS.ProcessEnv }) {
    const child = spawn(process.execPath, args, {
      cwd: options.cwd ?? ROOT,
      env: options.env ?? cleanEnvironment(),
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.process = child;
    child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      if (this.stdout.length < OUTPUT_CHARS_MAX) this.stdout += text;
      this.changed();
    });
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      if (this.stderr.length < OUTPUT_CHARS_MAX) this.stderr += text;
      this.changed();
    });
    this.ended = new Promise((resolve) => {
      child.once('close', (code, signal) => {
        this.over = true;
        resolve(signal ?? code ?? -1);
        this.changed();
      });
    });
    t.after(async () => {
      if (!this.over) child.kill('SIGKILL');
      await this.ended;
    });
  }

  get isOver(): boolean {
    return this.over;
  }

  /** Waits for a text on stdout or stderr; fails when the process ends first. Returns the match. */
  async printed(pattern: RegExp, timeoutMs = START_MS): Promise<RegExpExecArray> {
    const until = performance.now() + timeoutMs;
    for (;;) {
      const match = pattern.exec(this.stdout) ?? pattern.exec(this.stderr);
      if (match !== null) return match;
      const left = until - performance.now();
      if (this.over || left <= 0) {
        const why = this.over ? 'the process ended' : `${timeoutMs} ms passed`;
        throw new Error(`no ${pattern}: ${why}\n${this.stdout}\n${this.stderr}`);
      }
      await new Promise<void>((resolve) => {
        const done = () => {
          clearTimeout(timer);
          this.waiting.delete(done);
          resolve();
        };
        const timer = setTimeout(done, left);
        this.waiting.add(done);
      });
    }
  }

  /** Waits for the end; fails after `timeoutMs`. */
  async end(timeoutMs = STOP_MS): Promise<number | string> {
    const late = new AbortController();
    const timeout = sleep(timeoutMs, 'late', { signal: late.signal }).catch(() => 'aborted');
    const first = await Promise.race([this.ended, timeout]);
    late.abort();
    if (first !== 'late') return first;
    this.process.kill('SIGKILL');
    await this.ended;
    throw new Error(`the process did not end within ${timeoutMs} ms\n${this.stderr}`);
  }

  private changed(): void {
    for (const done of [...this.waiting]) done();
  }
}

/** Runs a command of the program to its end. */
export async function command(
  t: TestContext,
  args: string[],
  env: Record<string, string> = {},
): Promise<{ code: number | string; stdout: string; stderr: string }> {
  const child = new Child(t, [CLI, ...args], { env: cleanEnvironment(env) });
  const code = await child.end();
  return { code, stdout: child.stdout, stderr: child.stderr };
}

export interface TestDevice {
  tenant: string;
  device: string;
  type: string;
  secret: string;
}

export interface LiveHeap {
  liveMiB: number;
  rssMiB: number;
  /** Live MiB by thread. */
  threads: Record<string, number>;
}

/** The real program in a directory of its own, with a written configuration; it can be killed and started again. */
export class SpillwayProcess {
  readonly t: TestContext;
  readonly dir: string;
  readonly file: string;
  /** As they stand in the configuration file. */
  readonly settings: Record<string, unknown>;
  readonly config: Config;
  /** What each start printed on stderr. */
  readonly logs: string[] = [];
  private readonly args: readonly string[];
  private child: Child | undefined;
  private address: { mqtt: number | undefined; http: string } | undefined;
  private readonly nodeArgs: string[];
  private heapsAsked = 0;

  /**
   * `settings` are merged into a configuration that listens on ports that the system chooses, and whose rollup
   * thread does not wait for the other test files on a CPU that is full. `heapProbe`
   * makes {@link liveHeap} possible; `args` follow `run`.
   */
  constructor(
    t: TestContext,
    settings: Record<string, unknown>,
    options: { heapProbe?: boolean; args?: readonly string[] } = {},
  ) {
    this.t = t;
    this.args = options.args ?? [];
    this.nodeArgs = options.heapProbe === true ? ['--import', HEAP_PROBE] : [];
    this.dir = mkdtempSync(join(tmpdir(), 'spillway-system-'));
    this.file = join(this.dir, 'spillway.yaml');
    const all = {
      data: { dir: join(this.dir, 'data') },
      logging: { format: 'json' },
      gateway: { mqtt: { port: 0 } },
      http: { port: 0 },
      ...settings,
      rollup: { niceness: 0, ...(settings.rollup as object | undefined) },
    };
    this.settings = all;
    this.config = configSchema.parse(all);
    writeFileSync(this.file, stringify(all));
    // Hooks run in the order in which they were added: the first child's comes after this one.
    t.after(async () => {
      await this.end();
      rmSync(this.dir, { recursive: true, force: true, maxRetries: 5 });
    });
  }

  /** Killed if it still runs, however it is. */
  async end(): Promise<void> {
    this.child?.process.kill('SIGKILL');
    await this.child?.ended;
  }

  addDevices(tenant: string, type: string, names: readonly string[]): TestDevice[] {
    const registry = openRegistry(this.config);
    try {
      return names.map((device) => registry.addDevice({ tenant, device, type }));
    } finally {
      registry.close();
    }
  }

  /** Starts the program without waiting for it. */
  spawn(): Child {
    assert.ok(this.child === undefined || this.child.isOver, 'the program runs already');
    this.address = undefined;
    const run = [CLI, 'run', '--config', this.file, ...this.args];
    const child = new Child(this.t, [...this.nodeArgs, ...run], {});
    this.child = child;
    this.heapsAsked = 0;
    void child.ended.then(() => {
      this.logs.push(child.stderr);
      if (this.child === child) this.address = undefined;
    });
    return child;
  }

  /** Starts it and waits until it listens. */
  async start(): Promise<Child> {
    const child = this.spawn();
    await this.running();
    return child;
  }

  async running(): Promise<void> {
    const child = this.current();
    const match = await child.printed(
      /(?:"mqtt":"mqtt:\/\/127\.0\.0\.1:(\d+)",)?"http":"(http:\/\/127\.0\.0\.1:\d+)"/,
    );
    const mqtt = match[1] === undefined ? undefined : Number(match[1]);
    this.address = { mqtt, http: String(match[2]) };
  }

  /** Undefined while nothing listens, and where there is no gateway. */
  get mqttPort(): number | undefined {
    return this.address?.mqtt;
  }

  get url(): string {
    assert.ok(this.mqttPort !== undefined, 'the program does not run, or is no gateway');
    return `mqtt://127.0.0.1:${this.mqttPort}`;
  }

  get httpUrl(): string {
    assert.ok(this.address !== undefined, 'the program does not run');
    return this.address.http;
  }

  current(): Child {
    assert.ok(this.child !== undefined, 'the program was not started');
    return this.child;
  }

  /** Ends it without a chance to do anything; returns how it ended. Fails when it had ended by itself, unless it may have. */
  async kill(options: { mayHaveEnded?: boolean } = {}): Promise<number | string> {
    this.address = undefined;
    const child = this.current();
    child.process.kill('SIGKILL');
    const how = await child.ended;
    if (options.mayHaveEnded !== true) assert.equal(how, 'SIGKILL', child.stderr);
    return how;
  }

  /** SIGTERM; everything acknowledged has to be in the store, so exit code 0 is expected. */
  async stop(): Promise<void> {
    const child = this.current();
    child.process.kill('SIGTERM');
    assert.equal(await child.end(), 0, child.stderr);
  }

  /** Waits until nothing waits in the lane of old readings. */
  async backfilled(): Promise<void> {
    const late = performance.now() + BACKFILL_MS;
    for (;;) {
      const left = await this.read(async (store, consumer) => {
        const positions = await store.position(ROLLUP_GROUP);
        const lanes = [...(await consumer.bounds())].filter(([p]) => consumer.isBackfill?.(p));
        return lanes.reduce((sum, [p, { end }]) => sum + end - (positions.get(p) ?? 0), 0);
      });
      if (left === 0) return;
      assert.ok(performance.now() < late, `${left} old readings still wait`);
      await sleep(200);
    }
  }

  /** What is live in all threads after a forced collection, and what is resident. */
  async liveHeap(): Promise<LiveHeap> {
    const child = this.current();
    this.heapsAsked++;
    child.process.kill('SIGUSR2');
    const [, line = ''] = await child.printed(
      new RegExp(`heap-probe (\\{"asked":${this.heapsAsked},.*\\})`),
      60_000,
    );
    const { rss, threads } = JSON.parse(line) as {
      rss: number;
      threads: { name: string; liveBytes: number }[];
    };
    const live = threads.reduce((sum, { liveBytes }) => sum + liveBytes, 0);
    return {
      liveMiB: live / 2 ** 20,
      rssMiB: rss / 2 ** 20,
      threads: Object.fromEntries(
        threads.map(({ name, liveBytes }) => [name, liveBytes / 2 ** 20]),
      ),
    };
  }

  /** Changes the newest file of a kind of the store behind the stopped program's back. */
  damage(kind: 'raw' | 'deadletters', change: (db: DatabaseSync) => void): void {
    const dir = join(this.dir, 'data', 'store');
    const [name] = readdirSync(dir)
      .filter((file) => file.startsWith(`${kind}-`) && file.endsWith('.db'))
      .sort()
      .reverse();
    assert.ok(name !== undefined, `no file of ${kind}`);
    const db = new DatabaseSync(join(dir, name));
    try {
      change(db);
    } finally {
      db.close();
    }
  }

  /** Calls with the store and the log's reading end, from this process. */
  async read<T>(call: (store: Store, consumer: LogConsumer) => Promise<T>): Promise<T> {
    const store = await openStore(this.config, { readOnly: true });
    const consumer = await openConsumer(this.config);
    try {
      return await call(store, consumer);
    } finally {
      await consumer.close();
      await store.close();
    }
  }
}
