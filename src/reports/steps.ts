import { formatDuration, parseDuration } from '../core/units.ts';

/** The length of a report's buckets. */

export const HOUR_MS = 3_600_000;
export const DAY_MS = 86_400_000;

/** Readings as they are, buckets of elapsed time, or buckets of the calendar of a time zone. */
export type Step =
  | { kind: 'raw' }
  | { kind: 'span'; ms: number }
  | { kind: 'calendar'; unit: 'd' | 'w' | 'mo'; count: number };

const COUNT_MAX = 1_000;

/** `raw`, `15m`, `1h`, `1d`, `2w`, `1mo`; undefined when it is none. */
export function parseStep(text: string): Step | undefined {
  if (text === 'raw') return { kind: 'raw' };
  const calendar = /^(\d{1,4})(d|w|mo)$/.exec(text);
  if (calendar !== null) {
    const count = Number(calendar[1]);
    if (count < 1 || count > COUNT_MAX) return undefined;
    return { kind: 'calendar', unit: calendar[2] as 'd' | 'w' | 'mo', count };
  }
  const ms = /[dw]$/.test(text) ? undefined : parseDuration(text);
  return ms === undefined || ms <= 0 || !Number.isSafeInteger(ms)
    ? undefined
    : { kind: 'span', ms };
}

export function formatStep(step: Step): string {
  if (step.kind === 'raw') return 'raw';
  if (step.kind === 'calendar') return `${step.count}${step.unit}`;
  // A whole number of days is written in hours: `1d` would name the calendar's day.
  return step.ms % HOUR_MS === 0 ? `${step.ms / HOUR_MS}h` : formatDuration(step.ms);
}

/** About how long a bucket is, ms; never longer than it. */
export function shortestMs(step: Exclude<Step, { kind: 'raw' }>): number {
  if (step.kind === 'span') return step.ms;
  return step.count * { d: 1, w: 7, mo: 28 }[step.unit] * DAY_MS - 2 * HOUR_MS;
}

const LADDER = [
  ...['1s', '2s', '5s', '10s', '15s', '20s', '30s', '1m', '2m', '5m', '10m', '15m', '20m', '30m'],
  ...['1h', '2h', '3h', '6h', '12h', '1d', '1w', '1mo', '3mo', '12mo'],
];

/** The shortest usual step that shows `rangeMs` in at most `pointsMax` buckets, both ends cut. */
export function chooseStep(rangeMs: number, baseWindowMs: number, pointsMax: number): Step {
  const base: Step = { kind: 'span', ms: baseWindowMs };
  for (const step of [base, ...LADDER.map(parseStep)]) {
    if (step === undefined || step.kind === 'raw') continue;
    if (step.kind === 'span' && (step.ms < baseWindowMs || step.ms % baseWindowMs !== 0)) continue;
    if (rangeMs / shortestMs(step) + 1 <= pointsMax) return step;
  }
  return { kind: 'calendar', unit: 'mo', count: 120 };
}
