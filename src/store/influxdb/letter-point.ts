import type { LetterKey } from '../../core/nouns.ts';
import { encodeTag } from './line-protocol.ts';

/** How a dead letter is found: its series and its time, so that marks go to the point that holds it. */

export const LETTER_MEASUREMENT = 'dead_letter';
/** Everything that is no tag, in JSON; `{}` once it was purged. */
export const LETTER_FIELD = 'letter';
export const MESSAGE_FIELD = 'message';
/** Small, for counting and sorting. */
export const OFFSET_FIELD = 'offset';
/** Marks, each a number: replays so far, gateway times in ms. */
export const ATTEMPT_FIELD = 'attempt';
export const REPLAYED_FIELD = 'replayed';
export const PURGED_FIELD = 'purged';

export interface LetterPoint extends LetterKey {
  tenant: string;
  device: string;
}

/** The ns within a ms tell letters of one series and time apart: the last digits of their offset. */
const NS_PER_MS = 1_000_000;

/**
 * Measurement and tags; InfluxDB knows no empty ones. What another program put into a shared log may have
 * names that are not legal, and becomes a letter all the same.
 */
export function letterSeries(point: LetterPoint): string {
  const { tenant, device, partition, code, type, typeVersion } = point;
  const tags: [string, string][] = [
    ['code', encodeTag(code)],
    ['device', encodeTag(device)],
    ['partition', `${partition}`],
    ['tenant', encodeTag(tenant)],
    ['type', encodeTag(type)],
    ['type_version', encodeTag(typeVersion ?? '')],
  ];
  const present = tags.filter(([, value]) => value !== '');
  return [LETTER_MEASUREMENT, ...present.map(([name, value]) => `${name}=${value}`)].join(',');
}

/** In ns. */
export function letterTime({ received, offset }: LetterPoint): string {
  return `${received}${String(offset % NS_PER_MS).padStart(6, '0')}`;
}
