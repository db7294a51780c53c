import type { DatabaseSync, StatementSync } from 'node:sqlite';
import { type MessagePort, parentPort, workerData } from 'node:worker_threads';
import { accountCutoff } from '../../core/account-age.ts';
import { SpillwayError } from '../../core/errors.ts';
import { parseTallyKey } from '../record.ts';
import {
  asLogError,
  BACKFILL,
  CODECS,
  type CodecName,
  encodeBatch,
  isDiskFull,
  LANES,
  type Lane,
  LIVE,
  openLogForWriting,
  openOffsets,
  VERSION_BACKFILLING,
  VERSION_DRAINED,
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

/** What one commit adds to a lane. */
interface Part {
  text: string;
  records: number;
  /** Tally keys and counts in turn. */
  tally: (string | number)[];
}

/** One of the two may have no records. */
export interface CommitMessage extends Part {
  kind: 'commit';
  backfill?: Part;
}

export type ToWriter = CommitMessage | { kind: 'close' };

export type FromWriter =
  | { kind: 'open'; endOffset: number; firstOffset: number; diskBytes: number }
  | { kind: 'committed'; endOffset: number; firstOffset: number; diskBytes: number; ms: number }
  | { kind: 'full'; diskBytes: number; reason: 'budget' | 'disk' }
  | { kind: 'trimmed'; firstOffset: number; diskBytes: number }
  /** Records of the lane for old readings that nobody has processed. */
  | { kind: 'backfill'; waiting: number }
  | { kind: 'failed'; code: string; message: string };

class Writer {
  private readonly db: DatabaseSync;
  private readonly offsets: DatabaseSync;
  private readonly lock: { release(): void };
  private readonly options: WriterOptions;
  private readonly port: MessagePort;
  private readonly inserts: ReadonlyMap<Lane, StatementSync>;
  private readonly setMeta;
  private readonly forgetLines;
  private readonly pageSize: number;
  private readonly pageCount;
  private readonly freePages;
  private endOffset: number;
  private backfillEnd: number;
  private version: number;
  private backfillWaiting = 0;
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
    this.inserts = new Map(
      LANES.map((lane) => [
        lane,
        this.db.prepare(
          `INSERT INTO ${lane.batches} VALUES (?, ?, ?, ?, ?, ?, ?${lane === LIVE ? '' : ', ?'})`,
        ),
      ]),
    );
    this.setMeta = this.db.prepare('UPDATE meta SET value = ? WHERE key = ?');
    this.forgetLines = this.db.prepare(
      `DELETE FROM received WHERE (tenant, device, hour, outcome, code) IN
       (SELECT tenant, device, hour, outcome, code FROM received WHERE hour < ? LIMIT ?)`,
    );
    this.pageCount = this.db.prepare('PRAGMA page_count');
    this.freePages = this.db.prepare('PRAGMA freelist_count');
    this.pageSize = Number(this.db.prepare('PRAGMA page_size').get()?.page_size);
    this.endOffset = this.meta('end');
    this.backfillEnd = this.meta('backfillEnd');
    this.version = this.meta('version');
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
    this.lookAtBackfill();
  }

  commit(message: CommitMessage): void {
    const started = performance.now();
    if (!this.hasRoom()) {
      this.fold();
      for (const lane of LANES) this.trim(lane, 0, 0);
      if (!this.hasRoom()) {
        this.wait(message, 'budget');
        return;
      }
    }
    const { backfill } = message;
    const encoded = encodeBatch(message.text, this.options.compression);
    const encodedBackfill =
      backfill === undefined ? undefined : encodeBatch(backfill.text, this.options.compression);
    const kept = this.transact(() => {
      if (message.records > 0) this.write(LIVE, this.endOffset, message, encoded);
      if (backfill === undefined || encodedBackfill === undefined) return;
      const after = this.endOffset + message.records;
      this.write(BACKFILL, this.backfillEnd, backfill, encodedBackfill, after);
      if (this.version !== VERSION_BACKFILLING) this.setMeta.run(VERSION_BACKFILLING, 'version');
    });
    if (!kept) {
      this.wait(message, 'disk');
      return;
    }
    this.endOffset += message.records;
    if (backfill !== undefined) {
      this.backfillEnd += backfill.records;
      this.backfillWaiting += backfill.records;
      this.version = VERSION_BACKFILLING;
    }
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

  private write(
    lane: Lane,
    at: number,
    { records, tally }: Part,
    { payload, crc }: { payload: Buffer; crc: number },
    ...more: number[]
  ): void {
    const codec = CODECS[this.options.compression];
    this.inserts
      .get(lane)
      ?.run(at, records, Date.now(), codec, crc, JSON.stringify(tally), payload, ...more);
    this.setMeta.run(at + records, lane.end);
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
    this.guard(() => {
      this.fold();
      this.lookAtBackfill();
    });
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
    for (const { committed, end: key } of LANES) {
      const end = this.meta(key);
      const row = this.offsets
        .prepare(`SELECT grp, next_offset FROM ${committed} WHERE next_offset > ? LIMIT 1`)
        .get(end);
      if (row === undefined) continue;
      throw new SpillwayError(
        'LOG_CORRUPT',
        `log.db ends at offset ${end}, but offsets.db says that ${row.grp} has read up to ${row.next_offset}: ` +
          'they are not of one log. Restore both, or remove offsets.db to read log.db from its beginning.',
      );
    }
  }

  private keepHouse(): void {
    this.fold();
    this.forget();
    this.lookAtBackfill();
    if (!this.trimming) this.trimOn();
  }

  /** How much of the lane waits; when nothing does, the release before may read the log again. */
  private lookAtBackfill(): void {
    if (this.version === VERSION_DRAINED && this.backfillWaiting === 0) return;
    const waiting = this.backfillEnd - (this.consumed(BACKFILL) ?? 0);
    if (waiting !== this.backfillWaiting) {
      this.backfillWaiting = waiting;
      this.post({ kind: 'backfill', waiting });
    }
    if (waiting > 0 || this.meta(BACKFILL.folded) < this.backfillEnd) return;
    if (this.transact(() => this.setMeta.run(VERSION_DRAINED, 'version'))) {
      this.version = VERSION_DRAINED;
    }
  }

  /** What every group has read of a lane; undefined without a group. */
  private consumed({ committed }: Lane): number | undefined {
    const least = this.offsets
      .prepare(`SELECT min(next_offset) AS least FROM ${committed}`)
      .get()?.least;
    return typeof least === 'number' ? least : undefined;
  }

  /** Drops the oldest hours of the account, some lines at a time. */
  private forget(): void {
    const cutoff = accountCutoff(Date.now(), this.options.accountForMs);
    if (cutoff <= 0) return;
    this.transact(() => this.forgetLines.run(cutoff, FORGET_STEP));
  }

  /** Trims a step at a time, so that commits come between. */
  private trimOn(): void {
    const { retainForMs, retainBytes } = this.options;
    this.trimming = LANES.map((lane) => this.trim(lane, retainForMs, retainBytes)).includes(true);
    if (this.trimming) setImmediate(() => this.guard(() => this.trimOn()));
  }

  /** Moves the tallies of new batches into `received`, so that trimming forgets no count. */
  private fold(): void {
    this.foldLane(LIVE);
    if (this.version !== VERSION_DRAINED) this.foldLane(BACKFILL);
  }

  private foldLane(lane: Lane): void {
    for (;;) {
      const folded = this.meta(lane.folded);
      const rows = this.db
        .prepare(
          `SELECT first_offset, records, tally FROM ${lane.batches} WHERE first_offset >= ? ORDER BY first_offset LIMIT ?`,
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
        this.setMeta.run(Number(last.first_offset) + Number(last.records), lane.folded);
      });
      if (!kept || rows.length < FOLD_STEP) return;
    }
  }

  /**
   * Drops batches that every group has consumed and whose tallies are folded, oldest first, while they
   * are older than `retainForMs` or the log is larger than `retainBytes`; does nothing without a group.
   * True when there may be more to drop.
   */
  private trim(lane: Lane, retainForMs: number, retainBytes: number): boolean {
    const consumed = this.consumed(lane);
    if (consumed === undefined) return false;
    const limit = Math.min(consumed, this.meta(lane.folded));
    const before = Date.now() - retainForMs;
    const rows = this.db
      .prepare(
        `SELECT first_offset, at, length(payload) AS bytes FROM ${lane.batches}
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
    const remove = this.db.prepare(`DELETE FROM ${lane.batches} WHERE first_offset <= ?`);
    if (dropped === 0 || !this.transact(() => remove.run(end))) return false;
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
