import type { DatabaseSync } from 'node:sqlite';
import { type MessagePort, parentPort, workerData } from 'node:worker_threads';
import { accountCutoff } from '../../core/account-age.ts';
import { SpillwayError } from '../../core/errors.ts';
import { parseTallyKey } from '../record.ts';
import {
  asLogError,
  CODECS,
  type CodecName,
  encodeBatch,
  isDiskFull,
  openLogForWriting,
  openOffsets,
} from './format.ts';
import { lockDirectory } from './lock.ts';

/**
 * The thread that owns `log.db`. One message in is one group commit: compress, insert, fsync, answer.
 *
 * States: `ready` → (budget used up, or the disk is full) → `full`: the commit is kept and tried again
 * every RETRY_MS, nothing is answered meanwhile → space is back → `ready`. Any other error of the disk
 * ends the thread: after a failed fsync the kernel may call the pages clean, so that trying again would
 * lie; the process has to start anew from what is known to be on disk.
 */
const RETRY_MS = 250;
const HOUSEKEEPING_MS = 1_000;
/** Batches for each step of trimming, so that a commit never waits long for it. */
const TRIM_STEP = 64;
/** Batches whose tallies are folded in one transaction. */
const FOLD_STEP = 512;
/** Lines of the account that are dropped in one transaction. */
const FORGET_STEP = 2_000;
/** A full log takes no more until this part of the budget is free, so that it does not flicker. */
const FREE_SHARE = 0.05;

export interface WriterOptions {
  dir: string;
  diskBytesMax: number;
  retainForMs: number;
  retainBytes: number;
  /** The account is kept so long, ms; absent or 0: for ever. */
  accountForMs?: number;
  compression: CodecName;
}

export interface CommitMessage {
  kind: 'commit';
  text: string;
  records: number;
  /** Tally keys and counts in turn. */
  tally: (string | number)[];
}

export type ToWriter = CommitMessage | { kind: 'close' };

export type FromWriter =
  | { kind: 'open'; endOffset: number; firstOffset: number; diskBytes: number }
  | { kind: 'committed'; endOffset: number; firstOffset: number; diskBytes: number; ms: number }
  | { kind: 'full'; diskBytes: number; reason: 'budget' | 'disk' }
  | { kind: 'trimmed'; firstOffset: number; diskBytes: number }
  | { kind: 'failed'; code: string; message: string };

class Writer {
  private readonly db: DatabaseSync;
  private readonly offsets: DatabaseSync;
  private readonly lock: { release(): void };
  private readonly options: WriterOptions;
  private readonly port: MessagePort;
  private readonly insert;
  private readonly remove;
  private readonly setMeta;
  private readonly forgetLines;
  private readonly pageSize: number;
  private readonly pageCount;
  private readonly freePages;
  private endOffset: number;
  private firstOffset: number;
  private diskBytes = 0;
  private waiting: CommitMessage | undefined;
  private retry: NodeJS.Timeout | undefined;
  private trimming = false;
  private stopped = false;
  private readonly housekeeping: NodeJS.Timeout;

  constructor(options: WriterOptions, port: MessagePort) {
    this.options = options;
    this.port = port;
    this.lock = lockDirectory(options.dir);
    this.db = openLogForWriting(options.dir);
    this.offsets = openOffsets(options.dir);
    this.remove = this.db.prepare('DELETE FROM batch WHERE first_offset <= ?');
    this.insert = this.db.prepare('INSERT INTO batch VALUES (?, ?, ?, ?, ?, ?, ?)');
    this.setMeta = this.db.prepare('UPDATE meta SET value = ? WHERE key = ?');
    this.forgetLines = this.db.prepare(
      `DELETE FROM received WHERE (tenant, device, hour, outcome, code) IN
       (SELECT tenant, device, hour, outcome, code FROM received WHERE hour < ? LIMIT ?)`,
    );
    this.pageCount = this.db.prepare('PRAGMA page_count');
    this.freePages = this.db.prepare('PRAGMA freelist_count');
    this.pageSize = Number(this.db.prepare('PRAGMA page_size').get()?.page_size);
    this.endOffset = this.meta('end');
    this.firstOffset = this.readFirstOffset();
    this.checkOffsets();
    this.measure();
    this.housekeeping = setInterval(() => this.guard(() => this.keepHouse()), HOUSEKEEPING_MS);
    this.post({
      kind: 'open',
      endOffset: this.endOffset,
      firstOffset: this.firstOffset,
      diskBytes: this.diskBytes,
    });
  }

