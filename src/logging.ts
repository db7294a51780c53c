import { createRequire } from 'node:module';
import { type Logger, pino, stdTimeFunctions } from 'pino';
import type { Config } from './config/schema.ts';
import type { LogLine } from './thread-logger.ts';

/** Names of fields that never reach a log. */
const REDACT = [
  'password',
  'secret',
  'token',
  'authorization',
  '*.password',
  '*.secret',
  '*.token',
  '*.authorization',
];

/** JSON lines on stderr; readable ones on a terminal. */
export function createLogger(config: Config['logging']): Logger {
  const readable =
    config.format === 'pretty' || (config.format === 'auto' && process.stderr.isTTY === true);
  const options = {
    level: config.level,
    base: {},
    timestamp: stdTimeFunctions.isoTime,
    redact: { paths: REDACT, censor: '[redacted]' },
  };
  if (!readable) return pino(options, pino.destination({ dest: 2, sync: true }));
  // Loaded for a terminal alone: it takes megabytes.
  const pretty: typeof import('pino-pretty') = createRequire(import.meta.url)('pino-pretty');
  const stream = pretty({
    destination: 2,
    sync: true,
    ignore: 'pid,hostname,thread',
    translateTime: 'SYS:HH:MM:ss.l',
  });
  return pino(options, stream);
}

/** Writes a line of another thread. */
export function logLine(logger: Logger, thread: string, { level, fields, message }: LogLine): void {
  logger.child({ thread })[level](fields, message);
}
