import { existsSync } from 'node:fs';
import type { DatabaseSync, StatementSync } from 'node:sqlite';
import { setTimeout as sleep } from 'node:timers/promises';
import { SpillwayError } from '../../core/errors.ts';
import type { LogRecord, ReceivedCount } from '../../core/nouns.ts';
import type { ConsumeOptions, LogBatch, LogConsumer, ReceivedFilter } from '../contract.ts';
import { decodeRecord, parseTallyKey } from '../record.ts';
import {
  asLogError,
  BACKFILL,
  corrupt,
  decodeBatch,
  hasTable,
  isDiskFull,
  LANES,
  type Lane,
  LIVE,
  logPath,
  openLogForReading,
  openOffsets,
} from './format.ts';

/** How long a consumer that has caught up waits before it looks again, ms; a look costs about 10 µs. */
const POLL_MS = 20;
const BATCHES_MAX = 64;
/** Of old readings fewer come at once, so that live ones don't wait for them. */
const BACKFILL_RECORDS_MAX = 1_000;

/** Sums of an account within a filter. */
class ReceivedSums {
  readonly from: number;
  readonly to: number;
  private readonly tenant: string | undefined;
  private readonly sums = new Map<string, ReceivedCount>();

  constructor({ tenant, from = 0, to = Number.MAX_SAFE_INTEGER }: ReceivedFilter) {
    this.tenant = tenant;
    this.from = from;
    this.to = to;
  }

  add(count: ReceivedCount): void {
    if (this.tenant !== undefined && count.tenant !== this.tenant) return;
    if (count.hour < this.from || count.hour >= this.to) return;
    const key = `${count.tenant}/${count.device}/${count.hour}/${count.outcome}/${count.code}`;
    const known = this.sums.get(key);
    if (known === undefined) this.sums.set(key, count);
    else known.count += count.count;
  }

  counts(): ReceivedCount[] {
    return [...this.sums.values()].filter(({ count }) => count !== 0);
  }
}

/**
 * Reads the embedded log beside its writer, from any thread or process. The directory may be empty as
 * yet: reading begins when the writer has made its file.
 */
export class EmbeddedConsumer implements LogConsumer {
  private readonly dir: string;
  private log: DatabaseSync | undefined;
  private offsets: DatabaseSync | undefined;
  private readonly selects = new Map<Lane, StatementSync>();
  private closed = false;

  constructor(options: { dir: string }) {
    this.dir = options.dir;
  }

  async *consume(group: string, options: ConsumeOptions): AsyncIterable<LogBatch> {
    const { signal, alone = false } = options;
    const next = new Map(alone ? [] : await this.committed(group));
    for (const [partition, offset] of options.from ?? []) next.set(partition, offset);
    while (!signal.aborted && !this.closed) {
      let isIdle = true;
      for (const lane of LANES) {
        const { partition } = lane;
        if (options.holdsBack?.(partition) === true) continue;
        const live = next.get(LIVE.partition) ?? 0;
        const batch = this.read(lane, next.get(partition) ?? 0, live, options);
        if (batch === undefined) continue;
        isIdle = false;
        yield batch;
        if (signal.aborted || this.closed) return;
        next.set(partition, batch.nextOffset);
      }
      if (isIdle) await sleep(POLL_MS, undefined, { signal }).catch(() => {});
    }
  }

  isBackfill(partition: number): boolean {
    return partition === BACKFILL.partition;
  }

  async commit(group: string, partition: number, offset: number): Promise<void> {
    try {
      this.openOffsets()
        .prepare(
          `INSERT INTO ${laneOf(partition).committed} VALUES (?, ?, ?)
           ON CONFLICT DO UPDATE SET next_offset = max(next_offset, excluded.next_offset)`,
        )
        .run(group, partition, offset);
    } catch (error) {
      if (!isDiskFull(error)) throw asLogError(error);
      throw new SpillwayError('LOG_FULL', 'the disk is full; the offset is not kept', {
        cause: error,
      });
    }
  }

