import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import type { BalancerOptions, BalancerSecond } from './balancer.ts';
import { CpuCap } from './cpu-cap.ts';
import { onLoadCore, pinProgram, rateOf, startLoad, sumOf, Watch } from './flood-run.ts';
import { freePort } from './ingest.ts';
import type { Plot, Series } from './plot.ts';
import { script, start, stop } from './processes.ts';
import { copyProgram, type Prepared, prepareProgram, runProgram } from './program.ts';

/**
 * Dominoes: three gateways, each a whole program with a part of a core of its own, behind a balancer that takes
 * out who does not answer. They carry LOAD of what they can together; one is killed, and the two others
 * get its devices and 1.35 times what they can; it is started anew and gets its part again.
 */
const GATEWAYS = 3;
const CORE_SHARE = 0.25;
const DEVICES = 600;
const LOAD = 0.9;
const WINDOW = 50;
const UNREAD = 256;
/** So that the balancer and the load together need less than their core. */
const BATCH = 5;
const BACKOFF = { baseMs: 500, maxMs: 10_000 };
const WARM_S = 15;
const TOO_MUCH = 1.5;
/** Its end counts: what rollups can do for ever, not what the log takes of a burst (`overload.lag`). */
const FULL_S = 60;
const FULL_COUNTS_S = 20;
const KILLED_AT_S = 20;
const STARTED_AT_S = 60;
const END_S = 110;
/** What the load begins with is left out. */
const SETTLE_S = 5;
const BALANCED_WITHIN = 0.1;

export interface DominoFigures {
  protection: boolean;
  /** Readings/s that all together take of more than they can take. */
  capacity: number;
  offered: number;
  /** Gateways besides the killed one that the balancer took out, or that ended. */
  fallen: number;
  /** How often the balancer took one out, the killed one not counted. */
  removals: number;
  /** Gateways besides the killed one whose process ended. */
  ended: number;
  /** What three took before that, as a part of what was offered. */
  goodputOfThree: number;
  /** What two took, as a part of two thirds of the capacity. */
  goodputOfTwo: number;
  /** The worst second while there were two. */
  worstOfTwo: number;
  /** From the start of the third until all have their part of the devices, s; Infinity: not within the time. */
  balancedSeconds: number;
  /** Of the two that were not killed. */
  adminP99Ms: number;
}

interface Member {
  prepared: Prepared;
  cap: CpuCap;
  child: ChildProcess;
  watch: Watch;
  hasEnded: boolean;
}

