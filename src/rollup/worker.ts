import { deviceTypes } from '../config/device-types.ts';
import type { Config } from '../config/schema.ts';
import type { Clock } from '../core/clock.ts';
import { SpillwayError } from '../core/errors.ts';
import type { DeviceType } from '../core/nouns.ts';
import type { LogBatch, LogConsumer } from '../log/contract.ts';
import type { Store } from '../store/contract.ts';
import { Assignment } from './assignment.ts';
import { BackfillLane, type BackfillPace, type BackfillStats } from './backfill-lane.ts';
import { Coming, nextTurn } from './coming.ts';
import { DeviceTable } from './device-table.ts';
import { type FaultPoint, Flush } from './flush.ts';
import { Intake, type IntakeCounts } from './intake.ts';
import { Patience, type PatienceOptions } from './patience.ts';
import { Progress } from './progress.ts';
import { Abandoned, isRetryable, pause } from './retry.ts';
import { RollupRows } from './rollup-rows.ts';
import type { Watcher } from './watcher.ts';
import { WindowLoader } from './window-loader.ts';
import { checkBaseWindow } from './windows.ts';

const RETENTION_INTERVAL_MS = 600_000;
/**
 * The longest pause after a flush, ms. One that waited out an hour without the store or the log must not
 * be followed by an hour without another.
 */
const PAUSE_MS_MAX = 5_000;
/** How long windows of lost partitions are kept in case that they come back, ms. */
const PARK_MS = 600_000;
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
  /** Offsets between what is in the store and the end of the log, over this worker's partitions. */
  lagOffsets: number;
  /** How long ago the last processed batch was appended, at the time of its processing, ms. */
  lagMs: number;
  /** The lane of old readings, which the other lags leave out. */
  backfill: BackfillStats;
}

export interface RollupWorkerOptions {
  consumer: LogConsumer;
  store: Store;
  /** The log's consumer group and the name of the position in the store. */
  group?: string;
  clock: Clock;
  config: Pick<Config, 'types'> & {
    rollup: Omit<Config['rollup'], 'niceness'>;
    store: { retention: { raw: number } };
  };
  /** Device types by name, which may change meanwhile; default: those of `config`. */
  types?: ReadonlyMap<string, DeviceType>;
  logger?: RollupLogger;
  /** Called between any two steps; what it throws ends the worker as a crash would. */
  faultPoint?: (name: FaultPoint) => void;
  /** Ends the worker after a last flush. */
  signal: AbortSignal;
  watcher?: Watcher;
  /** Of the lane of old readings; default: as fast as they come. */
  backfill?: BackfillPace;
  /** After each flush, and every few seconds while idle. */
  onStats?: (stats: RollupStats) => void;
  retentionIntervalMs?: number;
  /** Paces flushes, ms; default: `performance.now`. */
  monotonicNow?: () => number;
  /** Waits after errors of the store or log, ms; attempts that are still made while stopping. */
  retry?: PatienceOptions['retry'];
}

/**
 * Consumes the log until `signal` aborts, then flushes and resolves. Rejects with CONFIG_INVALID, with
 * LOG_CORRUPT when the store has processed more than the log ever held, and with any error of the log
 * or store that is not retryable; what was applied before an error of the log is flushed.
 *
 * Memory is a cache of what this worker alone writes. Several workers may share a group and a store where
 * the log shares its partitions among them: all partitions that have records of one device always belong
 * to the same worker. What is revoked is flushed if there is time, and then forgotten; nothing of it is
 * written or committed any more, so its new owner takes the same records again from the position in the
 * store, and rebuilds the windows from the raw readings before it. Who loses everything at once while the log is
 * away, and gets all of it back at the positions that it left, goes on with the windows that it had.
 */
export async function runRollupWorker(options: RollupWorkerOptions): Promise<void> {
  await new RollupWorker(options).run();
}

class RollupWorker {
  private readonly options: RollupWorkerOptions;
  private readonly group: string;
  private readonly patience: Patience;
  private readonly progress: Progress;
  private readonly consumer: LogConsumer;
  private readonly logger: RollupLogger;
  private readonly intake: Intake;
  private readonly devices: DeviceTable;
  private readonly flush: Flush;
  private readonly faultPoint: (name: FaultPoint) => void;
  private readonly assignment: Assignment;
  private readonly backfill: BackfillLane;
  private readonly monotonicNow: () => number;
  private hasBeenAssigned = false;
  private records = 0;
  private flushes = 0;
  private flushMsLast = 0;
  private flushMsTotal = 0;
  private lagMs = 0;
  /** By the monotonic clock, ms. */
  private flushDue = 0;
  /** By gateway time, ms. */
  private sweepDue = Number.NEGATIVE_INFINITY;
  private retentionDue = Number.NEGATIVE_INFINITY;
  /** By the monotonic clock, ms. */
  private lostAt = 0;

