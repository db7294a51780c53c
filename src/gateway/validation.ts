import { z } from 'zod';
import { isMetricName } from '../core/names.ts';
import type { DeviceType, MetricType, Refusal, Value, Values } from '../core/nouns.ts';
import type { DecodedReading } from './codecs/contract.ts';
import { describe, pointer, refuse } from './refuse.ts';

export interface ValidReading {
  ts: number;
  seq: number | undefined;
  values: Values;
}

export interface ValidationLimits {
  metricsMax: number;
  /** Bound of a text, in UTF-16 units. */
  textMax: number;
}

export type Validate = (reading: DecodedReading, received: number) => ValidReading | Refusal;

/** ISO 8601 with a date, a time and a zone. */
const ISO = /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?(Z|[+-]\d{2}:?\d{2})$/;
/** Milliseconds below this are in 1970 and therefore seconds (until the year 2096). */
const SECONDS_MAX = 4_000_000_000;
const SECONDS_MIN = 100_000_000;
const TS_MAX = 8_640_000_000_000_000;

export function isRefusal(result: ValidReading | Refusal): result is Refusal {
  return 'code' in result;
}

/**
 * Compiles the check of a device type. Bounds are inclusive; integers are whole numbers; unknown metrics
 * are refused, kept (numbers, booleans and texts) or dropped as the type says.
 */
export function compileValidation(type: DeviceType, limits: ValidationLimits): Validate {
  const schema = z.object(
    Object.fromEntries(
      Object.entries(type.metrics).map(([name, metric]) => [name, metricSchema(metric, limits)]),
    ),
  );
  const known = new Set(Object.keys(type.metrics));

  return (reading, received) => {
    const { values, valuesPath } = reading;
    const names = Object.keys(values);
    if (names.length === 0) return refuse('METRICS_NONE', { path: valuesPath });
    if (names.length > limits.metricsMax) {
      const actual = `${names.length} metrics`;
      return refuse('METRICS_TOO_MANY', {
        path: valuesPath,
        expected: `at most ${limits.metricsMax}`,
        actual,
      });
    }
    let kept: Values | undefined;
    for (const name of names) {
      if (known.has(name)) continue;
      const refusal = checkUnknown(name, values[name], type, valuesPath, limits);
      if (refusal !== undefined) return refusal;
      if (type.unknownMetrics === 'keep') {
        kept ??= {};
        kept[name] = values[name] as Value;
      }
    }
    const result = schema.safeParse(values);
    if (!result.success) return fromIssue(result.error.issues[0], values, type, valuesPath);
    const checked = result.data as Values;
    const taken = kept === undefined ? checked : { ...checked, ...kept };
    for (const _ in taken) {
      const ts = checkTime(reading, received, type);
      if (typeof ts !== 'number') return ts;
      const { seq } = reading;
      if (seq !== undefined && !(Number.isSafeInteger(seq) && (seq as number) >= 0)) {
        return refuse('SEQ_INVALID', {
          path: `${reading.path}/seq`,
          expected: 'a whole number',
          actual: describe(seq),
        });
      }
      return { ts, seq: seq as number | undefined, values: taken };
    }
    // Every metric was unknown and dropped.
    return refuse('METRICS_NONE', {
      path: valuesPath,
      expected: `one of ${[...known].join(', ')}`,
    });
  };
}

function metricSchema(metric: MetricType, limits: ValidationLimits): z.ZodType {
  let schema: z.ZodType;
  if (metric.kind === 'bool') schema = z.boolean();
  else if (metric.kind === 'string') {
    const [first, ...rest] = metric.values ?? [];
    schema = first === undefined ? z.string().max(limits.textMax) : z.enum([first, ...rest]);
  } else {
    let number = metric.kind === 'int' ? z.int() : z.number();
    if (metric.min !== undefined) number = number.min(metric.min);
    if (metric.max !== undefined) number = number.max(metric.max);
    schema = number;
  }
  return metric.required ? schema : schema.optional();
}

