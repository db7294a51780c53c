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
