import { type Logger, pino, stdTimeFunctions } from 'pino';
import pretty from 'pino-pretty';
import type { Config } from './config/schema.ts';

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

/** JSON lines on stderr; readable ones on a terminal. `thread` names where a line comes from. */
export function createLogger(config: Config['logging'], thread: string): Logger {
  const readable =
    config.format === 'pretty' || (config.format === 'auto' && process.stderr.isTTY === true);
  const options = {
    level: config.level,
    base: { thread },
    timestamp: stdTimeFunctions.isoTime,
    redact: { paths: REDACT, censor: '[redacted]' },
  };
  if (!readable) return pino(options, pino.destination({ dest: 2, sync: true }));
  return pino(
    options,
    pretty({
      destination: 2,
      sync: true,
      ignore: 'pid,hostname,thread',
      translateTime: 'SYS:HH:MM:ss.l',
    }),
  );
}
