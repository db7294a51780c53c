import { monitorEventLoopDelay } from 'node:perf_hooks';
import { parentPort, workerData } from 'node:worker_threads';
import type { AppendFailure } from './app/append-for.ts';
import { deviceTypes, replaceTypes } from './config/device-types.ts';
import type { Config } from './config/schema.ts';
import { systemClock } from './core/clock.ts';
import { SpillwayError } from './core/errors.ts';
import type { DeviceType } from './core/nouns.ts';
import { openConsumer, openRegistry, openStore, ROLLUP_GROUP } from './engines.ts';
import type { AppendRequest, ConsumeOptions, LogBatch, LogConsumer } from './log/contract.ts';
import { releaseMemory } from './memory.ts';
import type { BackfillStatus, RollupStatus } from './ops/counters.ts';
import { Deadman, type Presence } from './ops/deadman.ts';
import { DeviceWatch } from './ops/device-watch.ts';
import { SequenceWatch } from './ops/sequence-watch.ts';
import type { BackfillStats } from './rollup/backfill-lane.ts';
import type { Watcher } from './rollup/watcher.ts';
import { type RollupStats, runRollupWorker } from './rollup/worker.ts';
import type { Store } from './store/contract.ts';
import { Asking } from './thread-asking.ts';
import { CpuDemand, lowerPriority, usedMs } from './thread-cpu.ts';
import { type LogLine, threadLogger } from './thread-logger.ts';

/** The thread of the rollup worker; it owns the store's writing end. */

/**
 * `until`: offset by partition at which to end, everything before it processed; an empty one ends at once. What
 * the lane of old readings has not processed after `backfillMs` is left for the next start.
 */
export type ToRollup =
  | { kind: 'drain'; until: Map<number, number>; backfillMs: number }
  | { kind: 'types'; types: Config['types'] }
  | { kind: 'appended'; id: number; failed: AppendFailure | undefined }
  | { kind: 'presence'; id: number; tenant: string };

export type FromRollup =
  | { kind: 'ready' }
  /** `usedMs`: CPU time that the thread has had. */
  | { kind: 'stats'; status: RollupStatus; usedMs: number }
  /** Part of about the last second for which the thread ran or waited for the CPU, 0 to 1. */
  | { kind: 'cpu'; demand: number }
  | LogLine
  | { kind: 'append'; id: number; request: AppendRequest }
  /** Of the tenant's devices that are watched here. */
  | { kind: 'presence'; id: number; devices: [device: string, Presence][] }
  | { kind: 'stopped' }
  | { kind: 'failed'; message: string; code: string | undefined };

const CPU_INTERVAL_MS = 1_000;
const APPENDS_MAX = 10;
const TOO_MANY_APPENDS: AppendFailure = { code: 'LOG_SATURATED', message: 'too many appends wait' };

function statusOf(
  stats: RollupStats,
  loopDelayMs: number,
  watched: Watched | undefined,
  sequences: SequenceWatch,
): RollupStatus {
  const { identical, merged, conflicts } = stats;
  return {
    lagRecords: stats.lagOffsets,
    openWindows: stats.openWindows,
    openReadings: stats.openReadings,
    devices: stats.devices,
    processed: stats.records,
    stored: stats.stored,
    duplicates: { IDENTICAL: identical, MERGED: merged, CONFLICT: conflicts },
    lateCorrections: stats.late,
    flushMs: stats.flushMsLast,
    loopDelayMs,
    backfill: backfillStatus(stats.backfill),
    sequence: sequences.counts(),
    ...(watched !== undefined && {
      presence: { ...watched.deadman.counts(), events: { ...watched.watch.events } },
    }),
  };
}

function backfillStatus({ lagOffsets, ts, ...rest }: BackfillStats): BackfillStatus {
  return { ...rest, lagRecords: lagOffsets, ...(ts !== undefined && { ts }) };
}

