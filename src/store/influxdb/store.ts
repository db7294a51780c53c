import { accountCutoff } from '../../core/account-age.ts';
import type { Clock } from '../../core/clock.ts';
import { systemClock } from '../../core/clock.ts';
import type { LedgerCount, Outcome, RollupRow } from '../../core/nouns.ts';
import type {
  DeadLetterGroup,
  DeadLetterPage,
  DeadLetterQuery,
  DevicePurge,
  LatestQuery,
  LedgerQuery,
  LetterMark,
  Progress,
  RangeQuery,
  RecountQuery,
  RefusedReading,
  Retention,
  RollupQuery,
  RowTimes,
  Store,
  StoredDeadLetter,
  StoredReading,
} from '../contract.ts';
import { eventTimes } from '../newest-rows.ts';
import { type BucketNames, bucketNames, ensureBuckets } from './buckets.ts';
import { Connection } from './connection.ts';
import {
  countDeadLetters,
  groupDeadLetters,
  queryDeadLetters,
  writeDeadLetters,
} from './dead-letters.ts';
import { messageOf } from './errors.ts';
import {
  forgetLedger,
  LedgerWriter,
  positionsOf,
  queryLedger,
  queryLedgerTotals,
  querySources,
} from './ledger.ts';
import { markDeadLetters, purgeDeadLetters } from './letter-changes.ts';
import { INFLUX_LIMITS, type InfluxStoreLimits } from './limits.ts';
import { LineWriter } from './line-writer.ts';
import { queryNotes, writeNotes } from './notes.ts';
import { Ownership } from './ownership.ts';
import { Queries } from './queries.ts';
import { RawKeys } from './raw-keys.ts';
import { countReadings, queryReadings } from './raw-reader.ts';
import { newestRows } from './raw-times.ts';
import { RawWriter } from './raw-writer.ts';
import { recount } from './recount.ts';
import { type Describe, queryRollups, writeRollups } from './rollups.ts';
import { querySeries } from './series.ts';
import { readSessions } from './sessions.ts';
import { TenantCache } from './tenant-cache.ts';

const DAY_MS = 86_400_000;

export interface InfluxStoreLogger {
  warn(fields: Record<string, unknown>, message: string): void;
}

export interface InfluxStoreOptions extends Partial<InfluxStoreLimits> {
  /** `http://127.0.0.1:8086` */
  url: string;
  org: string;
  /** May read and write the buckets, and make them unless they are there. */
  token: string;
  /** Buckets are called `<prefix>-raw`, `<prefix>-rollup-1m`, `<prefix>-dead-letters`, `<prefix>-ledger`. */
  bucketPrefix: string;
  retention: Retention;
  /** The configured window sizes, ms; rollups of others are refused. */
  windowsMs: readonly number[];
  /** Statistics of a rollup for people and charts. Default: none but count, first and last. */
  describe?: Describe;
  /** For other processes than the writer: makes no buckets, refuses to write. Default false. */
  readOnly?: boolean;
  clock?: Clock;
  logger?: InfluxStoreLogger;
  random?: () => number;
}

/**
 * Opens the store on InfluxDB 2 (`docs/influxdb-schema.md`). One writer at a time for each partition of
 * a group; after it was assigned a partition it calls `position` before it writes.
 * @throws SpillwayError CONFIG_INVALID when the organization is unknown or the token lacks rights;
 * InfluxUnavailableError when the server does not answer within `giveUpMs`
 */
export async function openInfluxStore(options: InfluxStoreOptions): Promise<Store> {
  const store = new InfluxStore(options);
  try {
    await store.prepare();
    return store;
  } catch (error) {
    await store.close();
    throw error;
  }
}

class InfluxStore implements Store {
  private readonly options: InfluxStoreOptions;
  private readonly names: BucketNames;
  private readonly connection: Connection;
  private readonly queries: Queries;
  private readonly lines: LineWriter;
  private readonly keys: RawKeys;
  private readonly raw: RawWriter;
  private readonly ownership: Ownership;
  private readonly ledgerWriter: LedgerWriter;
  private readonly seriesOf: TenantCache<{ device: string; metrics: string[] }[]>;
  private readonly latestOf: TenantCache<Map<string, RowTimes>>;
  private readonly describe: Describe;
  private readonly clock: Clock;
  private readonly logger: InfluxStoreLogger;
  private isClosed = false;
  /** The ledger's days before this were dropped, ms. */
  private ledgerCutoff = 0;