export async function benchDominoes(options: {
  protection: boolean;
}): Promise<{ figures: DominoFigures; plot: Plot }> {
  const { protection } = options;
  const settings = { overload: { protection } };
  const first = await prepareProgram({ fleet: DEVICES, probe: 1 }, settings);
  const all = [first];
  while (all.length < GATEWAYS) all.push(await copyProgram(first, settings));
  const members: Member[] = [];
  for (const [index, prepared] of all.entries()) {
    const cap = new CpuCap(`spillway-${process.pid}-${index}`, CORE_SHARE);
    members.push(await run({ prepared, cap }));
  }
  const fleet = first.clients.filter(({ username }) => username.startsWith('fleet/'));
  const [probe] = first.clients.filter(({ username }) => username.startsWith('probe/'));
  if (probe === undefined) throw new Error('there is no device for the balancer');
  const port = await freePort();
  const balancer = startBalancer(join(first.dir, 'balancer.json'), {
    port,
    backends: all.map(({ config: { gateway, http } }) => ({
      ...{ port: gateway.mqtt.port, httpPort: http.port, probe },
    })),
  });
  while (balancer.seconds.at(-1)?.backends.every(({ isIn }) => isIn) !== true) await sleep(200);

  const closed = { qos: 1 as const, rate: 0, window: WINDOW, buffer: 0, clients: fleet };
  const [even, odd] = [0, 1].map((rest) => fleet.filter((_, index) => index % 2 === rest));
  const mixed = (name: string, rate: number, seconds: number) => {
    const group = { rate: rate / 2, buffer: Math.ceil((2 * rate) / DEVICES), batch: BATCH };
    return startLoad(join(first.dir, `${name}.json`), {
      ...{ port, backoff: BACKOFF, seconds },
      groups: [
        { name: 'qos1', qos: 1, window: WINDOW, clients: even ?? [], ...group },
        { name: 'qos0', qos: 0, window: UNREAD, clients: odd ?? [], ...group },
      ],
    });
  };
  const warm = startLoad(join(first.dir, 'warm.json'), {
    ...{ port, backoff: BACKOFF, seconds: WARM_S },
    groups: [{ name: 'all', ...closed }],
  });
  await warm.end;
  const most = sumOf(warm, 'all', (warm.seconds[0]?.at ?? 0) + (WARM_S / 2) * 1_000);
  // What they take of more than they can take, of the same mix and by the same devices.
  const full = mixed('full', (TOO_MUCH * most.acknowledged) / most.seconds, FULL_S);
  await full.end;
  const fullTo = full.seconds.at(-1)?.at ?? 0;
  const fullFrom = fullTo - FULL_COUNTS_S * 1_000;
  const capacity = members.reduce(
    (sum, { watch }) => sum + rateOf(watch.between(fullFrom, fullTo)),
    0,
  );
  const load = mixed('load', LOAD * capacity, END_S);
  await load.begun;
  const begun = (load.seconds[0]?.at ?? Date.now()) - 1_000;
  const until = (seconds: number) => sleep(Math.max(0, begun + seconds * 1_000 - Date.now()));
  const [killed, ...others] = members as [Member, ...Member[]];
  await until(KILLED_AT_S);
  const removedBefore = removalsOf(balancer.seconds);
  killed.watch.stop();
  killed.child.kill('SIGKILL');
  await until(STARTED_AT_S);
  const again = run(killed);
  await load.end;
  members.push(await again);
  const removals = removalsOf(balancer.seconds)
    .slice(1)
    .map((count, index) => count - (removedBefore[index + 1] ?? 0));
  const fallen = others.filter(({ hasEnded }, index) => hasEnded || (removals[index] ?? 0) > 0);
  const at = (seconds: number) => begun + seconds * 1_000;
  const samples = (member: Member) => member.watch.samples;
  const taken = (from: number, to: number) => {
    const rates: number[] = [];
    for (let second = from; second < to; second++) {
      rates.push(
        members.reduce(
          (sum, member) => sum + rateAt(samples(member), at(second), at(second + 1)),
          0,
        ),
      );
    }
    return rates;
  };
  const ofTwo = taken(KILLED_AT_S + SETTLE_S, STARTED_AT_S);
  const two = (capacity * 2) / 3;
  const admin = others.map(({ watch }) => watch.adminP99Ms(at(0), at(END_S)).p99Ms);
  const figures: DominoFigures = {
    protection,
    capacity: Math.round(capacity),
    offered: Math.round(LOAD * capacity),
    fallen: fallen.length,
    removals: removals.reduce((sum, count) => sum + count, 0),
    ended: others.filter(({ hasEnded }) => hasEnded).length,
    goodputOfThree: mean(taken(SETTLE_S, KILLED_AT_S)) / (LOAD * capacity),
    goodputOfTwo: mean(ofTwo) / two,
    worstOfTwo: Math.min(...ofTwo) / two,
    balancedSeconds: balancedAfter(balancer.seconds, at(STARTED_AT_S)),
    adminP99Ms: Math.max(...admin),
  };
  const plot = plotOf({ members, balancer: balancer.seconds, load, begun, figures });
  for (const { watch, child, hasEnded } of members) {
    watch.stop();
    if (!hasEnded && child.exitCode === null) await stop(child);
  }
  await stop(balancer.child);
  for (const { cap } of members.slice(0, GATEWAYS)) cap.remove();
  for (const { dir } of all) rmSync(dir, { recursive: true });
  return { figures, plot };
}

async function run({ prepared, cap }: Pick<Member, 'prepared' | 'cap'>): Promise<Member> {
  const child = await runProgram(prepared, {}, ({ pid }) => {
    if (pid !== undefined) cap.add(pid);
  });
  pinProgram(child);
  const watch = new Watch(child, prepared.config.http.port);
  const member = { prepared, cap, child, watch, hasEnded: false };
  child.once('exit', () => {
    member.hasEnded = true;
    watch.stop();
  });
  return member;
}

function startBalancer(
  file: string,
  options: BalancerOptions,
): { child: ChildProcess; seconds: BalancerSecond[] } {
  writeFileSync(file, JSON.stringify(options));
  const child = start(...onLoadCore([process.execPath, script('balancer.ts'), file]));
  const seconds: BalancerSecond[] = [];
  if (child.stdout !== null) {
    const lines = createInterface({ input: child.stdout });
    lines.on('line', (line) => seconds.push(JSON.parse(line) as BalancerSecond));
  }
  void once(child, 'exit');
  return { child, seconds };
}

function removalsOf(seconds: readonly BalancerSecond[]): number[] {
  return seconds.at(-1)?.backends.map(({ removals }) => removals) ?? [];
}

