import { SpillwayError } from '../core/errors.ts';
import { isName } from '../core/names.ts';
import { REFUSALS } from '../core/refusals.ts';
import { type LetterId, parseLetterId, type Selection } from '../ops/letters/letter.ts';
import { invalid } from '../reports/parameters.ts';
import type { DeadLetterPage } from '../store/contract.ts';
import { only, type Parameters, timeRange } from './data-parameters.ts';

/**
 * Which dead letters a request is about: the same names in a URL and in a JSON body. All throw
 * QUERY_INVALID.
 */

const LIMIT_DEFAULT = 100;
const LIMIT_MAX = 1_000;
const DEVICES_MAX = 100;
const LETTERS_MAX = 1_000;
const DAY_MS = 86_400_000;

/** Names of the filters; a time range is `from` and `to`. */
export const FILTERS = ['tenant', 'device', 'code', 'type', 'version', 'state', 'from', 'to'];
const STATES = ['open', 'replayed'] as const;
export const GROUPED_BY = ['device', 'code', 'type', 'version'] as const;

/** One page of a list: the newest 100 of the last 24 hours by default. */
export function letterPage(
  parameters: Parameters,
  tenant: string | undefined,
  now: number,
): DeadLetterPage & { limit: number } {
  only(parameters, [...FILTERS, 'limit', 'order', 'after']);
  const { order, after } = parameters;
  if (order !== undefined && order !== 'newest' && order !== 'oldest') {
    throw invalid('order', 'newest or oldest', order);
  }
  return {
    ...letterFilter(parameters, tenant, now),
    limit: wholeNumber(parameters, 'limit', LIMIT_MAX) ?? LIMIT_DEFAULT,
    ...(order === 'oldest' && { oldestFirst: true }),
    ...(after !== undefined && { after: letterId('after', after) }),
  };
}

/** What is to be tried, replayed or purged: letters by name, or those that the filters find. */
export function letterSelection(
  parameters: Parameters,
  tenant: string | undefined,
  now: number,
): Selection {
  const { letters } = parameters;
  if (letters === undefined) return letterFilter(parameters, tenant, now);
  const list = [letters].flat();
  if (list.length === 0 || list.length > LETTERS_MAX) {
    throw invalid('letters', `1 to ${LETTERS_MAX} ids of letters`, list.length);
  }
  const ids = list.map((one) => letterId('letters', one));
  const range = { from: 0, to: now + 1, ...timeRange(parameters, now) };
  return { ...letterFilter(parameters, tenant, now), ...range, letters: ids };
}

export function letterFilter(
  parameters: Parameters,
  tenant: string | undefined,
  now: number,
): Selection {
  if (tenant === undefined) {
    throw new SpillwayError('QUERY_INVALID', 'tenant: expected one name of a tenant; got nothing.');
  }
  const { device, code, type, version, state } = parameters;
  const devices =
    device === undefined ? undefined : [device].flat().flatMap((one) => String(one).split(','));
  if (devices !== undefined && (devices.length > DEVICES_MAX || !devices.every(isName))) {
    throw invalid('device', `at most ${DEVICES_MAX} names of devices`, device);
  }
  if (code !== undefined && !(typeof code === 'string' && Object.hasOwn(REFUSALS, code))) {
    throw invalid('code', 'one refusal code of docs/errors.md', code);
  }
  if (type !== undefined && !(typeof type === 'string' && isName(type))) {
    throw invalid('type', 'one name of a device type', type);
  }
  if (version !== undefined && !(typeof version === 'string' && /^([0-9a-f]{8})?$/.test(version))) {
    throw invalid('version', '8 hex digits, or nothing for letters without one', version);
  }
  const known = STATES.find((one) => one === state);
  if (state !== undefined && known === undefined) {
    throw invalid('state', STATES.join(' or '), state);
  }
  const { to = now + 1, from = to - DAY_MS } = timeRange(parameters, now);
  return {
    ...{ tenant, from, to },
    ...(devices && { devices }),
    ...(typeof code === 'string' && { code }),
    ...(typeof type === 'string' && { type }),
    ...(typeof version === 'string' && { typeVersion: version }),
    ...(known !== undefined && { state: known }),
  };
}

export function groupedBy(parameters: Parameters): ReadonlySet<string> {
  const { by } = parameters;
  if (by === undefined) return new Set(GROUPED_BY);
  const names = [by].flat().flatMap((one) => String(one).split(','));
  if (!names.every((name) => (GROUPED_BY as readonly string[]).includes(name))) {
    throw invalid('by', `some of ${GROUPED_BY.join(', ')}`, by);
  }
  return new Set(names);
}

/** A number from 1 to `max`, as text or number; undefined when it is absent. */
export function wholeNumber(parameters: Parameters, name: string, max: number): number | undefined {
  const value = parameters[name];
  if (value === undefined) return undefined;
  const number = typeof value === 'string' && /^\d{1,15}$/.test(value) ? Number(value) : value;
  if (typeof number !== 'number' || !Number.isInteger(number) || number < 1 || number > max) {
    throw invalid(name, `a number from 1 to ${max}`, value);
  }
  return number;
}

export function letterId(name: string, value: unknown): LetterId {
  const id = typeof value === 'string' ? parseLetterId(value) : undefined;
  if (id === undefined) throw invalid(name, 'the id of a letter', value);
  return id;
}
