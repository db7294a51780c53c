import type { Command } from 'commander';
import { z } from 'zod';
import type { Config } from '../config/schema.ts';
import { SpillwayError } from '../core/errors.ts';
import { ApiError } from './api-error.ts';
import { serverArgument } from './arguments.ts';
import { readConfig } from './context.ts';

/** Requests to a running Spillway, for what only it can do or knows. */

const TIMEOUT_MS = 30_000;
const errorSchema = z.object({ code: z.string(), message: z.string(), next: z.string() });

/** Adds what {@link openClient} needs to a command. */
export function withServer(command: Command): Command {
  return command
    .option(
      '--url <url>',
      'of the running Spillway; default: as the configuration says',
      serverArgument,
    )
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
    throw new SpillwayError('UNAUTHORIZED', 'This asks the running Spillway and needs a token.');
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
  const isJson = typeof answer === 'object' && answer !== null;
  if (response.ok && isJson) return answer;
  const error = isJson && 'error' in answer ? errorSchema.safeParse(answer.error).data : undefined;
  if (error !== undefined) throw new ApiError(error.code, error.message, error.next);
  const { origin } = new URL(url);
  throw new SpillwayError(
    'ANSWER_UNKNOWN',
    `${origin} answered ${response.status}, and not as Spillway does`,
  );
}
