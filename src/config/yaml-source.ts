import {
  type ErrorCode,
  isMap,
  isScalar,
  isSeq,
  LineCounter,
  type Node,
  parseDocument,
} from 'yaml';
import { formatKey, type KeyPath, type Shape } from './keys.ts';
import type { Problem } from './problems.ts';

/** Where a key and its value stand in a file; lines and columns begin at 1. */
export interface Position {
  line: number;
  column: number;
}

/** A configuration text as plain values, with the place of each. */
export interface YamlSource {
  /** A map where the shape is one; undefined where the text is too broken to be one. */
  value: unknown;
  /** By {@link formatKey}; aliased parts have the place of the alias. */
  keys: Map<string, Position>;
  values: Map<string, Position>;
  problems: Problem[];
}

const BYTES_MAX = 2 ** 20;
/** An alias that stands for more than this many nodes in all is an attack or a mistake. */
const ALIASES_MAX = 100;
const DEPTH_MAX = 32;
/** Errors after which the rest still says what it says. */
const READABLE: ReadonlySet<ErrorCode> = new Set(['DUPLICATE_KEY', 'TAG_RESOLVE_FAILED']);

/**
 * Parses YAML 1.2 (core schema, text keys, no custom tags, no merge keys). `name` is the file's name
 * for messages, `shape` what it is to hold. Never throws: what is wrong stands in `problems`.
 */
export function parseYaml(name: string, bytes: Uint8Array, shape: Shape): YamlSource {
  const source: YamlSource = { value: undefined, keys: new Map(), values: new Map(), problems: [] };
  const fail = (where: string, what: string): YamlSource => {
    source.problems.push({ where, what });
    return source;
  };
  if (bytes.length > BYTES_MAX) return fail(name, `is larger than ${BYTES_MAX} bytes`);
  const lines = new LineCounter();
  const place = (offset: number): Position => {
    const { line, col } = lines.linePos(offset);
    return { line, column: col };
  };
  const at = (offset: number): string => `${name}:${place(offset).line}:${place(offset).column}`;
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
    const document = parseDocument(text, {
      schema: 'core',
      version: '1.2',
      merge: false,
      uniqueKeys: true,
      stringKeys: true,
      prettyErrors: false,
      logLevel: 'error',
      lineCounter: lines,
    });
    const errors = [...document.errors, ...document.warnings];
    for (const error of errors) fail(at(error.pos[0]), firstLine(error.message));
    if (errors.some(({ code }) => !READABLE.has(code))) return source;
    locate(document.contents, [], { source, place, at });
    if (source.problems.length > errors.length) return source;
    const value: unknown = document.toJS({ maxAliasCount: ALIASES_MAX });
    source.value = withoutEmptyMaps(value, shape);
    if (shape.kind !== 'leaf' && !isPlainMap(source.value)) {
      return fail(`${name}:1:1`, 'expected a map of keys');
    }
    return source;
  } catch (error) {
    // A TypeError of the decoder, a RangeError of too deep a nesting, a ReferenceError of aliases.
    return fail(name, `is no usable YAML: ${firstLine(String((error as Error).message))}`);
  }
}

interface Walk {
  source: YamlSource;
  place: (offset: number) => Position;
  at: (offset: number) => string;
}

function locate(node: Node | null, path: KeyPath, walk: Walk): void {
  if (node?.range) walk.source.values.set(formatKey(path), walk.place(node.range[0]));
  if (path.length > DEPTH_MAX) {
    if (node?.range) walk.source.problems.push({ where: walk.at(node.range[0]), what: 'too deep' });
    return;
  }
  if (isSeq(node)) {
    for (const [index, item] of node.items.entries()) {
      locate(item as Node, [...path, index], walk);
    }
  }
  if (!isMap(node)) return;
  for (const { key, value } of node.items) {
    const offset = isScalar(key) ? (key.range?.[0] ?? 0) : 0;
    const inner = [...path, isScalar(key) ? String(key.value) : ''];
    walk.source.keys.set(formatKey(inner), walk.place(offset));
    // A plain object would take it for its prototype, and zod would not see it.
    if (inner.at(-1) === '__proto__') {
      const where = walk.at(offset);
      walk.source.problems.push({ where, key: formatKey(inner), what: 'not allowed as a name' });
    }
    locate(value as Node | null, inner, walk);
  }
}

/** `gateway:` with all of its keys commented out means the defaults, not nothing. */
function withoutEmptyMaps(value: unknown, shape: Shape | undefined): unknown {
  if (shape === undefined || shape.kind === 'leaf') return value;
  if (value === null || value === undefined) return {};
  if (!isPlainMap(value)) return value;
  const inside = (key: string) => (shape.kind === 'map' ? shape.keys.get(key) : shape.value);
  return Object.fromEntries(
    Object.entries(value).map(([key, inner]) => [key, withoutEmptyMaps(inner, inside(key))]),
  );
}

export function isPlainMap(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** The library's messages go on with a piece of the source, which may hold a secret. */
function firstLine(message: string): string {
  return message.split(/[\n;]/, 1)[0]?.replace(/:$/, '') ?? '';
}
