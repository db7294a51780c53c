/**
 * `npm run bench:distributed`: the whole program on Kafka and InfluxDB, which KAFKA_BROKERS and INFLUX_URL,
 * INFLUX_ORG, INFLUX_TOKEN name; on this machine, so that they can be measured and paused. Everything that
 * was acknowledged is counted by InfluxDB at the end; the benchmark fails if anything is missing.
 * `-- --json FILE` writes the figures, `--only a,b` runs some parts of cpu, stages, visible, rate, outage.
 */
import { writeFileSync } from 'node:fs';
import { measureOutage } from './distributed-outage.ts';
import { type DistributedPath, openPath } from './distributed-path.ts';
import { measureRate, type RateFigures, searchRate } from './distributed-rate.ts';
import { profileThreads } from './distributed-stages.ts';
import { measureVisible } from './distributed-visible.ts';
import { benchOptions, JSON_FILE } from './options.ts';
import { servicePids, servicesOfEnvironment } from './services.ts';

const DEVICES = 50;
const OUTAGE_SECONDS = 60;
const OUTAGE_RATE = 5_000;
const PROFILE_SECONDS = 15;

const values = benchOptions('bench:distributed', {
  json: JSON_FILE,
  only: ['cpu,stages,visible,rate,outage', 'parts'],
  seconds: ['60', 'of the longer parts'],
  rate: ['15000', 'readings/s at which CPU is counted'],
});
const parts = new Set(values.only.split(','));
const seconds = Number(values.seconds);
const rate = Number(values.rate);
try {
  servicesOfEnvironment();
} catch (error) {
  console.error((error as Error).message);
  process.exit(1);
}

const figures: Record<string, unknown> = { node: process.version, at: new Date().toISOString() };
let sent = 0;
const path = await openPath(DEVICES);
try {
  await measureAll(path);
  await count(path);
} finally {
  await path.close();
}
if (parts.has('stages')) await showStages();
if (values.json !== '') writeFileSync(values.json, `${JSON.stringify(figures, null, 2)}\n`);

async function measureAll(of: DistributedPath): Promise<void> {
  sent += (await measureRate(of, rate, 5)).sent;
  if (parts.has('cpu')) {
    const cpu = await measureRate(of, rate, seconds);
    sent += cpu.sent;
    figures.cpuMicrosPerReading = cpu.cpuMicrosPerReading;
    figures.cpu = cpu;
    showCpu(cpu);
  }
  if (parts.has('visible')) {
    const visible = await measureVisible(of, seconds / 2);
    sent += visible.sent;
    figures.visible = visible;
    const { p50Ms, p99Ms, samples } = visible;
    line('publish to visible by Flux, 100/s', `p50 ${p50Ms} ms, p99 ${p99Ms} ms (${samples})`);
  }
  if (parts.has('rate')) {
    const best = await searchRate(of, rate, seconds, (tried, wanted) => {
      sent += tried.sent;
      const { isFlat, backlogMax, backlogGrowth, coresOfOthers } = tried;
      const growth = `grows by ${backlogGrowth.toFixed(0)}/s, at most ${backlogMax}`;
      const others = `others used ${coresOfOthers.toFixed(2)} cores`;
      line(
        `  tried ${wanted}/s`,
        `${isFlat ? 'flat' : 'not kept up'}: backlog ${growth}; ${others}`,
      );
    });
    figures.readingsPerSecond = best.readingsPerSecond;
    figures.sustained = best;
    line('sustained with a flat backlog', `${best.readingsPerSecond} readings/s for ${seconds} s`);
    line('  CPU per reading', micros(best.cpuMicrosPerReading));
    line('  PUBACK p99', `${best.pubackP99Ms.toFixed(0)} ms`);
    line('  memory', `${best.rssMiB.toFixed(0)} MiB`);
  }
  if (parts.has('outage')) await showOutage(of);
}

function showCpu(cpu: RateFigures): void {
  line(`CPU per reading at ${cpu.readingsPerSecond}/s`, micros(cpu.cpuMicrosPerReading));
  for (const [stage, cost] of Object.entries(cpu.stageMicros)) line(`  ${stage}`, micros(cost));
  line('  Kafka beside it', micros(cpu.kafkaMicrosPerReading));
  line('  InfluxDB beside it', micros(cpu.influxdbMicrosPerReading));
  line('  load generator', micros(cpu.loadMicrosPerReading));
  line('  cores that others used meanwhile', cpu.coresOfOthers.toFixed(2));
  line('  backlog', `grows by ${cpu.backlogGrowth.toFixed(0)}/s, at most ${cpu.backlogMax}`);
  line('  PUBACK p99', `${cpu.pubackP99Ms.toFixed(0)} ms`);
}

async function showOutage(of: DistributedPath): Promise<void> {
  const { kafka } = servicePids(of.services);
  if (kafka === undefined) {
    console.log('Kafka runs elsewhere or as another user: its outage is skipped');
    return;
  }
  const outage = await measureOutage(of, kafka, { rate: OUTAGE_RATE, seconds: OUTAGE_SECONDS });
  sent += outage.sent;
  figures.catchUpSeconds = outage.catchUpSeconds;
  figures.outage = outage;
  const { catchUpSeconds, backlogMax, acknowledgedMedian, acknowledgedLeast } = outage;
  line(
    `Kafka away for ${OUTAGE_SECONDS} s at ${OUTAGE_RATE}/s: caught up`,
    `after ${catchUpSeconds.toFixed(1)} s (backlog at most ${backlogMax})`,
  );
  line('  acknowledged meanwhile', `median ${acknowledgedMedian}/s, least ${acknowledgedLeast}/s`);
}

async function count(of: DistributedPath): Promise<void> {
  const counted = await of.counted();
  figures.counted = { sent, ...counted };
  line('acknowledged', String(sent));
  line('  raw points in InfluxDB', String(counted.raw));
  line('  values in its rollups', String(counted.rollups));
  if (counted.raw !== sent || counted.rollups !== sent) process.exitCode = 1;
}

/** The stages of the threads, where the CPU of the threads was measured. */
async function showStages(): Promise<void> {
  const shares = await profileThreads({ devices: DEVICES, rate, seconds: PROFILE_SECONDS });
  const { stageMicros } = (figures.cpu ?? { stageMicros: {} }) as Pick<RateFigures, 'stageMicros'>;
  figures.shares = shares;
  for (const [thread, stages] of Object.entries(shares)) {
    const whole = stageMicros[thread];
    line(`${thread}, by its profile`, whole === undefined ? '' : micros(whole));
    const sorted = Object.entries(stages).sort(([, a], [, b]) => b - a);
    for (const [stage, share] of sorted) {
      const percent = `${(share * 100).toFixed(0)} %`;
      line(`  ${stage}`, whole === undefined ? percent : `${micros(whole * share)} (${percent})`);
    }
  }
}

function micros(value: number): string {
  return `${value.toFixed(1)} µs`;
}

function line(what: string, figure: string): void {
  console.log(`${what.padEnd(48)} ${figure}`);
}