function checkUnknown(
  name: string,
  value: unknown,
  type: DeviceType,
  valuesPath: string,
  limits: ValidationLimits,
): Refusal | undefined {
  const path = `${valuesPath}/${pointer(name)}`;
  if (!isMetricName(name))
    return refuse('METRIC_NAME_INVALID', { path, actual: JSON.stringify(name) });
  if (type.unknownMetrics === 'drop') return undefined;
  if (type.unknownMetrics === 'reject') {
    const expected = `one of ${Object.keys(type.metrics).join(', ')}`;
    return refuse('METRIC_UNKNOWN', { path, expected, actual: name });
  }
  if (typeof value === 'number') {
    return Number.isFinite(value)
      ? undefined
      : refuse('VALUE_NOT_FINITE', { path, actual: describe(value) });
  }
  if (typeof value === 'string') {
    const expected = `at most ${limits.textMax} characters`;
    return value.length <= limits.textMax
      ? undefined
      : refuse('VALUE_TOO_LONG', { path, expected });
  }
  if (typeof value === 'boolean') return undefined;
  return refuse('VALUE_KIND', {
    path,
    expected: 'a number, boolean or string',
    actual: describe(value),
  });
}

/** The first finding of zod in our words. */
function fromIssue(
  issue: z.core.$ZodIssue | undefined,
  values: Record<string, unknown>,
  type: DeviceType,
  valuesPath: string,
): Refusal {
  const name = String(issue?.path[0] ?? '');
  const metric = type.metrics[name];
  const value = values[name];
  const path = `${valuesPath}/${pointer(name)}`;
  const expected = metric === undefined ? undefined : describeMetric(metric);
  const details = {
    path,
    ...(expected === undefined ? {} : { expected }),
    actual: describe(value),
  };
  if (!Object.hasOwn(values, name)) return refuse('METRIC_MISSING', details);
  if (typeof value === 'number' && !Number.isFinite(value))
    return refuse('VALUE_NOT_FINITE', details);
  if (issue?.code === 'too_big' && typeof value === 'string')
    return refuse('VALUE_TOO_LONG', details);
  if (issue?.code === 'too_small' || issue?.code === 'too_big')
    return refuse('VALUE_BOUNDS', details);
  if (issue?.code === 'invalid_value' && typeof value === 'string')
    return refuse('VALUE_BOUNDS', details);
  return refuse('VALUE_KIND', details);
}

function describeMetric(metric: MetricType): string {
  if (metric.kind === 'bool') return 'true or false';
  if (metric.kind === 'string')
    return metric.values === undefined ? 'a string' : `one of ${metric.values.join(', ')}`;
  const kind = metric.kind === 'int' ? 'a whole number' : 'a number';
  if (metric.min !== undefined && metric.max !== undefined)
    return `${kind} from ${metric.min} to ${metric.max}`;
  if (metric.min !== undefined) return `${kind} from ${metric.min}`;
  return metric.max === undefined ? kind : `${kind} up to ${metric.max}`;
}

function checkTime(reading: DecodedReading, received: number, type: DeviceType): number | Refusal {
  const { ts: given } = reading;
  if (given === undefined) return received;
  const path = `${reading.path}/ts`;
  const ts = typeof given === 'string' && ISO.test(given) ? Date.parse(given) : given;
  if (typeof ts !== 'number' || !Number.isFinite(ts) || ts < 0 || ts > TS_MAX) {
    const expected = 'milliseconds since the epoch, or ISO 8601 with a zone';
    return refuse('TS_INVALID', { path, expected, actual: describe(given) });
  }
  if (ts > received + type.futureMs) {
    if (type.future === 'useReceived') return received;
    const expected = `at most ${type.futureMs} ms ahead of ${new Date(received).toISOString()}`;
    return refuse('TS_FUTURE', { path, expected, actual: describe(given) });
  }
  if (received - ts > type.pastMs) {
    const expected = `at most ${type.pastMs} ms before ${new Date(received).toISOString()}`;
    const seconds = ts >= SECONDS_MIN && ts <= SECONDS_MAX;
    return refuse(seconds ? 'TS_SECONDS' : 'TS_PAST', { path, expected, actual: describe(given) });
  }
  return Math.round(ts);
}
