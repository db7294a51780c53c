import { deviceTypes } from '../config/device-types.ts';
import type { Config } from '../config/schema.ts';
import type { Clock } from '../core/clock.ts';
import { SpillwayError } from '../core/errors.ts';
import type { DeviceType } from '../core/nouns.ts';
import type { LogBatch, LogConsumer } from '../log/contract.ts';
import type { Store } from '../store/contract.ts';
import { DeviceTable } from './device-table.ts';
import { type FaultPoint, Flush } from './flush.ts';
import { Intake, type IntakeCounts } from './intake.ts';
import { isRetryable, pause, type RetryOptions, retrying } from './retry.ts';
import { RollupRows } from './rollup-rows.ts';
import { WindowLoader } from './window-loader.ts';
import { checkBaseWindow } from './windows.ts';

const RETENTION_INTERVAL_MS = 600_000;
/** How often final windows of silent devices are looked for, ms. */
const SWEEP_INTERVAL_MS = 5_000;

export interface RollupLogger {
  info(fields: Record<string, unknown>, message: string): void;
  warn(fields: Record<string, unknown>, message: string): void;
}

/** Counters since the start, and the state after the last flush. */
export interface RollupStats extends IntakeCounts {
  /** Log records of all kinds. */
  records: number;
  rowsWritten: number;
  /** Final rows that late data changed. */
  rowsRevised: number;
  flushes: number;
  /** Duration of the last flush and of all, ms. */
  flushMsLast: number;
  flushMsTotal: number;
  retries: number;
  openWindows: number;
  openReadings: number;
  devices: number;
  /** Offsets between what is in the store and the end of the log, over all partitions. */
  lagOffsets: number;
  /** How long ago the last processed batch was appended, at the time of its processing, ms. */
  lagMs: number;
}

export interface RollupWorkerOptions {
  consumer: LogConsumer;
  store: Store;
  /** The log's consumer group and the name of the position in the store. */
  group?: string;
  clock: Clock;
  config: Pick<Config, 'rollup' | 'types'> & { store: { retention: { raw: number } } };
  /** Device types by name, which may change meanwhile; default: those of `config`. */
  types?: ReadonlyMap<string, DeviceType>;
  logger?: RollupLogger;
  /** Called between any two steps; what it throws ends the worker as a crash would. */
  faultPoint?: (name: FaultPoint) => void;
  /** Ends the worker after a last flush. */
  signal: AbortSignal;
  /** After each flush, and every few seconds while idle. */
  onStats?: (stats: RollupStats) => void;
  retentionIntervalMs?: number;
  /** Paces flushes, ms; default: `performance.now`. */
  monotonicNow?: () => number;
  /** Waits after errors of the store or log, ms; attempts that are still made while stopping. */
  retry?: Partial<Pick<RetryOptions, 'firstMs' | 'longestMs' | 'attemptsAfterAbort'>>;
}

/**
 * Consumes the log until `signal` aborts, then flushes and resolves. Rejects with CONFIG_INVALID, with
 * LOG_CORRUPT when the store has processed more than the log ever held, and with any error of the log
 * or store that is not retryable; what was applied before an error of the log is flushed.
 *
 * One worker may run for each group and store: memory is a cache of what it alone writes.
 */
export async function runRollupWorker(options: RollupWorkerOptions): Promise<void> {
  await new RollupWorker(options).run();
}

type PersistentStore = Pick<
  Required<Store>,
  | 'readings'
  | 'rollups'
  | 'position'
  | 'sources'
  | 'writeReadings'
  | 'writeDeadLetters'
  | 'writeRollups'
  | 'commit'
>;

class RollupWorker {
  private readonly options: RollupWorkerOptions;
  private readonly group: string;
  private readonly store: PersistentStore;
  private readonly consumer: LogConsumer;
  private readonly logger: RollupLogger;
  private readonly intake: Intake;
  private readonly devices: DeviceTable;
  private readonly flush: Flush;
  private readonly faultPoint: (name: FaultPoint) => void;
  private readonly monotonicNow: () => number;
  private records = 0;
  private flushes = 0;
  private flushMsLast = 0;
  private flushMsTotal = 0;
  private retries = 0;
  private lagMs = 0;
  /** By the monotonic clock, ms. */
  private flushDue = 0;
  /** By gateway time, ms. */
  private sweepDue = Number.NEGATIVE_INFINITY;
  private retentionDue = Number.NEGATIVE_INFINITY;