  constructor(options: RollupWorkerOptions) {
    const { config } = options;
    const { baseWindow: baseMs, lateness: latenessMs } = config.rollup;
    checkBaseWindow(baseMs);
    this.options = options;
    this.group = options.group ?? 'rollup';
    this.logger = options.logger ?? { info: () => {}, warn: () => {} };
    this.faultPoint = options.faultPoint ?? (() => {});
    this.monotonicNow = options.monotonicNow ?? (() => performance.now());
    this.consumer = options.consumer;
    this.patience = new Patience({
      store: options.store,
      consumer: options.consumer,
      signal: options.signal,
      retry: options.retry,
      onRetry: (fields) => this.logger.warn(fields, 'a call failed; trying again'),
    });
    const { store } = this.patience;
    this.progress = new Progress(options.consumer);
    const pace = options.backfill ?? { readingsPerSecond: Infinity, windowsPerSecond: Infinity };
    this.backfill = new BackfillLane(pace, this.monotonicNow);
    this.assignment = new Assignment((partitions) => this.lose(partitions));
    const nextOf = (partition: number) => this.intake.nextOf(partition);
    const loader = new WindowLoader(store, baseMs, latenessMs, nextOf);
    const types = options.types ?? deviceTypes(config);
    this.devices = new DeviceTable({ baseMs, latenessMs, types });
    const rawMs = config.store.retention.raw;
    this.intake = new Intake({
      ...{ baseMs, latenessMs, rawMs, devices: this.devices, loader, types },
      watcher: options.watcher,
    });
    this.flush = new Flush({
      group: this.group,
      store,
      consumer: { commit: this.patience.commitLog },
      intake: this.intake,
      devices: this.devices,
      loader,
      rows: new RollupRows(store, baseMs, latenessMs),
      devicesMax: config.rollup.devicesMax,
      readingsMax: config.rollup.openReadingsMax,
      faultPoint: this.faultPoint,
    });
  }

  async run(): Promise<void> {
    const from = await this.begin();
    const leaving = new AbortController();
    const batches = this.consumer
      .consume(this.group, {
        signal: leaving.signal,
        from,
        recordsMax: this.options.config.rollup.batchRecordsMax,
        holdsBack: (partition) => this.progress.isBackfill(partition) && this.backfill.waits(),
        ...this.assignment.callbacks,
      })
      [Symbol.asyncIterator]();
    this.flushDue = this.monotonicNow() + this.options.config.rollup.flushInterval;
    let logError: unknown;
    try {
      logError = await this.consumeAll(batches);
      // Before others get the partitions; a log that shares them and failed may have given them away.
      if (logError === undefined || !this.assignment.isShared) await this.flushNow();
    } finally {
      leaving.abort();
      this.assignment.end();
      await batches.return?.().catch(() => {});
    }
    if (logError !== undefined) throw logError;
  }

  /** Until the end of the log or of the worker. Returns the error of the log where there was one; throws all others. */
  private async consumeAll(batches: AsyncIterator<LogBatch>): Promise<unknown> {
    const { signal } = this.options;
    // The next batch is read while one is processed.
    const coming = new Coming(batches);
    while (!signal.aborted) {
      await this.answer(coming);
      await this.untilSomethingHappens(coming);
      const { arrived } = coming;
      if (arrived !== undefined && !signal.aborted && !this.assignment.hasNews()) {
        if ('error' in arrived) return arrived.error;
        if (arrived.result.done === true) return undefined;
        coming.next();
        await this.process(arrived.result.value);
      }
      if (this.monotonicNow() >= this.flushDue) await this.wake();
    }
    this.intake.forgetLost();
    return undefined;
  }

  /** A batch, the end, a request, or the time to flush; never without a turn of the event loop. */
  private async untilSomethingHappens(coming: Coming): Promise<void> {
    if (coming.arrived !== undefined || this.assignment.hasNews() || this.intake.hasLost) {
      await nextTurn();
      return;
    }
    const wake = new AbortController();
    this.assignment.onNews(() => wake.abort());
    const timeout = pause(Math.max(0, this.flushDue - this.monotonicNow()), [
      wake.signal,
      this.options.signal,
    ]);
    await Promise.race([coming.settled, timeout]);
    wake.abort();
  }

  /** Does what the log has asked for. */
  private async answer(coming: Coming): Promise<void> {
    for (;;) {
      this.intake.forgetLost();
      const request = this.assignment.pending();
      if (request === undefined) return;
      try {
        if (request.kind === 'revoking') {
          if (this.hasNews()) await this.flushNow();
          request.done();
        } else {
          // What was yielded of these before they were revoked has arrived by the next turn.
          await nextTurn();
          coming.drop((batch) => request.partitions.has(batch.partition));
          const offsets = await this.begin(request.partitions);
          request.done(offsets);
        }
      } catch (error) {
        request.failed(error);
        throw error;
      } finally {
        this.assignment.answered();
      }
    }
  }

  private lose(partitions: readonly number[]): void {
    this.intake.lose(partitions);
    this.lostAt = this.monotonicNow();
    this.options.watcher?.lost(partitions);
    this.patience.abandon();
  }

