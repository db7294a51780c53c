import { DAY_MS, type Step } from './steps.ts';
import type { Zone } from './zone.ts';

/**
 * The buckets of a report, aligned in local time.
 *
 * A bucket of elapsed time begins where local time is a multiple of the step (counted from a local
 * midnight of 1970, so that 5m, 1h and 6h lie where people expect them). Where the clock is changed,
 * hours that come twice are two buckets, hours that are skipped are none, and a bucket longer than the
 * change becomes longer or shorter by it. Days, weeks (from Monday) and months are those of the
 * calendar: a day has 23, 24 or 25 hours (24.5 on Lord Howe Island).
 */
export interface Bucket {
  /** ms since the epoch, inclusive. */
  start: number;
  /** ms since the epoch, exclusive. */
  end: number;
}

type BucketStep = Exclude<Step, { kind: 'raw' }>;

/** True when an instant at which the clock is changed also begins a bucket. */
function changeBegins(zone: Zone, change: number, ms: number): boolean {
  const local = zone.local(change);
  const before = change - 1 + zone.offset(change - 1);
  return local % ms === 0 || Math.floor(local / ms) !== Math.floor(before / ms);
}

function spanStart(zone: Zone, at: number, ms: number): number {
  let from = at;
  for (;;) {
    const local = zone.local(from);
    const start = from - (local - Math.floor(local / ms) * ms);
    let change: number | undefined;
    for (let next = zone.changeIn(start, from); next !== undefined; ) {
      change = next;
      next = zone.changeIn(next, from);
    }
    if (change === undefined) return start;
    if (changeBegins(zone, change, ms)) return change;
    from = change - 1;
  }
}

function spanNext(zone: Zone, start: number, ms: number): number {
  let from = start;
  for (;;) {
    const local = zone.local(from);
    const next = from + (Math.floor(local / ms) + 1) * ms - local;
    const change = zone.changeIn(from, next);
    if (change === undefined) return next;
    if (changeBegins(zone, change, ms)) return change;
    from = change;
  }
}

/** Number of the calendar bucket that holds a local time. */
function calendarIndex(local: number, step: Extract<Step, { kind: 'calendar' }>): number {
  if (step.unit === 'mo') {
    const date = new Date(local);
    return Math.floor((date.getUTCFullYear() * 12 + date.getUTCMonth()) / step.count);
  }
  const day = Math.floor(local / DAY_MS);
  // 1 January 1970 was a Thursday; weeks begin on Mondays.
  return Math.floor((step.unit === 'w' ? Math.floor((day + 3) / 7) : day) / step.count);
}

function calendarStart(
  zone: Zone,
  index: number,
  step: Extract<Step, { kind: 'calendar' }>,
): number {
  const units = index * step.count;
  if (step.unit === 'mo') return zone.instant(Date.UTC(Math.floor(units / 12), units % 12, 1));
  return zone.instant((step.unit === 'w' ? units * 7 - 3 : units) * DAY_MS);
}

/** Start of the bucket that holds an instant. */
export function bucketStart(zone: Zone, at: number, step: BucketStep): number {
  if (step.kind === 'span') return spanStart(zone, at, step.ms);
  return calendarStart(zone, calendarIndex(zone.local(at), step), step);
}

/** Where the next bucket begins. */
function bucketNext(zone: Zone, start: number, step: BucketStep): number {
  if (step.kind === 'span') return spanNext(zone, start, step.ms);
  const index = calendarIndex(zone.local(start), step);
  // A day that a zone leaves out (Samoa, 30 December 2011) is no bucket.
  for (let next = index + 1; ; next += 1) {
    const at = calendarStart(zone, next, step);
    if (at > start) return at;
  }
}

/**
 * The buckets that `[from, to)` touches, in order and without gaps, the first and the last cut to the
 * range. Ends one behind `countMax`, so that the caller can tell that there are more.
 */
export function bucketsOf(
  zone: Zone,
  from: number,
  to: number,
  step: BucketStep,
  countMax: number,
): Bucket[] {
  const buckets: Bucket[] = [];
  let start = bucketStart(zone, from, step);
  while (start < to && buckets.length <= countMax) {
    const end = bucketNext(zone, start, step);
    if (end > from) buckets.push({ start: Math.max(start, from), end: Math.min(end, to) });
    start = end;
  }
  return buckets;
}
