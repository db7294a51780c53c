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
  const spillway = await startSpillway(config, logger, VERSION);
  const mqtt = `mqtt://${config.gateway.mqtt.host}:${spillway.mqttPort}`;
  logger.info({ mqtt, http: `http://${config.http.host}:${spillway.httpPort}` }, 'spillway runs');
  const signal = await Promise.race([told, spillway.failed.catch(reportError)]);
  logger.info({ signal }, 'stopping');
  await spillway.stop();
  logger.info('stopped');
  process.exit(0);
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
