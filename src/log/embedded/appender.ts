import { Worker } from 'node:worker_threads';
import { type ErrorCode, SpillwayError } from '../../core/errors.ts';
import type { AppendRequest, LogAppender, LogStats } from '../contract.ts';
import { NO_TALLY } from '../record.ts';
import type { FromWriter, ToWriter, WriterOptions } from './writer-thread.ts';

export interface AppenderOptions extends WriterOptions {
  commitRecordsMax: number;
  commitBytesMax: number;
  pendingBytesMax: number;
  /** Commits of little begin at least so far apart while messages keep coming, ms; 0: never wait. */
  commitIntervalMs: number;
  /** Keeps old readings apart, in a lane of their own; absent: they stand among the others. */
  hasBackfill?: boolean;
}

export interface AppenderEvents {
  /** The disk budget is used up, or space is back. */
  onFull?(full: boolean, reason: 'budget' | 'disk' | undefined): void;
  /** The disk can't be trusted any more; the process has to end. */
  onFailed?(error: SpillwayError): void;
  /** Duration of a commit, ms, and how many records it held. */
  onCommit?(ms: number, records: number): void;
}

type Done = (error: Error | null) => void;

/** Records of one commit and what they count as. */
interface Part {
  lines: string[];
  tally: Map<string, number>;
}

/** The messages of one commit. */
interface Group extends Part {
  /** What goes into the lane of old readings. */
  backfill: Part | undefined;
  /** In both. */
  records: number;
  dones: Done[];
  /** Length of the lines in UTF-16 units, which is bytes for all but texts in values. */
  bytes: number;
}

/** Beyond this a commit would not be one that every reader can unpack, whatever the configuration says. */
const COMMIT_BYTES_LIMIT = 16 * 2 ** 20;
/** A commit of so much is worth its cost, and does not wait for more. */
const WORTH_RECORDS = 256;
const WORTH_BYTES = 64 * 2 ** 10;
/** Where the last commit held fewer, so little comes that its cost does not matter. */
const FEW_RECORDS = 4;
/** When nothing came for so long, nothing is waited for, ms. */
const QUIET_MS = 2;

/**
 * The main thread's end of the embedded log. One commit is under way at a time; what arrives meanwhile
 * becomes the next one, up to the bounds of a commit, so that commits grow with the load.
 *
 * A fast disk would make many small commits of a middling load, and each costs some 300 µs of CPU on both
 * threads and a write of every connection's PUBACKs. So a small one waits until `commitIntervalMs` after
 * the beginning of the one before, as long as messages keep coming. Those who send and wait for the answer
 * are not kept for longer than about QUIET_MS, and a few messages, or the first after a pause, not at all.
 */
export class EmbeddedAppender implements LogAppender {
  private readonly worker: Worker;
  private readonly options: AppenderOptions;
  private readonly commitBytesMax: number;
  private readonly events: AppenderEvents;
  private readonly exited: Promise<void>;
  private readonly reliefs: (() => void)[] = [];
  /** Commits to come, oldest first; messages are added to the last one. */
  private groups: Group[] = [];
  private flying: Group | undefined;
  /** Durable, and their callbacks have not run yet; oldest first. */
  private readonly durable: Group[] = [];
  private pendingBytes = 0;
  private pendingRecords = 0;
  private scheduled = false;
  /** When the last commit was sent, by `performance.now`. */
  private sentAt = Number.NEGATIVE_INFINITY;
  private sentRecords = 0;
  /** While a commit gathers, and what it held when it was looked at last. */
  private gathering: NodeJS.Timeout | undefined;
  private gathered = 0;
  private opened = false;
  private closing: Promise<void> | undefined;
  private onStuck: (() => void) | undefined;
  private failure: SpillwayError | undefined;
  private isFull = false;
  private isSaturated = false;
  private endOffset = 0;
  private firstOffset = 0;
  private diskBytes = 0;
  private commits = 0;
  private commitMsLast = 0;
  private commitMsMean = 0;
  private backfillWaiting = 0;

  private constructor(worker: Worker, options: AppenderOptions, events: AppenderEvents) {
    this.worker = worker;
    this.options = options;
    this.commitBytesMax = Math.min(options.commitBytesMax, COMMIT_BYTES_LIMIT);
    this.events = events;
    this.exited = new Promise((resolve) => worker.once('exit', () => resolve()));
  }

