import { randomUUID } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { deviceTypes } from './config/device-types.ts';
import type { Config } from './config/schema.ts';
import { retentionOf, windowsOf } from './config/windows.ts';
import { systemClock } from './core/clock.ts';
import { SpillwayError } from './core/errors.ts';
import type { LogConsumer } from './log/contract.ts';
import { type AppenderEvents, EmbeddedAppender } from './log/embedded/appender.ts';
import { EmbeddedConsumer } from './log/embedded/consumer.ts';
import type { Store } from './store/contract.ts';
import { openEmbeddedStore } from './store/embedded/store.ts';
import { Registry } from './tenants/registry.ts';

/**
 * The engines that the configuration chooses, behind their contracts. Those that are not chosen are not
 * loaded: their packages take megabytes.
 */

/** The consumer group of the rollup workers, in the log and in the store. */
export const ROLLUP_GROUP = 'rollup';

type Say = (fields: Record<string, unknown>, message: string) => void;

export interface EngineLogger {
  debug: Say;
  info: Say;
  warn: Say;
}

const SILENT: EngineLogger = { debug: () => {}, info: () => {}, warn: () => {} };

/** The log, or with Kafka the spool in front of it. They never share files, so engines can be changed. */
function logDir(config: Config): string {
  return join(config.data.dir, config.log.engine === 'kafka' ? 'spool' : 'log');
}

/**
 * The gateway's writing end on this machine's disk.
 * Throws DATA_DIR_LOCKED, LOG_VERSION, LOG_CORRUPT, LOG_WRITE_FAILED.
 */
export function openAppender(config: Config, events: AppenderEvents): Promise<EmbeddedAppender> {
  const { embedded } = config.log;
  return EmbeddedAppender.open(
    {
      dir: logDir(config),
      diskBytesMax: embedded.diskBytesMax,
      retainForMs: embedded.retainFor,
      retainBytes: embedded.retainBytes,
      accountForMs: config.store.retention.ledger,
      compression: embedded.compression,
      commitRecordsMax: embedded.commitRecordsMax,
      commitBytesMax: embedded.commitBytesMax,
      commitIntervalMs: embedded.commitInterval,
      pendingBytesMax: embedded.pendingBytesMax,
      // In the spool all stand in one sequence; the forwarder brings old readings to a topic of their own.
      hasBackfill: config.log.engine === 'embedded',
    },
    events,
  );
}

/** The reading end of what {@link openAppender} writes. */
export function openLocalConsumer(config: Config): EmbeddedConsumer {
  return new EmbeddedConsumer({ dir: logDir(config) });
}

/**
 * The name under which the records of this spool stand in Kafka; made with the spool, and gone with it.
 * Throws LOG_CORRUPT.
 */
export function spoolName(config: Config): string {
  const dir = logDir(config);
  const file = join(dir, 'name');
  if (!existsSync(file)) {
    mkdirSync(dir, { recursive: true });
    writeFileSync(`${file}.new`, `${randomUUID()}\n`, { flush: true });
    renameSync(`${file}.new`, file);
  }
  const name = readFileSync(file, 'utf8').trim();
  if (!/^[A-Za-z0-9_-]{1,64}$/.test(name)) {
    throw new SpillwayError('LOG_CORRUPT', `${file} holds no name of a spool`);
  }
  return name;
}

/** The reading end of the log that rollup workers and audits see. */
export async function openConsumer(
  config: Config,
  logger: EngineLogger = SILENT,
): Promise<LogConsumer> {
  if (config.log.engine === 'embedded') return openLocalConsumer(config);
  const { openKafkaConsumer } = await import('./engines/kafka.ts');
  return openKafkaConsumer(config, logger);
}

/** Throws DATA_DIR_LOCKED, STORE_VERSION, STORE_CORRUPT, CONFIG_INVALID, STORE_UNAVAILABLE. */
export async function openStore(
  config: Config,
  options: { readOnly: boolean; logger?: EngineLogger },
): Promise<Store> {
  if (config.store.engine === 'influxdb') {
    const { openInfluxdb } = await import('./engines/influxdb.ts');
    return openInfluxdb(config, { readOnly: options.readOnly, logger: options.logger ?? SILENT });
  }
  return openEmbeddedStore({
    dir: join(config.data.dir, 'store'),
    retention: retentionOf(config),
    readOnly: options.readOnly,
    windowsMs: windowsOf(config),
    clock: systemClock,
  });
}

/** This machine's directory of devices and tokens. Throws STORE_VERSION. */
export function openRegistry(config: Config): Registry {
  return new Registry({
    dir: config.data.dir,
    types: new Set(deviceTypes(config).keys()),
    clock: systemClock,
  });
}
