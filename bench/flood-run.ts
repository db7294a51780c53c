import { type ChildProcess, execFileSync, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { Agent, get } from 'node:http';
import { availableParallelism } from 'node:os';
import { createInterface } from 'node:readline';
import type { WholeStatus } from '../src/ops/whole-status.ts';
import type { FloodLoadEnd, FloodLoadOptions, FloodSecond, GroupSecond } from './flood-load.ts';
import { Latencies } from './latencies.ts';
import type { Panel } from './plot.ts';
import { rssBytes, script, start } from './processes.ts';

/** Running floods and watching a gateway meanwhile, for all parts of the benchmark. */

/** The program has one core, the load the other, so that one's CPU does not decide about the other's. */
const canPin =
  availableParallelism() > 1 && spawnSync('taskset', ['--version']).error === undefined;
const PROGRAM_CORE = '0';
const LOAD_CORE = '1';

export function pinProgram(child: ChildProcess): void {
  if (canPin) execFileSync('taskset', ['-a', '-p', '-c', PROGRAM_CORE, String(child.pid)]);
}

/** A command that runs beside the load. */
export function onLoadCore(command: string[]): [program: string, args: string[]] {
  const [program = '', ...args] = canPin ? ['taskset', '-c', LOAD_CORE, ...command] : command;
  return [program, args];
}

export interface Load {
  seconds: FloodSecond[];
  /** Resolves when all devices are connected and a second has passed. */
  begun: Promise<void>;
  end: Promise<FloodLoadEnd>;
  child: ChildProcess;
}

/**
 * Starts the devices in a process of their own; `file`: where to write the options for it. One that is
 * `behind` leaves the CPU to the others, so that it does not get into what they measure.
 */
export function startLoad(file: string, options: FloodLoadOptions, behind = false): Load {
  writeFileSync(file, JSON.stringify(options));
  const nice = behind ? ['nice', '-n', '19'] : [];
  const command = [...nice, process.execPath, script('flood-load.ts'), file];
  const child = start(...onLoadCore(command));
  const seconds: FloodSecond[] = [];
  let onBegun: () => void = () => {};
  const begun = new Promise<void>((resolve) => {
    onBegun = resolve;
  });
  const exited = once(child, 'exit');
  const read = async (): Promise<FloodLoadEnd> => {
    if (child.stdout === null) throw new Error('the process has no stdout');
    for await (const line of createInterface({ input: child.stdout })) {
      const report = JSON.parse(line) as FloodSecond | FloodLoadEnd;
      if ('end' in report) {
        await exited;
        return report;
      }
      seconds.push(report);
      onBegun();
    }
    throw new Error('the load ended before its time');
  };
  return { seconds, begun, end: read(), child };
}

export type Sum = Pick<GroupSecond, 'offered' | 'sent' | 'acknowledged' | 'lost' | 'refused'> & {
  seconds: number;
  latencies: Latencies;
};

/** Sums over the seconds that ended from `from` on and before `to`; ms since the epoch. */
export function sumOf(
  load: Pick<Load, 'seconds'>,
  group: string,
  from = 0,
  to = Number.POSITIVE_INFINITY,
): Sum {
  const sum = { offered: 0, sent: 0, acknowledged: 0, lost: 0, refused: 0, seconds: 0 };
  const latencies = new Latencies();
  for (const { at, groups } of load.seconds) {
    const one = groups[group];
    if (one === undefined || at < from || at >= to) continue;
    sum.seconds++;
    for (const key of ['offered', 'sent', 'acknowledged', 'lost', 'refused'] as const)
      sum[key] += one[key];
    latencies.merge(one.latencies);
  }
  return { ...sum, latencies };
}

export interface Sample {
  /** ms since the epoch. */
  at: number;
  /** Records that were ever made durable. */
  records: number;
  /** Of those, not processed. */
  lag: number;
  /** How late rollups are by the gateway's signal, ms. */
  lagMs: number;
  rss: number;
  level: string;
  ready: boolean;
  readings: number;
  shed: number;
}

const SAMPLE_MS = 500;
const PROBE_MS = 50;
const PATHS = ['/healthz', '/readyz', '/metrics', '/'];
const PROBE_TIMEOUT_MS = 10_000;

/** Asks what an operator, a load balancer and Prometheus ask, and how long each answer takes. */
export class Watch {
  readonly samples: Sample[] = [];
  /** Requests for the status without an answer. */
  unanswered = 0;
  private answers: { at: number; ms: number }[] = [];
  private readonly child: ChildProcess;
  private readonly httpPort: number;
  private readonly timers: NodeJS.Timeout[];
  private readonly agent = new Agent({ keepAlive: true });
  private turn = 0;
  private stopped = false;

  constructor(child: ChildProcess, httpPort: number) {
    this.child = child;
    this.httpPort = httpPort;
    this.timers = [
      setInterval(() => void this.sample(), SAMPLE_MS),
      setInterval(() => void this.probe(), PROBE_MS),
    ];
  }

  stop(): void {
    this.stopped = true;
    for (const timer of this.timers) clearInterval(timer);
    this.agent.destroy();
  }

  status(): Promise<WholeStatus> {
    return this.ask('/api/v1/status').then((body) => JSON.parse(body) as WholeStatus);
  }

  /** p99 of the answers to requests made from `from` on and before `to`, ms. */
  adminP99Ms(from: number, to: number): { p99Ms: number; requests: number } {
    const times = this.answers
      .filter(({ at }) => at >= from && at < to)
      .map(({ ms }) => ms)
      .sort((a, b) => a - b);
    return { p99Ms: times[Math.floor(times.length * 0.99)] ?? 0, requests: times.length };
  }

  /** Samples from `from` on and before `to`. */
  between(from: number, to: number): Sample[] {
    return this.samples.filter(({ at }) => at >= from && at < to);
  }

  private async sample(): Promise<void> {
    const status = await this.status().catch(() => undefined);
    if (status === undefined) {
      if (!this.stopped) this.unanswered++;
      return;
    }
    this.samples.push({
      at: Date.now(),
      records: status.log.endOffset,
      lag: status.rollup.lagRecords,
      lagMs: status.overload.signals.lag?.value ?? 0,
      rss: rssBytes(this.child),
      level: status.overload.level,
      ready: status.ready,
      readings: status.readingsPerSecond,
      shed: Object.values(status.shedByReason).reduce((sum, count) => sum + count, 0),
    });
  }

  private async probe(): Promise<void> {
    const path = PATHS[this.turn++ % PATHS.length] ?? '/';
    const at = Date.now();
    const began = performance.now();
    // One that is not answered counts for as long as it was waited for.
    await this.ask(path).catch(() => '');
    this.answers.push({ at, ms: performance.now() - began });
  }

  private ask(path: string): Promise<string> {
    return new Promise((resolve, reject) => {
      const { httpPort: port, agent } = this;
      const request = get({ host: '127.0.0.1', port, path, agent, timeout: PROBE_TIMEOUT_MS });
      request.once('timeout', () => request.destroy(new Error(`${path}: no answer`)));
      request.once('error', reject);
      request.once('response', (response) => {
        let body = '';
        response.setEncoding('utf8');
        response.on('data', (part: string) => {
          body += part;
        });
        response.once('error', reject);
        response.once('end', () => resolve(body));
      });
    });
  }
}

/** Records a second that became durable, from the first to the last of the samples. */
export function rateOf(samples: readonly Sample[]): number {
  const [first] = samples;
  const last = samples.at(-1);
  if (first === undefined || last === undefined || last.at === first.at) return 0;
  return ((last.records - first.records) * 1_000) / (last.at - first.at);
}

/** Records a second that became durable around each sample but the first, over two seconds. */
export function rates(
  samples: readonly Sample[],
  begun: number,
): [seconds: number, rate: number][] {
  const span = 2_000 / SAMPLE_MS;
  return samples.slice(span).map(({ at, records }, index) => {
    const before = samples[index];
    const rate = before === undefined ? 0 : ((records - before.records) * 1_000) / (at - before.at);
    return [(at - begun) / 1_000 - 1, rate];
  });
}

const LEVELS = ['normal', 'brake', 'shed', 'refuse'];

/** The level over time. */
export function levelPanel(samples: readonly Sample[], begun: number): Panel {
  const points = samples.map(({ at, level }): [number, number] => [
    (at - begun) / 1_000,
    LEVELS.indexOf(level),
  ]);
  return { title: 'level', names: LEVELS, series: [{ name: '', steps: true, points }] };
}

/** A value of each second of a group, over time. */
export function perSecond(
  load: Pick<Load, 'seconds'>,
  group: string,
  begun: number,
  value: (one: GroupSecond) => number,
): [seconds: number, value: number][] {
  return load.seconds.map(({ at, groups }): [number, number] => {
    const one = groups[group];
    // The line is of the second before it.
    return [(at - begun) / 1_000 - 0.5, one === undefined ? 0 : value(one)];
  });
}

/** p99 of a second's latencies, ms; NaN where there are none. */
export function p99Of({ latencies }: GroupSecond): number {
  return latencies.length === 0 ? Number.NaN : new Latencies().merge(latencies).quantile(0.99);
}
