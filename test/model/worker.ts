import { configSchema } from '../../src/config/schema.ts';
import type { Clock } from '../../src/core/clock.ts';
import { SpillwayError } from '../../src/core/errors.ts';
import type { LogConsumer } from '../../src/log/contract.ts';
import { runRollupWorker } from '../../src/rollup/worker.ts';
import type { Store } from '../../src/store/contract.ts';
import type { Engines } from './engines.ts';
import { TYPES } from './fleet.ts';
import type { LifeFaults, Settings } from './plan.ts';

export const GROUP = 'rollup';

/** What a worker dies of here. Nobody tries again after it. */
export class Death extends SpillwayError {
  constructor() {
    super('STORE_TAKEN_OVER', 'the process was killed');
  }
}

const CALM: LifeFaults = { diesAfter: false, outageCalls: 0, answersLost: false };

/** One life of the rollup worker, with what goes wrong in it. */
export class WorkerLife {
  /** Resolves when it is over, however it ended. */
  readonly ended: Promise<void>;
  isOver = false;
  /** What it ended with, unless it was stopped or died as planned. */
  failure: unknown;
  hasDied = false;
  private readonly stopping = new AbortController();
  private readonly consumer: LogConsumer;
  private readonly engines: Engines;
  private faults: LifeFaults;
  private readonly onDeath: () => void;
  /** Occasions so far at which it might have died. */
  points = 0;
  writes = 0;
  private calls = 0;
  private ticks = 0;
  private onStats: () => void = () => {};

  constructor(
    engines: Engines,
    store: Store,
    clock: Clock,
    settings: Settings,
    faults: LifeFaults = CALM,
    onDeath: () => void = () => {},
  ) {
    this.onDeath = onDeath;
    this.engines = engines;
    this.faults = faults;
    this.consumer = engines.consumer();
    engines.watchWrites((when) => this.write(when));
    const { openReadingsMax, devicesMax, batchRecordsMax } = settings;
    const running = runRollupWorker({
      consumer: this.consumer,
      store: this.faulty(store),
      group: GROUP,
      clock,
      config: {
        rollup: {
          ...{ openReadingsMax, devicesMax, batchRecordsMax },
          baseWindow: settings.baseWindowMs,
          lateness: settings.latenessMs,
          flushInterval: settings.flushEvery,
        },
        types: configSchema.parse({ types: TYPES }).types,
        store: { retention: { raw: 0 } },
      },
      signal: this.stopping.signal,
      backfill: {
        readingsPerSecond: settings.backfillPerSecond,
        windowsPerSecond: settings.backfillPerSecond,
      },
      faultPoint: () => this.point(),
      monotonicNow: () => this.ticks++,
      retry: { firstMs: 0, longestMs: 1, attemptsAfterAbort: 100 },
      onStats: () => this.onStats(),
    });
    this.ended = running.then(
      () => this.over(),
      (error: unknown) => this.over(error),
    );
  }

  /** What else goes wrong from here on. */
  trouble(faults: LifeFaults): void {
    this.faults = faults;
    this.points = 0;
    this.writes = 0;
    this.calls = 0;
  }

  private async over(error?: unknown): Promise<void> {
    this.isOver = true;
    this.engines.watchWrites(undefined);
    if (!this.hasDied) this.failure = error;
    await this.consumer.close();
  }

  /** All later occasions too: nothing is written after a death. */
  private die(): void {
    this.hasDied = true;
    this.onDeath();
    throw new Death();
  }

  private point(): void {
    this.points += 1;
    if (this.hasDied || this.points === this.faults.diesAtPoint) this.die();
  }

  private write(when: 'before' | 'after'): void {
    if (when === 'before') this.writes += 1;
    const dies =
      this.writes === this.faults.diesAtWrite && (when === 'after') === this.faults.diesAfter;
    if (this.hasDied || dies) this.die();
  }

  private faulty(store: Store): Store {
    const call = async <T>(name: keyof Store, work: () => Promise<T>): Promise<T> => {
      if (this.hasDied) this.die();
      const { outageOf = name, outageFrom, outageCalls, answersLost } = this.faults;
      if (outageOf !== name) return work();
      this.calls += 1;
      const fails =
        outageFrom !== undefined &&
        this.calls >= outageFrom &&
        this.calls < outageFrom + outageCalls;
      if (!fails) return work();
      if (answersLost) await work();
      throw new SpillwayError('STORE_UNAVAILABLE', 'the store is away');
    };
    return {
      notes: (group) => call('notes', () => store.notes(group)),
      writeNotes: (group, partition, notes) =>
        call('writeNotes', () => store.writeNotes(group, partition, notes)),
      writeReadings: (readings) => call('writeReadings', () => store.writeReadings(readings)),
      writeDeadLetters: (letters) =>
        call('writeDeadLetters', () => store.writeDeadLetters(letters)),
      markDeadLetters: (marks) => call('markDeadLetters', () => store.markDeadLetters(marks)),
      purgeDeadLetters: (purge) => call('purgeDeadLetters', () => store.purgeDeadLetters(purge)),
      writeRollups: (rows) => call('writeRollups', () => store.writeRollups(rows)),
      commit: (progress) => call('commit', () => store.commit(progress)),
      applyRetention: (now) => call('applyRetention', () => store.applyRetention(now)),
      readings: (query) => call('readings', () => store.readings(query)),
      rollups: (query) => call('rollups', () => store.rollups(query)),
      countReadings: (query) => call('countReadings', () => store.countReadings(query)),
      latest: (tenant, query) => call('latest', () => store.latest(tenant, query)),
      newest: (tenant, query) => call('newest', () => store.newest(tenant, query)),
      deadLetters: (query) => call('deadLetters', () => store.deadLetters(query)),
      groupDeadLetters: (query) => call('groupDeadLetters', () => store.groupDeadLetters(query)),
      countDeadLetters: (query) => call('countDeadLetters', () => store.countDeadLetters(query)),
      series: (tenant) => call('series', () => store.series(tenant)),
      ledger: (query) => call('ledger', () => store.ledger(query)),
      ledgerTotals: (query) => call('ledgerTotals', () => store.ledgerTotals(query)),
      recount: (query) => call('recount', () => store.recount(query)),
      position: (group) => call('position', () => store.position(group)),
      sources: (group) => call('sources', async () => (await store.sources?.(group)) ?? new Map()),
      close: () => store.close(),
    };
  }

  /** Resolves at its next report, or when it is over. */
  async nextReport(): Promise<void> {
    const report = new Promise<void>((resolve) => {
      this.onStats = resolve;
    });
    await Promise.race([report, this.ended]);
  }

  /** Until the store has everything before these offsets, or it is over. */
  async reaches(ends: ReadonlyMap<number, { end: number }>, store: Store): Promise<void> {
    while (!this.isOver) {
      const reported = this.nextReport();
      const position = await store.position(GROUP);
      if ([...ends].every(([at, { end }]) => end === 0 || (position.get(at) ?? 0) >= end)) return;
      await reported;
    }
  }

  /** As SIGKILL would: it dies at the next thing that it does. */
  async kill(): Promise<void> {
    this.hasDied = true;
    this.stopping.abort();
    await this.ended;
  }

  /** After a last flush. */
  async stop(): Promise<void> {
    this.stopping.abort();
    await this.ended;
  }
}