  constructor(options: InfluxStoreOptions) {
    const limits: InfluxStoreLimits = { ...INFLUX_LIMITS, ...options };
    const { url, org, token, bucketPrefix, windowsMs, clock = systemClock } = options;
    this.options = options;
    this.clock = clock;
    this.logger = options.logger ?? { warn: () => {} };
    this.describe = options.describe ?? (() => ({}));
    this.names = bucketNames(bucketPrefix, windowsMs);
    this.connection = new Connection({
      url,
      token,
      socketsMax: limits.socketsMax,
      attemptTimeoutMs: limits.attemptTimeoutMs,
      giveUpMs: limits.giveUpMs,
      backoff: {
        firstMs: limits.backoffFirstMs,
        longestMs: limits.backoffLongestMs,
        retryAfterMaxMs: limits.retryAfterMaxMs,
        random: options.random ?? Math.random,
      },
      onRetry: (error, waitMs) =>
        this.logger.warn(
          { reason: messageOf(error), waitMs: Math.round(waitMs) },
          'a request to InfluxDB failed; trying again',
        ),
    });
    this.queries = new Queries({
      connection: this.connection,
      org,
      answerBytesMax: limits.answerBytesMax,
    });
    this.lines = new LineWriter({
      connection: this.connection,
      org,
      batchLinesMax: limits.batchLinesMax,
      batchBytesMax: limits.batchBytesMax,
      concurrency: limits.writesMax,
      gzipLevel: limits.gzipLevel,
    });
    const { queries, lines } = this;
    this.keys = new RawKeys(queries, this.names.raw, limits.devicesMax);
    this.raw = new RawWriter({ queries, lines, keys: this.keys, bucket: this.names.raw });
    this.seriesOf = new TenantCache((tenant) =>
      querySeries(queries, this.names.raw, this.names.rollups.values(), tenant),
    );
    this.latestOf = new TenantCache((tenant) => newestRows(queries, this.names.raw, tenant));
    const bucket = this.names.ledger;
    this.ownership = new Ownership({
      ...{ queries, lines, bucket, clock },
      leaseMs: limits.leaseMs,
      onOthers: () => this.keys.forget(),
    });
    const { ownership } = this;
    this.ledgerWriter = new LedgerWriter({
      ...{ ownership, lines, bucket },
      cellsMax: limits.ledgerCellsMax,
    });
  }

  async prepare(): Promise<void> {
    if (this.options.readOnly === true) return;
    await ensureBuckets({
      connection: this.connection,
      org: this.options.org,
      names: this.names,
      retention: this.options.retention,
      onWarning: (fields, message) => this.logger.warn(fields, message),
    });
  }

  async writeNotes(group: string, partition: number, notes: readonly string[]): Promise<void> {
    this.assertWritable();
    const partitions = new Set([partition]);
    await this.ownership.take(partitions, group);
    const admit = () => this.ownership.admit(partitions, group);
    await writeNotes(this.lines, this.names.ledger, group, partition, notes, admit);
  }

  async writeReadings(readings: readonly StoredReading[]): Promise<RefusedReading[]> {
    this.assertWritable();
    if (readings.length === 0) return [];
    const partitions = new Set(readings.map(({ partition }) => partition));
    await this.ownership.take(partitions);
    try {
      return await this.raw.write(readings, () => this.ownership.admit(partitions));
    } finally {
      this.seriesOf.invalidate();
      this.latestOf.invalidate();
    }
  }

  async writeDeadLetters(letters: readonly StoredDeadLetter[]): Promise<void> {
    this.assertWritable();
    await writeDeadLetters(this.lines, this.names.deadLetters, letters);
  }

  async markDeadLetters(marks: readonly LetterMark[]): Promise<void> {
    this.assertWritable();
    await markDeadLetters(this.lines, this.names.deadLetters, marks);
  }

  async purgeDeadLetters(purge: DevicePurge): Promise<void> {
    this.assertWritable();
    await purgeDeadLetters(this.queries, this.lines, this.names.deadLetters, purge);
  }

  /** @throws RangeError for a window that is not configured; nothing is written then. */
  async writeRollups(rows: readonly RollupRow[]): Promise<void> {
    this.assertWritable();
    const byBucket = new Map<string, RollupRow[]>();
    const partitions = new Set<number>();
    for (const row of rows) {
      const device = this.keys.find(row.tenant, row.device);
      if (device !== undefined) partitions.add(device.partition);
      const bucket = this.names.rollups.get(row.windowMs);
      if (bucket === undefined) throw new RangeError(`No window of ${row.windowMs} ms is set`);
      const list = byBucket.get(bucket);
      if (list === undefined) byBucket.set(bucket, [row]);
      else list.push(row);
    }
    const writing = [...byBucket].map(([bucket, list]) =>
      writeRollups(this.lines, bucket, list, this.describe, () => this.ownership.admit(partitions)),
    );
    // All have ended before this does: nothing is written behind the caller's back.
    for (const result of await Promise.allSettled(writing)) {
      if (result.status === 'rejected') throw result.reason;
    }
    this.seriesOf.invalidate();
  }

