import type { Value } from '../../core/nouns.ts';

/**
 * Line protocol (docs/influxdb-schema.md). Every legal name of a tenant, device, type or metric goes as
 * it is: none has a comma, space, `=` or backslash. Other texts that become tags are percent-encoded.
 */

/** Rejected by a pattern rather than escaped: a wrong name must not become another one. */
const LEGAL_NAME = /^[A-Za-z0-9_-]{1,64}$/;
const LEGAL_METRIC = /^[A-Za-z0-9_][A-Za-z0-9_.:/-]{0,63}$/;

export function isLegalName(text: string): boolean {
  return LEGAL_NAME.test(text);
}

/**
 * Names that cannot be field keys: InfluxDB drops a field `time` without a word when the point has
 * others (seen on 2.7.12), keys that begin with `_` are its own, and in a pivoted answer a field must not
 * be called like a column.
 */
const TAKEN_NAMES: ReadonlySet<string> = new Set(['time', 'tenant', 'device', 'result', 'table']);

/** How a metric's value is stored; each has field keys of its own, so that types never conflict. */
export type FieldKind = 'number' | 'bool' | 'text' | 'json';

const FIELD_KINDS: readonly FieldKind[] = ['number', 'bool', 'text', 'json'];

/**
 * What CSV answers or UTF-8 would change: control characters (InfluxDB writes `\n` as `\r\n` and leaves
 * out `\r`), unpaired surrogates, and the empty text, which looks like an absent one.
 */
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
const CONTROL = /[\u0000-\u001f\u007f]/;

export function kindOf(value: Value): FieldKind {
  if (typeof value === 'number') return 'number';
  if (typeof value === 'boolean') return 'bool';
  return value === '' || CONTROL.test(value) || !value.isWellFormed() ? 'json' : 'text';
}

/** The field key of a metric for values of a kind. */
export function fieldKey(metric: string, kind: FieldKind): string {
  if (kind !== 'number') return `${metric}@${kind}`;
  return metric.startsWith('_') || TAKEN_NAMES.has(metric) ? `${metric}@number` : metric;
}

/** All field keys that a metric may have. */
export function fieldKeys(metric: string): string[] {
  return FIELD_KINDS.map((kind) => fieldKey(metric, kind));
}

/** Undefined for a field that is no metric. */
export function parseFieldKey(key: string): { metric: string; kind: FieldKind } | undefined {
  const at = key.indexOf('@');
  if (at < 0) return { metric: key, kind: 'number' };
  const kind = FIELD_KINDS.find((one) => one === key.slice(at + 1));
  return at === 0 || kind === undefined ? undefined : { metric: key.slice(0, at), kind };
}

/** The value of a field in line protocol; undefined for a number that is not finite. */
export function fieldValue(value: Value): string | undefined {
  if (typeof value === 'number') return floatValue(value);
  if (typeof value === 'boolean') return value ? 'true' : 'false';
  return textValue(kindOf(value) === 'json' ? JSON.stringify(value) : value);
}

export function floatValue(value: number): string | undefined {
  if (value === 0) return Object.is(value, -0) ? '-0' : '0';
  return Number.isFinite(value) ? `${value}` : undefined;
}

/** The text must not hold what {@link CONTROL} matches. */
export function textValue(text: string): string {
  const plain = !text.includes('"') && !text.includes('\\');
  return plain ? `"${text}"` : `"${text.replaceAll('\\', '\\\\').replaceAll('"', '\\"')}"`;
}

/**
 * InfluxDB refuses texts of more than 1 MiB. A window's `state` holds two of them as JSON, so that a text
 * that is stored never makes a rollup that is not.
 */
const TEXT_BYTES_MAX = 500_000;
/** JSON has at most so many bytes for one UTF-16 unit. */
const JSON_BYTES_PER_UNIT = 6;

export function isTooLong(text: string): boolean {
  if (text.length * JSON_BYTES_PER_UNIT <= TEXT_BYTES_MAX) return false;
  return Buffer.byteLength(JSON.stringify(text)) > TEXT_BYTES_MAX;
}

/** From a cell of a CSV answer. */
export function parseValue(kind: FieldKind, cell: string): Value {
  if (kind === 'number') return Number(cell);
  if (kind === 'bool') return cell === 'true';
  return kind === 'text' ? cell : (JSON.parse(cell) as string);
}

const PLAIN_TAG = /^[A-Za-z0-9_.~-]*$/;

/** Any text as a tag value; {@link decodeTag} restores it. */
export function encodeTag(text: string): string {
  if (PLAIN_TAG.test(text)) return text;
  return encodeURIComponent(text.toWellFormed()).replace(
    /[!'()*]/g,
    (char) => `%${char.charCodeAt(0).toString(16).toUpperCase()}`,
  );
}

export function decodeTag(tag: string): string {
  return decodeURIComponent(tag);
}

/** Entries of a cache of names. */
const NAMES_MAX = 20_000;

/** `temperature=`, from a cache; undefined for a name that is not legal. */
export class FieldPrefixes {
  private readonly known: Record<FieldKind, Map<string, string>> = {
    number: new Map(),
    bool: new Map(),
    text: new Map(),
    json: new Map(),
  };

  get(metric: string, kind: FieldKind): string | undefined {
    const known = this.known[kind];
    const found = known.get(metric);
    if (found !== undefined) return found;
    if (!LEGAL_METRIC.test(metric)) return undefined;
    const prefix = `${fieldKey(metric, kind)}=`;
    if (known.size < NAMES_MAX) known.set(metric, prefix);
    return prefix;
  }
}