  /** Throws DATA_DIR_LOCKED, LOG_VERSION, LOG_CORRUPT, LOG_WRITE_FAILED. */
  static async open(
    options: AppenderOptions,
    events: AppenderEvents = {},
  ): Promise<EmbeddedAppender> {
    const { commitRecordsMax, commitBytesMax, pendingBytesMax, hasBackfill, ...writer } = options;
    const workerData: WriterOptions = writer;
    const worker = new Worker(new URL('./writer-thread.ts', import.meta.url), {
      workerData,
      name: 'log',
      resourceLimits: { maxYoungGenerationSizeMb: 16 },
    });
    const appender = new EmbeddedAppender(worker, options, events);
    await new Promise<void>((resolve, reject) => {
      worker.on('message', (message: FromWriter) => {
        appender.onMessage(message);
        if (message.kind === 'open') resolve();
        else if (message.kind === 'failed') {
          reject(new SpillwayError(message.code as ErrorCode, message.message));
        }
      });
      worker.on('error', (error) => {
        reject(new SpillwayError('LOG_WRITE_FAILED', error.message, { cause: error }));
        appender.fail('LOG_WRITE_FAILED', error.message);
      });
      worker.once('exit', () => {
        reject(new SpillwayError('LOG_WRITE_FAILED', 'the thread of the log ended'));
        if (appender.closing === undefined) appender.fail('LOG_WRITE_FAILED', 'its thread ended');
      });
    });
    appender.opened = true;
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

  append(request: AppendRequest, done: Done): void {
    const refusal = this.refusal();
    if (refusal !== undefined) {
      setImmediate(done, refusal);
      return;
    }
    const { records, tallyKeys, counts } = request;
    const backfill = this.options.hasBackfill === true ? request.backfill : undefined;
    if (records.length === 0) {
      this.afterAll(done);
      return;
    }
    const group = this.openGroup();
    let bytes = 0;
    for (let i = 0; i < records.length; i++) {
      const line = records[i] as string;
      bytes += line.length + 1;
      const { lines, tally } = backfill?.[i] === true ? backfillOf(group) : group;
      lines.push(line);
      const key = tallyKeys[i] as string;
      if (key !== NO_TALLY) tally.set(key, (tally.get(key) ?? 0) + (counts?.[i] ?? 1));
    }
    group.dones.push(done);
    group.bytes += bytes;
    group.records += records.length;
    this.pendingBytes += bytes;
    this.pendingRecords += records.length;
    if (this.pendingBytes > this.options.pendingBytesMax / 2) this.isSaturated = true;
    if (this.flying !== undefined) return;
    if (this.isWorth(group)) this.send();
    else if (!this.scheduled && this.gathering === undefined) {
      this.scheduled = true;
      setImmediate(() => {
        this.scheduled = false;
        if (this.flying === undefined && this.gathering === undefined) this.sendWhenGathered();
      });
    }
  }

  stats(): LogStats {
    return {
      pendingBytes: this.pendingBytes,
      pendingRecords: this.pendingRecords,
      endOffset: this.endOffset,
      firstOffset: this.firstOffset,
      diskBytes: this.diskBytes,
      diskBytesMax: this.options.diskBytesMax,
      full: this.isFull,
      commits: this.commits,
      commitMsLast: this.commitMsLast,
      commitMsMean: this.commitMsMean,
      ...(this.options.hasBackfill === true && { backfillWaiting: this.backfillWaiting }),
    };
  }

  flush(): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.failure !== undefined) reject(this.failure);
      else this.afterAll((error) => (error === null ? resolve() : reject(error)));
    });
  }

  /** Commits what waits, then ends the thread. What a full disk keeps from being committed is refused. */
  close(): Promise<void> {
    this.closing ??= this.end();
    return this.closing;
  }

  private async end(): Promise<void> {
    if (!this.isFull && this.failure === undefined) {
      await new Promise<void>((resolve) => {
        this.onStuck = resolve;
        this.afterAll(() => resolve());
      });
    }
    this.post({ kind: 'close' });
    await this.exited;
    this.refuseAll(new SpillwayError('LOG_CLOSED', 'the log is closed'));
  }

  private refusal(): SpillwayError | undefined {
    if (this.failure !== undefined) return this.failure;
    if (this.closing !== undefined) return new SpillwayError('LOG_CLOSED', 'the log is closing');
    if (this.pendingBytes > this.options.pendingBytesMax) {
      return new SpillwayError('LOG_SATURATED', 'too much waits for its commit');
    }
    return undefined;
  }

  /** Calls back when everything appended so far is settled. */
  private afterAll(done: Done): void {
    const last = this.groups.at(-1) ?? this.flying ?? this.durable.at(-1);
    // Before the answer to any later commit can come.
    if (last === undefined) queueMicrotask(() => done(null));
    else last.dones.push(done);
  }

  /** The group that takes the next message: a message is never split, so it may go beyond the bounds. */
  private openGroup(): Group {
    const last = this.groups.at(-1);
    if (last !== undefined && !this.isClosed(last)) return last;
    const part: Part = { lines: [], tally: new Map() };
    const group: Group = { ...part, backfill: undefined, records: 0, dones: [], bytes: 0 };
    this.groups.push(group);
    return group;
  }

  private isClosed(group: Group): boolean {
    return group.records >= this.options.commitRecordsMax || group.bytes >= this.commitBytesMax;
  }

  /** Nothing is gained by waiting for more. */
  private isWorth(group: Group): boolean {
    return group.records >= WORTH_RECORDS || group.bytes >= WORTH_BYTES || this.isClosed(group);
  }

  private sendWhenGathered(): void {
    const [group] = this.groups;
    if (group === undefined) return;
    const isDue = performance.now() - this.sentAt >= this.options.commitIntervalMs;
    if (isDue || this.sentRecords < FEW_RECORDS || this.isWorth(group)) {
      this.send();
      return;
    }
    this.gathered = group.records;
    this.gathering = setTimeout(() => {
      this.gathering = undefined;
      if (group.records === this.gathered) this.send();
      else this.sendWhenGathered();
    }, QUIET_MS);
  }

  private send(): void {
    clearTimeout(this.gathering);
    this.gathering = undefined;
    const group = this.groups.shift();
    this.flying = group;
    if (group === undefined) return;
    this.sentAt = performance.now();
    this.sentRecords = group.records;
    const { backfill } = group;
    this.post({
      kind: 'commit',
      ...packed(group),
      ...(backfill !== undefined && { backfill: packed(backfill) }),
    });
  }

  private onMessage(message: FromWriter): void {
    switch (message.kind) {
      case 'open':
        this.endOffset = message.endOffset;
        this.firstOffset = message.firstOffset;
        this.diskBytes = message.diskBytes;
        break;
      case 'committed':
        this.committed(message);
        break;
      case 'full':
        this.isFull = true;
        this.diskBytes = message.diskBytes;
        this.events.onFull?.(true, message.reason);
        this.onStuck?.();
        break;
      case 'trimmed':
        this.firstOffset = message.firstOffset;
        this.diskBytes = message.diskBytes;
        break;
      case 'backfill':
        this.backfillWaiting = message.waiting;
        break;
      case 'failed':
        this.fail(message.code as ErrorCode, message.message);
        break;
      default:
        break;
    }
  }

  private committed(message: Extract<FromWriter, { kind: 'committed' }>): void {
    const group = this.flying;
    if (group === undefined) return;
    this.pendingBytes -= group.bytes;
    this.pendingRecords -= group.records;
    this.backfillWaiting += group.backfill?.lines.length ?? 0;
    this.endOffset = message.endOffset;
    this.firstOffset = message.firstOffset;
    this.diskBytes = message.diskBytes;
    this.commits++;
    this.commitMsLast = message.ms;
    this.commitMsMean += (message.ms - this.commitMsMean) / 16;
    this.flying = undefined;
    // The next commit is sent before the callbacks run, so that the disk never waits for them.
    this.sendWhenGathered();
    if (this.isFull) {
      this.isFull = false;
      this.events.onFull?.(false, undefined);
    }
    this.events.onCommit?.(message.ms, group.records);
    if (this.durable.push(group) === 1) setImmediate(() => this.settle());
  }

  /**
   * The callbacks of one commit in each turn of the event loop. Within the message's own turn Node goes on
   * with further messages of the port, and as callbacks append what makes the next commit, a flood kept
   * sockets and timers waiting for seconds.
   */
  private settle(): void {
    const group = this.durable.shift();
    if (group === undefined) return;
    if (this.durable.length > 0) setImmediate(() => this.settle());
    for (const done of group.dones) done(null);
    if (this.isSaturated && this.pendingBytes < this.options.pendingBytesMax / 4) {
      this.isSaturated = false;
      for (const callback of this.reliefs) callback();
    }
  }

  private fail(code: ErrorCode, message: string): void {
    if (this.failure !== undefined || !this.opened) return;
    this.failure = new SpillwayError(code, `the log can't write: ${message}`);
    this.refuseAll(this.failure);
    this.events.onFailed?.(this.failure);
  }

  private refuseAll(error: SpillwayError): void {
    clearTimeout(this.gathering);
    this.gathering = undefined;
    while (this.durable.length > 0) this.settle();
    const groups = this.flying === undefined ? this.groups : [this.flying, ...this.groups];
    this.flying = undefined;
    this.groups = [];
    this.pendingBytes = 0;
    this.pendingRecords = 0;
    for (const { dones } of groups) for (const done of dones) done(error);
  }

  private post(message: ToWriter): void {
    this.worker.postMessage(message);
  }
}

function backfillOf(group: Group): Part {
  group.backfill ??= { lines: [], tally: new Map() };
  return group.backfill;
}

function packed({ lines, tally }: Part): {
  text: string;
  records: number;
  tally: (string | number)[];
} {
  return { text: lines.join('\n'), records: lines.length, tally: [...tally].flat() };
}
