import type { DeviceType } from '../core/nouns.ts';
import type { Config } from './schema.ts';

/** The device types of the configuration, by name. */
export function deviceTypes(config: Pick<Config, 'types'>): Map<string, DeviceType> {
  return new Map(
    Object.entries(config.types).map(([name, type]) => [
      name,
      {
        name,
        metrics: type.metrics,
        unknownMetrics: type.unknownMetrics,
        periodMs: type.period,
        futureMs: type.futureMax,
        future: type.future,
        pastMs: type.pastMax,
      },
    ]),
  );
}

/** Makes `types` what the configuration says, in place: for those who hold the map. */
export function replaceTypes(types: Map<string, DeviceType>, configured: Config['types']): void {
  types.clear();
  for (const [name, type] of deviceTypes({ types: configured })) types.set(name, type);
}
