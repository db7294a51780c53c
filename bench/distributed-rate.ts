import { type DistributedPath, evenLoad, watchBacklog } from './distributed-path.ts';
import { cpuSecondsOf, load, machineCpuSeconds, rssBytes } from './processes.ts';
import { slope } from './program.ts';
import { servicePids } from './services.ts';
import { cpuByStage, since } from './threads.ts';

/** What a rate costs, from 50 connections, and whether it can be kept up. */
export interface RateFigures {
  readingsPerSecond: number;
  /** Of all of the program's threads, until everything was in InfluxDB, µs a reading. */
  cpuMicrosPerReading: number;
  stageMicros: Record<string, number>;
  /** NaN where it does not run on this machine. */
  kafkaMicrosPerReading: number;
  influxdbMicrosPerReading: number;
  loadMicrosPerReading: number;
  /** Cores that none of these used: what else runs on the machine makes every figure worse. */
  coresOfOthers: number;
  /** Records by which the backlog grew in each second, from a fifth of the time on; about 0 is flat. */
  backlogGrowth: number;
  backlogMax: number;
  isFlat: boolean;
  pubackP99Ms: number;
  rssMiB: number;
  sent: number;
}

const LOOK_MS = 1_000;
/** A backlog is flat that grows in a second by less than this share of what comes in. */
const FLAT_SHARE = 0.01;
/** What must be acknowledged of what should have been sent. */
const ACKNOWLEDGED_SHARE = 0.98;

export async function measureRate(
  path: DistributedPath,
  rate: number,
  seconds: number,
): Promise<RateFigures> {
  const pid = path.program.child.pid ?? 0;
  const { kafka, influxdb } = servicePids(path.services);
  const used = (of: number | undefined) => (of === undefined ? Number.NaN : cpuSecondsOf(of));
  const before = { own: cpuByStage(pid), kafka: used(kafka), influxdb: used(influxdb) };
  const machineBefore = machineCpuSeconds();
  const began = performance.now();
  const backlog = watchBacklog(path, LOOK_MS);
  const result = await load(evenLoad(path, rate, seconds));
  await backlog.stop();
  const rss = rssBytes(path.program.child);
  await path.drained();
  const stages = [...since(before.own, cpuByStage(pid))];
  const own = stages.reduce((sum, [, cpuSeconds]) => sum + cpuSeconds, 0);
  const beside = { kafka: used(kafka) - before.kafka, influxdb: used(influxdb) - before.influxdb };
  const elapsed = (performance.now() - began) / 1_000;
  const known = own + (beside.kafka || 0) + (beside.influxdb || 0) + result.cpuSeconds;
  const micros = (cpuSeconds: number) => (cpuSeconds * 1e6) / result.sent;
  const later = backlog.samples.filter(({ at }) => at > seconds / 5);
  const backlogGrowth = slope(later.map(({ at, backlog }) => ({ at, backlog })));
  const readingsPerSecond = Math.round(result.acknowledged / result.seconds);
  return {
    readingsPerSecond,
    cpuMicrosPerReading: micros(own),
    stageMicros: Object.fromEntries(stages.map(([stage, cpu]) => [stage, micros(cpu)])),
    kafkaMicrosPerReading: micros(beside.kafka),
    influxdbMicrosPerReading: micros(beside.influxdb),
    loadMicrosPerReading: micros(result.cpuSeconds),
    coresOfOthers: (machineCpuSeconds() - machineBefore - known) / elapsed,
    backlogGrowth,
    backlogMax: Math.max(...later.map(({ backlog }) => backlog)),
    isFlat: backlogGrowth < rate * FLAT_SHARE && readingsPerSecond > rate * ACKNOWLEDGED_SHARE,
    pubackP99Ms: result.p99Ms,
    rssMiB: rss / 2 ** 20,
    sent: result.sent,
  };
}

const PROBE_SECONDS = 20;
const STEP = 1.15;
const STEP_BACK = 0.93;

/** The highest rate that is kept up for `seconds`: up in steps from `from`, down again until it holds. */
export async function searchRate(
  path: DistributedPath,
  from: number,
  seconds: number,
  onTried: (figures: RateFigures, rate: number) => void,
): Promise<RateFigures> {
  const attempt = async (rate: number, forSeconds: number) => {
    const figures = await measureRate(path, rate, forSeconds);
    onTried(figures, rate);
    return figures;
  };
  let rate = from;
  while ((await attempt(rate, PROBE_SECONDS)).isFlat) rate = rounded(rate * STEP);
  for (;;) {
    rate = rounded(rate * STEP_BACK);
    const figures = await attempt(rate, seconds);
    if (figures.isFlat) return figures;
  }
}

function rounded(rate: number): number {
  return Math.round(rate / 100) * 100;
}
