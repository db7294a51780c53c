import type { z } from 'zod';
import { SpillwayError } from '../core/errors.ts';
import { CONFIG_SHAPE, formatKey, isSecret, type KeyPath, shapeAt } from './keys.ts';
import { nearest } from './nearest.ts';

/** One thing that is wrong: where (`file:line:column` or a variable), which key, and what. */
export interface Problem {
  where: string;
  key?: string;
  what: string;
}

/** Lines of one message; more than this helps nobody. */
const PROBLEMS_MAX = 50;
const ACTUAL_CHARS_MAX = 64;

/** One error with one line for each problem, in the order of their places. */
export function configInvalid(problems: readonly Problem[]): SpillwayError {
  const lines = problems
    // Numeric collation puts line 9 before line 12.
    .toSorted((a, b) => a.where.localeCompare(b.where, 'en', { numeric: true }))
    .slice(0, PROBLEMS_MAX)
    .map(({ where, key, what }) => [where, key, what].filter(Boolean).join(': '));
  const left = problems.length - lines.length;
  if (left > 0) lines.push(`and ${left} more`);
  return new SpillwayError('CONFIG_INVALID', lines.join('\n'));
}

/** A problem before its place in a file is known; `at` says whether the key or its value is meant. */
export interface Finding {
  path: KeyPath;
  at: 'key' | 'value';
  what: string;
}

/**
 * An issue of zod in the words of the house. `input` is the whole input, from which the actual value
 * is taken; values of secret keys are not shown.
 */
export function findings(issue: z.core.$ZodIssue, input: unknown): Finding[] {
  const path = issue.path.map((key) => (typeof key === 'symbol' ? String(key) : key));
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.map((key) => ({ path: [...path, key], at: 'key', what: unknown(path, key) }));
  }
  if (issue.code === 'invalid_key') {
    const what = issue.issues[0]?.message ?? 'expected another name';
    return [{ path, at: 'key', what }];
  }
  const actual = isSecret(path) ? '' : `, got ${describe(valueAt(input, path))}`;
  return [{ path, at: 'value', what: `${expectation(issue, path)}${actual}` }];
}

function expectation(issue: z.core.$ZodIssue, path: KeyPath): string {
  if (issue.code === 'custom') return issue.message;
  return `expected ${shapeAt(path)?.expected ?? issue.message}`;
}

/** Names the known key that was most likely meant: a sibling, or one of that name elsewhere. */
function unknown(parent: KeyPath, key: string): string {
  const slips = Math.max(2, Math.floor(key.length / 3));
  const shape = shapeAt(parent);
  const siblings = shape?.kind === 'map' ? [...shape.keys.keys()] : [];
  const inPlace = (name: string | undefined) => name && [...parent, name];
  const meant =
    inPlace(nearest(key, siblings, slips)) ??
    elsewhere(parent, key, slips) ??
    inPlace(nearest(key, siblings));
  return meant ? `unknown key, did you mean ${formatKey(meant)}?` : 'unknown key';
}

function elsewhere(parent: KeyPath, key: string, slips: number): KeyPath | undefined {
  const likeIt = allKeys().filter((path) => nearest(key, path.slice(-1), slips) !== undefined);
  const shared = (path: KeyPath) => path.filter((part, depth) => parent[depth] === part).length;
  return likeIt.toSorted((a, b) => shared(b) - shared(a))[0];
}

function allKeys(): string[][] {
  const found: string[][] = [];
  const visit = (shape: typeof CONFIG_SHAPE, path: string[]): void => {
    if (shape.kind !== 'map') return;
    for (const [key, inner] of shape.keys) {
      found.push([...path, key]);
      visit(inner, [...path, key]);
    }
  };
  visit(CONFIG_SHAPE, []);
  return found;
}

function valueAt(input: unknown, path: KeyPath): unknown {
  let value = input;
  for (const key of path) {
    if (typeof value !== 'object' || value === null || !Object.hasOwn(value, key)) return undefined;
    value = (value as Record<string | number, unknown>)[key];
  }
  return value;
}

/** A value as it is shown in a message: short, and on one line. */
export function describe(value: unknown): string {
  if (value === null || value === undefined) return 'nothing';
  if (Array.isArray(value)) return 'a list';
  if (typeof value === 'object') return 'a map';
  const text = typeof value === 'string' ? JSON.stringify(value) : String(value);
  return text.length > ACTUAL_CHARS_MAX ? `${text.slice(0, ACTUAL_CHARS_MAX)}…` : text;
}
