import { existsSync } from 'node:fs';
import { loadConfig } from '../config/load.ts';
import type { Config } from '../config/schema.ts';
import { SpillwayError } from '../core/errors.ts';
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
  const env = roles === undefined ? process.env : { ...process.env, SPILLWAY_ROLES: `[${roles}]` };
  return loadConfig({ file: configFile(given), env }).config;
}

/** What went wrong, on stderr, with what to do next; ends with exit code 1. */
export function reportError(error: unknown): never {
  if (error instanceof SpillwayError || error instanceof ApiError) {
    process.stderr.write(`${error.code}: ${error.message}\n${error.next}\n`);
  } else {
    process.stderr.write(
      `${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`,
    );
  }
  process.exit(1);
}

/** Writes to stdout and waits while a pipe is full. A reader that goes away (`| head`) ends it quietly. */
export async function print(pieces: Iterable<string>): Promise<void> {
  for (const piece of pieces) {
    if (!process.stdout.write(piece)) {
      await new Promise((resolve) => process.stdout.once('drain', resolve));
    }
  }
}
