import { parseDuration } from '../core/units.ts';
import type { Zone } from './zone.ts';

/** Times as people write them in a query. */

const ISO =
  /^(\d{4})-(\d{2})-(\d{2})(?:[T ](\d{2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?)?(Z|[+-]\d{2}:?\d{2})?$/i;
const RELATIVE = /^(?:now)?([+-])(\d+(?:\.\d+)?(?:ms|s|m|h|d|w))$/;
/** Times of reports lie from 1970 to 2200. */
const LATEST_MS = Date.UTC(2200, 0, 1);

/**
 * ISO 8601 with a zone; without a zone, local time of `zone`; a date alone, its local midnight; `now`,
 * `now-1h`, `-15m`. Returns ms since the epoch, or undefined when it is none of these.
 */
export function parseTime(text: string, zone: Zone, now: number): number | undefined {
  const at = parseIso(text, zone) ?? parseRelative(text, now);
  return at === undefined || at < 0 || at > LATEST_MS ? undefined : at;
}

function parseRelative(text: string, now: number): number | undefined {
  if (text === 'now') return now;
  const match = RELATIVE.exec(text);
  const span = match?.[2] === undefined ? undefined : parseDuration(match[2]);
  if (span === undefined) return undefined;
  return match?.[1] === '-' ? now - span : now + span;
}

function parseIso(text: string, zone: Zone): number | undefined {
  const match = ISO.exec(text);
  if (match === null) return undefined;
  const [year, month, day, hour, minute, second] = match
    .slice(1, 7)
    .map((part) => Number(part ?? 0)) as [number, number, number, number, number, number];
  const millisecond = Math.floor(Number(`0.${match[7] ?? '0'}`) * 1_000 + 1e-6);
  if (hour > 23 || minute > 59 || second > 59) return undefined;
  const local = Date.UTC(year, month - 1, day, hour, minute, second, millisecond);
  const date = new Date(local);
  // Date.UTC takes 30 February for 2 March.
  if (date.getUTCMonth() !== month - 1 || date.getUTCDate() !== day) return undefined;
  const offset = match[8];
  if (offset === undefined) return zone.instant(local);
  if (match[4] === undefined) return undefined; // a date has no zone of its own
  if (offset.toUpperCase() === 'Z') return local;
  const hours = Number(offset.slice(1, 3));
  const minutes = Number(offset.slice(-2));
  if (hours > 14 || minutes > 59) return undefined;
  const span = (hours * 60 + minutes) * 60_000;
  return offset.startsWith('-') ? local + span : local - span;
}
