import { HttpError } from '@influxdata/influxdb-client';
import { SpillwayError } from '../../core/errors.ts';
import { formatDuration } from '../../core/units.ts';
import type { Retention } from '../contract.ts';
import type { Connection } from './connection.ts';
import { InfluxUnavailableError, statusOf } from './errors.ts';

/** The shortest retention that InfluxDB accepts. */
const RETENTION_SECONDS_MIN = 3_600;

/** Names of the buckets, from their prefix. */
export interface BucketNames {
  raw: string;
  /** By window size, ms. */
  rollups: ReadonlyMap<number, string>;
  deadLetters: string;
  ledger: string;
}

export function bucketNames(prefix: string, windowsMs: readonly number[]): BucketNames {
  return {
    raw: `${prefix}-raw`,
    rollups: new Map(
      windowsMs.map((windowMs) => [windowMs, `${prefix}-rollup-${formatDuration(windowMs)}`]),
    ),
    deadLetters: `${prefix}-dead-letters`,
    ledger: `${prefix}-ledger`,
  };
}

export interface BucketsOptions {
  connection: Connection;
  org: string;
  names: BucketNames;
  retention: Retention;
  onWarning: (fields: Record<string, unknown>, message: string) => void;
}

interface Bucket {
  name: string;
  orgID: string;
  retentionRules: { everySeconds: number }[];
}

/**
 * Makes the buckets that are not there. One that is there stays as it is; a warning tells when it keeps
 * data for another time than configured.
 * @throws SpillwayError CONFIG_INVALID for a wrong organization or a token without the rights;
 * InfluxUnavailableError
 */
export async function ensureBuckets(options: BucketsOptions): Promise<void> {
  const { names, retention } = options;
  const wanted: [string, number][] = [
    [names.raw, retention.rawMs],
    [names.deadLetters, retention.deadLettersMs],
    [names.ledger, 0],
  ];
  for (const [windowMs, name] of names.rollups) {
    wanted.push([name, retention.rollupsMs.get(windowMs) ?? 0]);
  }
  for (const [name, retentionMs] of wanted) await ensureBucket(options, name, retentionMs);
}

async function ensureBucket(
  options: BucketsOptions,
  name: string,
  retentionMs: number,
): Promise<void> {
  const seconds =
    retentionMs === 0 ? 0 : Math.max(RETENTION_SECONDS_MIN, Math.ceil(retentionMs / 1_000));
  const existing = await findBucket(options, name);
  if (existing === undefined) {
    await createBucket(options, name, seconds);
    return;
  }
  const found = existing.retentionRules[0]?.everySeconds ?? 0;
  if (found !== seconds) {
    options.onWarning(
      { bucket: name, retentionSeconds: found, configuredSeconds: seconds },
      'the bucket keeps data for another time than configured; it was left as it is',
    );
  }
}

async function findBucket(
  { connection, org }: BucketsOptions,
  name: string,
): Promise<Bucket | undefined> {
  const query = new URLSearchParams({ org, name });
  try {
    const { buckets } = await getJson<{ buckets: Bucket[] }>(
      connection,
      `/api/v2/buckets?${query}`,
    );
    return buckets.find((bucket) => bucket.name === name);
  } catch (error) {
    const cause = (error as Error).cause;
    if (statusOf(cause) === 404 && /bucket/.test((error as Error).message)) return undefined;
    throw explained(error, org);
  }
}

async function createBucket(
  { connection, org }: BucketsOptions,
  name: string,
  seconds: number,
): Promise<void> {
  try {
    const { orgs } = await getJson<{ orgs: { id: string }[] }>(
      connection,
      `/api/v2/orgs?${new URLSearchParams({ org })}`,
    );
    await connection.write({
      method: 'POST',
      path: '/api/v2/buckets',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({
        orgID: orgs[0]?.id,
        name,
        retentionRules: seconds === 0 ? [] : [{ type: 'expire', everySeconds: seconds }],
      }),
      status: 201,
    });
  } catch (error) {
    // Another process was faster, or our own first attempt went through without an answer.
    if (error instanceof HttpError && /already exists/.test(error.message)) return;
    throw explained(error, org);
  }
}

function getJson<T>(connection: Connection, path: string): Promise<T> {
  return connection.query(async (send) => {
    const pieces: Uint8Array[] = [];
    await send({ method: 'GET', path, status: 200, onData: (piece) => void pieces.push(piece) });
    return JSON.parse(Buffer.concat(pieces).toString()) as T;
  });
}

/** What an operator has to correct, told as such. */
function explained(error: unknown, org: string): unknown {
  const denied = error instanceof InfluxUnavailableError && error.cause instanceof HttpError;
  const refused = error instanceof HttpError && error.statusCode === 422;
  if (!refused && !(denied && [401, 403, 404].includes(statusOf(error.cause) ?? 0))) return error;
  return new SpillwayError(
    'CONFIG_INVALID',
    `InfluxDB refuses organization ${org} or its token: ${error.message}`,
    { cause: error },
  );
}