/** Records a second that became durable between two times, by the samples around them. */
function rateAt(samples: Watch['samples'], from: number, to: number): number {
  const inside = samples.filter(({ at }) => at >= from - 600 && at < to + 600);
  const [one] = inside;
  const last = inside.at(-1);
  if (one === undefined || last === undefined || last.at <= one.at) return 0;
  return ((last.records - one.records) * 1_000) / (last.at - one.at);
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, one) => sum + one, 0) / values.length;
}

function balancedAfter(seconds: readonly BalancerSecond[], since: number): number {
  const part = 1 / GATEWAYS;
  for (const { at, backends } of seconds) {
    if (at < since || !backends.every(({ isIn }) => isIn)) continue;
    const total = backends.reduce((sum, { connections }) => sum + connections, 0);
    const isBalanced = ({ connections }: BalancerSecond['backends'][number]) =>
      Math.abs(connections / total - part) < part * BALANCED_WITHIN;
    if (total > DEVICES * 0.9 && backends.every(isBalanced)) return (at - since) / 1_000;
  }
  return Number.POSITIVE_INFINITY;
}

function plotOf(run: {
  members: readonly Member[];
  balancer: readonly BalancerSecond[];
  load: { seconds: Parameters<typeof sumOf>[0]['seconds'] };
  begun: number;
  figures: DominoFigures;
}): Plot {
  const { members, balancer, load, begun, figures } = run;
  const time = (at: number) => (at - begun) / 1_000;
  const names = ['A', 'B', 'C'];
  const ofMember = (index: number) => (index < GATEWAYS ? [members[index]] : []);
  const perGateway = (value: (member: Member, second: number) => number): Series[] =>
    names.map((name, index) => ({
      name,
      points: Array.from({ length: END_S }, (_, second): [number, number] => {
        // The first was started anew: its second life is the last member.
        const of = [...ofMember(index), ...(index === 0 ? members.slice(GATEWAYS) : [])];
        const sum = of.reduce((all, one) => all + (one === undefined ? 0 : value(one, second)), 0);
        return [second + 0.5, sum];
      }),
    }));
  const taken = perGateway(({ watch }, second) =>
    rateAt(watch.samples, begun + second * 1_000, begun + (second + 1) * 1_000),
  );
  const offered: Series = {
    name: 'offered',
    points: load.seconds.map(({ at, groups }): [number, number] => [
      time(at),
      Object.values(groups).reduce((sum, group) => sum + group.offered, 0),
    ]),
  };
  const total: Series = {
    name: 'made durable',
    points: (taken[0]?.points ?? []).map(([second], index): [number, number] => [
      second,
      taken.reduce((sum, { points }) => sum + (points[index]?.[1] ?? 0), 0),
    ]),
  };
  const LEVELS = ['normal', 'brake', 'shed', 'refuse'];
  const levels = names.map(
    (name, index): Series => ({
      name,
      steps: true,
      points: [...ofMember(index), ...(index === 0 ? members.slice(GATEWAYS) : [])].flatMap(
        (one) => [
          ...(one?.watch.samples ?? []).map(({ at, level }): [number, number] => [
            time(at),
            LEVELS.indexOf(level),
          ]),
          [END_S, Number.NaN] as [number, number],
        ],
      ),
    }),
  );
  const ofBalancer = (value: (one: BalancerSecond['backends'][number]) => number, steps = false) =>
    names.map(
      (name, index): Series => ({
        ...{ name, steps },
        points: balancer.map(({ at, backends }): [number, number] => {
          const one = backends[index];
          return [time(at), one === undefined ? 0 : value(one)];
        }),
      }),
    );
  const lanes = ofBalancer(({ isIn }) => (isIn ? 1 : 0), true).map(({ name, points }, index) => ({
    ...{ name, steps: true },
    points: points.map(([at, value]): [number, number] => [at, value * (GATEWAYS - index)]),
  }));
  return {
    title: `Three gateways, one is killed: ${figures.protection ? 'with protection' : 'protection switched off'}`,
    from: 0,
    to: END_S,
    marks: [
      { seconds: KILLED_AT_S, name: 'A is killed' },
      { seconds: STARTED_AT_S, name: 'A is started' },
    ],
    panels: [
      { title: 'readings/s', series: [offered, total] },
      { title: 'by gateway', series: taken },
      { title: 'connections', series: ofBalancer(({ connections }) => connections) },
      { title: 'level', series: levels, names: LEVELS },
      { title: 'in the balancer', series: lanes, names: ['out', 'C', 'B', 'A'] },
    ],
  };
}
