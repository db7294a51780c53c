import { isUtf8 } from 'node:buffer';
import { describe, pointer, refuse } from '../refuse.ts';
import type { Codec, CodecLimits, Decoded } from './contract.ts';

const EXPECTED =
  'an object {metric: value}, {ts, values: {metric: value}}, an array of them, or {devices: {device: …}}';
/** Forms nest at most devices → device → array → reading → values. */
const DEPTH_MAX = 8;

/**
 * The JSON forms:
 *
 *   {"temperature": 21.5}                                 flat; `ts` and `seq` may stand beside the metrics
 *   {"ts": 1767225600000, "seq": 7, "values": {…}}        with an envelope
 *   [ …either of these… ]                                 several readings
 *   {"devices": {"<device>": …any of these…}}             from a gateway in the field
 */
export const jsonCodec: Codec = {
  name: 'json',
  decode(payload: Buffer, limits: CodecLimits): Decoded[] {
    if (payload.length === 0) return [{ refusal: refuse('PAYLOAD_EMPTY', { expected: EXPECTED }) }];
    if (!isUtf8(payload)) {
      return [{ refusal: refuse('JSON_INVALID', { expected: 'UTF-8', actual: 'other bytes' }) }];
    }
    let data: unknown;
    // A stack that nobody reads makes a bad text cost twice as much: 11 µs, 5 without.
    const { stackTraceLimit } = Error;
    Error.stackTraceLimit = 0;
    try {
      data = JSON.parse(payload.toString('utf8'));
    } catch (error) {
      const actual = error instanceof Error ? error.message : 'no JSON';
      return [{ refusal: refuse('JSON_INVALID', { expected: 'JSON (RFC 8259)', actual }) }];
    } finally {
      Error.stackTraceLimit = stackTraceLimit;
    }
    const out: Decoded[] = [];
    collect(data, '', undefined, limits.readingsMax, out);
    if (out.length > limits.readingsMax) {
      const refusal = refuse('READINGS_TOO_MANY', {
        expected: `at most ${limits.readingsMax} readings`,
      });
      return [{ refusal }];
    }
    return out;
  },
};

function collect(
  data: unknown,
  path: string,
  device: string | undefined,
  max: number,
  out: Decoded[],
): void {
  if (out.length > max) return;
  const of = device === undefined ? undefined : { device };
  if (Array.isArray(data)) {
    if (data.length === 0) out.push({ ...of, refusal: shape(path, data) });
    for (let i = 0; i < data.length && out.length <= max; i++) {
      const item: unknown = data[i];
      if (isObject(item) && !('devices' in item)) out.push(reading(item, `${path}/${i}`, device));
      else out.push({ ...of, refusal: tooDeep(item) ?? shape(`${path}/${i}`, item) });
    }
    return;
  }
  if (!isObject(data)) {
    out.push({ ...of, refusal: shape(path, data) });
    return;
  }
  if (device === undefined && isObject(data.devices)) {
    const names = Object.keys(data.devices);
    if (names.length === 0) out.push({ refusal: shape(`${path}/devices`, data.devices) });
    for (const name of names)
      collect(data.devices[name], `${path}/devices/${pointer(name)}`, name, max, out);
    return;
  }
  const refusal = tooDeep(data);
  out.push(refusal === undefined ? reading(data, path, device) : { ...of, refusal });
}

function reading(data: Record<string, unknown>, path: string, device: string | undefined): Decoded {
  const decoded: Decoded =
    isObject(data.values) && Object.hasOwn(data, 'values')
      ? envelope(data, data.values, path)
      : flat(data, path);
  if (device !== undefined) decoded.device = device;
  return decoded;
}

function envelope(
  data: Record<string, unknown>,
  values: Record<string, unknown>,
  path: string,
): Decoded {
  for (const key of Object.keys(data)) {
    if (key !== 'ts' && key !== 'seq' && key !== 'values') {
      const details = { path: `${path}/${pointer(key)}`, expected: 'only ts, seq and values here' };
      return { refusal: refuse('SHAPE_INVALID', { ...details, actual: describe(data[key]) }) };
    }
  }
  return { path, valuesPath: `${path}/values`, ts: data.ts, seq: data.seq, values };
}

function flat(data: Record<string, unknown>, path: string): Decoded {
  if (!Object.hasOwn(data, 'ts') && !Object.hasOwn(data, 'seq')) {
    return { path, valuesPath: path, values: data };
  }
  const { ts, seq, ...values } = data;
  return { path, valuesPath: path, ts, seq, values };
}

function shape(path: string, actual: unknown) {
  return refuse('SHAPE_INVALID', { path, expected: EXPECTED, actual: describe(actual) });
}

function tooDeep(data: unknown) {
  let level: unknown = data;
  for (let depth = 0; typeof level === 'object' && level !== null; depth++) {
    if (depth > DEPTH_MAX)
      return refuse('JSON_TOO_DEEP', { expected: `at most ${DEPTH_MAX} levels` });
    level = firstNested(level);
  }
  return undefined;
}

function firstNested(level: object): unknown {
  for (const key in level) {
    const child: unknown = (level as Record<string, unknown>)[key];
    if (typeof child === 'object' && child !== null) return child;
  }
  return undefined;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
