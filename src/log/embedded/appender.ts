import { Worker } from 'node:worker_threads';
import { type ErrorCode, SpillwayError } from '../../core/errors.ts';
import type { AppendRequest, LogAppender, LogStats } from '../contract.ts';
import { NO_TALLY } from '../record.ts';
import type { FromWriter, ToWriter, WriterOptions } from './writer-thread.ts';

export interface AppenderOptions extends WriterOptions {
  commitRecordsMax: number;
  commitBytesMax: number;
  pendingBytesMax: number;
}

export interface AppenderEvents {
  /** The disk budget is used up, or space is back. */
  onFull?(full: boolean, reason: 'budget' | 'disk' | undefined): void;
  /** The disk can't be trusted any more; the process has to end. */
  onFailed?(error: SpillwayError): void;
  /** Duration of a commit, ms, and how many records it held. */
  onCommit?(ms: number, records: number): void;
}

interface Pending {
  done: (error: Error | null) => void;
  records: number;
}

/**
 * The main thread's end of the embedded log. One commit is under way at a time; what arrives meanwhile
 * becomes the next one, so that commits grow with the load and nobody waits for a timer.
 */
export class EmbeddedAppender implements LogAppender {
  private readonly worker: Worker;
  private readonly options: AppenderOptions;
  private readonly events: AppenderEvents;
  private readonly reliefs: (() => void)[] = [];
  private lines: string[] = [];
  private tally = new Map<string, number>();
  private waiting: Pending[] = [];
  private waitingBytes = 0;
  private flying: Pending[] = [];
  private flyingBytes = 0;
  private flyingRecords = 0;
  private busy = false;
  private scheduled = false;
  private closing = false;
  private failure: SpillwayError | undefined;
  private isFull = false;
  private isSaturated = false;
  private endOffset = 0;
  private firstOffset = 0;
  private diskBytes = 0;
  private commits = 0;
  private commitMsLast = 0;
  private commitMsMean = 0;
  private readonly idle: (() => void)[] = [];
  private closed: (() => void) | undefined;

  private constructor(worker: Worker, options: AppenderOptions, events: AppenderEvents) {
    this.worker = worker;
    this.options = options;
    this.events = events;
  }

  /** Throws DATA_DIR_LOCKED, LOG_VERSION, LOG_CORRUPT, LOG_WRITE_FAILED. */
  static async open(
    options: AppenderOptions,
    events: AppenderEvents = {},
  ): Promise<EmbeddedAppender> {
    const { dir, diskBytesMax, retainForMs, retainBytes, compression } = options;
    const workerData: WriterOptions = { dir, diskBytesMax, retainForMs, retainBytes, compression };
    const worker = new Worker(new URL('./writer-thread.ts', import.meta.url), {
      workerData,
      name: 'log',
      resourceLimits: { maxYoungGenerationSizeMb: 16 },
    });
    const appender = new EmbeddedAppender(worker, options, events);
    const first = await new Promise<FromWriter>((resolve, reject) => {
      worker.once('message', resolve);
      worker.once('error', reject);
    });
    if (first.kind !== 'open') {
      const failed = first as Extract<FromWriter, { kind: 'failed' }>;
      throw new SpillwayError(failed.code as ErrorCode, failed.message);
    }
    appender.endOffset = first.endOffset;
    appender.firstOffset = first.firstOffset;
    appender.diskBytes = first.diskBytes;
    worker.on('message', (message: FromWriter) => appender.onMessage(message));
    worker.on('error', (error) => appender.fail('LOG_WRITE_FAILED', error.message));
    return appender;
  }

  get saturated(): boolean {
    return this.isSaturated;
  }

  get full(): boolean {
    return this.isFull;
  }

  onRelief(callback: () => void): void {
    this.reliefs.push(callback);
  }

  append(request: AppendRequest, done: (error: Error | null) => void): void {
    const refusal = this.refusal();
    if (refusal !== undefined) {
      setImmediate(done, refusal);
      return;
    }
    const { records, tallyKeys, counts } = request;
    let bytes = 0;
    for (let i = 0; i < records.length; i++) {
      const line = records[i] as string;
      bytes += line.length + 1;
      this.lines.push(line);
      const key = tallyKeys[i] as string;
      if (key !== NO_TALLY) this.tally.set(key, (this.tally.get(key) ?? 0) + (counts?.[i] ?? 1));
    }
    this.waiting.push({ done, records: records.length });
    this.waitingBytes += bytes;
    if (
      !this.isSaturated &&
      this.waitingBytes + this.flyingBytes > this.options.pendingBytesMax / 2
    ) {
      this.isSaturated = true;
    }
    if (this.busy) return;
    if (
      this.lines.length >= this.options.commitRecordsMax ||
      this.waitingBytes >= this.options.commitBytesMax
    ) {
      this.send();
    } else if (!this.scheduled) {
      this.scheduled = true;
      setImmediate(() => {
        this.scheduled = false;
        if (!this.busy && this.lines.length > 0) this.send();
      });
    }
  }