  commit(message: CommitMessage): void {
    const started = performance.now();
    if (!this.hasRoom()) {
      this.fold();
      this.trim(0, 0);
      if (!this.hasRoom()) {
        this.wait(message, 'budget');
        return;
      }
    }
    const { payload, crc } = encodeBatch(message.text, this.options.compression);
    const kept = this.transact(() => {
      this.insert.run(
        this.endOffset,
        message.records,
        Date.now(),
        CODECS[this.options.compression],
        crc,
        JSON.stringify(message.tally),
        payload,
      );
      this.setMeta.run(this.endOffset + message.records, 'end');
    });
    if (!kept) {
      this.wait(message, 'disk');
      return;
    }
    this.endOffset += message.records;
    this.waiting = undefined;
    this.measure();
    this.post({
      kind: 'committed',
      endOffset: this.endOffset,
      firstOffset: this.firstOffset,
      diskBytes: this.diskBytes,
      ms: performance.now() - started,
    });
  }

  /** Runs a step; an error that is not handled inside means that the disk can't be trusted. */
  guard(step: () => void): void {
    if (this.stopped) return;
    try {
      step();
    } catch (cause) {
      this.stop();
      const error = asLogError(cause);
      const code = error instanceof SpillwayError ? error.code : 'LOG_WRITE_FAILED';
      const message = error instanceof Error ? error.message : String(error);
      this.post({ kind: 'failed', code, message });
    }
  }

  close(): void {
    this.guard(() => this.fold());
    this.stop();
    try {
      this.db.close();
      this.offsets.close();
      this.lock.release();
    } finally {
      this.port.close();
    }
  }

  private stop(): void {
    this.stopped = true;
    clearInterval(this.housekeeping);
    clearTimeout(this.retry);
  }

  private hasRoom(): boolean {
    const { diskBytesMax } = this.options;
    return this.diskBytes < diskBytesMax * (this.waiting === undefined ? 1 : 1 - FREE_SHARE);
  }

  private wait(message: CommitMessage, reason: 'budget' | 'disk'): void {
    if (this.waiting === undefined) this.post({ kind: 'full', diskBytes: this.diskBytes, reason });
    this.waiting = message;
    this.retry = setTimeout(() => this.guard(() => this.commit(message)), RETRY_MS);
  }

  /** A group that is ahead of the log would skip what is appended next, and let it be trimmed unread. */
  private checkOffsets(): void {
    const row = this.offsets
      .prepare('SELECT grp, next_offset FROM committed WHERE next_offset > ? LIMIT 1')
      .get(this.endOffset);
    if (row === undefined) return;
    throw new SpillwayError(
      'LOG_CORRUPT',
      `log.db ends at offset ${this.endOffset}, but offsets.db says that ${row.grp} has read up to ${row.next_offset}: ` +
        'they are not of one log. Restore both, or remove offsets.db to read log.db from its beginning.',
    );
  }

  private keepHouse(): void {
    this.fold();
    this.forget();
    if (!this.trimming) this.trimOn();
  }

  /** Drops the oldest hours of the account, some lines at a time. */
  private forget(): void {
    const cutoff = accountCutoff(Date.now(), this.options.accountForMs);
    if (cutoff <= 0) return;
    this.transact(() => this.forgetLines.run(cutoff, FORGET_STEP));
  }

  /** Trims a step at a time, so that commits come between. */
  private trimOn(): void {
    this.trimming = this.trim(this.options.retainForMs, this.options.retainBytes);
    if (this.trimming) setImmediate(() => this.guard(() => this.trimOn()));
  }