  async committed(group: string): Promise<Map<number, number>> {
    const rows = this.openOffsets()
      .prepare(
        `SELECT partition, next_offset FROM committed WHERE grp = ?1
         UNION ALL SELECT partition, next_offset FROM committed_backfill WHERE grp = ?1`,
      )
      .all(group);
    return new Map(rows.map((row) => [Number(row.partition), Number(row.next_offset)]));
  }

  async bounds(): Promise<Map<number, { first: number; end: number }>> {
    const log = this.openLog();
    const of = ({ batches, end: key }: Lane) => {
      const row = log
        ?.prepare(
          `SELECT (SELECT value FROM meta WHERE key = ?) AS end, (SELECT min(first_offset) FROM ${batches}) AS first`,
        )
        .get(key);
      const end = Number(row?.end ?? 0);
      return { first: Number(row?.first ?? end), end };
    };
    if (log === undefined) return new Map([[LIVE.partition, of(LIVE)]]);
    // One read transaction: both ends change with one commit.
    log.exec('BEGIN');
    try {
      const bounds = new Map([[LIVE.partition, of(LIVE)]]);
      const backfill = this.hasBackfill(log) ? of(BACKFILL) : undefined;
      // Most logs never have any.
      if (backfill !== undefined && backfill.end > 0) bounds.set(BACKFILL.partition, backfill);
      return bounds;
    } finally {
      log.exec('COMMIT');
    }
  }

  async received(filter: ReceivedFilter): Promise<ReceivedCount[]> {
    return this.receivedBefore(filter, Number.MAX_SAFE_INTEGER);
  }

  /**
   * The same, of the live records before `offset` alone, which has to be the end of a commit, and nothing
   * from there on may have been trimmed.
   */
  async receivedBefore(filter: ReceivedFilter, offset: number): Promise<ReceivedCount[]> {
    const log = this.openLog();
    if (log === undefined) return [];
    const sums = new ReceivedSums(filter);
    const { tenant } = filter;
    const addBatches = ({ batches }: Lane, from: number, to: number, sign: 1 | -1) => {
      const rows = log
        .prepare(`SELECT tally FROM ${batches} WHERE first_offset >= ? AND first_offset < ?`)
        .iterate(from, to);
      for (const row of rows) {
        const tally = JSON.parse(String(row.tally)) as (string | number)[];
        for (let i = 0; i < tally.length; i += 2) {
          sums.add(parseTallyKey(String(tally[i]), sign * Number(tally[i + 1])));
        }
      }
    };
    // One read transaction, so that no batch is folded between the reads.
    log.exec('BEGIN');
    try {
      const foldedOf = (lane: Lane) =>
        Number(log.prepare('SELECT value FROM meta WHERE key = ?').get(lane.folded)?.value ?? 0);
      const folded = foldedOf(LIVE);
      const select = log.prepare(
        `SELECT * FROM received WHERE hour >= ? AND hour < ? ${tenant === undefined ? '' : 'AND tenant = ?'}`,
      );
      const bounds = [sums.from, sums.to, ...(tenant === undefined ? [] : [tenant])];
      for (const row of select.iterate(...bounds)) {
        sums.add({
          tenant: String(row.tenant),
          device: String(row.device),
          hour: Number(row.hour),
          outcome: String(row.outcome) as ReceivedCount['outcome'],
          code: String(row.code),
          count: Number(row.count),
        });
      }
      if (offset < folded) addBatches(LIVE, offset, folded, -1);
      else addBatches(LIVE, folded, offset, 1);
      if (this.hasBackfill(log)) {
        addBatches(BACKFILL, foldedOf(BACKFILL), Number.MAX_SAFE_INTEGER, 1);
      }
    } catch (error) {
      throw asLogError(error);
    } finally {
      log.exec('COMMIT');
    }
    return sums.counts();
  }

