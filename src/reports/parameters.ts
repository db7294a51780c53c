import { z } from 'zod';
import { SpillwayError } from '../core/errors.ts';
import { isMetricName, isName } from '../core/names.ts';
import { formatDuration } from '../core/units.ts';
import { chooseStep, formatStep, parseStep, type Step } from './steps.ts';
import { parseTime } from './times.ts';
import { type Zone, zoneOf } from './zone.ts';

/** The parameters of a query, from the words of a URL or a command line to values that can be used. */

export const STATS = [
  ...['count', 'sum', 'min', 'max', 'mean', 'stddev'],
  ...['first', 'last', 'p50', 'p90', 'p99'],
] as (
  | 'count'
  | 'sum'
  | 'min'
  | 'max'
  | 'mean'
  | 'stddev'
  | 'first'
  | 'last'
  | 'p50'
  | 'p90'
  | 'p99'
)[];
export type Stat = (typeof STATS)[number];

export const FORMATS = ['json', 'csv', 'ndjson', 'table'] as const;
export type Format = (typeof FORMATS)[number];

/** A query as it comes: texts; `device`, `metric` and `stat` repeat or are lists with commas. */
export interface Query {
  tenant?: string | undefined;
  device?: string | readonly string[] | undefined;
  metric?: string | readonly string[] | undefined;
  stat?: string | readonly string[] | undefined;
  from?: string | undefined;
  to?: string | undefined;
  step?: string | undefined;
  tz?: string | undefined;
  format?: string | undefined;
}

/** A query that has been checked. Times in ms since the epoch. */
export interface ResolvedQuery {
  tenant: string;
  /** All when absent. */
  devices: string[] | undefined;
  metrics: string[] | undefined;
  stats: Stat[];
  from: number;
  to: number;
  step: Step;
  zone: Zone;
  format: Format;
}

export const DEVICES_MAX = 1_000;
const METRICS_MAX = 256;
const POINTS_DEFAULT_MAX = 300;
const SHOWN_MAX = 80;

/** What came, in quotes and cut, safe for a terminal. */
export function shown(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > SHOWN_MAX ? `${text.slice(0, SHOWN_MAX)}…` : text;
}

export function invalid(parameter: string, expected: string, actual: unknown): SpillwayError {
  return new SpillwayError(
    'QUERY_INVALID',
    `${parameter}: expected ${expected}; got ${actual === undefined ? 'nothing' : shown(actual)}.`,
  );
}

const one = (expected: string) => z.string({ error: expected }).max(128, expected).optional();

/** Texts that repeat or are joined by commas; without repeats of the same. */
const many = (expected: string, valid: (text: string) => boolean, countMax: number) =>
  z
    .union([z.string(), z.array(z.string())], { error: expected })
    .transform((value) => [...new Set([value].flat().flatMap((text) => text.split(',')))])
    .refine((list) => list.length <= countMax, `at most ${countMax} of them`)
    .refine((list) => list.every(valid), expected)
    .optional();

const EXPECTED = {
  tenant: 'one name of a tenant (1 to 64 of A-Z a-z 0-9 _ -)',
  device: 'names of devices (1 to 64 of A-Z a-z 0-9 _ -)',
  metric: 'names of metrics (1 to 64 of A-Z a-z 0-9 _ . : / -)',
  stat: `some of ${STATS.join(', ')}`,
  time: 'one ISO 8601 time (2026-03-01T12:00:00+01:00; without a zone in tz), a date, now, now-1h or -15m',
  step: 'raw, a duration such as 1m or 1h, or 1d, 1w, 1mo',
  tz: 'one IANA time zone such as Europe/Berlin',
  format: `one of ${FORMATS.join(', ')}`,
};

const schema = z.strictObject({
  tenant: z.string({ error: EXPECTED.tenant }).refine(isName, EXPECTED.tenant),
  device: many(EXPECTED.device, isName, DEVICES_MAX),
  metric: many(EXPECTED.metric, isMetricName, METRICS_MAX),
  stat: many(EXPECTED.stat, (text) => (STATS as string[]).includes(text), STATS.length),
  from: one(EXPECTED.time),
  to: one(EXPECTED.time),
  step: one(EXPECTED.step),
  tz: one(EXPECTED.tz),
  format: z.enum(FORMATS, { error: EXPECTED.format }).optional(),
});

/** A plus sign of a URL that was not escaped arrives as a space. */
function timeHint(text: string): string {
  return /T\d{2}:\d{2}.* \d{2}:?\d{2}$/.test(text) ? ' (in a URL write + as %2B)' : '';
}

/**
 * Checks a query. Defaults: the last 24 hours, UTC, mean, min, max and count, and the shortest usual
 * step that shows at most 300 points. Throws QUERY_INVALID with the parameter, what was expected and
 * what came.
 */
export function resolveQuery(
  query: Query,
  options: { now: number; baseWindowMs: number },
): ResolvedQuery {
  const parsed = schema.safeParse(query);
  if (!parsed.success) throw parameterError(parsed.error.issues[0], query);
  const { tenant, device, metric, stat, tz = 'UTC', format = 'json' } = parsed.data;
  const zone = zoneOf(tz);
  if (zone === undefined) throw invalid('tz', EXPECTED.tz, tz);
  const time = (name: 'from' | 'to', fallback: string): number => {
    const text = parsed.data[name] ?? fallback;
    const at = parseTime(text, zone, options.now);
    if (at === undefined) throw invalid(name, EXPECTED.time + timeHint(text), text);
    return at;
  };
  const to = time('to', 'now');
  const from = time('from', '-24h');
  if (from >= to) throw invalid('from', `a time before \`to\` (${zone.iso(to)})`, zone.iso(from));
  return {
    tenant,
    devices: device,
    metrics: metric,
    stats: (stat as Stat[] | undefined) ?? ['mean', 'min', 'max', 'count'],
    from,
    to,
    step: resolveStep(parsed.data.step, to - from, options.baseWindowMs),
    zone,
    format,
  };
}

function resolveStep(text: string | undefined, rangeMs: number, baseWindowMs: number): Step {
  if (text === undefined) return chooseStep(rangeMs, baseWindowMs, POINTS_DEFAULT_MAX);
  const step = parseStep(text);
  if (step === undefined) throw invalid('step', EXPECTED.step, text);
  if (step.kind === 'span' && step.ms % baseWindowMs !== 0) {
    const base = formatDuration(baseWindowMs);
    throw invalid('step', `a multiple of the base window ${base}`, formatStep(step));
  }
  return step;
}

function parameterError(issue: z.core.$ZodIssue | undefined, query: Query): SpillwayError {
  if (issue?.code === 'unrecognized_keys') {
    return invalid('a parameter', `one of ${Object.keys(schema.shape).join(', ')}`, issue.keys[0]);
  }
  const name = String(issue?.path[0] ?? 'query');
  const actual = Object.hasOwn(query, name) ? query[name as keyof Query] : undefined;
  return invalid(name, issue?.message ?? 'other parameters', actual);
}
