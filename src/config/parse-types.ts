import { SpillwayError } from '../core/errors.ts';
import type { DeviceType } from '../core/nouns.ts';
import { deviceTypes } from './device-types.ts';
import { configSchema } from './schema.ts';

/** Types as they stand under `types`, from elsewhere than the configuration. Throws QUERY_INVALID. */
export function parseTypes(definitions: unknown): Map<string, DeviceType> {
  const parsed = configSchema.shape.types.safeParse(definitions);
  if (parsed.success) return deviceTypes({ types: parsed.data });
  const [issue] = parsed.error.issues;
  const place = ['types', ...(issue?.path ?? [])].join('.');
  throw new SpillwayError('QUERY_INVALID', `${place}: ${issue?.message ?? 'no definition'}.`);
}
