import { join } from 'node:path';
import { deviceTypes } from './config/device-types.ts';
import type { Config } from './config/schema.ts';
import { retentionOf, windowsOf } from './config/windows.ts';
import { systemClock } from './core/clock.ts';
import type { LogAppender, LogConsumer } from './log/contract.ts';
import { type AppenderEvents, EmbeddedAppender } from './log/embedded/appender.ts';
import { EmbeddedConsumer } from './log/embedded/consumer.ts';
import type { Store } from './store/contract.ts';
import { openEmbeddedStore } from './store/embedded/store.ts';
import { Registry } from './tenants/registry.ts';

/** The engines that the configuration chooses, behind their contracts. */

/** The consumer group of the rollup workers, in the log and in the store. */
export const ROLLUP_GROUP = 'rollup';

/** Throws DATA_DIR_LOCKED, LOG_VERSION, LOG_CORRUPT, LOG_WRITE_FAILED. */
export function openAppender(config: Config, events: AppenderEvents): Promise<LogAppender> {
  const { embedded } = config.log;
  return EmbeddedAppender.open(
    {
      dir: join(config.data.dir, 'log'),
      diskBytesMax: embedded.diskBytesMax,
      retainForMs: embedded.retainFor,
      retainBytes: embedded.retainBytes,
      compression: embedded.compression,
      commitRecordsMax: embedded.commitRecordsMax,
      commitBytesMax: embedded.commitBytesMax,
      pendingBytesMax: embedded.pendingBytesMax,
    },
    events,
  );
}

export function openConsumer(config: Config): LogConsumer {
  return new EmbeddedConsumer({ dir: join(config.data.dir, 'log') });
}

/** Throws DATA_DIR_LOCKED, STORE_VERSION, STORE_CORRUPT. */
export function openStore(config: Config, options: { readOnly: boolean }): Store {
  return openEmbeddedStore({
    dir: join(config.data.dir, 'store'),
    retention: retentionOf(config),
    readOnly: options.readOnly,
    windowsMs: windowsOf(config),
    clock: systemClock,
  });
}

/** Throws STORE_VERSION. */
export function openRegistry(config: Config): Registry {
  return new Registry({
    dir: config.data.dir,
    types: new Set(deviceTypes(config).keys()),
    clock: systemClock,
  });
}
