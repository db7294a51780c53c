import type { Command } from 'commander';
import type { Config } from '../config/schema.ts';
import { SpillwayError } from '../core/errors.ts';
import { ApiError } from './api-error.ts';
import { readConfig } from './context.ts';

/** Requests to a running Spillway, for what only it can do or knows. */

const TIMEOUT_MS = 30_000;

/** Adds what {@link openClient} needs to a command. */
export function withServer(command: Command): Command {
  return command
    .option('--url <url>', 'of the running Spillway; default: as the configuration says')
    .option('--token <token>', 'default: SPILLWAY_TOKEN, which no list of processes shows')
    .option('--config <file>', 'configuration file');
}

export interface Client {
  get(path: string, parameters?: Record<string, string | undefined>): Promise<unknown>;
  post(path: string, body: object): Promise<unknown>;
}

/** Throws UNAUTHORIZED without a token. */
export function openClient(options: {
  url?: string | undefined;
  token?: string | undefined;
  config?: string | undefined;
}): Client {
  const token = options.token ?? process.env.SPILLWAY_TOKEN;
  if (token === undefined || token === '') {
    throw new SpillwayError('UNAUTHORIZED', 'This needs a token: --token or SPILLWAY_TOKEN.');
  }
  const base = options.url ?? addressOf(readConfig(options.config));
  return {
    get(path, parameters = {}) {
      const given = Object.entries(parameters).filter(
        (entry): entry is [string, string] => entry[1] !== undefined,
      );
      return request(`${base}${path}?${new URLSearchParams(given)}`, token, 'GET', undefined);
    },
    post: (path, body) => request(`${base}${path}`, token, 'POST', JSON.stringify(body)),
  };
}

function addressOf({ http }: Config): string {
  const anywhere = http.host === '0.0.0.0' || http.host === '::';
  const host = anywhere ? '127.0.0.1' : http.host.includes(':') ? `[${http.host}]` : http.host;
  return `http://${host}:${http.port}`;
}

async function request(
  url: string,
  token: string,
  method: string,
  body: string | undefined,
): Promise<unknown> {
  const response = await fetch(url, {
    method,
    headers: {
      authorization: `Bearer ${token}`,
      ...(body !== undefined && { 'content-type': 'application/json' }),
    },
    ...(body !== undefined && { body }),
    signal: AbortSignal.timeout(TIMEOUT_MS),
  }).catch((cause: unknown) => {
    const { origin } = new URL(url);
    throw new SpillwayError('SERVER_UNREACHABLE', `${origin} does not answer`, { cause });
  });
  const answer: unknown = await response.json().catch(() => undefined);
  if (response.ok) return answer;
  const { error } = (answer ?? {}) as {
    error?: { code?: string; message?: string; next?: string };
  };
  throw new ApiError(
    error?.code ?? `HTTP ${response.status}`,
    error?.message ?? 'The server gave no reason.',
    error?.next ?? 'See its log.',
  );
}
