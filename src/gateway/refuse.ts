import type { Refusal } from '../core/nouns.ts';
import { REFUSALS, type RefusalCode } from '../core/refusals.ts';

const TEXT_MAX = 200;
/** Names of metrics that are listed; a message may be refused a thousand times over. */
const EXPECTED_MAX = 500;

/** A refusal with the catalogue's message; texts from devices are cut and made printable. */
export function refuse(
  code: RefusalCode,
  details: { path?: string; expected?: string; actual?: string } = {},
): Refusal {
  const refusal: Refusal = { code, message: REFUSALS[code] };
  if (details.path !== undefined) refusal.path = printable(details.path);
  if (details.expected !== undefined) refusal.expected = cut(details.expected, EXPECTED_MAX);
  if (details.actual !== undefined) refusal.actual = printable(details.actual);
  return refusal;
}

/** What a value is, for `actual`: `string "12"`, `array of 3`, `null`. */
export function describe(value: unknown): string {
  if (value === null) return 'null';
  if (value === undefined) return 'nothing';
  if (Array.isArray(value)) return `array of ${value.length}`;
  if (typeof value === 'string') return `string ${JSON.stringify(value.slice(0, 64))}`;
  if (typeof value === 'object') return 'object';
  return `${typeof value} ${String(value)}`;
}

/** Escapes a name for a JSON pointer (RFC 6901). */
export function pointer(name: string): string {
  return name.replaceAll('~', '~0').replaceAll('/', '~1');
}

function printable(text: string): string {
  return cut(text, TEXT_MAX).replace(
    /\p{Cc}/gu,
    (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

function cut(text: string, max: number): string {
  return text.length > max ? `${text.slice(0, max)}…` : text;
}
