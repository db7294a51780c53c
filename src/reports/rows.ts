import type { AggregateState, RollupRow, Value } from '../core/nouns.ts';
import { Accumulator, finish } from '../rollup/aggregate.ts';
import type { StoreReader } from '../store/contract.ts';
import type { Bucket } from './buckets.ts';
import type { Segment } from './levels.ts';
import type { Stat } from './parameters.ts';

/** One metric of one device. */
export interface Series {
  device: string;
  metric: string;
  unit: string | undefined;
}

/** About so many rollup rows are in memory at once. */
const ROWS_AT_ONCE = 20_000;

/** A bucket of a series that is being filled; most hold one window and need no merging. */
interface Cell {
  state: AggregateState;
  merged?: Accumulator;
}

interface Plan {
  tenant: string;
  devices: string[] | undefined;
  metrics: string[] | undefined;
  stats: readonly Stat[];
  series: readonly Series[];
  buckets: readonly Bucket[];
  segments: readonly Segment[];
}

/** Cuts segments so that a read returns a bounded number of rows. */
function* slices(segments: readonly Segment[], seriesCount: number): Generator<Segment> {
  const windows = Math.max(1, Math.floor(ROWS_AT_ONCE / Math.max(1, seriesCount)));
  for (const { windowMs, start, end } of segments) {
    for (let at = start; at < end; at += windows * windowMs) {
      yield { windowMs, start: at, end: Math.min(end, at + windows * windowMs) };
    }
  }
}

/**
 * Merges rollup windows into one row for each bucket of each series, by series, then time. Segments
 * are in order of time, so that a bucket is finished, and its sketches are let go, as soon as reading
 * has passed it.
 */
export async function readBuckets(
  store: StoreReader,
  plan: Plan,
): Promise<{ series: Series; at: number; end: number; values: (Value | null)[] }[]> {
  const { series, buckets, stats } = plan;
  if (series.length === 0) return [];
  const indexes = indexOf(series);
  const open: (Cell | undefined)[][] = buckets.map(() => []);
  const empty: null[] = stats.map(() => null);
  const values: (Value | null)[][][] = buckets.map(() => []);
  let finished = 0;
  let first = 0;
  const finishUntil = (time: number): void => {
    for (; finished < buckets.length && (buckets[finished]?.end ?? 0) <= time; finished += 1) {
      const cells = open[finished] ?? [];
      values[finished] = series.map((_, s) => finishCell(cells[s], stats, empty));
      open[finished] = [];
    }
  };
  for (const slice of slices(plan.segments, series.length)) {
    const rows = await store.rollups({
      ...{ tenant: plan.tenant, windowMs: slice.windowMs, from: slice.start, to: slice.end },
      ...(plan.devices && { devices: plan.devices }),
      ...(plan.metrics && { metrics: plan.metrics }),
    });
    while ((buckets[first]?.end ?? Number.POSITIVE_INFINITY) <= slice.start) first += 1;
    let bucket = first;
    let before = Number.NEGATIVE_INFINITY;
    for (const row of rows) {
      const s = indexes.get(row.device)?.get(row.metric);
      if (s === undefined) continue; // a series that came up after the list was made
      if (row.start < before) bucket = first;
      before = row.start;
      while ((buckets[bucket]?.end ?? Number.POSITIVE_INFINITY) <= row.start) bucket += 1;
      const cells = open[bucket];
      if (cells !== undefined) cells[s] = added(cells[s], row);
    }
    finishUntil(slice.end);
  }
  finishUntil(Number.POSITIVE_INFINITY);
  return series.flatMap((one, s) =>
    buckets.map((bucket, b) => ({
      series: one,
      at: bucket.start,
      end: bucket.end,
      values: values[b]?.[s] ?? empty,
    })),
  );
}

function indexOf(series: readonly Series[]): Map<string, Map<string, number>> {
  const indexes = new Map<string, Map<string, number>>();
  series.forEach(({ device, metric }, s) => {
    const metrics = indexes.get(device) ?? new Map<string, number>();
    indexes.set(device, metrics.set(metric, s));
  });
  return indexes;
}

function added(cell: Cell | undefined, row: RollupRow): Cell {
  if (cell === undefined) return { state: row.state };
  cell.merged ??= Accumulator.from(cell.state);
  cell.merged.merge(Accumulator.from(row.state));
  return cell;
}

function finishCell(
  cell: Cell | undefined,
  stats: readonly Stat[],
  empty: null[],
): (Value | null)[] {
  const state = cell?.merged?.state() ?? cell?.state;
  if (state === undefined || state.count === 0) return empty;
  const result = finish(state);
  return stats.map((stat) => result[stat] ?? null);
}