/** Both see every record; the deadman only where it is wanted. */
function watcherOf(
  consumer: LogConsumer,
  sequences: SequenceWatch,
  deadman: Watcher | undefined,
): Watcher {
  return {
    gained: (partitions) => deadman?.gained(partitions),
    lost(partitions) {
      const gone = new Set(partitions);
      sequences.forget(({ tenant, device }) =>
        gone.has(consumer.partitionOf?.(tenant, device) ?? 0),
      );
      deadman?.lost(gone);
    },
    take(record) {
      sequences.take(record);
      deadman?.take(record);
    },
    look(now) {
      sequences.look(now);
      deadman?.look(now);
    },
  };
}

/**
 * To the gateway that is in the same process, as it is with the embedded log. Nothing says of a worker on Kafka that
 * it is behind, and it has to answer its group in time.
 */
async function giveWay(config: Config, logger: ReturnType<typeof threadLogger>): Promise<void> {
  if (config.log.engine !== 'embedded' || !config.roles.includes('gateway')) return;
  await lowerPriority(config.rollup.niceness).catch((err: unknown) =>
    logger.warn({ err }, 'the rollup thread has the priority of the others'),
  );
}

interface Watched {
  deadman: Deadman;
  watch: DeviceWatch;
  close(): void;
}

/** Undefined when it is not wanted. */
function watchDevices(
  config: Config,
  of: {
    consumer: LogConsumer;
    store: Store;
    types: ReadonlyMap<string, DeviceType>;
    append(request: AppendRequest): Promise<void>;
    logger: ReturnType<typeof threadLogger>;
  },
): Watched | undefined {
  const { enabled, periods, minimum, unknownPeriod, devicesMax } = config.deadman;
  if (!enabled) return undefined;
  const { consumer, store, types, append, logger } = of;
  const registry = openRegistry(config);
  const partitionOf = (tenant: string, device: string) =>
    consumer.partitionOf?.(tenant, device) ?? 0;
  const deadman = new Deadman({
    ...{ types, periods, minimumMs: minimum, unknownPeriodMs: unknownPeriod, devicesMax },
    typeOf: (tenant, device) => registry.device(tenant, device)?.type,
    partitionOf,
  });
  const devices = () => registry.devices();
  const watch = new DeviceWatch({
    ...{ deadman, store, devices, partitionOf, append, clock: systemClock, logger },
  });
  const close = () => {
    watch.close();
    registry.close();
  };
  return { deadman, watch, close };
}

/**
 * Ends the worker's consuming when it has seen everything up to a given offset of each partition; where
 * workers share the partitions, of each that this one has.
 */
class Drain {
  readonly consumer: LogConsumer;
  private readonly stop = new AbortController();
  private readonly seen = new Map<number, number>();
  private isShared = false;
  private until: Map<number, number> | undefined;

  constructor(inner: LogConsumer) {
    this.consumer = {
      consume: (group, options) => this.consume(inner, group, options),
      commit: (group, partition, offset) => inner.commit(group, partition, offset),
      committed: (group) => inner.committed(group),
      bounds: () => inner.bounds(),
      isBackfill: (partition) => inner.isBackfill?.(partition) === true,
      ...(inner.partitionOf !== undefined && {
        partitionOf: (tenant, device) => inner.partitionOf?.(tenant, device),
      }),
      received: (filter) => inner.received(filter),
      close: () => inner.close(),
    };
  }

  get signal(): AbortSignal {
    return this.stop.signal;
  }

  /** `leave`: aborted when partitions of the lane of old readings are left for the next start. */
  to(until: Map<number, number>, leave: AbortSignal): void {
    this.until = until;
    leave.addEventListener('abort', () => {
      for (const partition of until.keys()) {
        if (this.consumer.isBackfill?.(partition) === true) until.delete(partition);
      }
      this.check();
    });
    this.check();
  }

  private async *consume(
    inner: LogConsumer,
    group: string,
    options: ConsumeOptions,
  ): AsyncGenerator<LogBatch> {
    for (const [partition, offset] of options.from ?? []) this.seen.set(partition, offset);
    this.check();
    for await (const batch of inner.consume(group, this.observed(options))) {
      yield batch;
      if (!this.isShared || this.seen.has(batch.partition)) {
        this.seen.set(batch.partition, batch.nextOffset);
      }
      this.check();
    }
  }

