import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Version } from './packets.ts';
import { cpuSeconds, firstLine, load, median, script, start, stop } from './processes.ts';

/**
 * Gateway and log: QoS 1 from 50 connections, 100 publishes of each under way, durable and validated
 * before the PUBACK; in turn with mosquitto, which acknowledges from memory, under the same load.
 */
const CONNECTIONS = 50;
const WINDOW = 100;

export interface IngestFigures {
  cpuMicrosPerReading: number;
  readingsPerSecond: number;
  /** Acknowledged readings a second as a multiple of mosquitto's; absent without mosquitto. */
  ratioToMosquitto?: number;
  mosquitto?: { cpuMicrosPerReading: number; readingsPerSecond: number };
  brokerPath: { cpuMicrosPerReading: number; readingsPerSecond: number };
  mqtt5: { cpuMicrosPerReading: number; readingsPerSecond: number };
}

interface Round {
  rate: number;
  cpuMicros: number;
}

export async function benchIngest(options: {
  seconds: number;
  rounds: number;
}): Promise<IngestFigures> {
  const own: Round[] = [];
  const broker: Round[] = [];
  const five: Round[] = [];
  const theirs: Round[] = [];
  const installed = spawnSync('mosquitto', ['-h']).error === undefined;
  if (!installed)
    console.log(
      'mosquitto is not installed; its figures are skipped (Debian: apt-get install mosquitto)',
    );
  for (let round = 0; round < options.rounds; round++) {
    own.push(await runGateway(options.seconds, {}));
    five.push(await runGateway(options.seconds, { version: 5 }));
    if (installed) theirs.push(await runMosquitto(options.seconds));
  }
  broker.push(await runGateway(options.seconds, { fastPath: false }));
  const figures = (rounds: Round[]) => ({
    cpuMicrosPerReading: median(rounds.map(({ cpuMicros }) => cpuMicros)),
    readingsPerSecond: Math.round(median(rounds.map(({ rate }) => rate))),
  });
  // Pair by pair, so that a machine whose speed drifts does not decide.
  const ratios = own.map(({ rate }, index) => rate / (theirs[index]?.rate ?? Number.NaN));
  return {
    ...figures(own),
    brokerPath: figures(broker),
    mqtt5: figures(five),
    ...(installed ? { ratioToMosquitto: median(ratios), mosquitto: figures(theirs) } : {}),
  };
}

async function runGateway(
  seconds: number,
  { fastPath = true, version = 4 }: { fastPath?: boolean; version?: Version },
): Promise<Round> {
  const dir = mkdtempSync(join(tmpdir(), 'spillway-bench-'));
  const child = start(process.execPath, [
    script('gateway.ts'),
    JSON.stringify({ dir, fastPath, count: CONNECTIONS }),
  ]);
  const { port, clients } = JSON.parse(await firstLine(child)) as { port: number; clients: [] };
  const common = { port, clients, window: WINDOW, rate: 0, qos: 1 as const, stepMs: 1, version };
  await load({ ...common, seconds: 2, startTs: Date.now() - 1_800_000 });
  const before = cpuSeconds(child);
  const result = await load({ ...common, seconds, startTs: Date.now() });
  const cpu = cpuSeconds(child) - before;
  await stop(child);
  rmSync(dir, { recursive: true });
  return { rate: result.acknowledged / result.seconds, cpuMicros: (cpu * 1e6) / result.sent };
}

async function runMosquitto(seconds: number): Promise<Round> {
  const dir = mkdtempSync(join(tmpdir(), 'spillway-bench-'));
  const port = await freePort();
  const config = join(dir, 'mosquitto.conf');
  const settings = [
    'allow_anonymous true',
    'persistence false',
    'max_inflight_messages 0',
    'set_tcp_nodelay true',
  ];
  writeFileSync(config, `listener ${port} 127.0.0.1\n${settings.join('\n')}\nlog_type error\n`);
  const child = start('mosquitto', ['-c', config]);
  await sleep(500);
  const clients = Array.from({ length: CONNECTIONS }, (_, i) => ({
    username: `bench/bench-${i}`,
    password: 'none',
    topic: `t/bench/d/bench-${i}/telemetry`,
  }));
  const common = {
    port,
    clients,
    window: WINDOW,
    rate: 0,
    qos: 1 as const,
    stepMs: 1,
    startTs: Date.now(),
  };
  await load({ ...common, seconds: 2 });
  const before = cpuSeconds(child);
  const result = await load({ ...common, seconds });
  const cpu = cpuSeconds(child) - before;
  await stop(child);
  rmSync(dir, { recursive: true });
  return { rate: result.acknowledged / result.seconds, cpuMicros: (cpu * 1e6) / result.sent };
}

export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  await new Promise((resolve) => server.close(resolve));
  return port;
}
