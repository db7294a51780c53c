import { isDeepStrictEqual } from 'node:util';
import { formatDuration } from '../core/units.ts';
import { type Config, deviceTypeSchema } from './schema.ts';

/** A device type as it stands in a shared registry: the form of the configuration, defaults filled in. */

export type ConfiguredType = Config['types'][string];

export function definitionOf(type: ConfiguredType): Record<string, unknown> {
  return {
    ...type,
    period: formatDuration(type.period),
    futureMax: formatDuration(type.futureMax),
    pastMax: formatDuration(type.pastMax),
  };
}

/** Undefined for what this release does not take for a definition. */
export function parseDefinition(definition: unknown): ConfiguredType | undefined {
  const parsed = deviceTypeSchema.safeParse(definition);
  return parsed.success ? parsed.data : undefined;
}

/** True when two definitions mean the same, in whatever order their keys stand. */
export function isSameDefinition(a: unknown, b: unknown): boolean {
  return isDeepStrictEqual(JSON.parse(JSON.stringify(a)), JSON.parse(JSON.stringify(b)));
}