  constructor(options: RollupWorkerOptions) {
    const { config } = options;
    const { baseWindow: baseMs, lateness: latenessMs } = config.rollup;
    checkBaseWindow(baseMs);
    this.options = options;
    this.group = options.group ?? 'rollup';
    this.logger = options.logger ?? { info: () => {}, warn: () => {} };
    this.faultPoint = options.faultPoint ?? (() => {});
    this.monotonicNow = options.monotonicNow ?? (() => performance.now());
    this.store = this.persistent(options.store);
    this.consumer = options.consumer;
    const loader = new WindowLoader(this.store, baseMs, latenessMs);
    const types = options.types ?? deviceTypes(config);
    this.devices = new DeviceTable({ baseMs, latenessMs, types });
    const rawMs = config.store.retention.raw;
    this.intake = new Intake({ baseMs, latenessMs, rawMs, devices: this.devices, loader });
    this.flush = new Flush({
      group: this.group,
      store: this.store,
      consumer: { commit: this.commitLog },
      intake: this.intake,
      devices: this.devices,
      loader,
      rows: new RollupRows(this.store, baseMs, latenessMs),
      devicesMax: config.rollup.devicesMax,
      readingsMax: config.rollup.openReadingsMax,
      faultPoint: this.faultPoint,
    });
  }

  /** The store, whose calls are repeated while their errors may pass. */
  private persistent(store: Store): PersistentStore {
    const retry = <T>(name: string, call: () => Promise<T>) => this.retry(`store.${name}`, call);
    return {
      readings: (query) => retry('readings', () => store.readings(query)),
      rollups: (query) => retry('rollups', () => store.rollups(query)),
      position: (group) => retry('position', () => store.position(group)),
      sources: (group) => retry('sources', async () => (await store.sources?.(group)) ?? new Map()),
      writeReadings: (readings) => retry('writeReadings', () => store.writeReadings(readings)),
      writeDeadLetters: (letters) =>
        retry('writeDeadLetters', () => store.writeDeadLetters(letters)),
      writeRollups: (rows) => retry('writeRollups', () => store.writeRollups(rows)),
      commit: (progress) => retry('commit', () => store.commit(progress)),
    };
  }

  private readonly commitLog: LogConsumer['commit'] = (group, partition, offset) =>
    this.retry('log.commit', () => this.consumer.commit(group, partition, offset));

  private retry<T>(name: string, call: () => Promise<T>): Promise<T> {
    const { retry = {}, signal } = this.options;
    return retrying(call, {
      firstMs: retry.firstMs ?? 100,
      longestMs: retry.longestMs ?? 10_000,
      attemptsAfterAbort: retry.attemptsAfterAbort ?? 5,
      signal,
      onRetry: (error, attempt, waitMs) => {
        this.retries += 1;
        this.logger.warn(
          { err: error, call: name, attempt, waitMs },
          'a call failed; trying again',
        );
      },
    });
  }

  async run(): Promise<void> {
    const from = await this.begin();
    const ending = new AbortController();
    const batches = this.consumer
      .consume(this.group, {
        signal: AbortSignal.any([this.options.signal, ending.signal]),
        from,
        recordsMax: this.options.config.rollup.batchRecordsMax,
      })
      [Symbol.asyncIterator]();
    this.flushDue = this.monotonicNow() + this.options.config.rollup.flushInterval;
    let logError: unknown;
    try {
      logError = await this.consumeAll(batches);
    } finally {
      ending.abort();
    }
    await this.flushNow();
    if (logError !== undefined) throw logError;
  }

  /** Returns the error of the log where there was one; throws all others. */
  private async consumeAll(batches: AsyncIterator<LogBatch>): Promise<unknown> {
    // The next batch is read while one is processed.
    let coming = settled(batches.next());
    for (;;) {
      const arrived = await earlier(coming, this.flushDue - this.monotonicNow());
      if (arrived !== undefined) {
        if ('error' in arrived) return arrived.error;
        if (arrived.result.done === true) return undefined;
        coming = settled(batches.next());
        await this.process(arrived.result.value);
      }
      if (this.monotonicNow() >= this.flushDue) await this.wake();
    }
  }

  /**
   * Where to begin: the store knows what it has. Its position is written with the ledger in one
   * transaction, so records before it are never counted again; the log's own committed offset only lets
   * the log trim. A store without a position gets everything that the log still holds.
   */
  private async begin(): Promise<Map<number, number>> {
    const stored = await this.store.position(this.group);
    const sources = await this.store.sources(this.group);
    const bounds = await this.retry('log.bounds', () => this.consumer.bounds());
    const committed = await this.retry('log.committed', () => this.consumer.committed(this.group));
    const from = new Map<number, number>();
    for (const [partition, { first, end }] of bounds) {
      const position = stored.get(partition);
      if (position !== undefined && position > end) {
        throw new SpillwayError(
          'LOG_CORRUPT',
          `The store has processed partition ${partition} up to offset ${position}, but the log ends at ${end}; it is not the log that filled this store.`,
        );
      }
      if (position !== undefined && position < first) {
        this.logger.warn(
          { partition, position, first },
          'the log no longer holds records that the store has not seen',
        );
      }
      const next = Math.max(first, position ?? first);
      this.intake.partition(partition, next, sources.get(partition));
      from.set(partition, next);
      if (position !== undefined && position > (committed.get(partition) ?? 0)) {
        await this.commitLog(this.group, partition, position);
      }
    }
    return from;
  }

