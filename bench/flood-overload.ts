import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { openConsumer, openStore, ROLLUP_GROUP } from '../src/engines.ts';
import { audit } from '../src/ops/ledger.ts';
import type { AcknowledgedTimes } from './flood-load.ts';
import {
  type Load,
  levelPanel,
  perSecond,
  pinProgram,
  rateOf,
  rates,
  type Sample,
  startLoad,
  sumOf,
  Watch,
} from './flood-run.ts';
import type { Plot } from './plot.ts';
import { openProgram, type Program, TENANT } from './program.ts';

/**
 * Five times what the gateway can take. Its capacity is measured first, with devices that send as fast as
 * they are acknowledged; then as many devices at QoS 1 and at QoS 0 offer five times that, whatever it does.
 */
const DEVICES = 200;
const TIMES = 5;
const WINDOW = 50;
/** Of QoS 0: 32 KiB that are on the way. */
const UNREAD = 256;
const BACKOFF = { baseMs: 500, maxMs: 30_000 };
const NORMAL_WITHIN_MS = 60_000;
const DRAINED_WITHIN_MS = 900_000;
const READINGS_LIMIT = 1_000_000;

export interface OverloadFigures {
  /** Readings a second. */
  capacity: number;
  offered: number;
  goodput: number;
  goodputRatio: number;
  /** Largest resident memory under five times the load, as a multiple of that at capacity. */
  memoryRatio: number;
  /** How late rollups were at most by the signal `lag`, and their share of what was made durable in the flood. */
  lagMaxSeconds: number;
  processedRatio: number;
  memoryAtCapacityMiB: number;
  memoryMaxMiB: number;
  adminP99Ms: number;
  adminRequests: number;
  recoverySeconds: number;
  /** The levels while it lasted. */
  levels: string[];
  /** The changes of the level since the flood began, and why. */
  changes: { seconds: number; to: string; cause: string }[];
  shed: number;
  acknowledged: number;
  /** Acknowledged readings that are not in the store. */
  lost: number;
  /** Whether received = stored + dead-lettered + shed + duplicate, by the accounts of gateway and store. */
  balanced: boolean;
}

export async function benchOverload(options: {
  seconds: number;
}): Promise<{ figures: OverloadFigures; plot: Plot }> {
  const program = await openProgram(DEVICES);
  const { child, clients, config, port } = program;
  pinProgram(child);
  const watch = new Watch(child, config.http.port);
  const half = clients.length / 2;
  const run = (name: string, groups: Parameters<typeof startLoad>[1]['groups'], seconds: number) =>
    startLoad(join(config.data.dir, `${name}.json`), {
      ...{ port, groups, seconds, backoff: BACKOFF },
      acknowledgedFile: join(config.data.dir, `${name}-acknowledged.json`),
    });
  const closed = { clients, qos: 1 as const, rate: 0, window: WINDOW, buffer: 0 };

  await run('warm', [{ name: 'all', ...closed }], 10).end;
  const before = run('before', [{ name: 'all', ...closed }], options.seconds);
  const calm = await during(before);
  const capacitySamples = watch.between(calm.from, calm.to);
  const capacity = rateOf(capacitySamples);

  const rate = (TIMES * capacity) / 2;
  // What a device can't send it keeps for a second.
  const group = { rate, buffer: Math.ceil(rate / half) };
  const flood = run(
    'flood',
    [
      { name: 'qos1', qos: 1, window: WINDOW, clients: clients.slice(0, half), ...group },
      { name: 'qos0', qos: 0, window: UNREAD, clients: clients.slice(half), ...group },
    ],
    options.seconds,
  );
  const storm = await during(flood);
  const floodSamples = watch.between(storm.from, storm.to);
  const goodput = rateOf(floodSamples);
  const recoverySeconds = await recovery(watch, storm.to);
  const { p99Ms: adminP99Ms, requests: adminRequests } = watch.adminP99Ms(storm.from, storm.to);

  const plot = plotOf({ before, flood, calm, storm, samples: watch.samples });
  const { history } = (await watch.status()).overload;
  const { acknowledged, lost, balanced } = await missing(program, watch);
  const { shed } = await shedOf(watch);
  watch.stop();
  await program.close();
  const rss = (samples: typeof floodSamples) => Math.max(...samples.map((sample) => sample.rss));
  const offered =
    (sumOf(flood, 'qos1').offered + sumOf(flood, 'qos0').offered) / flood.seconds.length;
  const figures: OverloadFigures = {
    capacity: Math.round(capacity),
    offered: Math.round(offered),
    goodput: Math.round(goodput),
    goodputRatio: goodput / capacity,
    memoryRatio: rss(floodSamples) / rss(capacitySamples),
    lagMaxSeconds: Math.max(...floodSamples.map(({ lagMs }) => lagMs)) / 1_000,
    processedRatio: processedRate(floodSamples) / goodput,
    memoryAtCapacityMiB: rss(capacitySamples) / 2 ** 20,
    memoryMaxMiB: rss(floodSamples) / 2 ** 20,
    ...{ adminP99Ms, adminRequests, recoverySeconds },
    levels: [...new Set(floodSamples.map(({ level }) => level))],
    changes: history
      .filter(({ at }) => at >= storm.from)
      .map(({ at, to, cause }) => ({ seconds: (at - storm.from) / 1_000, to, cause }))
      .reverse(),
    ...{ shed, acknowledged, lost, balanced },
  };
  return { figures, plot };
}