  private observed(options: ConsumeOptions): ConsumeOptions {
    const { onRevoked, onAssigned, holdsBack } = options;
    return {
      ...options,
      holdsBack: (partition) => this.until === undefined && holdsBack?.(partition) === true,
      onRevoked: (partitions) => {
        for (const partition of partitions) this.seen.delete(partition);
        onRevoked?.(partitions);
        this.check();
      },
      onAssigned: async (partitions) => {
        if (!this.isShared) this.seen.clear();
        this.isShared = true;
        for (const partition of partitions) this.seen.set(partition, 0);
        const offsets = await onAssigned?.(partitions);
        for (const [partition, offset] of offsets ?? []) {
          if (this.seen.has(partition)) this.seen.set(partition, offset);
        }
        this.check();
        return offsets;
      },
    };
  }

  private check(): void {
    if (this.until === undefined) return;
    for (const [partition, offset] of this.until) {
      const seen = this.seen.get(partition) ?? (this.isShared ? offset : 0);
      if (seen < offset) return;
    }
    this.stop.abort();
  }
}

if (parentPort !== null) {
  const port = parentPort;
  const post = (message: FromRollup) => port.postMessage(message);
  const { config } = workerData as { config: Config };
  const logger = threadLogger(post);
  const engineLogger = { ...logger, debug: () => {} };
  await giveWay(config, logger);
  const consumer = await openConsumer(config, engineLogger);
  const drain = new Drain(consumer);
  const types = deviceTypes(config);
  const appends = new Asking<AppendFailure | undefined>(APPENDS_MAX);
  const sequences = new SequenceWatch(config.rollup.devicesMax);
  let store: Store | undefined;
  let watched: Watched | undefined;
  port.on('message', (message: ToRollup) => {
    if (message.kind === 'drain') {
      // Nothing new goes into a log that is brought to its end.
      watched?.watch.close();
      drain.to(message.until, AbortSignal.timeout(message.backfillMs));
    } else if (message.kind === 'types') replaceTypes(types, message.types);
    else if (message.kind === 'appended') appends.settle(message.id, message.failed);
    else {
      const { id, tenant } = message;
      post({ kind: 'presence', id, devices: [...(watched?.watch.list(tenant) ?? [])] });
    }
  });
  try {
    store = await openStore(config, { readOnly: false, logger: engineLogger });
    setTimeout(releaseMemory, 2_000).unref();
    watched = watchDevices(config, {
      ...{ consumer, store, types, logger },
      async append(request) {
        const failed = await appends.ask(
          (id) => post({ kind: 'append', id, request }),
          TOO_MANY_APPENDS,
        );
        if (failed !== undefined) throw new SpillwayError(failed.code, failed.message);
      },
    });
    post({ kind: 'ready' });
    const cpu = new CpuDemand();
    setInterval(() => post({ kind: 'cpu', demand: cpu.share() }), CPU_INTERVAL_MS).unref();
    const delay = monitorEventLoopDelay({ resolution: 20 });
    delay.enable();
    await runRollupWorker({
      consumer: drain.consumer,
      store,
      group: ROLLUP_GROUP,
      clock: systemClock,
      config,
      types,
      logger,
      signal: drain.signal,
      backfill: config.backfill,
      watcher: watcherOf(consumer, sequences, watched?.watch),
      onStats: (stats) => {
        post({
          kind: 'stats',
          status: statusOf(stats, delay.percentile(99) / 1e6, watched, sequences),
          usedMs: usedMs(),
        });
        delay.reset();
      },
    });
    delay.disable();
    watched?.close();
    await store.close();
    await consumer.close();
    post({ kind: 'stopped' });
  } catch (error) {
    const { message, code } = error as { message: string; code?: string };
    post({ kind: 'failed', message, code });
    // Another thread takes its place, and open connections would keep this one alive.
    watched?.close();
    await Promise.allSettled([store?.close(), consumer.close()]);
  }
  port.close();
}
