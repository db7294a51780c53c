import { formatDuration } from '../core/units.ts';
import { formatKey, isSecret, type KeyPath, shapeAt } from './keys.ts';
import type { Source, Sources } from './load.ts';
import type { Config } from './schema.ts';

/** One key as it is in effect. */
export interface Explanation {
  key: string;
  /** In the units of the configuration: `10s`, `64KiB`, `"text"`; secrets are hidden. */
  value: string;
  /** `default`, `file:line:column`, or the variable's name. */
  source: string;
}

/** Every key with its value and where that came from, in the order of the schema. */
export function explain(config: Config, sources: Sources): Explanation[] {
  return [...lines(config, [], sources)];
}

function* lines(value: unknown, path: KeyPath, sources: Sources): Generator<Explanation> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
    const entries = Object.entries(value).filter(([, inner]) => inner !== undefined);
    if (entries.length > 0 || path.length === 0) {
      for (const [key, inner] of entries) yield* lines(inner, [...path, key], sources);
      return;
    }
  }
  const key = formatKey(path);
  yield { key, value: valueText(value, path), source: sourceText(sources.get(key)) };
}

function valueText(value: unknown, path: KeyPath): string {
  if (isSecret(path)) return '(hidden)';
  const shape = shapeAt(path);
  const unit = shape?.kind === 'leaf' ? shape.unit : undefined;
  if (unit === 'duration' && typeof value === 'number') return formatDuration(value);
  if (unit === 'bytes' && typeof value === 'number') return formatBytes(value);
  return JSON.stringify(value);
}

/** Bytes → the shortest exact text: `65536` → `64KiB`. */
function formatBytes(bytes: number): string {
  for (const [unit, factor] of [
    ['TiB', 2 ** 40],
    ['GiB', 2 ** 30],
    ['MiB', 2 ** 20],
    ['KiB', 2 ** 10],
  ] as const) {
    if (bytes >= factor && bytes % factor === 0) return `${bytes / factor}${unit}`;
  }
  return `${bytes}B`;
}

function sourceText(source: Source | undefined): string {
  if (source === undefined) return 'default';
  if (source.from === 'environment') return source.variable;
  return `${source.file}:${source.line}:${source.column}`;
}