interface Span {
  from: number;
  to: number;
}

function plotOf(run: {
  before: Load;
  flood: Load;
  calm: Span;
  storm: Span;
  samples: readonly Sample[];
}): Plot {
  const { before, flood, calm, storm } = run;
  const begun = calm.from;
  const time = (at: number) => (at - begun) / 1_000;
  const samples = run.samples.filter(({ at }) => at >= begun);
  const offered = [
    ...perSecond(before, 'all', begun, ({ sent }) => sent),
    ...flood.seconds.map(({ at, groups }): [number, number] => [
      time(at) - 0.5,
      Object.values(groups).reduce((sum, group) => sum + group.offered, 0),
    ]),
  ];
  const memory = samples.map(({ at, rss }): [number, number] => [time(at), rss / 2 ** 20]);
  return {
    title: 'Five times the capacity',
    from: 0,
    to: Math.ceil(time(samples.at(-1)?.at ?? begun)),
    marks: [
      { seconds: time(storm.from), name: 'flood' },
      { seconds: time(storm.to), name: 'its end' },
    ],
    panels: [
      {
        title: 'readings/s',
        series: [
          { name: 'offered', points: offered },
          { name: 'made durable', points: rates(samples, begun) },
        ],
      },
      { title: 'resident memory, MiB', series: [{ name: '', points: memory }] },
      levelPanel(samples, begun),
    ],
  };
}

/** Records a second that the rollup worker processed, from the first to the last of the samples. */
function processedRate(samples: readonly Sample[]): number {
  return rateOf(samples.map((sample) => ({ ...sample, records: sample.records - sample.lag })));
}

/** From the time when all are connected to the last second of the load. */
async function during(load: Load): Promise<Span> {
  await load.begun;
  await load.end;
  const from = load.seconds[0]?.at ?? 0;
  const to = load.seconds.at(-1)?.at ?? 0;
  return { from, to };
}

/** Seconds from `since` until the gateway says that all is normal. */
async function recovery(watch: Watch, since: number): Promise<number> {
  while (Date.now() < since + NORMAL_WITHIN_MS) {
    const { overload } = await watch.status();
    if (overload.level === 'normal') return Math.max(0, overload.since - since) / 1_000;
    await sleep(100);
  }
  return Number.POSITIVE_INFINITY;
}

async function shedOf(watch: Watch): Promise<{ shed: number }> {
  const { shedByReason } = await watch.status();
  return { shed: Object.values(shedByReason).reduce((sum, count) => sum + count, 0) };
}

/** Waits until everything is in the store, and looks there for every reading that was acknowledged. */
async function missing(
  { config }: Program,
  watch: Watch,
): Promise<{ acknowledged: number; lost: number; balanced: boolean }> {
  const deadline = Date.now() + DRAINED_WITHIN_MS;
  for (;;) {
    const { rollup, log } = await watch.status();
    if (rollup.lagRecords === 0 && log.pendingRecords === 0) break;
    if (Date.now() > deadline) throw new Error(`${rollup.lagRecords} records are not processed`);
    await sleep(1_000);
  }
  const store = await openStore(config, { readOnly: true });
  let acknowledged = 0;
  let lost = 0;
  for (const name of ['warm', 'before', 'flood']) {
    const times = JSON.parse(
      readFileSync(join(config.data.dir, `${name}-acknowledged.json`), 'utf8'),
    ) as AcknowledgedTimes;
    for (const [username, acked] of Object.entries(times)) {
      const [from, to] = [acked[0], acked.at(-1)];
      if (from === undefined || to === undefined) continue;
      acknowledged += acked.length;
      const [, device = ''] = username.split('/');
      const query = { tenant: TENANT, devices: [device], from, to: to + 1, limit: READINGS_LIMIT };
      const stored = new Set((await store.readings(query)).map(({ ts }) => ts));
      lost += acked.filter((ts) => !stored.has(ts)).length;
    }
  }
  const consumer = await openConsumer(config);
  const { balanced } = await audit({ store, consumer, group: ROLLUP_GROUP });
  await consumer.close();
  await store.close();
  return { acknowledged, lost, balanced: balanced === true };
}
