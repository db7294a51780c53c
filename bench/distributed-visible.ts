import { setTimeout as sleep } from 'node:timers/promises';
import type { DistributedPath } from './distributed-path.ts';
import { load } from './processes.ts';
import { TENANT } from './program.ts';
import { flux, fluxNumbers } from './services.ts';

export interface VisibleFigures {
  p50Ms: number;
  p99Ms: number;
  maxMs: number;
  samples: number;
  sent: number;
}

const RATE = 100;
const DEVICES = 10;
const LOOK_MS = 25;

/**
 * From publish until Flux over plain HTTP finds both the raw point and a rollup that counts it; one device
 * is watched of those that send 100 readings a second together.
 */
export async function measureVisible(
  path: DistributedPath,
  seconds: number,
): Promise<VisibleFigures> {
  const { port } = path.program;
  const clients = path.program.clients.slice(0, DEVICES);
  const { influx, prefix } = path.services;
  const device = clients[0]?.username.split('/')[1] ?? '';
  const first = Date.now();
  const of = (bucket: string, from: number) =>
    `from(bucket: "${prefix}-${bucket}") |> range(start: ${new Date(from).toISOString()}, stop: 2100-01-01T00:00:00Z)
      |> filter(fn: (r) => r.tenant == "${TENANT}" and r.device == "${device}"`;
  const running = load({
    ...{ port, clients, seconds, window: 100, rate: RATE, qos: 1 },
    // The gateway's clock and this one are the same, and each publish bears its time.
    ...{ startTs: 0, stepMs: 0 },
  });
  let isRunning = true;
  void running.finally(() => {
    isRunning = false;
  });
  const delays: number[] = [];
  let lastTs = first - 1;
  while (isRunning) {
    await sleep(LOOK_MS);
    const inRollups = await fluxNumbers(
      influx,
      `${of('rollup-1m', first - 60_000)} and r._field == "count" and r.metric == "temperature") |> sum()`,
    );
    const now = Date.now();
    const ready = (inRollups[0] ?? 0) - delays.length;
    if (ready <= 0) continue;
    const raw = await timesOf(
      influx,
      `${of('raw', lastTs + 1)} and r._field == "@origin") |> limit(n: ${ready})`,
    );
    for (const ts of raw) delays.push(now - ts);
    lastTs = raw.at(-1) ?? lastTs;
  }
  const { sent } = await running;
  await path.drained();
  delays.sort((a, b) => a - b);
  const at = (q: number) => delays[Math.floor((delays.length - 1) * q)] ?? Number.NaN;
  return { p50Ms: at(0.5), p99Ms: at(0.99), maxMs: at(1), samples: delays.length, sent };
}

async function timesOf(server: Parameters<typeof flux>[0], query: string): Promise<number[]> {
  const [header = '', ...rows] = await flux(server, query);
  const at = header.split(',').indexOf('_time');
  return rows.map((row) => Date.parse(row.split(',')[at] ?? ''));
}
