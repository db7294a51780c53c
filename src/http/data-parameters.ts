import { SpillwayError } from '../core/errors.ts';
import { isName } from '../core/names.ts';
import { REFUSALS } from '../core/refusals.ts';
import { invalid, shown } from '../reports/parameters.ts';
import { parseTime } from '../reports/times.ts';
import { type Zone, zoneOf } from '../reports/zone.ts';
import type { DeadLetterQuery } from '../store/contract.ts';

/** The parameters of the smaller data routes. All throw QUERY_INVALID. */

type Parameters = Record<string, unknown>;

const LIMIT_DEFAULT = 100;
const LIMIT_MAX = 1_000;
const DEVICES_MAX = 100;
const DAY_MS = 86_400_000;

/** Refuses parameters that a route does not have: a misspelt filter must not mean "everything". */
export function only(parameters: Parameters, names: readonly string[]): Parameters {
  const unknown = Object.keys(parameters).find((name) => !names.includes(name));
  if (unknown !== undefined) {
    throw invalid(shown(unknown), `one of ${names.join(', ')}`, 'an unknown parameter');
  }
  return parameters;
}

function time(parameters: Parameters, name: string, now: number): number | undefined {
  const value = parameters[name];
  if (value === undefined) return undefined;
  const at = typeof value === 'string' ? parseTime(value, zoneOf('UTC') as Zone, now) : undefined;
  if (at === undefined) throw invalid(name, 'one ISO 8601 time, now, now-1h or -15m', value);
  return at;
}

export function timeRange(parameters: Parameters, now: number): { from?: number; to?: number } {
  const from = time(parameters, 'from', now);
  const to = time(parameters, 'to', now);
  if (from !== undefined && from >= (to ?? now)) {
    throw invalid('from', 'a time before `to`', parameters.from);
  }
  return { ...(from !== undefined && { from }), ...(to !== undefined && { to }) };
}

export function flag(parameters: Parameters, name: string): boolean {
  const value = parameters[name];
  if (value === undefined || value === 'false') return false;
  if (value === 'true') return true;
  throw invalid(name, 'true or false', value);
}

/** Defaults: the last 24 hours, the newest 100. */
export function deadLetterQuery(
  parameters: Parameters,
  tenant: string | undefined,
  now: number,
): DeadLetterQuery {
  only(parameters, ['tenant', 'device', 'code', 'from', 'to', 'limit']);
  if (tenant === undefined) {
    throw new SpillwayError('QUERY_INVALID', 'tenant: expected one name of a tenant; got nothing.');
  }
  const { device, code, limit = String(LIMIT_DEFAULT) } = parameters;
  const devices =
    device === undefined ? undefined : [device].flat().flatMap((one) => String(one).split(','));
  if (devices !== undefined && (devices.length > DEVICES_MAX || !devices.every(isName))) {
    throw invalid('device', `at most ${DEVICES_MAX} names of devices`, device);
  }
  if (code !== undefined && !(typeof code === 'string' && Object.hasOwn(REFUSALS, code))) {
    throw invalid('code', 'one refusal code of docs/errors.md', code);
  }
  if (typeof limit !== 'string' || !/^\d{1,4}$/.test(limit) || +limit < 1 || +limit > LIMIT_MAX) {
    throw invalid('limit', `a number from 1 to ${LIMIT_MAX}`, limit);
  }
  const { to = now + 1, from = to - DAY_MS } = timeRange(parameters, now);
  return {
    ...{ tenant, from, to, limit: Number(limit) },
    ...(devices && { devices }),
    ...(typeof code === 'string' && { code }),
  };
}
