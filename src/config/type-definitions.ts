import { isDeepStrictEqual } from 'node:util';
import { SpillwayError } from '../core/errors.ts';
import type { DeviceType } from '../core/nouns.ts';
import { formatDuration } from '../core/units.ts';
import { deviceTypes } from './device-types.ts';
import { type Config, configSchema, deviceTypeSchema } from './schema.ts';

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

/** Types by name as they stand under `types`, from elsewhere than the configuration. Throws QUERY_INVALID. */
export function parseTypes(definitions: unknown): Map<string, DeviceType> {
  const parsed = configSchema.shape.types.safeParse(definitions);
  if (parsed.success) return deviceTypes({ types: parsed.data });
  const [issue] = parsed.error.issues;
  const place = ['types', ...(issue?.path ?? [])].join('.');
  throw new SpillwayError('QUERY_INVALID', `${place}: ${issue?.message ?? 'no definition'}.`);
}

/** True when two definitions mean the same, in whatever order their keys stand. */
export function isSameDefinition(a: unknown, b: unknown): boolean {
  return isDeepStrictEqual(JSON.parse(JSON.stringify(a)), JSON.parse(JSON.stringify(b)));
}
