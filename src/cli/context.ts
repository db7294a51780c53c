import { existsSync } from 'node:fs';
import { loadConfig } from '../config/load.ts';
import type { Config } from '../config/schema.ts';
import { ERRORS, SpillwayError } from '../core/errors.ts';
import { ApiError } from './api-error.ts';

/** Used when no file is named and this one exists. */
const DEFAULT_FILE = 'config/spillway.yaml';

/** The file that `--config` or SPILLWAY_CONFIG names, else the default one where it exists. */
export function configFile(given: string | undefined): string | undefined {
  return (
    given ?? process.env.SPILLWAY_CONFIG ?? (existsSync(DEFAULT_FILE) ? DEFAULT_FILE : undefined)
  );
}

/** `roles`: a list with commas, which wins over file and environment. Throws CONFIG_INVALID, CONFIG_NOT_FOUND. */
export function readConfig(
  given: string | undefined,
  { roles }: { roles?: string | undefined } = {},
): Config {
  const file = configFile(given);
  if (roles === undefined) return loadConfig({ file, env: process.env }).config;
  try {
    return loadConfig({ file, env: { ...process.env, SPILLWAY_ROLES: `[${roles}]` } }).config;
  } catch (error) {
    if (!(error instanceof SpillwayError)) throw error;
    // It came by the option.
    const message = error.message.replaceAll('SPILLWAY_ROLES: roles', '--roles');
    throw new SpillwayError(error.code, message, { cause: error });
  }
}

/** What to do next where the words of the API are not those of the command line. */
const NEXT: Readonly<Record<string, string>> = {
  UNAUTHORIZED:
    'Give a valid token with --token or SPILLWAY_TOKEN; `spillway token add` makes one.',
  FORBIDDEN: 'Use a token of that tenant or of an operator; `spillway token add` makes both.',
  QUERY_INVALID: 'Correct the option of this name; `--help` shows what it takes.',
  QUERY_TOO_LARGE:
    'Ask for less: a later --from, a larger --step, fewer --device or fewer --metric.',
  REQUEST_INVALID: 'Correct the options; `--help` shows what they take.',
  NOT_OFFERED: 'Name a process that has the role with --url.',
};

function nextOf(error: SpillwayError | ApiError): string {
  const isOwn = error instanceof SpillwayError && error.next !== ERRORS[error.code].next;
  return isOwn ? error.next : (NEXT[error.code] ?? error.next);
}

/** What went wrong, on stderr, with what to do next; ends with exit code 1. */
export function reportError(error: unknown): never {
  if (error instanceof SpillwayError || error instanceof ApiError) {
    process.stderr.write(`${error.code}: ${error.message}\n${nextOf(error)}\n`);
  } else {
    process.stderr.write(
      `${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`,
    );
  }
  process.exit(1);
}

/** What is worth knowing beside the output: on stderr, so that the output stays what it is. */
export function remark(text: string): void {
  process.stderr.write(`${text}\n`);
}

/** Writes to stdout and waits while a pipe is full. A reader that goes away (`| head`) ends it quietly. */
export async function print(pieces: Iterable<string>): Promise<void> {
  for (const piece of pieces) {
    if (!process.stdout.write(piece)) {
      await new Promise((resolve) => process.stdout.once('drain', resolve));
    }
  }
}