  /**
   * Where to begin: the store knows what it has. Its position is written with the ledger in one
   * transaction, so records before it are never counted again; the log's own committed offset only lets
   * the log trim. A store without a position gets everything that the log still holds.
   *
   * `assigned`: partitions that the log has given to this worker, less those that it takes away meanwhile;
   * all of them where the log does not share them.
   */
  private async begin(assigned?: ReadonlySet<number>): Promise<Map<number, number>> {
    // From a log that shares, nothing was taken before its first assignment.
    if (assigned !== undefined && !this.hasBeenAssigned) this.intake.partitions.clear();
    this.hasBeenAssigned ||= assigned !== undefined;
    const stored = await this.patience.store.position(this.group);
    const sources = await this.patience.store.sources(this.group);
    const notes = await this.patience.store.notes(this.group);
    const bounds = await this.patience.bounds();
    const committed = await this.patience.committed(this.group);
    this.progress.known(bounds);
    const from = new Map<number, number>();
    const kept = assigned === undefined ? undefined : this.intake.unpark(assigned, stored);
    for (const partition of assigned ?? bounds.keys()) {
      const position = stored.get(partition);
      const { first = 0, end = Number.POSITIVE_INFINITY } = bounds.get(partition) ?? {};
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
      if (!kept?.has(partition)) {
        this.intake.gain(partition, next, sources.get(partition), notes.get(partition));
      }
      from.set(partition, next);
    }
    for (const [partition, next] of from) {
      if (!stored.has(partition) || next <= (committed.get(partition) ?? 0)) continue;
      await this.patience.commitLog(this.group, partition, next).catch(ignoreAbandoned);
    }
    // A log that shares its partitions has not given any of them yet.
    if (assigned !== undefined || this.consumer.partitionOf === undefined) {
      this.options.watcher?.gained(
        [...from.keys()].filter(
          (one) => this.intake.partitions.has(one) && !this.progress.isBackfill(one),
        ),
      );
    }
    return from;
  }

  private async process(batch: LogBatch): Promise<void> {
    const { config, clock } = this.options;
    const now = clock.now();
    const { partition, firstOffset } = batch;
    let state = this.intake.partitions.get(partition);
    // Of a partition that was revoked after the batch had been yielded.
    if (state === undefined && this.assignment.isShared) return;
    state ??= this.intake.gain(partition, firstOffset);
    if (firstOffset > state.next) {
      const { next } = state;
      this.logger.warn(
        { partition, expected: next, first: firstOffset },
        'the log skipped records',
      );
    }
    const lagMs = Math.max(0, now - batch.appendedAt);
    this.records += batch.records.length;
    const { windows } = this.devices.memory;
    await this.intake.take(state, batch, now);
    if (this.progress.isBackfill(partition)) {
      this.backfill.took(batch, Math.max(0, this.devices.memory.windows - windows), lagMs);
    } else {
      this.lagMs = lagMs;
      this.backfill.live(lagMs);
    }
    state.appendedAt = batch.appendedAt;
    this.faultPoint('applied');
    const { batchRecordsMax, devicesMax, openReadingsMax } = config.rollup;
    if (this.devices.isOver(devicesMax, openReadingsMax)) this.flushDue = 0;
    else if (this.intake.unwritten() >= batchRecordsMax) await this.flush.writeRaw();
  }

  /** What is due at each flush interval. */
  private async wake(): Promise<void> {
    const began = this.monotonicNow();
    const { clock } = this.options;
    const hasNews = this.hasNews();
    if (hasNews) await this.flushNow();
    if (clock.now() >= this.sweepDue) {
      this.devices.sweep(clock.now());
      this.sweepDue = clock.now() + SWEEP_INTERVAL_MS;
      if (this.intake.isParking && began - this.lostAt > PARK_MS) this.intake.forgetParked();
      if (!hasNews) await this.report();
    }
    if (clock.now() >= this.retentionDue) await this.applyRetention();
    const ended = this.monotonicNow();
    // From beginning to beginning, but flushing takes at most half of the time unless it takes very long.
    this.flushDue = Math.max(
      began + this.options.config.rollup.flushInterval,
      ended + Math.min(ended - began, PAUSE_MS_MAX),
    );
  }

  private hasNews(): boolean {
    return [...this.intake.partitions.values()].some((one) => one.next > one.committed);
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
    const { onStats, watcher } = this.options;
    if (onStats === undefined && watcher === undefined) return;
    await this.progress.look(this.options.clock.now());
    const { partitions } = this.intake;
    const until = this.progress.takenUntil(partitions);
    if (until !== undefined) watcher?.look(until);
    const lags = this.progress.lags(partitions, this.assignment.isShared);
    onStats?.({
      ...this.intake.counts,
      records: this.records,
      rowsWritten: this.flush.rowsWritten,
      rowsRevised: this.flush.rowsRevised,
      flushes: this.flushes,
      flushMsLast: this.flushMsLast,
      flushMsTotal: this.flushMsTotal,
      retries: this.patience.retries,
      openWindows: this.devices.memory.windows,
      openReadings: this.devices.memory.readings,
      devices: this.devices.size,
      lagOffsets: lags.live,
      lagMs: this.lagMs,
      backfill: this.backfill.stats(lags.backfill),
    });
  }
}

function ignoreAbandoned(error: unknown): void {
  if (!(error instanceof Abandoned)) throw error;
}
