import type { Config } from '../config/schema.ts';
import { SpillwayError } from '../core/errors.ts';
import type { StoreReader } from '../store/contract.ts';
import { withRegistry } from './registry.ts';

/**
 * A report of nothing must not come from a slip of the keyboard, or from another configuration's data. Throws
 * TENANT_UNKNOWN when the tenant has no device, no token and no reading.
 */
export async function requireTenant(
  config: Config,
  store: StoreReader,
  tenant: string,
): Promise<void> {
  const isRegistered = await withRegistry(
    config,
    ({ registry }) =>
      registry.devices(tenant).length > 0 ||
      registry.tokens().some(({ rights }) => rights.role === 'tenant' && rights.tenant === tenant),
  );
  if (isRegistered || (await store.latest(tenant)).size > 0) return;
  throw new SpillwayError(
    'TENANT_UNKNOWN',
    `there is no tenant ${tenant}: no device, no token, no reading in ${whereOf(config)}`,
  );
}

function whereOf({ store, data }: Config): string {
  return store.engine === 'influxdb' ? store.influxdb.url : data.dir;
}
