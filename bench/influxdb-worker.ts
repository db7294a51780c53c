/**
 * The rollup worker on a real InfluxDB, as a process of its own. Its log is memory: readings as they stand in
 * a log, in batches, made beforehand. Arguments as JSON in argv[2], result as JSON on stdout.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { configSchema } from '../src/config/schema.ts';
import { systemClock } from '../src/core/clock.ts';
import type { LogRecord } from '../src/core/nouns.ts';
import type { ConsumeOptions, LogBatch, LogConsumer } from '../src/log/contract.ts';
import { decodeRecord, encodeReading, readingPrefix } from '../src/log/record.ts';
import { finish } from '../src/rollup/aggregate.ts';
import { type RollupStats, runRollupWorker } from '../src/rollup/worker.ts';
import { openInfluxStore } from '../src/store/influxdb/store.ts';
import { profileStages, type StageRules } from './stages.ts';

export interface InfluxRunOptions {
  url: string;
  org: string;
  token: string;
  bucketPrefix: string;
  devices: number;
  readings: number;
  /** Readings a second that the log gets; 0: all of them are there from the beginning. */
  rate: number;
  /** Event time between two readings of a device, ms. */
  stepMs: number;
  profile: boolean;
}

export interface InfluxRunResult {
  seconds: number;
  /** CPU of the whole process and of its main thread, µs. */
  cpuMicros: number;
  mainThreadMicros: number;
  /** The main thread's, where a profile was asked for. */
  shares: Record<string, number>;
  /** After each flush: seconds since the beginning, readings that are in the store, and those that wait in the log. */
  flushed: { at: number; stored: number; lag: number }[];
  rollupRows: number;
  flushes: number;
  flushMsMean: number;
  rssMiB: number;
}

