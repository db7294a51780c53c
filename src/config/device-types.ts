import { createHash } from 'node:crypto';
import type { DeviceType } from '../core/nouns.ts';
import type { Config } from './schema.ts';

/** The device types of the configuration, by name. */
export function deviceTypes(config: Pick<Config, 'types'>): Map<string, DeviceType> {
  return new Map(
    Object.entries(config.types).map(([name, definition]) => [name, deviceType(name, definition)]),
  );
}

/** Makes `types` what the configuration says, in place: for those who hold the map. */
export function replaceTypes(types: Map<string, DeviceType>, configured: Config['types']): void {
  types.clear();
  for (const [name, type] of deviceTypes({ types: configured })) types.set(name, type);
}

function deviceType(name: string, definition: Config['types'][string]): DeviceType {
  return {
    name,
    version: createHash('sha256').update(canonical(definition)).digest('hex').slice(0, 8),
    metrics: definition.metrics,
    unknownMetrics: definition.unknownMetrics,
    periodMs: definition.period,
    futureMs: definition.futureMax,
    future: definition.future,
    pastMs: definition.pastMax,
  };
}

/** JSON without spaces, keys in order, defaults filled in: the same definition is the same text. */
function canonical(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonical).join(',')}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  const entries = Object.entries(value)
    .filter(([, inner]) => inner !== undefined)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([key, inner]) => `${JSON.stringify(key)}:${canonical(inner)}`);
  return `{${entries.join(',')}}`;
}
