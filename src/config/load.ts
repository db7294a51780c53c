import { readFileSync } from 'node:fs';
import { SpillwayError } from '../core/errors.ts';
import { crossChecks } from './cross-checks.ts';
import { applySettings, readEnvironment, type Setting } from './environment.ts';
import { CONFIG_SHAPE, formatKey, type KeyPath } from './keys.ts';
import { configInvalid, type Finding, findings, type Problem } from './problems.ts';
import { type Config, configSchema } from './schema.ts';
import { isPlainMap, type Position, parseYaml, type YamlSource } from './yaml-source.ts';

/** Where a value came from. */
export type Source =
  | ({ from: 'file'; file: string } & Position)
  | { from: 'environment'; variable: string };

/** The source of each key that was set, by {@link formatKey}; keys that are absent have defaults. */
export type Sources = ReadonlyMap<string, Source>;

export interface LoadOptions {
  /** A YAML file; without one the defaults hold. */
  file?: string | undefined;
  /** Usually `process.env`; its `SPILLWAY_…` variables win over the file. */
  env: Readonly<Record<string, string | undefined>>;
}

/**
 * Reads the file, then the environment, checks everything, and fills in the defaults. Throws
 * CONFIG_NOT_FOUND, or CONFIG_INVALID with one line for each problem: place, key, expected, actual.
 */
export function loadConfig(options: LoadOptions): { config: Config; sources: Sources } {
  const file = options.file;
  const yaml = file === undefined ? undefined : parseYaml(file, read(file), CONFIG_SHAPE);
  const environment = readEnvironment(options.env);
  const problems = [...(yaml?.problems ?? []), ...environment.problems];
  if (yaml !== undefined && yaml.value === undefined) throw configInvalid(problems);

  const input = isPlainMap(yaml?.value) ? yaml.value : {};
  applySettings(input, environment.settings);
  const places = new Places(file, yaml, environment.settings);
  const { config, found, left } = check(input);
  for (const { path, at, what } of found) {
    problems.push({ where: places.of([path], at), key: formatKey(path), what });
  }
  for (const { paths, what } of crossChecks(config)) {
    if (paths.some((path) => left.some((other) => isWithin(path, other) || isWithin(other, path))))
      continue;
    problems.push({ where: places.of(paths, 'value'), key: formatKey(paths[0]), what });
  }
  if (problems.length > 0) throw configInvalid(problems);
  return { config, sources: places.sources() };
}

/**
 * The configuration with what is wrong left out, so that the rest can still be compared and all findings come
 * at once; `left` are the keys of which nothing is known then. `input` is not changed.
 */
function check(input: Record<string, unknown>): {
  config: Config;
  found: Finding[];
  left: KeyPath[];
} {
  const found: Finding[] = [];
  const left: KeyPath[] = [];
  const rest = structuredClone(input);
  for (;;) {
    const result = configSchema.safeParse(rest);
    if (result.success) return { config: result.data, found, left };
    const now = result.error.issues.flatMap((issue) => findings(issue, rest));
    if (left.length === 0) found.push(...now);
    for (const { path } of now) left.push(leaveOut(rest, path));
  }
}

/**
 * Takes the value of a path out of `map`, or of the nearest key around it that is there: of a list the whole
 * list, of a key that is missing the map that lacks it. Each call makes the map smaller. Returns the key's path.
 */
function leaveOut(map: Record<string, unknown>, path: KeyPath): KeyPath {
  let holder = map;
  let key = String(path[0]);
  let depth = 1;
  for (let inner = holder[key]; isPlainMap(inner) && depth < path.length; inner = holder[key]) {
    if (!Object.hasOwn(inner, String(path[depth]))) break;
    holder = inner;
    key = String(path[depth]);
    depth++;
  }
  delete holder[key];
  return path.slice(0, depth);
}

function read(file: string): Uint8Array {
  try {
    return readFileSync(file);
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    if (code === 'ENOENT' || code === 'ENOTDIR') {
      throw new SpillwayError('CONFIG_NOT_FOUND', `${file} does not exist`, { cause });
    }
    const problem: Problem = { where: file, what: `cannot be read (${code})` };
    throw configInvalid([problem]);
  }
}

/** Answers where a key was written. */
class Places {
  readonly #file: string;
  readonly #yaml: YamlSource | undefined;
  readonly #settings: readonly Setting[];

  constructor(
    file: string | undefined,
    yaml: YamlSource | undefined,
    settings: readonly Setting[],
  ) {
    this.#file = file ?? 'defaults';
    this.#yaml = yaml;
    this.#settings = settings;
  }

  /** The place of the first path that was written anywhere, else of the nearest map around the first. */
  of(paths: readonly KeyPath[], at: 'key' | 'value'): string {
    for (const path of paths) {
      const written = this.#written(path, at);
      if (written !== undefined) return written;
    }
    const first = paths[0] ?? [];
    for (let depth = first.length - 1; depth > 0; depth--) {
      const around = this.#written(first.slice(0, depth), 'key');
      if (around !== undefined) return around;
    }
    return this.#file;
  }

  #written(path: KeyPath, at: 'key' | 'value'): string | undefined {
    const setting = this.#settings.find((candidate) => isWithin(path, candidate.path));
    if (setting !== undefined) return setting.variable;
    const key = formatKey(path);
    const position =
      (at === 'value' ? this.#yaml?.values.get(key) : undefined) ?? this.#yaml?.keys.get(key);
    return position && `${this.#file}:${position.line}:${position.column}`;
  }

  sources(): Sources {
    const sources = new Map<string, Source>();
    for (const [key, position] of this.#yaml?.keys ?? []) {
      sources.set(key, { from: 'file', file: this.#file, ...position });
    }
    for (const { path, variable, value } of this.#settings) {
      const prefix = formatKey(path);
      for (const key of sources.keys()) if (key.startsWith(`${prefix}.`)) sources.delete(key);
      for (const key of keysWithin(value, path))
        sources.set(key, { from: 'environment', variable });
    }
    return sources;
  }
}

function isWithin(path: KeyPath, prefix: KeyPath): boolean {
  return prefix.length <= path.length && prefix.every((key, depth) => path[depth] === key);
}

/** The key itself and every key below it that the value holds. */
function keysWithin(value: unknown, path: KeyPath): string[] {
  const below = isPlainMap(value) ? Object.entries(value) : [];
  return [formatKey(path), ...below.flatMap(([key, inner]) => keysWithin(inner, [...path, key]))];
}