const BATCH = 500;
const TYPES = {
  bench: {
    metrics: {
      temperature: { kind: 'float', unit: '°C' },
      humidity: { kind: 'float', unit: '%' },
      pressure: { kind: 'float', unit: 'hPa' },
      battery: { kind: 'float', unit: 'V' },
      signal: { kind: 'float', unit: 'dBm' },
    },
  },
};
const RULES: StageRules = [
  ['decode', /bench\/influxdb-worker/, /^decode/],
  ['http', /store\/influxdb\/connection|influxdb-client|^node:_?(http|net)/],
  ['gzip', /^node:zlib/],
  ['lines', /store\/influxdb\//],
  ['rollup', /src\/rollup\//],
];

/** Readings of a few plausible digits, as devices send them. */
function makeBatches({ devices, readings, stepMs }: InfluxRunOptions, t0: number): Buffer[] {
  const prefixes = Array.from({ length: devices }, (_, nth) =>
    readingPrefix('bench', `device-${String(nth).padStart(3, '0')}`, 'bench'),
  );
  const batches: Buffer[] = [];
  for (let from = 0; from < readings; from += BATCH) {
    const lines: string[] = [];
    for (let nth = from; nth < Math.min(from + BATCH, readings); nth += 1) {
      const turn = Math.floor(nth / devices);
      const ts = t0 + Math.round(turn * stepMs);
      const phase = turn / 400 + (nth % devices);
      const noise = (nth * 7_919) % 101;
      const values = {
        temperature: Math.round(2_100 + 400 * Math.sin(phase) + noise) / 100,
        humidity: Math.round(450 + 150 * Math.cos(phase) + noise / 10) / 10,
        pressure: Math.round(10_132 + 80 * Math.sin(phase / 7) + noise / 10) / 10,
        battery: Math.round(3_700 + (noise % 13) - turn / 1_000) / 1_000,
        signal: -60 - (noise % 25),
      };
      lines.push(encodeReading(prefixes[nth % devices] ?? '', ts, ts + 3, undefined, values));
    }
    batches.push(Buffer.from(lines.join('\n')));
  }
  return batches;
}

function decodeBatch(bytes: Buffer): LogRecord[] {
  return bytes.toString('utf8').split('\n').map(decodeRecord);
}

class MemoryLog implements LogConsumer {
  private readonly batches: Buffer[];
  private readonly options: InfluxRunOptions;
  private readonly began = performance.now();

  constructor(batches: Buffer[], options: InfluxRunOptions) {
    this.batches = batches;
    this.options = options;
  }

  /** Readings that the log has by now. */
  get end(): number {
    const { rate, readings } = this.options;
    if (rate === 0) return readings;
    const due = Math.floor(((performance.now() - this.began) * rate) / 1_000 / BATCH) * BATCH;
    return Math.min(readings, due);
  }

  async *consume(_: string, { signal }: ConsumeOptions): AsyncIterable<LogBatch> {
    for (let nth = 0; nth < this.batches.length; nth += 1) {
      const firstOffset = nth * BATCH;
      while (this.end <= firstOffset) {
        if (signal.aborted) return;
        await sleep(5, undefined, { signal }).catch(() => {});
      }
      if (signal.aborted) return;
      const records = decodeBatch(this.batches[nth] ?? Buffer.alloc(0));
      const nextOffset = firstOffset + records.length;
      yield { partition: 0, firstOffset, nextOffset, records, appendedAt: Date.now() };
    }
    await new Promise<void>((resolve) => {
      if (signal.aborted) resolve();
      signal.addEventListener('abort', () => resolve(), { once: true });
    });
  }

  async commit(): Promise<void> {}

  async committed(): Promise<Map<number, number>> {
    return new Map();
  }

  async bounds(): Promise<Map<number, { first: number; end: number }>> {
    return new Map([[0, { first: 0, end: this.end }]]);
  }

  async received(): Promise<never[]> {
    return [];
  }

  async close(): Promise<void> {}
}

async function run(options: InfluxRunOptions): Promise<InfluxRunResult> {
  const { url, org, token, bucketPrefix, readings } = options;
  const batches = makeBatches(options, Date.now());
  const config = configSchema.parse({ types: TYPES });
  const store = await openInfluxStore({
    ...{ url, org, token, bucketPrefix, describe: finish },
    retention: { rawMs: 0, deadLettersMs: 0, rollupsMs: new Map() },
    windowsMs: [60_000, 3_600_000, 86_400_000],
  });
  const stopping = new AbortController();
  const flushed: InfluxRunResult['flushed'] = [];
  let last: RollupStats | undefined;
  const endProfile = options.profile ? await profileStages(RULES) : undefined;
  const before = [process.cpuUsage(), process.threadCpuUsage()] as const;
  const began = performance.now();
  await runRollupWorker({
    consumer: new MemoryLog(batches, options),
    store,
    clock: systemClock,
    config,
    signal: stopping.signal,
    onStats: (stats) => {
      last = stats;
      const at = (performance.now() - began) / 1_000;
      flushed.push({ at, stored: stats.stored, lag: stats.lagOffsets });
      if (stats.stored === readings && stats.lagOffsets === 0) stopping.abort();
    },
  });
  const seconds = (performance.now() - began) / 1_000;
  const [all, main] = [process.cpuUsage(before[0]), process.threadCpuUsage(before[1])];
  const shares = Object.fromEntries((await endProfile?.()) ?? []);
  await store.close();
  return {
    seconds,
    cpuMicros: all.user + all.system,
    mainThreadMicros: main.user + main.system,
    shares,
    flushed,
    rollupRows: last?.rowsWritten ?? 0,
    flushes: last?.flushes ?? 0,
    flushMsMean: (last?.flushMsTotal ?? 0) / (last?.flushes ?? 1),
    rssMiB: process.memoryUsage.rss() / 2 ** 20,
  };
}

console.log(JSON.stringify(await run(JSON.parse(process.argv[2] ?? '') as InfluxRunOptions)));
