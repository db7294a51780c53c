import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { configSchema } from '../src/config/schema.ts';
import { retentionOf, windowsOf } from '../src/config/windows.ts';
import type { LogRecord, ReadingRecord, Values } from '../src/core/nouns.ts';
import type { LogBatch, LogConsumer } from '../src/log/contract.ts';
import { runRollupWorker } from '../src/rollup/worker.ts';
import { openEmbeddedStore } from '../src/store/embedded/store.ts';
import { BENCH_TYPES } from './types.ts';

/**
 * The rollup worker and the embedded store alone: readings that are in memory become raw rows and rollups.
 * Time is that of the readings, so that a flush comes as often as it would at the given rate.
 */
const GROUP = 'rollup';
const BATCH_RECORDS = 500;
const FROM = Date.UTC(2026, 0, 5, 10);

/** What devices send beside new readings. */
export type RollupScenario = 'live' | 'repeats' | 'merges' | 'conflicts';

export interface RollupFigures {
  cpuMicrosPerReading: number;
  /** CPU of the worker for a second of what devices send, s: below 1 it keeps up. */
  load: number;
}

/** `rate`: records in a second of all devices together. */
export async function benchRollup(options: {
  scenario: RollupScenario;
  devices: number;
  rate: number;
  seconds: number;
}): Promise<RollupFigures> {
  const dir = mkdtempSync(join(tmpdir(), 'spillway-bench-'));
  const config = configSchema.parse({ data: { dir }, types: BENCH_TYPES });
  const store = openEmbeddedStore({
    dir: join(dir, 'store'),
    retention: { ...retentionOf(config), rawMs: 0, rollupsMs: new Map() },
    windowsMs: windowsOf(config),
  });
  const log = new MemoryLog(options);
  const stopping = new AbortController();
  const before = process.cpuUsage();
  let generating = 0;
  await runRollupWorker({
    consumer: log.consumer(
      () => stopping.abort(),
      (micros) => {
        generating += micros;
      },
    ),
    store,
    group: GROUP,
    clock: { now: () => log.now },
    config,
    signal: stopping.signal,
    monotonicNow: () => log.now - FROM,
  });
  const { user, system } = process.cpuUsage(before);
  await store.close();
  rmSync(dir, { recursive: true });
  const micros = user + system - generating;
  return {
    cpuMicrosPerReading: micros / (options.rate * options.seconds),
    load: micros / 1e6 / options.seconds,
  };
}

/** Makes records as they are asked for; what that takes is not the worker's. */
class MemoryLog {
  now = FROM;
  private readonly scenario: RollupScenario;
  private readonly devices: string[];
  private readonly stepMs: number;
  private readonly total: number;
  private made = 0;
  private at = FROM;

  constructor(options: Parameters<typeof benchRollup>[0]) {
    this.scenario = options.scenario;
    this.devices = Array.from({ length: options.devices }, (_, n) => `device-${n}`);
    this.total = options.rate * options.seconds;
    this.stepMs = 1_000 / options.rate;
  }

  consumer(onEnd: () => void, onMade: (cpuMicros: number) => void): LogConsumer {
    const next = () => {
      const began = process.cpuUsage();
      const batch = this.batch();
      const { user, system } = process.cpuUsage(began);
      onMade(user + system);
      return batch;
    };
    return {
      consume: async function* () {
        for (let batch = next(); batch !== undefined; batch = next()) yield batch;
        onEnd();
      },
      commit: async () => {},
      committed: async () => new Map(),
      bounds: async () => new Map([[0, { first: 0, end: this.made }]]),
      received: async () => [],
      close: async () => {},
    };
  }

  private batch(): LogBatch | undefined {
    if (this.made >= this.total) return undefined;
    const firstOffset = this.made;
    const records: LogRecord[] = [];
    while (records.length < BATCH_RECORDS) this.add(records);
    this.made += records.length;
    this.now = Math.round(this.at);
    return {
      partition: 0,
      firstOffset,
      nextOffset: this.made,
      records,
      appendedAt: this.now,
    };
  }

  /** A reading of each device, or a reading and what comes with it. */
  private add(records: LogRecord[]): void {
    const number = this.made + records.length;
    const device = this.devices[Math.floor(number / 2) % this.devices.length] ?? '';
    const ts = Math.round(this.at);
    const reading = (values: Values, seq: number): ReadingRecord => ({
      ...{ kind: 'reading', tenant: 'bench', device, type: 'bench' },
      ...{ ts, received: ts, seq, values },
    });
    const wave = Math.sin(number / 500);
    const values: Values = {
      temperature: Math.round((20 + wave * 5) * 100) / 100,
      humidity: Math.round((50 - wave * 9) * 10) / 10,
      pressure: 1_010 + (number % 40) / 10,
      battery: 3.7,
      heating: wave > 0,
    };
    records.push(reading(values, number));
    this.at += this.stepMs;
    const { scenario } = this;
    if (scenario === 'live') {
      this.at += this.stepMs;
      records.push({ ...reading(values, number + 1), ts: ts + 1 });
      return;
    }
    this.at += this.stepMs;
    if (scenario === 'repeats') records.push(reading(values, number));
    else if (scenario === 'merges') records.push(reading({ pressure2: number % 7 }, number + 1));
    else records.push(reading({ ...values, temperature: 21 + wave * 4 }, number + 1));
  }
}
