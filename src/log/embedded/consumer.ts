import { existsSync } from 'node:fs';
import type { DatabaseSync, StatementSync } from 'node:sqlite';
import { setTimeout as sleep } from 'node:timers/promises';
import { SpillwayError } from '../../core/errors.ts';
import type { LogRecord, ReceivedCount } from '../../core/nouns.ts';
import type { ConsumeOptions, LogBatch, LogConsumer } from '../contract.ts';
import { decodeRecord, parseTallyKey } from '../record.ts';
import {
  asLogError,
  corrupt,
  decodeBatch,
  isDiskFull,
  logPath,
  openLogForReading,
  openOffsets,
  PARTITION,
} from './format.ts';

/** How long a consumer that has caught up waits before it looks again, ms; a look costs about 10 µs. */
const POLL_MS = 20;
const BATCHES_MAX = 64;

/**
 * Reads the embedded log beside its writer, from any thread or process. The directory may be empty as
 * yet: reading begins when the writer has made its file.
 */
export class EmbeddedConsumer implements LogConsumer {
  private readonly dir: string;
  private log: DatabaseSync | undefined;
  private offsets: DatabaseSync | undefined;
  private select: StatementSync | undefined;
  private closed = false;

  constructor(options: { dir: string }) {
    this.dir = options.dir;
  }

  async *consume(group: string, options: ConsumeOptions): AsyncIterable<LogBatch> {
    const { signal } = options;
    const recordsMax = options.recordsMax ?? 4_000;
    let next = options.from?.get(PARTITION) ?? (await this.committed(group)).get(PARTITION);
    while (!signal.aborted && !this.closed) {
      const batch = this.read(next ?? 0, recordsMax);
      if (batch === undefined) {
        await sleep(POLL_MS, undefined, { signal }).catch(() => {});
        continue;
      }
      yield batch;
      next = batch.nextOffset;
    }
  }

  async commit(group: string, partition: number, offset: number): Promise<void> {
    try {
      this.openOffsets()
        .prepare(
          `INSERT INTO committed VALUES (?, ?, ?)
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
      .prepare('SELECT partition, next_offset FROM committed WHERE grp = ?')
      .all(group);
    return new Map(rows.map((row) => [Number(row.partition), Number(row.next_offset)]));
  }

  async bounds(): Promise<Map<number, { first: number; end: number }>> {
    const row = this.openLog()
      ?.prepare(
        `SELECT (SELECT value FROM meta WHERE key = 'end') AS end, (SELECT min(first_offset) FROM batch) AS first`,
      )
      .get();
    const end = Number(row?.end ?? 0);
    return new Map([[PARTITION, { first: Number(row?.first ?? end), end }]]);
  }

  async received(filter: {
    tenant?: string;
    from?: number;
    to?: number;
  }): Promise<ReceivedCount[]> {
    const log = this.openLog();
    if (log === undefined) return [];
    const { tenant, from = 0, to = Number.MAX_SAFE_INTEGER } = filter;
    const sums = new Map<string, ReceivedCount>();
    const add = (count: ReceivedCount) => {
      if (tenant !== undefined && count.tenant !== tenant) return;
      if (count.hour < from || count.hour >= to) return;
      const key = `${count.tenant}/${count.device}/${count.hour}/${count.outcome}/${count.code}`;
      const known = sums.get(key);
      if (known === undefined) sums.set(key, count);
      else known.count += count.count;
    };
    // One read transaction, so that no batch is folded between the two reads.
    log.exec('BEGIN');
    try {
      const folded = Number(
        log.prepare("SELECT value FROM meta WHERE key = 'folded'").get()?.value ?? 0,
      );
      const select = log.prepare(
        `SELECT * FROM received WHERE hour >= ? AND hour < ? ${tenant === undefined ? '' : 'AND tenant = ?'}`,
      );
      const bounds = tenant === undefined ? [from, to] : [from, to, tenant];
      for (const row of select.iterate(...bounds)) {
        add({
          tenant: String(row.tenant),
          device: String(row.device),
          hour: Number(row.hour),
          outcome: String(row.outcome) as ReceivedCount['outcome'],
          code: String(row.code),
          count: Number(row.count),
        });
      }
      const rows = log.prepare('SELECT tally FROM batch WHERE first_offset >= ?').iterate(folded);
      for (const row of rows) {
        const tally = JSON.parse(String(row.tally)) as (string | number)[];
        for (let i = 0; i < tally.length; i += 2) {
          add(parseTallyKey(String(tally[i]), Number(tally[i + 1])));
        }
      }
    } catch (error) {
      throw asLogError(error);
    } finally {
      log.exec('COMMIT');
    }
    return [...sums.values()];
  }

  async close(): Promise<void> {
    this.closed = true;
    this.log?.close();
    this.offsets?.close();
    this.log = undefined;
    this.select = undefined;
    this.offsets = undefined;
  }

  private read(from: number, recordsMax: number): LogBatch | undefined {
    try {
      return this.readBatches(from, recordsMax);
    } catch (error) {
      throw asLogError(error);
    }
  }

  private readBatches(from: number, recordsMax: number): LogBatch | undefined {
    const log = this.openLog();
    if (log === undefined) return undefined;
    this.select ??= log.prepare(
      `SELECT first_offset, records, at, codec, crc, payload FROM batch
       WHERE first_offset >= coalesce((SELECT max(first_offset) FROM batch WHERE first_offset <= ?1), 0)
         AND first_offset + records > ?1
       ORDER BY first_offset LIMIT ?2`,
    );
    const rows = this.select.iterate(from, BATCHES_MAX);
    const records: LogRecord[] = [];
    let firstOffset = from;
    let nextOffset = from;
    let appendedAt = 0;
    for (const row of rows) {
      const first = Number(row.first_offset);
      const lines = decodeBatch({
        first_offset: first,
        codec: Number(row.codec),
        crc: Number(row.crc),
        payload: row.payload as Uint8Array,
      });
      if (lines.length !== Number(row.records))
        throw corrupt(first, `it holds ${lines.length} records`);
      if (records.length === 0) firstOffset = Math.max(from, first);
      // A gap means that retention or the disk budget trimmed what this group had not read.
      else if (first !== nextOffset) break;
      for (let i = Math.max(0, from - first); i < lines.length; i++) {
        try {
          records.push(decodeRecord(lines[i] as string));
        } catch (cause) {
          throw corrupt(first + i, 'the record is not JSON', cause);
        }
      }
      nextOffset = first + lines.length;
      appendedAt = Number(row.at);
      if (records.length >= recordsMax) break;
    }
    if (records.length === 0) return undefined;
    return { partition: PARTITION, firstOffset, nextOffset, records, appendedAt };
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
