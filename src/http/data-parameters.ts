import { invalid } from '../reports/parameters.ts';
import { parseTime } from '../reports/times.ts';
import { type Zone, zoneOf } from '../reports/zone.ts';

/** The parameters of the smaller data routes. All throw QUERY_INVALID. */

export type Parameters = Record<string, unknown>;

/** Refuses parameters that a route does not have: a misspelt filter must not mean "everything". */
export function only(parameters: Parameters, names: readonly string[]): Parameters {
  const unknown = Object.keys(parameters).find((name) => !names.includes(name));
  if (unknown !== undefined) {
    throw invalid('a parameter', `one of ${names.join(', ')}`, unknown);
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