  /** Moves the tallies of new batches into `received`, so that trimming forgets no count. */
  private fold(): void {
    for (;;) {
      const folded = this.meta('folded');
      const rows = this.db
        .prepare(
          'SELECT first_offset, records, tally FROM batch WHERE first_offset >= ? ORDER BY first_offset LIMIT ?',
        )
        .all(folded, FOLD_STEP);
      const last = rows.at(-1);
      if (last === undefined) return;
      const sums = new Map<string, number>();
      for (const row of rows) {
        const tally = JSON.parse(String(row.tally)) as (string | number)[];
        for (let i = 0; i < tally.length; i += 2) {
          const key = String(tally[i]);
          sums.set(key, (sums.get(key) ?? 0) + Number(tally[i + 1]));
        }
      }
      const add = this.db.prepare(
        `INSERT INTO received VALUES (?, ?, ?, ?, ?, ?)
         ON CONFLICT DO UPDATE SET count = count + excluded.count`,
      );
      const kept = this.transact(() => {
        for (const [key, count] of sums) {
          const { tenant, device, hour, outcome, code } = parseTallyKey(key, count);
          add.run(tenant, device, hour, outcome, code, count);
        }
        this.setMeta.run(Number(last.first_offset) + Number(last.records), 'folded');
      });
      if (!kept || rows.length < FOLD_STEP) return;
    }
  }

  /**
   * Drops batches that every group has consumed and whose tallies are folded, oldest first, while they
   * are older than `retainForMs` or the log is larger than `retainBytes`; does nothing without a group.
   * True when there may be more to drop.
   */
  private trim(retainForMs: number, retainBytes: number): boolean {
    const consumed = this.offsets
      .prepare('SELECT min(next_offset) AS least FROM committed')
      .get()?.least;
    if (typeof consumed !== 'number') return false;
    const limit = Math.min(consumed, this.meta('folded'));
    const before = Date.now() - retainForMs;
    const rows = this.db
      .prepare(
        `SELECT first_offset, at, length(payload) AS bytes FROM batch
         WHERE first_offset + records <= ? ORDER BY first_offset LIMIT ?`,
      )
      .all(limit, TRIM_STEP);
    let size = this.diskBytes;
    let dropped = 0;
    let end = 0;
    for (const row of rows) {
      if (Number(row.at) >= before && size <= retainBytes) break;
      end = Number(row.first_offset);
      size -= Number(row.bytes);
      dropped++;
    }
    if (dropped === 0 || !this.transact(() => this.remove.run(end))) return false;
    this.firstOffset = this.readFirstOffset();
    this.measure();
    this.post({ kind: 'trimmed', firstOffset: this.firstOffset, diskBytes: this.diskBytes });
    return dropped === TRIM_STEP;
  }

  /** False when the disk is full: SQLite has rolled back by itself or does so here, and nothing was synced. */
  private transact(work: () => void): boolean {
    try {
      this.db.exec('BEGIN IMMEDIATE');
      work();
      this.db.exec('COMMIT');
      return true;
    } catch (error) {
      if (!isDiskFull(error)) throw error;
      if (this.db.isTransaction) this.db.exec('ROLLBACK');
      return false;
    }
  }

  private measure(): void {
    const pages =
      Number(this.pageCount.get()?.page_count) - Number(this.freePages.get()?.freelist_count);
    this.diskBytes = pages * this.pageSize;
  }

  private meta(key: string): number {
    return Number(this.db.prepare('SELECT value FROM meta WHERE key = ?').get(key)?.value ?? 0);
  }

  private readFirstOffset(): number {
    const first = this.db.prepare('SELECT min(first_offset) AS first FROM batch').get()?.first;
    return typeof first === 'number' ? first : this.endOffset;
  }

  private post(message: FromWriter): void {
    this.port.postMessage(message);
  }
}

if (parentPort !== null) {
  const port = parentPort;
  try {
    const writer = new Writer(workerData as WriterOptions, port);
    port.on('message', (message: ToWriter) => {
      if (message.kind === 'close') writer.close();
      else writer.guard(() => writer.commit(message));
    });
  } catch (cause) {
    const error = asLogError(cause);
    const code = error instanceof SpillwayError ? error.code : 'LOG_WRITE_FAILED';
    port.postMessage({
      kind: 'failed',
      code,
      message: error instanceof Error ? error.message : String(error),
    });
    port.close();
  }
}