  stats(): LogStats {
    return {
      pendingBytes: this.waitingBytes + this.flyingBytes,
      pendingRecords: this.lines.length + this.flyingRecords,
      endOffset: this.endOffset,
      firstOffset: this.firstOffset,
      diskBytes: this.diskBytes,
      diskBytesMax: this.options.diskBytesMax,
      full: this.isFull,
      commits: this.commits,
      commitMsLast: this.commitMsLast,
      commitMsMean: this.commitMsMean,
    };
  }

  async flush(): Promise<void> {
    if (this.failure !== undefined) throw this.failure;
    if (!this.busy && this.lines.length === 0) return;
    await new Promise<void>((resolve) => this.idle.push(resolve));
    if (this.failure !== undefined) throw this.failure;
  }

  /** Commits what waits, then ends the thread. What a full disk keeps from being committed is refused. */
  async close(): Promise<void> {
    if (this.closed !== undefined) return;
    this.closing = true;
    if (!this.isFull && this.failure === undefined) await this.flush().catch(() => {});
    const ended = new Promise<void>((resolve) => {
      this.closed = resolve;
      this.worker.once('exit', () => resolve());
    });
    this.post({ kind: 'close' });
    await ended;
    this.refuseAll(new SpillwayError('LOG_CLOSED', 'the log is closed'));
    await this.worker.terminate();
  }

  private refusal(): SpillwayError | undefined {
    if (this.failure !== undefined) return this.failure;
    if (this.closing) return new SpillwayError('LOG_CLOSED', 'the log is closing');
    if (this.waitingBytes + this.flyingBytes > this.options.pendingBytesMax) {
      return new SpillwayError('LOG_SATURATED', 'too much waits for its commit');
    }
    return undefined;
  }

  private send(): void {
    this.busy = true;
    this.flying = this.waiting;
    this.flyingBytes = this.waitingBytes;
    this.flyingRecords = this.lines.length;
    const message: ToWriter = {
      kind: 'commit',
      text: this.lines.join('\n'),
      records: this.lines.length,
      tally: [...this.tally].flat(),
    };
    this.waiting = [];
    this.waitingBytes = 0;
    this.lines = [];
    this.tally.clear();
    this.post(message);
  }

  private onMessage(message: FromWriter): void {
    switch (message.kind) {
      case 'committed':
        this.committed(message);
        break;
      case 'full':
        this.isFull = true;
        this.diskBytes = message.diskBytes;
        this.events.onFull?.(true, message.reason);
        break;
      case 'trimmed':
        this.firstOffset = message.firstOffset;
        this.diskBytes = message.diskBytes;
        break;
      case 'failed':
        this.fail(message.code as ErrorCode, message.message);
        break;
      default:
        break;
    }
  }

  private committed(message: Extract<FromWriter, { kind: 'committed' }>): void {
    const done = this.flying;
    const records = this.flyingRecords;
    this.flying = [];
    this.flyingBytes = 0;
    this.flyingRecords = 0;
    this.endOffset = message.endOffset;
    this.firstOffset = message.firstOffset;
    this.diskBytes = message.diskBytes;
    this.commits++;
    this.commitMsLast = message.ms;
    this.commitMsMean += (message.ms - this.commitMsMean) / 16;
    if (this.isFull) {
      this.isFull = false;
      this.events.onFull?.(false, undefined);
    }
    // The next commit is sent before the callbacks run, so that the disk never waits for them.
    if (this.lines.length > 0) this.send();
    else this.busy = false;
    for (const pending of done) pending.done(null);
    this.events.onCommit?.(message.ms, records);
    if (
      this.isSaturated &&
      this.waitingBytes + this.flyingBytes < this.options.pendingBytesMax / 4
    ) {
      this.isSaturated = false;
      for (const callback of this.reliefs) callback();
    }
    if (!this.busy && this.lines.length === 0) this.settle();
  }

  private settle(): void {
    for (const resolve of this.idle.splice(0)) resolve();
  }

  private fail(code: ErrorCode, message: string): void {
    if (this.failure !== undefined) return;
    this.failure = new SpillwayError(code, `the log can't write: ${message}`);
    this.refuseAll(this.failure);
    this.settle();
    this.events.onFailed?.(this.failure);
  }

  private refuseAll(error: SpillwayError): void {
    const all = [...this.flying, ...this.waiting];
    this.flying = [];
    this.waiting = [];
    this.lines = [];
    this.waitingBytes = 0;
    this.flyingBytes = 0;
    this.busy = false;
    for (const pending of all) pending.done(error);
  }

  private post(message: ToWriter): void {
    this.worker.postMessage(message);
  }
}
