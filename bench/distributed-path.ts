import { setTimeout as sleep } from 'node:timers/promises';
import { openLocalConsumer, openStore, ROLLUP_GROUP } from '../src/engines.ts';
import type { LoadOptions } from './load.ts';
import { openProgram, type Program, TENANT } from './program.ts';
import {
  fluxNumbers,
  removeTraces,
  type Services,
  servicesOfEnvironment,
  uniquePrefix,
} from './services.ts';

/** The whole program on Kafka and InfluxDB, and how far its readings have come. */
export interface DistributedPath {
  program: Program;
  services: Services;
  /** Records that are on this machine's disk and not in InfluxDB yet, with their rollups. */
  backlog(): Promise<number>;
  /** Resolves when there is no backlog; throws after `ms`. */
  drained(ms?: number): Promise<void>;
  /** What InfluxDB itself counts: raw readings, and values of one metric in the rollups. */
  counted(): Promise<{ raw: number; rollups: number }>;
  close(): Promise<void>;
}

export const DRAIN_MS = 60_000;

export async function openPath(
  devices: number,
  env: Record<string, string> = {},
): Promise<DistributedPath> {
  const services: Services = { ...servicesOfEnvironment(), prefix: uniquePrefix() };
  const { brokers, influx, prefix } = services;
  const engines = {
    log: { engine: 'kafka', kafka: { brokers, topicPrefix: prefix } },
    store: { engine: 'influxdb', influxdb: { ...influx, bucketPrefix: prefix } },
  };
  let program: Program;
  try {
    program = await openProgram(devices, engines, env);
  } catch (error) {
    await removeTraces(services);
    throw error;
  }
  const spool = openLocalConsumer(program.config);
  const store = await openStore(program.config, { readOnly: true });
  const backlog = async () => {
    const [bounds, positions] = await Promise.all([spool.bounds(), store.position(ROLLUP_GROUP)]);
    // Topics of this run begin at 0, so positions are counts.
    const done = [...positions.values()].reduce((sum, position) => sum + position, 0);
    return Math.max(0, (bounds.get(0)?.end ?? 0) - done);
  };
  return {
    program,
    services,
    backlog,
    async drained(ms = DRAIN_MS) {
      const deadline = Date.now() + ms;
      while ((await backlog()) > 0) {
        if (Date.now() > deadline) throw new Error(`${await backlog()} records have not arrived`);
        await sleep(100);
      }
    },
    async counted() {
      const sum = async (bucket: string, condition: string, count: 'count' | 'sum') => {
        const numbers = await fluxNumbers(
          influx,
          `from(bucket: "${prefix}-${bucket}") |> range(start: 0, stop: 2100-01-01T00:00:00Z)
            |> filter(fn: (r) => r.tenant == "${TENANT}" and ${condition}) |> ${count}()
            |> group() |> sum()`,
        );
        return numbers[0] ?? 0;
      };
      return {
        raw: await sum('raw', 'r._field == "@origin"', 'count'),
        rollups: await sum('rollup-1m', 'r._field == "count" and r.metric == "temperature"', 'sum'),
      };
    },
    async close() {
      await spool.close();
      await store.close();
      await program.close();
      await removeTraces(services);
    },
  };
}

/** Readings as an even fleet sends them: event times begin now and keep pace. */
export function evenLoad(
  { program: { port, clients } }: DistributedPath,
  rate: number,
  seconds: number,
): LoadOptions {
  const stepMs = (clients.length * 1_000) / rate;
  return { port, clients, seconds, window: 400, rate, qos: 1, startTs: Date.now(), stepMs };
}

export interface Sample {
  /** Seconds since the beginning. */
  at: number;
  backlog: number;
}

/** Looks at the backlog each `everyMs` until it is stopped. */
export function watchBacklog(path: DistributedPath, everyMs: number) {
  const samples: Sample[] = [];
  const began = performance.now();
  let stopped = false;
  const watching = (async () => {
    while (!stopped) {
      const at = (performance.now() - began) / 1_000;
      samples.push({ at, backlog: await path.backlog() });
      await sleep(everyMs);
    }
  })();
  watching.catch(() => {});
  return {
    samples,
    async stop() {
      stopped = true;
      await watching;
    },
  };
}
