import { readFileSync } from 'node:fs';
import type { Config } from '../config/schema.ts';
import { SpillwayError } from '../core/errors.ts';

const SECRET_BYTES_MAX = 64 * 1_024;

/** A file that the configuration names: a secret or a certificate. Throws CONFIG_INVALID with the key. */
export function readNamedFile(file: string, key: string): string {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    throw new SpillwayError('CONFIG_INVALID', `${key}: ${file} can't be read (${code})`, { cause });
  }
  if (text.length > SECRET_BYTES_MAX) {
    throw new SpillwayError('CONFIG_INVALID', `${key}: ${file} is larger than 64 KiB`);
  }
  return text;
}

/** The secret itself, or the first line of the file that holds it. Throws CONFIG_INVALID. */
export function secretOf(value: string, file: string, key: string): string {
  if (file === '') return value;
  const [line = ''] = readNamedFile(file, key).split(/\r?\n/);
  if (line.trim() === '') throw new SpillwayError('CONFIG_INVALID', `${key}: ${file} is empty`);
  return line.trim();
}

const METRICS_TOKEN_CHARS_MIN = 20;

/** The token that opens the metrics alone; undefined where none is configured. Throws CONFIG_INVALID. */
export function metricsTokenOf({ http }: Pick<Config, 'http'>): string | undefined {
  const key = 'http.metricsTokenFile';
  if (http.metricsTokenFile === '') return undefined;
  const token = secretOf('', http.metricsTokenFile, key);
  if (token.length >= METRICS_TOKEN_CHARS_MIN) return token;
  throw new SpillwayError(
    'CONFIG_INVALID',
    `${key}: expected at least ${METRICS_TOKEN_CHARS_MIN} characters`,
  );
}

/**
 * Reads all files that this process will need, before anything is started: what is wrong with them comes at once,
 * one line each. Throws CONFIG_INVALID.
 */
export function checkNamedFiles(config: Config): void {
  const problems = fileChecks(config).flatMap((check) => {
    try {
      check();
      return [];
    } catch (error) {
      if (error instanceof SpillwayError) return error.message;
      throw error;
    }
  });
  if (problems.length > 0) throw new SpillwayError('CONFIG_INVALID', problems.join('\n'));
}

function fileChecks(config: Config): (() => unknown)[] {
  const { log, store, roles } = config;
  const { tls, sasl } = log.kafka;
  const checks: (() => unknown)[] = [() => metricsTokenOf(config)];
  if (log.engine === 'kafka' && tls.enabled) {
    for (const name of ['caFile', 'certFile', 'keyFile'] as const) {
      if (tls[name] !== '') checks.push(() => readNamedFile(tls[name], `log.kafka.tls.${name}`));
    }
  }
  if (log.engine === 'kafka' && sasl.mechanism !== 'none') {
    checks.push(() => secretOf('', sasl.passwordFile, 'log.kafka.sasl.passwordFile'));
  }
  if (store.engine === 'influxdb' && (roles.includes('rollup') || roles.includes('http'))) {
    checks.push(() => secretOf('', store.influxdb.tokenFile, 'store.influxdb.tokenFile'));
  }
  return checks;
}