  private async process(batch: LogBatch): Promise<void> {
    const { config, clock } = this.options;
    const now = clock.now();
    const known = this.intake.partitions.get(batch.partition);
    if (known !== undefined && batch.firstOffset > known.next) {
      this.logger.warn(
        { partition: batch.partition, expected: known.next, first: batch.firstOffset },
        'the log skipped records',
      );
    }
    this.lagMs = Math.max(0, now - batch.appendedAt);
    this.records += batch.records.length;
    await this.intake.take(batch, now);
    this.faultPoint('applied');
    const { batchRecordsMax, devicesMax, openReadingsMax } = config.rollup;
    const { raw, deadLetters } = this.intake;
    if (this.devices.isOver(devicesMax, openReadingsMax)) this.flushDue = 0;
    else if (raw.length + deadLetters.length >= batchRecordsMax) await this.flush.writeRaw();
  }

  /** What is due at each flush interval. */
  private async wake(): Promise<void> {
    const began = this.monotonicNow();
    const { clock } = this.options;
    const hasNews = [...this.intake.partitions.values()].some((one) => one.next > one.committed);
    if (hasNews) await this.flushNow();
    if (clock.now() >= this.sweepDue) {
      this.devices.sweep(clock.now());
      this.sweepDue = clock.now() + SWEEP_INTERVAL_MS;
      if (!hasNews) await this.report();
    }
    if (clock.now() >= this.retentionDue) await this.applyRetention();
    const ended = this.monotonicNow();
    // Flushing takes at most half of the time.
    this.flushDue = ended + Math.max(this.options.config.rollup.flushInterval, ended - began);
  }

  private async flushNow(): Promise<void> {
    const began = this.monotonicNow();
    await this.flush.run(this.options.clock.now());
    this.flushes += 1;
    this.flushMsLast = this.monotonicNow() - began;
    this.flushMsTotal += this.flushMsLast;
    await this.report();
  }

  private async applyRetention(): Promise<void> {
    const { clock, retentionIntervalMs = RETENTION_INTERVAL_MS } = this.options;
    const now = clock.now();
    this.retentionDue = now + retentionIntervalMs;
    try {
      const dropped = await this.options.store.applyRetention(now);
      if (dropped.length > 0) this.logger.info({ dropped }, 'dropped what is past its retention');
    } catch (error) {
      if (!isRetryable(error)) throw error;
      this.logger.warn({ err: error }, 'retention could not be applied; trying again later');
    }
  }

  private async report(): Promise<void> {
    const { onStats } = this.options;
    if (onStats === undefined) return;
    const bounds = await this.retry('log.bounds', () => this.consumer.bounds());
    let lagOffsets = 0;
    for (const [partition, { first, end }] of bounds) {
      lagOffsets += end - (this.intake.partitions.get(partition)?.committed ?? first);
    }
    onStats({
      ...this.intake.counts,
      records: this.records,
      rowsWritten: this.flush.rowsWritten,
      rowsRevised: this.flush.rowsRevised,
      flushes: this.flushes,
      flushMsLast: this.flushMsLast,
      flushMsTotal: this.flushMsTotal,
      retries: this.retries,
      openWindows: this.devices.memory.windows,
      openReadings: this.devices.memory.readings,
      devices: this.devices.size,
      lagOffsets,
      lagMs: this.lagMs,
    });
  }
}

type Arrived = { result: IteratorResult<LogBatch> } | { error: unknown };

/** A promise that never rejects, so that it may wait unattended. */
function settled(next: Promise<IteratorResult<LogBatch>>): Promise<Arrived> {
  return next.then(
    (result) => ({ result }),
    (error: unknown) => ({ error }),
  );
}

/** What `coming` brings, or undefined after `ms`. */
async function earlier(coming: Promise<Arrived>, ms: number): Promise<Arrived | undefined> {
  const waiting = new AbortController();
  const timeout = pause(Math.max(0, ms), waiting.signal).then(() => undefined);
  try {
    return await Promise.race([coming, timeout]);
  } finally {
    waiting.abort();
  }
}
