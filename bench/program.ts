import { type ChildProcess, execFileSync } from 'node:child_process';
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { stringify } from 'yaml';
import { type Config, configSchema } from '../src/config/schema.ts';
import { openConsumer, openStore, ROLLUP_GROUP } from '../src/engines.ts';
import { freePort } from './ingest.ts';
import type { LoadOptions } from './load.ts';
import { cpuSeconds, load, rssBytes, script, start, stop } from './processes.ts';
import { BENCH_TYPES } from './types.ts';

/** The whole program as its users start it, and what is seen of it from outside. */
export const TENANT = 'bench';

export interface Program {
  child: ChildProcess;
  config: Config;
  /** One for each device. */
  clients: LoadOptions['clients'];
  /** MQTT. */
  port: number;
  close(): Promise<void>;
}

/** A data directory with devices, and a configuration for it. */
export interface Prepared {
  dir: string;
  file: string;
  config: Config;
  clients: LoadOptions['clients'];
}

/** `devices`: of one tenant, or of each; `engines`: settings beside those of every benchmark. */
export async function prepareProgram(
  devices: number | Readonly<Record<string, number>>,
  engines: Record<string, unknown> = {},
): Promise<Prepared> {
  const dir = mkdtempSync(join(tmpdir(), 'spillway-bench-'));
  const settings = {
    data: { dir: join(dir, 'data') },
    logging: { level: 'warn' },
    gateway: { mqtt: { port: await freePort() } },
    http: { port: await freePort() },
    types: BENCH_TYPES,
    ...engines,
  };
  const file = join(dir, 'spillway.yaml');
  writeFileSync(file, stringify(settings));
  const counts = typeof devices === 'number' ? { [TENANT]: devices } : devices;
  const clients = Object.entries(counts).flatMap(([tenant, count]) => {
    const wanted = ['--tenant', tenant, '--type', 'bench', '--count', String(count)];
    const added = execFileSync(process.execPath, spillway(file, 'device', 'add', ...wanted), {
      encoding: 'utf8',
    });
    return clientsOf(added);
  });
  return { dir, file, config: configSchema.parse(settings), clients };
}

/** One with the same devices and settings, and ports and a directory of its own. */
export async function copyProgram(other: Prepared, engines: object = {}): Promise<Prepared> {
  const { dir, file, config } = await prepareProgram({}, { ...engines });
  cpSync(other.config.data.dir, config.data.dir, { recursive: true });
  return { dir, file, config, clients: other.clients };
}

/** Runs it; resolves when it is ready. `env`: of the program alone. */
export async function runProgram(
  { file, config }: Prepared,
  env: Record<string, string> = {},
  onStart: (child: ChildProcess) => void = () => {},
): Promise<ChildProcess> {
  const child = start(process.execPath, spillway(file, 'run'), env);
  onStart(child);
  child.stdout?.pipe(process.stderr);
  for (let tries = 0; ; tries++) {
    const ready = await fetch(`http://127.0.0.1:${config.http.port}/readyz`).then(
      (response) => response.ok,
      () => false,
    );
    if (ready) return child;
    if (tries > 200) throw new Error('the program did not become ready');
    await sleep(100);
  }
}

function spillway(file: string, ...args: string[]): string[] {
  return [script('../src/spillway.js'), ...args, '--config', file];
}

/** {@link prepareProgram} and {@link runProgram}. */
export async function openProgram(
  devices: number | Readonly<Record<string, number>>,
  engines: Record<string, unknown> = {},
  env: Record<string, string> = {},
): Promise<Program> {
  const prepared = await prepareProgram(devices, engines);
  const { dir, config, clients } = prepared;
  const child = await runProgram(prepared, env);
  return {
    ...{ child, config, clients },
    port: config.gateway.mqtt.port,
    async close() {
      await stop(child);
      rmSync(dir, { recursive: true });
    },
  };
}

/** Of the CSV that `spillway device add` prints: tenant, device, type, secret. */
function clientsOf(csv: string): LoadOptions['clients'] {
  return csv
    .trim()
    .split('\n')
    .slice(1)
    .map((line) => {
      const [tenant = '', device = '', , password = ''] = line.split(',');
      return {
        username: `${tenant}/${device}`,
        password,
        topic: `t/${tenant}/d/${device}/telemetry`,
      };
    });
}

export interface EndToEndFigures {
  readingsPerSecond: number;
  /** Records by which the backlog grew in each second, from a fifth of the time on; about 0 is flat. */
  backlogGrowth: number;
  backlogMax: number;
  cpuMicrosPerReading: number;
  pubackP99Ms: number;
  rssMiB: number;
}

