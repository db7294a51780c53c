import { z } from 'zod';
import { configSchema } from './schema.ts';

/** A place in the configuration: `['gateway', 'mqtt', 'port']`. */
export type KeyPath = readonly (string | number)[];

/** What the schema says about one place, in the words of a message. */
export type Shape =
  | { kind: 'map'; expected: string; keys: ReadonlyMap<string, Shape> }
  | { kind: 'record'; expected: string; value: Shape }
  | Leaf;

export type LeafKind = 'text' | 'number' | 'boolean' | 'list';

export interface Leaf {
  kind: 'leaf';
  expected: string;
  holds: LeafKind;
  unit?: 'duration' | 'bytes';
  /** Of a list: each of its values. */
  item?: Leaf;
}

const DURATION_EXPECTED = 'a duration such as 500ms, 10s, 1m, 2h or 30d';
const BYTES_EXPECTED = 'a size such as 512B, 64KiB, 16MiB or 4GiB';

/** The whole configuration's shape, read from the schema once. */
export const CONFIG_SHAPE: Shape = shapeOf(configSchema);

/** Every key that can be set by one environment variable: leaves, and records as a whole. */
export const SETTABLE_KEYS: readonly { path: readonly string[]; shape: Shape }[] = [
  ...settable(CONFIG_SHAPE, []),
];

function* settable(
  shape: Shape,
  path: readonly string[],
): Generator<{ path: readonly string[]; shape: Shape }> {
  if (shape.kind !== 'map') {
    yield { path, shape };
    return;
  }
  for (const [key, inner] of shape.keys) yield* settable(inner, [...path, key]);
}

/** What stands at a place; undefined where the schema knows no such key. */
export function shapeAt(path: KeyPath): Shape | undefined {
  let shape: Shape | undefined = CONFIG_SHAPE;
  for (const key of path) {
    if (shape?.kind === 'map') shape = shape.keys.get(String(key));
    else if (shape?.kind === 'record') shape = shape.value;
    else if (shape?.kind === 'leaf' && shape.holds === 'list') shape = shape.item;
    else return undefined;
  }
  return shape;
}

/** `gateway.mqtt.port`; names that hold other characters are quoted: `types.t.metrics."a.b"`. */
export function formatKey(path: KeyPath): string {
  return path
    .map((key) => (/^[\w-]+$/.test(String(key)) ? String(key) : JSON.stringify(key)))
    .join('.');
}

/** `['gateway', 'payloadBytesMax']` → `SPILLWAY_GATEWAY_PAYLOAD_BYTES_MAX`. */
export function variableName(path: readonly string[]): string {
  const words = path.map((key) => key.replace(/(?<=[a-z0-9])(?=[A-Z])/g, '_').toUpperCase());
  return `SPILLWAY_${words.join('_')}`;
}

/** True for keys whose values are never printed, wherever they stand. */
export function isSecret(path: KeyPath): boolean {
  return path.some((key) => /(secret|password|token|credential|privateKey)/i.test(String(key)));
}

function shapeOf(schema: unknown): Shape {
  if (schema instanceof z.ZodObject) {
    const keys = Object.entries(schema.shape).map(([key, inner]) => [key, shapeOf(inner)] as const);
    return { kind: 'map', expected: 'a map', keys: new Map(keys) };
  }
  if (schema instanceof z.ZodRecord) {
    return { kind: 'record', expected: 'a map', value: shapeOf(schema.valueType) };
  }
  if (
    schema instanceof z.ZodDefault ||
    schema instanceof z.ZodPrefault ||
    schema instanceof z.ZodOptional
  ) {
    return shapeOf(schema.unwrap());
  }
  if (schema instanceof z.ZodPipe) {
    const unit = schema.meta()?.unit;
    const leaf: Leaf = { kind: 'leaf', expected: 'a text', holds: 'text' };
    if (unit === 'duration') return { ...leaf, expected: DURATION_EXPECTED, unit };
    if (unit === 'bytes') return { ...leaf, expected: BYTES_EXPECTED, unit };
    return shapeOf(schema.in);
  }
  if (schema instanceof z.ZodNumber) {
    return { kind: 'leaf', expected: numberExpected(schema), holds: 'number' };
  }
  if (schema instanceof z.ZodBoolean) {
    return { kind: 'leaf', expected: 'true or false', holds: 'boolean' };
  }
  if (schema instanceof z.ZodEnum) {
    const expected = `one of ${schema.options.join(', ')}`;
    return { kind: 'leaf', expected, holds: 'text' };
  }
  if (schema instanceof z.ZodArray) {
    const { maximum } = schema._zod.bag;
    const expected =
      maximum === undefined ? 'a list of texts' : `a list of at most ${maximum} texts`;
    const item = shapeOf(schema.element);
    return { kind: 'leaf', expected, holds: 'list', ...(item.kind === 'leaf' && { item }) };
  }
  if (schema instanceof z.ZodString) {
    return { kind: 'leaf', expected: textExpected(schema), holds: 'text' };
  }
  throw new TypeError('the configuration schema uses a kind that config/keys.ts does not know');
}

function numberExpected(schema: z.ZodNumber): string {
  const name = schema.isInt ? 'a whole number' : 'a number';
  const min = finiteBound(schema.minValue);
  const max = finiteBound(schema.maxValue);
  if (min !== undefined && max !== undefined) return `${name} from ${min} to ${max}`;
  if (min !== undefined) return `${name} of at least ${min}`;
  if (max !== undefined) return `${name} of at most ${max}`;
  return name;
}

function finiteBound(bound: number | null): number | undefined {
  return bound === null || Math.abs(bound) >= Number.MAX_SAFE_INTEGER ? undefined : bound;
}

function textExpected(schema: z.ZodString): string {
  const { minLength, maxLength } = schema;
  if (maxLength !== null) return `a text of at most ${maxLength} characters`;
  return minLength === null || minLength === 0 ? 'a text' : 'a text that is not empty';
}
