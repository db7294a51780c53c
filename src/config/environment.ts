import { formatKey, type LeafKind, SETTABLE_KEYS, type Shape, variableName } from './keys.ts';
import { nearest } from './nearest.ts';
import type { Problem } from './problems.ts';
import { isPlainMap, parseYaml } from './yaml-source.ts';

/** Variables with our prefix that are no keys, and what they are for. */
export const RESERVED_VARIABLES: ReadonlyMap<string, string> = new Map([
  ['SPILLWAY_CONFIG', 'the file to read where --config is not given'],
  ['SPILLWAY_TOKEN', 'the token that the command line sends to the HTTP API'],
]);

const PREFIX = 'SPILLWAY_';

/** One key that is set by a variable. */
export interface Setting {
  path: readonly string[];
  variable: string;
  value: unknown;
}

const BY_VARIABLE: ReadonlyMap<string, { path: readonly string[]; shape: Shape }> = new Map(
  SETTABLE_KEYS.map((key) => [variableName(key.path), key]),
);

/**
 * The keys that the environment sets. A variable that is empty counts as not set, because that is
 * what compose files pass for an absent one. Unknown variables with our prefix are problems.
 */
export function readEnvironment(env: Readonly<Record<string, string | undefined>>): {
  settings: Setting[];
  problems: Problem[];
} {
  const settings: Setting[] = [];
  const problems: Problem[] = [];
  for (const variable of Object.keys(env).sort()) {
    const text = env[variable];
    if (!variable.startsWith(PREFIX) || RESERVED_VARIABLES.has(variable) || !text) continue;
    const key = BY_VARIABLE.get(variable);
    if (key === undefined) {
      const meant = nearest(variable, BY_VARIABLE.keys());
      problems.push({ where: variable, what: `unknown variable, did you mean ${meant}?` });
      continue;
    }
    if (key.shape.kind === 'leaf' && key.shape.holds !== 'list') {
      settings.push({ path: key.path, variable, value: parseText(text, key.shape.holds) });
      continue;
    }
    const yaml = parseYaml(variable, Buffer.from(text), key.shape);
    problems.push(...yaml.problems.map((problem) => ({ key: formatKey(key.path), ...problem })));
    if (yaml.problems.length === 0) {
      settings.push({ path: key.path, variable, value: yaml.value });
    }
  }
  return { settings, problems };
}

/** The text as the kind that the schema wants; left as it is where it is not of that kind. */
function parseText(text: string, holds: LeafKind): unknown {
  if (holds === 'number' && /^-?\d+(\.\d+)?$/.test(text)) return Number(text);
  if (holds === 'boolean' && (text === 'true' || text === 'false')) return text === 'true';
  return text;
}

/**
 * Sets the keys in `target`. Where a map is missing on the way it is made; where something else stands
 * in its place nothing is done, since the schema will refuse that.
 */
export function applySettings(target: Record<string, unknown>, settings: readonly Setting[]): void {
  for (const { path, value } of settings) {
    let map = target;
    for (const [depth, key] of path.entries()) {
      if (depth === path.length - 1) {
        map[key] = value;
        break;
      }
      map[key] ??= {};
      const inner = map[key];
      if (!isPlainMap(inner)) break;
      map = inner;
    }
  }
}
