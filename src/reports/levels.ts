import type { Bucket } from './buckets.ts';
import { DAY_MS, HOUR_MS } from './steps.ts';

/**
 * Which rollup windows make up a bucket. Windows lie on multiples of their length since the epoch, so
 * hours and days are those of UTC; a day in Berlin is made of hours, one in Kolkata of half an hour of
 * base windows, 23 hours and half an hour again.
 */
export interface Segment {
  windowMs: number;
  /** Multiples of `windowMs`; ms since the epoch. */
  start: number;
  end: number;
}

/** More segments than this, and every bucket is read from the coarsest level that fits them all. */
const SEGMENTS_MAX = 1_000;
/** A coarser level pays only where it stands for some windows. */
const WINDOWS_MIN = 4;

/** The levels that the rollups are kept in, coarsest first. */
export function levelsOf(baseWindowMs: number): number[] {
  return [DAY_MS, HOUR_MS, baseWindowMs].filter(
    (level, i, all) =>
      all.indexOf(level) === i && level >= baseWindowMs && level % baseWindowMs === 0,
  );
}

function split(start: number, end: number, levels: readonly number[], out: Segment[]): void {
  const [level, ...finer] = levels;
  if (level === undefined || start >= end) return;
  const bodyStart = Math.ceil(start / level) * level;
  const bodyEnd = Math.floor(end / level) * level;
  const whole = bodyStart === start && bodyEnd === end;
  if (!whole && finer.length > 0 && bodyEnd - bodyStart < WINDOWS_MIN * level) {
    split(start, end, finer, out);
    return;
  }
  split(start, bodyStart, finer, out);
  out.push({ windowMs: level, start: bodyStart, end: bodyEnd });
  split(bodyEnd, end, finer, out);
}

function joined(segments: readonly Segment[]): Segment[] {
  const out: Segment[] = [];
  for (const segment of segments) {
    const last = out.at(-1);
    if (last !== undefined && last.windowMs === segment.windowMs && last.end === segment.start) {
      last.end = segment.end;
    } else out.push({ ...segment });
  }
  return out;
}

/**
 * The windows to read for buckets whose edges are multiples of the base window, in order of time.
 * Windows that end after `settled` are read from the base level: the coarser ones still grow.
 */
export function segmentsOf(
  buckets: readonly Bucket[],
  baseWindowMs: number,
  settled: number,
): Segment[] {
  const levels = levelsOf(baseWindowMs);
  const fine = [baseWindowMs];
  const segments: Segment[] = [];
  for (const { start, end } of buckets) {
    const border = Math.min(end, Math.max(start, Math.floor(settled / HOUR_MS) * HOUR_MS));
    split(start, border, levels, segments);
    split(border, end, fine, segments);
  }
  const all = joined(segments);
  if (all.length <= SEGMENTS_MAX) return all;
  const first = buckets[0]?.start ?? 0;
  const last = buckets.at(-1)?.end ?? 0;
  const fits = (level: number): boolean =>
    last <= settled && buckets.every(({ start, end }) => start % level === 0 && end % level === 0);
  return [{ windowMs: levels.find(fits) ?? baseWindowMs, start: first, end: last }];
}
