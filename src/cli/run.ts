import type { Logger } from 'pino';
import { startSpillway } from '../app.ts';
import type { Config } from '../config/schema.ts';
import { createLogger } from '../logging.ts';
import { VERSION } from '../version.ts';
import { reportError } from './context.ts';

/** Runs until SIGINT or SIGTERM, drains, exits 0; a second signal ends at once. */
export async function run(config: Config): Promise<void> {
  const logger = createLogger(config.logging);
  // From the beginning: a signal while everything starts ends it in order as soon as it runs.
  const told = untilSignal();
  const starting = startSpillway(config, logger, VERSION);
  // Nothing is taken yet: a start that waits for what is away has nothing to drain.
  await Promise.race([starting, told.then((signal) => endStarting(starting, signal, logger))]);
  const spillway = await starting;
  const { mqttPort, httpPort } = spillway;
  logger.info(
    {
      roles: config.roles,
      ...(mqttPort !== undefined && { mqtt: `mqtt://${config.gateway.mqtt.host}:${mqttPort}` }),
      http: `http://${config.http.host}:${httpPort}`,
    },
    'spillway runs',
  );
  const signal = await Promise.race([told, spillway.failed.catch(reportError)]);
  logger.info({ signal }, 'stopping');
  await spillway.stop();
  logger.info('stopped');
  process.exit(0);
}

const START_PATIENCE_MS = 3_000;

/** Told to end before everything runs: in order when it runs soon, else at once. */
async function endStarting(starting: Promise<unknown>, signal: string, logger: Logger) {
  const late = setTimeout(() => {
    logger.info({ signal }, 'stopped before everything had started');
    process.exit(0);
  }, START_PATIENCE_MS);
  await starting.catch(() => {});
  clearTimeout(late);
}

/** The first SIGINT or SIGTERM; the second ends the process with 130. */
export function untilSignal(): Promise<string> {
  return new Promise((resolve) => {
    let seen = false;
    for (const name of ['SIGINT', 'SIGTERM'] as const) {
      process.on(name, () => {
        if (seen) process.exit(130);
        seen = true;
        resolve(name);
      });
    }
  });
}