/** MQTT in to raw rows and rollups, at a given rate from 50 connections. */
export async function benchEndToEnd(options: {
  seconds: number;
  rate: number;
}): Promise<EndToEndFigures> {
  const program = await openProgram(50);
  const { child, config, port, clients } = program;
  const consumer = await openConsumer(config);
  const store = await openStore(config, { readOnly: true });
  const backlogs: { at: number; backlog: number }[] = [];
  const began = performance.now();
  const sample = async () => {
    const end = (await consumer.bounds()).get(0)?.end ?? 0;
    const done = (await store.position(ROLLUP_GROUP)).get(0) ?? 0;
    backlogs.push({ at: (performance.now() - began) / 1_000, backlog: end - done });
  };
  const ticker = setInterval(() => void sample(), 1_000);
  const cpu = cpuSeconds(child);
  // Event times are those of a device that measures evenly: each reading of a device has its own.
  const stepMs = (clients.length * 1_000) / options.rate;
  const result = await load({
    ...{ port, clients, seconds: options.seconds, window: 400, rate: options.rate, qos: 1 },
    ...{ startTs: Date.now(), stepMs },
  });
  const used = cpuSeconds(child) - cpu;
  clearInterval(ticker);
  const rss = rssBytes(child);
  await consumer.close();
  await store.close();
  await program.close();
  return {
    readingsPerSecond: Math.round(result.acknowledged / result.seconds),
    backlogGrowth: slope(backlogs.filter(({ at }) => at > options.seconds / 5)),
    backlogMax: Math.max(...backlogs.map(({ backlog }) => backlog)),
    cpuMicrosPerReading: (used * 1e6) / result.sent,
    pubackP99Ms: result.p99Ms,
    rssMiB: rss / 2 ** 20,
  };
}

/** By how much it grows in a second; least squares. */
export function slope(points: { at: number; backlog: number }[]): number {
  const n = points.length;
  const meanAt = points.reduce((sum, { at }) => sum + at, 0) / n;
  const mean = points.reduce((sum, { backlog }) => sum + backlog, 0) / n;
  const above = points.reduce((sum, { at, backlog }) => sum + (at - meanAt) * (backlog - mean), 0);
  const below = points.reduce((sum, { at }) => sum + (at - meanAt) ** 2, 0);
  return above / below;
}

export interface IdleFigures {
  idleRssMiB: number;
  kibPerConnection: number;
  connections: number;
}

/** Memory of the whole program when nothing comes, and for each connection that is only open. */
export async function benchIdle(options: { connections: number }): Promise<IdleFigures> {
  const program = await openProgram(options.connections);
  await sleep(10_000);
  const idle = rssBytes(program.child);
  const file = join(program.config.data.dir, 'clients.json');
  writeFileSync(file, JSON.stringify({ port: program.port, clients: program.clients }));
  const holder = start(process.execPath, [script('connections.ts'), file]);
  await new Promise<void>((resolve, reject) => {
    holder.stdout?.once('data', () => resolve());
    holder.once('exit', () => reject(new Error('the connections were not accepted')));
  });
  await sleep(10_000);
  const held = rssBytes(program.child);
  await stop(holder);
  await program.close();
  return {
    idleRssMiB: idle / 2 ** 20,
    kibPerConnection: (held - idle) / 1_024 / options.connections,
    connections: options.connections,
  };
}

export interface VisibleFigures {
  p50Ms: number;
  p99Ms: number;
  samples: number;
}

/** Publish to visible in a query (raw row and rollup row), at 100 messages a second. */
export async function benchVisible(options: { seconds: number }): Promise<VisibleFigures> {
  const program = await openProgram(10);
  const { config, clients, port } = program;
  const store = await openStore(config, { readOnly: true });
  const windowMs = config.rollup.baseWindow;
  const first = Date.now();
  const running = load({
    port,
    clients,
    seconds: options.seconds,
    window: 100,
    rate: 100,
    qos: 1,
    startTs: 0,
    stepMs: 0,
  });
  const device = clients[0]?.username.split('/')[1] ?? '';
  const delays: number[] = [];
  const seen = new Set<number>();
  const end = first + options.seconds * 1_000;
  let seenInRollup = 0;
  while (Date.now() < end) {
    await sleep(20);
    const now = Date.now();
    const query = { tenant: TENANT, devices: [device], from: now - 10_000, to: now + 1_000 };
    const rows = await store.rollups({
      ...query,
      from: first - windowMs,
      metrics: ['temperature'],
      windowMs,
    });
    const last = Math.max(0, ...rows.map(({ state }) => state.lastTs));
    if (last === seenInRollup) continue;
    seenInRollup = last;
    for (const { ts } of await store.readings(query)) {
      if (ts > last || seen.has(ts)) continue;
      seen.add(ts);
      delays.push(now - ts);
    }
  }
  await running;
  await store.close();
  await program.close();
  delays.sort((a, b) => a - b);
  const at = (q: number) =>
    delays[Math.min(delays.length - 1, Math.floor(delays.length * q))] ?? Number.NaN;
  return { p50Ms: at(0.5), p99Ms: at(0.99), samples: delays.length };
}
