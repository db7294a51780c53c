import { randomUUID } from 'node:crypto';

export interface InfluxEnvironment {
  url: string;
  org: string;
  token: string;
}

/** The InfluxDB of the environment; undefined when none is set. */
export function influxEnvironment(): InfluxEnvironment | undefined {
  const { INFLUX_URL: url, INFLUX_ORG: org, INFLUX_TOKEN: token } = process.env;
  return url && org && token ? { url, org, token } : undefined;
}

export const SKIPPED = 'INFLUX_URL, INFLUX_ORG and INFLUX_TOKEN are not set';

/** A prefix for buckets of this run alone. */
export function uniquePrefix(): string {
  return `test-${randomUUID().slice(0, 8)}`;
}

interface Bucket {
  id: string;
  name: string;
}

/** Buckets whose names begin with the prefix. */
export async function listBuckets(env: InfluxEnvironment, prefix: string): Promise<Bucket[]> {
  const found: Bucket[] = [];
  for (let offset = 0; ; offset += 100) {
    const query = new URLSearchParams({ org: env.org, limit: '100', offset: String(offset) });
    const answer = await fetch(`${env.url}/api/v2/buckets?${query}`, { headers: headersOf(env) });
    const { buckets } = (await answer.json()) as { buckets: Bucket[] };
    found.push(...buckets.filter(({ name }) => name.startsWith(prefix)));
    if (buckets.length < 100) return found;
  }
}

export async function removeBuckets(env: InfluxEnvironment, prefix: string): Promise<void> {
  for (const { id } of await listBuckets(env, prefix)) {
    await fetch(`${env.url}/api/v2/buckets/${id}`, { method: 'DELETE', headers: headersOf(env) });
  }
}

/** Plain HTTP, not our own code: the CSV answer of a Flux query. */
export async function flux(env: InfluxEnvironment, query: string): Promise<string> {
  const answer = await fetch(`${env.url}/api/v2/query?org=${encodeURIComponent(env.org)}`, {
    method: 'POST',
    headers: { ...headersOf(env), 'content-type': 'application/vnd.flux' },
    body: query,
  });
  const text = await answer.text();
  if (!answer.ok) throw new Error(text);
  return text;
}

/** Writes lines as a foreign program would. */
export async function writeLines(
  env: InfluxEnvironment,
  bucket: string,
  lines: string,
): Promise<void> {
  const query = new URLSearchParams({ org: env.org, bucket, precision: 'ms' });
  const answer = await fetch(`${env.url}/api/v2/write?${query}`, {
    method: 'POST',
    headers: headersOf(env),
    body: lines,
  });
  if (answer.status !== 204) throw new Error(await answer.text());
}

function headersOf({ token }: InfluxEnvironment): Record<string, string> {
  return { authorization: `Token ${token}` };
}
