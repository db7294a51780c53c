import { cpSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import type { Worker } from 'node:worker_threads';
import type { LogAppender, LogConsumer } from '../../src/log/contract.ts';
import { type AppenderEvents, EmbeddedAppender } from '../../src/log/embedded/appender.ts';
import { EmbeddedConsumer } from '../../src/log/embedded/consumer.ts';
import type { Store } from '../../src/store/contract.ts';
import { openEmbeddedStore } from '../../src/store/embedded/store.ts';
import { DAY, HOUR } from './fleet.ts';
import type { Settings } from './plan.ts';

/** Called before and after each write of a store; what it throws the process dies of. */
export type WriteHook = (when: 'before' | 'after') => void;

/** A log and a store that can be torn from the hands of those who use them, and opened again. */
export interface Engines {
  /** {@link Settings.backfillAfterMs} */
  readonly backfillAfterMs?: number | undefined;
  openAppender(events: AppenderEvents): Promise<LogAppender>;
  /** Its thread ends at once, whatever it is doing. */
  killAppender(): Promise<void>;
  /** Records that the gateway's own log has. */
  durable(): Promise<number>;
  consumer(): LogConsumer;
  /** The same store until it is abandoned. */
  store(): Promise<Store>;
  /** As if its process had been killed between two of its writes. */
  abandonStore(): Promise<void>;
  /** As if the machine's processes had all been killed while nothing was under way. */
  abandonAll(): Promise<void>;
  /** Watches the writes of a worker's store; undefined: no more. */
  watchWrites(hook: WriteHook | undefined): void;
  /** Until all that the gateway has durable is where workers read. */
  forwarded(): Promise<void>;
  close(): Promise<void>;
}

/** In memory where there is such a place: what a process leaves when it is killed is the same there. */
function place(): string {
  const memory = '/dev/shm';
  return statSync(memory, { throwIfNoEntry: false })?.isDirectory() ? memory : tmpdir();
}

/** The transactions of all SQLite files of this thread, as a hook. */
class Transactions {
  hook: ((path: string, when: 'before' | 'after') => void) | undefined;

  constructor() {
    const { exec } = DatabaseSync.prototype;
    const transactions = this;
    DatabaseSync.prototype.exec = function (sql) {
      const { hook } = transactions;
      const path = hook !== undefined && sql.startsWith('COMMIT') ? this.location() : null;
      if (hook === undefined || path === null) return exec.call(this, sql);
      hook(path, 'before');
      exec.call(this, sql);
      hook(path, 'after');
    };
  }
}

let transactions: Transactions | undefined;

/** Both embedded engines in a directory of their own. */
export class EmbeddedEngines implements Engines {
  readonly root: string;
  private readonly settings: Settings;
  private readonly isOwn: boolean;
  private lives = 0;
  private logDir: string;
  private storeDir: string;
  private appender: EmbeddedAppender | undefined;
  private opened: Store | undefined;

  /** `root`: of engines that another process had, or one that is copied; it stays afterwards. */
  constructor(settings: Settings, root?: string) {
    this.settings = settings;
    this.isOwn = root === undefined;
    this.root = root ?? mkdtempSync(join(place(), 'spillway-model-'));
    this.logDir = join(this.root, 'log-0');
    this.storeDir = join(this.root, 'store-0');
    transactions ??= new Transactions();
  }

  get backfillAfterMs(): number | undefined {
    return this.settings.backfillAfterMs;
  }

  async openAppender(events: AppenderEvents): Promise<LogAppender> {
    const { commitRecordsMax, pendingBytesMax, diskBytesMax } = this.settings;
    this.appender = await EmbeddedAppender.open(
      {
        ...{ dir: this.logDir, commitRecordsMax, pendingBytesMax, diskBytesMax },
        ...{ retainForMs: 0, retainBytes: 0, compression: 'zstd' },
        ...{ commitBytesMax: 2 ** 20, commitIntervalMs: 0, hasBackfill: true },
      },
      events,
    );
    return this.appender;
  }

  async killAppender(): Promise<void> {
    // Nobody but a test wants to do so.
    const { worker } = this.appender as unknown as { worker: Worker };
    await worker.terminate();
  }

  async durable(): Promise<number> {
    const consumer = this.consumer();
    try {
      return [...(await consumer.bounds()).values()].reduce((sum, { end }) => sum + end, 0);
    } finally {
      await consumer.close();
    }
  }

  consumer(): EmbeddedConsumer {
    return new EmbeddedConsumer({ dir: this.logDir });
  }

  async store(): Promise<Store> {
    const { baseWindowMs } = this.settings;
    this.opened ??= openEmbeddedStore({
      dir: this.storeDir,
      retention: { rawMs: 0, deadLettersMs: 0, rollupsMs: new Map() },
      windowsMs: [...new Set([baseWindowMs, HOUR, DAY])],
    });
    return this.opened;
  }

  async abandonStore(): Promise<void> {
    if (this.opened === undefined) return;
    const from = this.storeDir;
    this.lives += 1;
    this.storeDir = join(this.root, `store-${this.lives}`);
    copy(from, this.storeDir);
    await this.opened.close();
    this.opened = undefined;
    rmSync(from, { recursive: true });
  }

  async abandonAll(): Promise<void> {
    const from = this.logDir;
    await this.abandonStore();
    this.lives += 1;
    this.logDir = join(this.root, `log-${this.lives}`);
    copy(from, this.logDir);
    await this.killAppender();
    rmSync(from, { recursive: true });
  }

  watchWrites(hook: WriteHook | undefined): void {
    if (transactions === undefined) return;
    transactions.hook =
      hook && ((path, when) => void (path.startsWith(this.storeDir) && hook(when)));
  }

  async forwarded(): Promise<void> {}

  async close(): Promise<void> {
    this.watchWrites(undefined);
    await this.opened?.close();
    await this.appender?.close();
    if (this.isOwn) rmSync(this.root, { recursive: true, force: true });
  }
}

/** What is on disk, with the write-ahead logs as they are. Indexes of these are memory of the processes that are gone. */
function copy(from: string, to: string): void {
  cpSync(from, to, { recursive: true, filter: (file) => !file.endsWith('-shm') });
}
