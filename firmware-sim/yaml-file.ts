import { readFile, stat } from 'node:fs/promises';
import { isNode, LineCounter, parseDocument } from 'yaml';
import { z } from 'zod';

/** Something the user wrote is wrong; the message says where and what was expected. */
export class InputError extends Error {
  override readonly name = 'InputError';
}

const FILE_BYTES_MAX = 1024 * 1024;
/** An alias may repeat a whole block; more than this is a document made to explode. */
const ALIASES_MAX = 1000;

const UNIT_MS: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** @returns ms of "500ms", "2s", "1.5m", "-3m", "1h", "1d"; undefined when it is no duration */
export function parseDuration(text: string): number | undefined {
  const match = /^(-?\d+(?:\.\d+)?)(ms|s|m|h|d)$/.exec(text.trim());
  if (match === null) return undefined;
  return Number(match[1]) * (UNIT_MS[match[2] ?? ''] ?? Number.NaN);
}

const durationText = 'a duration such as "500ms", "2s", "5m", "1h"';

/** A duration in YAML; ms once parsed. Negative only where `minMs` says so. */
export function duration(minMs = 0) {
  return z.string({ error: `expected ${durationText}` }).transform((text, context) => {
    const ms = parseDuration(text);
    if (ms !== undefined && ms >= minMs) return ms;
    const least = ms === undefined || minMs === 0 ? '' : ` of at least ${minMs} ms`;
    context.addIssue({
      code: 'custom',
      message: `expected ${durationText}${least}, got "${text}"`,
    });
    return z.NEVER;
  });
}

/** A share of 1: probabilities and parts of a group. */
export const share = z.number().min(0).max(1);

/**
 * Checks `value` against `schema`.
 * @throws InputError with one line for each fault: where, key, what was expected
 */
export function checkShape<S extends z.ZodType>(
  schema: S,
  value: unknown,
  source: string,
  lineOf: (path: readonly PropertyKey[]) => number | undefined = () => undefined,
): z.output<S> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const lines = result.error.issues.slice(0, 20).map((issue) => {
    const line = lineOf(issue.path);
    const where = line === undefined ? source : `${source}:${line}`;
    return `${where}: ${pathText(issue.path)}: ${issueText(issue, value)}`;
  });
  throw new InputError(lines.join('\n'));
}

/**
 * Reads and checks a YAML file.
 * @throws InputError when it can't be read, is no YAML or doesn't fit
 */
export async function readYaml<S extends z.ZodType>(path: string, schema: S): Promise<z.output<S>> {
  const text = await readText(path);
  const counter = new LineCounter();
  const document = parseDocument(text, { lineCounter: counter, prettyErrors: false });
  const fault = document.errors[0];
  if (fault !== undefined) {
    const { line, col } = counter.linePos(fault.pos[0]);
    throw new InputError(`${path}:${line}:${col}: not YAML: ${fault.message}`);
  }
  let value: unknown;
  try {
    value = document.toJS({ maxAliasCount: ALIASES_MAX });
  } catch (error) {
    throw new InputError(`${path}: not YAML: ${(error as Error).message}`);
  }
  return checkShape(schema, value, path, (keys) => {
    // A missing key has no place of its own: its nearest parent has.
    for (let depth = keys.length; depth > 0; depth--) {
      const node = document.getIn(keys.slice(0, depth), true);
      if (isNode(node) && node.range) return counter.linePos(node.range[0]).line;
    }
    return undefined;
  });
}

/** @throws InputError when the file can't be read or is larger than 1 MiB */
async function readText(path: string): Promise<string> {
  try {
    const { size } = await stat(path);
    if (size > FILE_BYTES_MAX) throw new Error(`${size} bytes, at most ${FILE_BYTES_MAX}`);
    return await readFile(path, 'utf8');
  } catch (error) {
    throw new InputError(`${path}: cannot be read: ${(error as Error).message}`);
  }
}

function pathText(path: readonly PropertyKey[]): string {
  let text = '';
  for (const key of path) {
    if (typeof key === 'number') text += `[${key}]`;
    else text += text === '' ? String(key) : `.${String(key)}`;
  }
  return text === '' ? '(whole file)' : text;
}

function issueText(issue: z.core.$ZodIssue, root: unknown): string {
  if (issue.code === 'unrecognized_keys') return `unknown key ${issue.keys.join(', ')}`;
  let value: unknown = root;
  for (const key of issue.path) {
    value = value === null || value === undefined ? undefined : Reflect.get(Object(value), key);
  }
  if (value === undefined && issue.code === 'invalid_type')
    return `missing: expected ${issue.expected}`;
  const got = JSON.stringify(value)?.slice(0, 60);
  const message = issue.message.replace(/^Invalid input: /, '');
  return message.includes(', got ') || got === undefined ? message : `${message}, got ${got}`;
}
