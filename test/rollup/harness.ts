import { ManualClock } from '../../src/core/clock.ts';
import type { LogRecord, ReadingRecord, Values } from '../../src/core/nouns.ts';
import type { FaultPoint } from '../../src/rollup/flush.ts';
import {
  type RollupStats,
  type RollupWorkerOptions,
  runRollupWorker,
} from '../../src/rollup/worker.ts';
import { FakeLog, FakeStore } from './fakes.ts';

export const MINUTE = 60_000;
export const HOUR = 3_600_000;
export const DAY = 86_400_000;
/** A day's start, UTC. */
export const T0 = Date.UTC(2025, 2, 10);

export interface HarnessOptions {
  baseWindow?: number;
  lateness?: number;
  openReadingsMax?: number;
  devicesMax?: number;
  batchRecordsMax?: number;
  /** Batches between two flushes, about. */
  flushEvery?: number;
  rawMs?: number;
}

/** A log, a store, a clock, and a worker that is started, crashed and stopped on them. */
export class Harness {
  readonly log = new FakeLog();
  readonly store = new FakeStore();
  readonly clock = new ManualClock(T0 + 12 * HOUR);
  readonly warnings: string[] = [];
  stats: RollupStats | undefined;
  faultPoint: (name: FaultPoint) => void = () => {};
  private readonly config: RollupWorkerOptions['config'];
  private stopping = new AbortController();
  private running: Promise<void> | undefined;
  private onStats: () => void = () => {};
  private ticks = 0;

  constructor(options: HarnessOptions = {}) {
    this.config = {
      rollup: {
        baseWindow: options.baseWindow ?? MINUTE,
        lateness: options.lateness ?? 2 * MINUTE,
        flushInterval: options.flushEvery ?? 1,
        openReadingsMax: options.openReadingsMax ?? 2_000_000,
        devicesMax: options.devicesMax ?? 100_000,
        batchRecordsMax: options.batchRecordsMax ?? 8_000,
      },
      types: {},
      store: { retention: { raw: options.rawMs ?? 0 } },
    };
  }

  start(more: Partial<RollupWorkerOptions> = {}): void {
    this.stopping = new AbortController();
    this.running = runRollupWorker({
      consumer: this.log,
      store: this.store,
      clock: this.clock,
      config: this.config,
      signal: this.stopping.signal,
      faultPoint: (name) => this.faultPoint(name),
      // Time in flush intervals passes with each look at the clock, so runs repeat exactly.
      monotonicNow: () => this.ticks++,
      retry: { firstMs: 1, longestMs: 2 },
      onStats: (stats) => {
        this.stats = stats;
        this.onStats();
      },
      logger: { info: () => {}, warn: (_, message) => this.warnings.push(message) },
      ...more,
    });
    // Whoever waits for the worker sees its error; nobody may be waiting yet.
    this.running.catch(() => {});
  }

  /** Until everything in the log is in the store; rejects with the worker's error. */
  async settle(): Promise<void> {
    const { running } = this;
    if (running === undefined) throw new Error('not started');
    const caughtUp = new Promise<void>((resolve) => {
      this.onStats = () => {
        if (this.store.positions.get('rollup/0') === this.log.end) resolve();
      };
      if (this.log.end === 0) resolve();
      this.onStats();
    });
    await Promise.race([caughtUp, running]);
  }

  async stop(): Promise<void> {
    this.stopping.abort();
    await this.running;
  }

  /** Until the worker ends by itself. */
  async ended(): Promise<void> {
    await this.running;
  }

  /** Until the worker has passed a point so many times. */
  passes(point: FaultPoint, times = 1): Promise<void> {
    let left = times;
    return new Promise((resolve) => {
      this.faultPoint = (name) => {
        if (name === point) left -= 1;
        if (left === 0) resolve();
      };
    });
  }

  /** Appends and waits until it is in the store. */
  async feed(...records: LogRecord[]): Promise<void> {
    this.log.append(records, this.clock.now());
    await this.settle();
  }
}

/** A reading of tenant `acme`. */
export function reading(
  device: string,
  ts: number,
  values: Values,
  received: number = ts,
): ReadingRecord {
  return { kind: 'reading', tenant: 'acme', device, type: 'sensor', ts, received, values };
}