  async close(): Promise<void> {
    this.closed = true;
    this.log?.close();
    this.offsets?.close();
    this.log = undefined;
    this.selects.clear();
    this.offsets = undefined;
  }

  private read(
    lane: Lane,
    from: number,
    live: number,
    { recordsMax = 4_000, lines = false }: ConsumeOptions,
  ): LogBatch | undefined {
    const most = lane === BACKFILL ? Math.min(recordsMax, BACKFILL_RECORDS_MAX) : recordsMax;
    try {
      return this.readBatches(lane, from, live, most, lines);
    } catch (error) {
      throw asLogError(error);
    }
  }

  private readBatches(
    lane: Lane,
    from: number,
    live: number,
    recordsMax: number,
    asLines: boolean,
  ): LogBatch | undefined {
    const select = this.selectOf(lane);
    if (select === undefined) return undefined;
    const rows = select.iterate(from, BATCHES_MAX);
    const records: LogRecord[] = [];
    const kept: string[] = [];
    let firstOffset = from;
    let nextOffset = from;
    let appendedAt = 0;
    for (const row of rows) {
      // Live records that were committed before come first.
      if (Number(row.after ?? 0) > live) break;
      const first = Number(row.first_offset);
      const lines = decodeBatch({
        first_offset: first,
        codec: Number(row.codec),
        crc: Number(row.crc),
        payload: row.payload as Uint8Array,
      });
      if (lines.length !== Number(row.records))
        throw corrupt(first, `it holds ${lines.length} records`);
      if (nextOffset === from) firstOffset = Math.max(from, first);
      // A gap means that retention or the disk budget trimmed what this group had not read.
      else if (first !== nextOffset) break;
      for (let i = Math.max(0, from - first); i < lines.length; i++) {
        if (asLines) {
          kept.push(lines[i] as string);
          continue;
        }
        try {
          records.push(decodeRecord(lines[i] as string));
        } catch (cause) {
          throw corrupt(first + i, 'the record is not JSON', cause);
        }
      }
      nextOffset = first + lines.length;
      appendedAt = Number(row.at);
      if (nextOffset - firstOffset >= recordsMax) break;
    }
    if (nextOffset === from) return undefined;
    const { partition } = lane;
    const batch = { partition, firstOffset, nextOffset, records, appendedAt };
    return asLines ? { ...batch, lines: kept } : batch;
  }

  private selectOf(lane: Lane): StatementSync | undefined {
    const known = this.selects.get(lane);
    if (known !== undefined) return known;
    const log = this.openLog();
    if (log === undefined || (lane === BACKFILL && !this.hasBackfill(log))) return undefined;
    const select = log.prepare(
      `SELECT first_offset, records, at, codec, crc, payload${lane === BACKFILL ? ', after' : ''} FROM ${lane.batches}
       WHERE first_offset >= coalesce((SELECT max(first_offset) FROM ${lane.batches} WHERE first_offset <= ?1), 0)
         AND first_offset + records > ?1
       ORDER BY first_offset LIMIT ?2`,
    );
    this.selects.set(lane, select);
    return select;
  }

  /** A log that no writer of this release has opened has no such table. */
  private hasBackfill(log: DatabaseSync): boolean {
    return this.selects.has(BACKFILL) || hasTable(log, BACKFILL.batches);
  }

  private openLog(): DatabaseSync | undefined {
    if (this.log === undefined && existsSync(logPath(this.dir))) {
      this.log = openLogForReading(this.dir);
    }
    return this.log;
  }

  private openOffsets(): DatabaseSync {
    this.offsets ??= openOffsets(this.dir);
    return this.offsets;
  }
}

function laneOf(partition: number): Lane {
  const lane = LANES.find((one) => one.partition === partition);
  if (lane === undefined) throw new RangeError(`the embedded log has no partition ${partition}`);
  return lane;
}
