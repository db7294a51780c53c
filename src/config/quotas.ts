import type { RateLimit } from '../core/units.ts';
import type { Config } from './schema.ts';

/** Limits of one tenant, or of each of its devices. An empty list, and 0, are no limit. */
interface ScopeQuota {
  messages: readonly RateLimit[];
  /** Of payloads. */
  bytes: readonly RateLimit[];
  connections: number;
  connects: readonly RateLimit[];
  /** Distinct metrics that no type declares, a day. */
  metrics: number;
}

export interface TenantQuota {
  /** Its part when tenants have to share, in proportion to the others'. */
  weight: number;
  /** All devices together. */
  tenant: ScopeQuota & { devices: number };
  /** Each device. */
  device: ScopeQuota & { payloadBytesMax: number };
}

/** The limits of a tenant: its own, and for the rest the default. */
export function quotasOf(config: Pick<Config, 'quotas'>): (tenant: string) => TenantQuota {
  const { default: fallback, tenants } = config.quotas;
  const known = new Map<string, TenantQuota>();
  for (const [name, own] of Object.entries(tenants)) {
    known.set(name, {
      weight: own.weight ?? fallback.weight,
      tenant: { ...fallback.tenant, ...given(own.tenant) },
      device: { ...fallback.device, ...given(own.device) },
    });
  }
  return (tenant) => known.get(tenant) ?? fallback;
}

function given<T extends object>(limits: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  const entries = Object.entries(limits).filter(([, limit]) => limit !== undefined);
  return Object.fromEntries(entries) as { [K in keyof T]: Exclude<T[K], undefined> };
}
