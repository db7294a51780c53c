import type { InfluxRunOptions, InfluxRunResult } from './influxdb-worker.ts';
import { cpuSecondsOf, firstLine, listenerAt, script, start } from './processes.ts';
import { removeBuckets, uniquePrefix } from './services.ts';

/**
 * The store's part of the distributed path: log records from memory through the rollup worker into raw
 * points and rollups of a real InfluxDB, which `INFLUX_URL`, `INFLUX_ORG` and `INFLUX_TOKEN` name.
 */
const DEVICES = 50;

export interface InfluxFigures {
  /** At the given rate. */
  sustained: RoundFigures & {
    /** Readings that waited at the end of each flush: the median, and the most. */
    lagMedian: number;
    lagMax: number;
  };
  /** As fast as it goes. */
  unpaced: RoundFigures;
  /** Of our process, at the given rate: stage → µs a reading. */
  stages: Record<string, number>;
}

interface RoundFigures {
  readingsPerSecond: number;
  cpuMicrosPerReading: number;
  /** InfluxDB's own; NaN when it runs elsewhere. */
  influxdMicrosPerReading: number;
  /** Rows of rollups that were written for one reading. */
  rollupRowsPerReading: number;
  flushMsMean: number;
  rssMiB: number;
}

/** Undefined, after a message, when no InfluxDB is named. */
export async function benchInflux(options: {
  seconds: number;
  rate: number;
}): Promise<InfluxFigures | undefined> {
  const { INFLUX_URL: url, INFLUX_ORG: org, INFLUX_TOKEN: token } = process.env;
  if (!url || !org || !token) {
    console.log('INFLUX_URL, INFLUX_ORG and INFLUX_TOKEN are not set; InfluxDB is skipped');
    return undefined;
  }
  const round = async (part: { readings: number; rate: number; profile: boolean }) => {
    const bucketPrefix = uniquePrefix();
    const stepMs = (DEVICES * 1_000) / options.rate;
    try {
      return await runWorker({ url, org, token, bucketPrefix, devices: DEVICES, stepMs, ...part });
    } finally {
      await removeBuckets({ url, org, token }, bucketPrefix);
    }
  };
  const { rate, seconds } = options;
  await round({ readings: rate * 2, rate, profile: false });
  const sustained = await round({ readings: rate * seconds, rate, profile: false });
  const profiled = await round({ readings: rate * 15, rate, profile: true });
  const unpaced = await round({ readings: rate * 20, rate: 0, profile: false });
  const lags = sustained.result.flushed.map(({ lag }) => lag).sort((a, b) => a - b);
  return {
    sustained: {
      ...sustained.figures,
      lagMedian: lags[lags.length >>> 1] ?? 0,
      lagMax: lags.at(-1) ?? 0,
    },
    unpaced: unpaced.figures,
    stages: stagesOf(sustained, profiled.result.shares),
  };
}

interface Round {
  result: InfluxRunResult;
  figures: RoundFigures;
}

async function runWorker(options: InfluxRunOptions): Promise<Round> {
  const influxd = listenerAt(Number(new URL(options.url).port));
  const used = () => (influxd === undefined ? Number.NaN : cpuSecondsOf(influxd));
  const child = start(process.execPath, [script('influxdb-worker.ts'), JSON.stringify(options)]);
  const before = used();
  const result = JSON.parse(await firstLine(child)) as InfluxRunResult;
  const influxdSeconds = used() - before;
  const { readings } = options;
  return {
    result,
    figures: {
      readingsPerSecond: speedOf(result),
      cpuMicrosPerReading: result.cpuMicros / readings,
      influxdMicrosPerReading: (influxdSeconds * 1e6) / readings,
      rollupRowsPerReading: result.rollupRows / readings,
      flushMsMean: result.flushMsMean,
      rssMiB: result.rssMiB,
    },
  };
}

/** Between the first flush and the last, so that neither opening nor waiting for the last flush counts. */
function speedOf({ flushed }: InfluxRunResult): number {
  const [first, last] = [flushed[0], flushed.at(-1)];
  if (first === undefined || last === undefined || last.at === first.at) return Number.NaN;
  return Math.round((last.stored - first.stored) / (last.at - first.at));
}

/** The main thread by the shares of a profile, whose own cost is not in it; the other threads as one. */
function stagesOf({ result, figures }: Round, shares: Record<string, number>) {
  const total = figures.cpuMicrosPerReading;
  const main = total * (result.mainThreadMicros / result.cpuMicros);
  const stages = Object.entries(shares).map(([stage, share]): [string, number] => [
    stage,
    main * share,
  ]);
  return Object.fromEntries([...stages, ['other threads (gzip, garbage)', total - main]]);
}
