import { monitorEventLoopDelay } from 'node:perf_hooks';
import { parentPort, workerData } from 'node:worker_threads';
import { deviceTypes, replaceTypes } from './config/device-types.ts';
import type { Config } from './config/schema.ts';
import { systemClock } from './core/clock.ts';
import { openConsumer, openStore, ROLLUP_GROUP } from './engines.ts';
import type { ConsumeOptions, LogBatch, LogConsumer } from './log/contract.ts';
import { releaseMemory } from './memory.ts';
import type { RollupStatus } from './ops/counters.ts';
import { type RollupStats, runRollupWorker } from './rollup/worker.ts';
import { type LogLine, threadLogger } from './thread-logger.ts';

/** The thread of the rollup worker; it owns the store's writing end. */

/** `until`: offset by partition at which to end, everything before it processed; an empty one ends at once. */
export type ToRollup =
  | { kind: 'drain'; until: Map<number, number> }
  | { kind: 'types'; types: Config['types'] };

export type FromRollup =
  | { kind: 'ready' }
  | { kind: 'stats'; status: RollupStatus }
  | LogLine
  | { kind: 'stopped' }
  | { kind: 'failed'; message: string; code: string | undefined };

function statusOf(stats: RollupStats, loopDelayMs: number): RollupStatus {
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
  };
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
      received: (filter) => inner.received(filter),
      close: () => inner.close(),
    };
  }

  get signal(): AbortSignal {
    return this.stop.signal;
  }

  to(until: Map<number, number>): void {
    this.until = until;
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
    const { onRevoked, onAssigned } = options;
    return {
      ...options,
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
  const consumer = await openConsumer(config, engineLogger);
  const drain = new Drain(consumer);
  const types = deviceTypes(config);
  port.on('message', (message: ToRollup) => {
    if (message.kind === 'drain') drain.to(message.until);
    else replaceTypes(types, message.types);
  });
  try {
    const store = await openStore(config, { readOnly: false, logger: engineLogger });
    setTimeout(releaseMemory, 2_000).unref();
    post({ kind: 'ready' });
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
      onStats: (stats) => {
        post({ kind: 'stats', status: statusOf(stats, delay.percentile(99) / 1e6) });
        delay.reset();
      },
    });
    delay.disable();
    await store.close();
    await consumer.close();
    post({ kind: 'stopped' });
  } catch (error) {
    const { message, code } = error as { message: string; code?: string };
    post({ kind: 'failed', message, code });
  }
  port.close();
}
