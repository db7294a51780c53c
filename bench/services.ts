import { randomUUID } from 'node:crypto';
import kafkajs from 'kafkajs';
import { listenerAt } from './processes.ts';

/** The Kafka and InfluxDB of the environment, seen from outside: by a plain client and by plain HTTP. */

export interface InfluxServer {
  url: string;
  org: string;
  token: string;
}

export interface Services {
  brokers: string[];
  influx: InfluxServer;
  /** Begins the names of all topics and buckets of this run. */
  prefix: string;
}

const NAMES = ['KAFKA_BROKERS', 'INFLUX_URL', 'INFLUX_ORG', 'INFLUX_TOKEN'] as const;

/** Throws an error that says which settings are missing. */
export function servicesOfEnvironment(): Omit<Services, 'prefix'> {
  const missing = NAMES.filter((name) => !process.env[name]);
  if (missing.length > 0) {
    throw new Error(
      `${missing.join(', ')} not set: this benchmark needs a Kafka (KAFKA_BROKERS=host:port,…) and an ` +
        'InfluxDB 2 (INFLUX_URL, INFLUX_ORG, INFLUX_TOKEN with all rights)',
    );
  }
  const { KAFKA_BROKERS = '', INFLUX_URL = '', INFLUX_ORG = '', INFLUX_TOKEN = '' } = process.env;
  return {
    brokers: KAFKA_BROKERS.split(','),
    influx: { url: INFLUX_URL, org: INFLUX_ORG, token: INFLUX_TOKEN },
  };
}

export function uniquePrefix(): string {
  return `bench-${randomUUID().slice(0, 8)}`;
}

/** Their processes where they run on this machine and are ours to see. */
export function servicePids({ brokers, influx }: Omit<Services, 'prefix'>) {
  const kafka = new URL(`tcp://${brokers[0]}`);
  const influxdb = new URL(influx.url);
  return { kafka: localListener(kafka), influxdb: localListener(influxdb) };
}

function localListener({ hostname, port }: URL): number | undefined {
  const isLocal = ['127.0.0.1', 'localhost', '[::1]'].includes(hostname);
  return isLocal ? listenerAt(Number(port)) : undefined;
}

/** Whole numbers: the `_value` of each table of a Flux answer, which has one row in each. */
export async function fluxNumbers(server: InfluxServer, query: string): Promise<number[]> {
  const lines = await flux(server, query);
  const [header = '', ...rows] = lines;
  const at = header.split(',').indexOf('_value');
  return rows.map((row) => Number(row.split(',')[at]));
}

/** Rows of a Flux answer in plain CSV, the header first; empty lines left out. */
export async function flux({ url, org, token }: InfluxServer, query: string): Promise<string[]> {
  const answer = await fetch(`${url}/api/v2/query?org=${encodeURIComponent(org)}`, {
    method: 'POST',
    headers: {
      authorization: `Token ${token}`,
      'content-type': 'application/vnd.flux',
      accept: 'application/csv',
    },
    body: query,
  });
  const text = await answer.text();
  if (!answer.ok) throw new Error(text);
  return text.split('\r\n').filter((line) => line !== '');
}

/** Removes the topics and buckets of a run. */
export async function removeTraces({ brokers, influx, prefix }: Services): Promise<void> {
  await removeBuckets(influx, prefix);
  const kafka = new kafkajs.Kafka({ brokers, logLevel: kafkajs.logLevel.NOTHING });
  const admin = kafka.admin();
  await admin.connect();
  const topics = (await admin.listTopics()).filter((name) => name.startsWith(`${prefix}.`));
  if (topics.length > 0) await admin.deleteTopics({ topics });
  await admin.disconnect();
}

export async function removeBuckets(server: InfluxServer, prefix: string): Promise<void> {
  const { url, org, token } = server;
  const headers = { authorization: `Token ${token}` };
  const query = new URLSearchParams({ org, limit: '100' });
  const answer = await fetch(`${url}/api/v2/buckets?${query}`, { headers });
  const { buckets } = (await answer.json()) as { buckets: { id: string; name: string }[] };
  for (const { id, name } of buckets) {
    if (!name.startsWith(prefix)) continue;
    await fetch(`${url}/api/v2/buckets/${id}`, { method: 'DELETE', headers });
  }
}
