import type { Config } from '../config/schema.ts';
import { retentionOf, windowsOf } from '../config/windows.ts';
import { systemClock } from '../core/clock.ts';
import { finish } from '../rollup/aggregate.ts';
import type { Store } from '../store/contract.ts';
import { type InfluxStoreLogger, openInfluxStore } from '../store/influxdb/store.ts';
import { secretOf } from './secret-file.ts';

/** The InfluxDB engine as the configuration says. Loaded only where it is chosen. */

/** Throws CONFIG_INVALID, STORE_UNAVAILABLE. */
export function openInfluxdb(
  config: Config,
  options: { readOnly: boolean; logger: InfluxStoreLogger },
): Promise<Store> {
  const { url, org, token, tokenFile, bucketPrefix, ...limits } = config.store.influxdb;
  return openInfluxStore({
    url,
    org,
    token: secretOf(token, tokenFile, 'store.influxdb.tokenFile'),
    bucketPrefix,
    retention: retentionOf(config),
    windowsMs: windowsOf(config),
    describe: finish,
    readOnly: options.readOnly,
    clock: systemClock,
    logger: options.logger,
    batchLinesMax: limits.batchLinesMax,
    batchBytesMax: limits.batchBytesMax,
    writesMax: limits.writesMax,
    gzipLevel: limits.gzipLevel,
    attemptTimeoutMs: limits.attemptTimeout,
    retryAfterMaxMs: limits.retryAfterMax,
    devicesMax: config.rollup.devicesMax,
  });
}
