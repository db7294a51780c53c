import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { levelPanel, p99Of, perSecond, pinProgram, startLoad, sumOf, Watch } from './flood-run.ts';
import type { Plot } from './plot.ts';
import { openProgram } from './program.ts';

/**
 * The connections of thousands of devices break in one moment, and all are there again in the next, while
 * others go on. `herd`: the many, each with a session; `calm`: those that go on.
 */
const HERD = 5_000;
const HERD_RATE = 1_000;
const CALM = 100;
const CALM_RATE = 5_000;
const BACKOFF = { baseMs: 500, maxMs: 30_000 };
const WARM_MS = 10_000;
const BACK_WITHIN_S = 40;

export interface HerdFigures {
  clients: number;
  /** Until the last was back; Infinity when one was not. */
  backSeconds: number;
  /** Attempts that were refused meanwhile. */
  refused: number;
  /** Devices that came back and did not find their session. */
  sessionsLost: number;
  /** Connections of the others that were lost. */
  calmLost: number;
  quietP99Ms: number;
  meanwhileP99Ms: number;
  p99Ratio: number;
  adminP99Ms: number;
  levels: string[];
}

export async function benchHerd(options: {
  seconds: number;
}): Promise<{ figures: HerdFigures; plot: Plot }> {
  const program = await openProgram({ herd: HERD, calm: CALM });
  const { child, clients, config, port } = program;
  pinProgram(child);
  const watch = new Watch(child, config.http.port);
  const of = (tenant: string) =>
    clients.filter(({ username }) => username.startsWith(`${tenant}/`));
  const run = (name: string, rate: number, seconds: number, more: object) =>
    startLoad(
      join(config.data.dir, `${name}.json`),
      {
        ...{ port, seconds, backoff: BACKOFF },
        groups: [
          { name, clients: of(name), qos: 1 as const, rate, window: 100, buffer: 100, ...more },
        ],
      },
      name === 'herd',
    );
  const breakAfter = WARM_MS / 1_000 + options.seconds;
  const herd = run('herd', HERD_RATE, breakAfter + BACK_WITHIN_S, {
    ...{ keepsSession: true, breakAfter },
  });
  await herd.begun;
  const calm = run('calm', CALM_RATE, breakAfter + BACK_WITHIN_S, {});
  await sleep(WARM_MS);
  const quietFrom = Date.now();
  await Promise.all([herd.end, calm.end]);
  const last = herd.seconds.at(-1)?.groups.herd;
  const brokenAt = last?.brokenAt ?? 0;
  const completeAt = last?.completeAt ?? 0;
  const isBack = completeAt > brokenAt && last?.connected === HERD;
  const until = isBack ? completeAt : brokenAt + BACK_WITHIN_S * 1_000;
  watch.stop();
  await program.close();
  const quiet = sumOf(calm, 'calm', quietFrom, brokenAt);
  // Lines are of the second before them.
  const meanwhile = sumOf(calm, 'calm', brokenAt, until + 1_000);
  const quietP99Ms = quiet.latencies.quantile(0.99);
  const meanwhileP99Ms = meanwhile.latencies.quantile(0.99);
  const begun = brokenAt - 10_000;
  const plot: Plot = {
    title: `${HERD.toLocaleString('en')} clients reconnect at once`,
    from: 0,
    to: 40,
    marks: [{ seconds: 10, name: 'all connections break' }],
    panels: [
      {
        title: 'connections of the herd',
        series: [{ name: '', points: perSecond(herd, 'herd', begun, (one) => one.connected) }],
      },
      {
        title: 'PUBACK p99 of 100 others, ms',
        series: [{ name: '', points: perSecond(calm, 'calm', begun, p99Of) }],
      },
      levelPanel(watch.samples, begun),
    ],
  };
  const figures: HerdFigures = {
    clients: HERD,
    backSeconds: isBack ? (completeAt - brokenAt) / 1_000 : Number.POSITIVE_INFINITY,
    refused: sumOf(herd, 'herd', brokenAt).refused,
    sessionsLost: HERD - (last?.resumed ?? 0),
    calmLost: sumOf(calm, 'calm').lost,
    ...{ quietP99Ms, meanwhileP99Ms, p99Ratio: meanwhileP99Ms / quietP99Ms },
    adminP99Ms: watch.adminP99Ms(brokenAt, until + 1_000).p99Ms,
    levels: [...new Set(watch.between(brokenAt, until + 1_000).map(({ level }) => level))],
  };
  return { figures, plot };
}
