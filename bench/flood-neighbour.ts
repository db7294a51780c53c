import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  levelPanel,
  p99Of,
  perSecond,
  pinProgram,
  rateOf,
  rates,
  startLoad,
  sumOf,
  Watch,
} from './flood-run.ts';
import type { Plot } from './plot.ts';
import { openProgram } from './program.ts';

/**
 * A tenant that is loud beside one that is quiet: `loud` offers ten times its quota, or, without quotas,
 * far more than the gateway can take; `quiet` sends half of its quota, first alone and then beside it.
 */
const DEVICES = 100;
const QUOTA = 20_000;
const TIMES = 10;
const BACKOFF = { baseMs: 500, maxMs: 30_000 };
/** Left out at the beginning of each phase. */
const SETTLE_MS = 3_000;

export interface NeighbourFigures {
  /** Of the quiet tenant: acknowledged beside the loud one, as a part of what it offered. */
  rateRatio: number;
  quietP99Ms: number;
  besideP99Ms: number;
  /** p99 beside the loud tenant as a multiple of that alone. */
  p99Ratio: number;
  /** What the loud tenant offered and got, readings/s. */
  loudOffered: number;
  loudTaken: number;
  level: string;
}

export async function benchNeighbour(options: {
  seconds: number;
  /** Whether tenants have quotas, or the gateway alone is the limit. */
  quotas: boolean;
}): Promise<{ figures: NeighbourFigures; plot: Plot }> {
  const quota = { tenant: { messages: [`${QUOTA}/1s`] } };
  const tenants = { loud: DEVICES, quiet: DEVICES };
  const program = await openProgram(
    tenants,
    options.quotas ? { quotas: { tenants: { loud: quota, quiet: quota } } } : {},
  );
  const { child, clients, config, port } = program;
  pinProgram(child);
  const watch = new Watch(child, config.http.port);
  const of = (tenant: string) =>
    clients.filter(({ username }) => username.startsWith(`${tenant}/`));
  const common = { port, backoff: BACKOFF };
  const seconds = 2 * options.seconds + 20;
  const quiet = startLoad(join(config.data.dir, 'quiet.json'), {
    ...{ ...common, seconds },
    groups: [
      {
        ...{ name: 'quiet', clients: of('quiet'), qos: 1, rate: QUOTA / 2 },
        ...{ window: 100, buffer: 1_000 },
      },
    ],
  });
  await quiet.begun;
  // New code becomes fast code.
  await sleep(10_000);
  const alone = { from: Date.now(), to: Date.now() + options.seconds * 1_000 };
  await sleep(options.seconds * 1_000);
  const loudClients = of('loud');
  const half = DEVICES / 2;
  const loudGroup = { rate: (TIMES * QUOTA) / 2, buffer: (TIMES * QUOTA) / DEVICES };
  const loud = startLoad(
    join(config.data.dir, 'loud.json'),
    {
      ...{ ...common, seconds: options.seconds },
      groups: [
        { ...loudGroup, name: 'qos1', qos: 1, clients: loudClients.slice(0, half), window: 50 },
        { ...loudGroup, name: 'qos0', qos: 0, clients: loudClients.slice(half), window: 256 },
      ],
    },
    true,
  );
  await loud.begun;
  const from = (loud.seconds[0]?.at ?? 0) + SETTLE_MS;
  await loud.end;
  const to = loud.seconds.at(-1)?.at ?? 0;
  const samples = watch.between(from, to);
  await quiet.end;
  watch.stop();
  await program.close();
  const before = sumOf(quiet, 'quiet', alone.from, alone.to);
  const beside = sumOf(quiet, 'quiet', from, to);
  const offered = (group: string) => sumOf(loud, group).offered / loud.seconds.length;
  const [quietP99Ms, besideP99Ms] = [
    before.latencies.quantile(0.99),
    beside.latencies.quantile(0.99),
  ];
  const begun = alone.from;
  const plot: Plot = {
    title: options.quotas
      ? 'A neighbour at ten times its quota'
      : 'A neighbour at more than the gateway can take, without quotas',
    from: 0,
    to: Math.floor(((quiet.seconds.at(-1)?.at ?? begun) - begun) / 1_000),
    marks: [
      { seconds: ((loud.seconds[0]?.at ?? 0) - begun) / 1_000 - 1, name: 'loud begins' },
      { seconds: (to - begun) / 1_000, name: 'loud ends' },
    ],
    panels: [
      {
        title: 'readings/s',
        series: [
          { name: 'quiet', points: perSecond(quiet, 'quiet', begun, (one) => one.acknowledged) },
          {
            name: 'loud, offered',
            points: loud.seconds.map(({ at, groups }) => [
              (at - begun) / 1_000 - 0.5,
              Object.values(groups).reduce((sum, group) => sum + group.offered, 0),
            ]),
          },
          { name: 'both, made durable', points: rates(watch.samples, begun) },
        ],
      },
      {
        title: 'PUBACK p99 of the quiet tenant, ms',
        series: [{ name: '', points: perSecond(quiet, 'quiet', begun, p99Of) }],
      },
      levelPanel(watch.samples, begun),
    ],
  };
  const figures: NeighbourFigures = {
    rateRatio: beside.acknowledged / beside.offered,
    ...{ quietP99Ms, besideP99Ms, p99Ratio: besideP99Ms / quietP99Ms },
    loudOffered: Math.round(offered('qos1') + offered('qos0')),
    loudTaken: Math.round(rateOf(samples) - beside.acknowledged / beside.seconds),
    level: [...new Set(samples.map(({ level }) => level))].join(', '),
  };
  return { figures, plot };
}