  async commit(progress: Progress): Promise<void> {
    this.assertWritable();
    await this.ledgerWriter.commit(progress);
  }

  /** The database drops what is past its retention by its own clock; the ledger's lines alone are dropped here. */
  async applyRetention(now: number): Promise<string[]> {
    this.assertWritable();
    const cutoff = accountCutoff(now, this.options.retention.ledgerMs);
    const day = Math.floor(cutoff / DAY_MS) * DAY_MS;
    if (day <= this.ledgerCutoff) return [];
    await forgetLedger(this.connection, this.options.org, this.names.ledger, day);
    this.ledgerCutoff = day;
    return [];
  }

  async readings(query: RangeQuery): Promise<StoredReading[]> {
    this.assertOpen();
    return queryReadings(this.queries, this.names.raw, query);
  }

  async rollups(query: RollupQuery): Promise<RollupRow[]> {
    this.assertOpen();
    const bucket = this.names.rollups.get(query.windowMs);
    return bucket === undefined ? [] : queryRollups(this.queries, bucket, query);
  }

  async countReadings(query: RangeQuery): Promise<Map<string, number>> {
    this.assertOpen();
    return countReadings(this.queries, this.names.raw, query);
  }

  async latest(tenant: string, query?: LatestQuery): Promise<Map<string, number>> {
    return eventTimes(await this.newestRows(tenant, query));
  }

  async newest(tenant: string, query?: LatestQuery): Promise<Map<string, RowTimes>> {
    return new Map(await this.newestRows(tenant, query));
  }

  /** May belong to the cache, and must not be changed. */
  private newestRows(
    tenant: string,
    query: LatestQuery = {},
  ): Promise<ReadonlyMap<string, RowTimes>> {
    this.assertOpen();
    const isOfAll = query.devices === undefined && query.before === undefined;
    return isOfAll
      ? this.latestOf.get(tenant)
      : newestRows(this.queries, this.names.raw, tenant, query);
  }

  async deadLetters(query: DeadLetterPage): Promise<StoredDeadLetter[]> {
    this.assertOpen();
    return queryDeadLetters(this.queries, this.names.deadLetters, query);
  }

  async groupDeadLetters(query: DeadLetterQuery): Promise<DeadLetterGroup[]> {
    this.assertOpen();
    return groupDeadLetters(this.queries, this.names.deadLetters, query);
  }

  async countDeadLetters(
    query: DeadLetterQuery,
  ): Promise<{ device: string; code: string; count: number }[]> {
    this.assertOpen();
    return countDeadLetters(this.queries, this.names.deadLetters, query);
  }

  async series(tenant: string): Promise<{ device: string; metrics: string[] }[]> {
    this.assertOpen();
    const series = await this.seriesOf.get(tenant);
    return series.map(({ device, metrics }) => ({ device, metrics: [...metrics] }));
  }

  async ledger(query: LedgerQuery): Promise<LedgerCount[]> {
    this.assertOpen();
    return queryLedger(this.queries, this.names.ledger, query);
  }

  async ledgerTotals(query: LedgerQuery): Promise<Map<Outcome, number>> {
    this.assertOpen();
    return queryLedgerTotals(this.queries, this.names.ledger, query);
  }

  async recount(query: RecountQuery): Promise<LedgerCount[]> {
    this.assertOpen();
    const { rawMs, deadLettersMs } = this.options.retention;
    const since = (keepMs: number) => (keepMs === 0 ? 0 : this.clock.now() - keepMs - 8 * DAY_MS);
    return recount(this.queries, this.names, query, {
      raw: since(rawMs),
      deadLetters: since(deadLettersMs),
    });
  }

  async position(group: string): Promise<Map<number, number>> {
    this.assertOpen();
    const askedAt = performance.now();
    const sessions = await readSessions(this.queries, this.names.ledger, group);
    this.ownership.renew(group, sessions, askedAt);
    // What others have written of partitions that this writer gets is not in older answers.
    this.latestOf.invalidate();
    return positionsOf(sessions);
  }

  async sources(group: string): Promise<Map<number, Map<string, number>>> {
    this.assertOpen();
    return querySources(this.queries, this.names.ledger, group);
  }

  async notes(group: string): Promise<Map<number, string[]>> {
    this.assertOpen();
    return queryNotes(this.queries, this.names.ledger, group);
  }

  /** Ends requests that are under way; further calls fail. Harmless when repeated. */
  async close(): Promise<void> {
    if (this.isClosed) return;
    this.isClosed = true;
    this.connection.close();
  }

  private assertOpen(): void {
    if (this.isClosed) throw new Error('The store is closed');
  }

  private assertWritable(): void {
    this.assertOpen();
    if (this.options.readOnly === true) throw new Error('The store was opened to read only');
  }
}
