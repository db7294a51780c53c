import type { Clock } from '../core/clock.ts';
import { SpillwayError } from '../core/errors.ts';
import type { DeviceType, Value } from '../core/nouns.ts';
import { formatDuration } from '../core/units.ts';
import type { Retention, StoreReader } from '../store/contract.ts';
import { bucketsOf } from './buckets.ts';
import { type Completeness, completenessOf, typesOf } from './completeness.ts';
import { type Segment, segmentsOf } from './levels.ts';
import { invalid, type Query, type ResolvedQuery, resolveQuery, type Stat } from './parameters.ts';
import { readBuckets, type Series } from './rows.ts';
import { formatStep, shortestMs } from './steps.ts';
import type { Zone } from './zone.ts';

/** Queries → reports. Reads the store through its contract alone. */

export interface QueryDeps {
  types: ReadonlyMap<string, DeviceType>;
  clock: Clock;
  baseWindowMs: number;
  /** Rows of a report at most. */
  rowsMax: number;
  /** Where given, what is no longer kept is said and does not count as missing. */
  retention?: Retention;
  /** Where given, saves looking a device's type up in its readings. */
  deviceType?: (tenant: string, device: string) => string | undefined;
}

interface ReportHead {
  tenant: string;
  /** The range as used, ms: for buckets, widened to whole base windows. */
  from: number;
  to: number;
  /** The range as it was asked for, ms. */
  asked: { from: number; to: number };
  zone: Zone;
  step: string;
  completeness: Completeness;
  /** Sentences that the reader of the report should know. */
  notes: string[];
}

export interface BucketRow {
  series: Series;
  /** Start and end of the bucket, cut to the range; ms. */
  at: number;
  end: number;
  /** In the order of `stats`; null where the bucket has no data or the statistic does not apply. */
  values: (Value | null)[];
}

export interface BucketReport extends ReportHead {
  kind: 'buckets';
  stats: Stat[];
  series: Series[];
  /** By device, metric, time; one row for each bucket of each series. */
  rows: BucketRow[];
}

export interface RawRow {
  at: number;
  received: number;
  device: string;
  /** In the order of `metrics`; null where the reading has none. */
  values: (Value | null)[];
}

export interface RawReport extends ReportHead {
  kind: 'raw';
  metrics: { metric: string; unit: string | undefined }[];
  /** By device, time; one row for each stored reading. */
  rows: RawRow[];
}

export type Report = BucketReport | RawReport;

/** Windows that a query may read for each row that a report may have. */
const WINDOWS_PER_ROW_MAX = 5;

function tooLarge(what: string, count: number | string, limit: number): SpillwayError {
  return new SpillwayError(
    'QUERY_TOO_LARGE',
    `The query has ${count} ${what}; the limit is ${limit}.`,
  );
}

/** Throws QUERY_INVALID, QUERY_TOO_LARGE and what the store throws. */
export async function runQuery(store: StoreReader, query: Query, deps: QueryDeps): Promise<Report> {
  const now = deps.clock.now();
  const resolved = resolveQuery(query, { now, baseWindowMs: deps.baseWindowMs });
  return resolved.step.kind === 'raw'
    ? runRaw(store, resolved, deps, now)
    : runBuckets(store, resolved, deps, now, resolved.step);
}

/** What is known of the tenant's devices that the query is about. */
async function devicesOf(store: StoreReader, query: ResolvedQuery, deps: QueryDeps) {
  const latest = await store.latest(query.tenant, { devices: query.devices });
  const types = await typesOf(store, query.tenant, latest, deps.types, deps.deviceType);
  return { latest, types };
}

type KnownDevices = Awaited<ReturnType<typeof devicesOf>>;

async function completeness(
  store: StoreReader,
  query: ResolvedQuery,
  range: { from: number; to: number },
  deps: QueryDeps,
  now: number,
  devices: KnownDevices,
): Promise<Completeness> {
  const rawMs = deps.retention?.rawMs ?? 0;
  return completenessOf(
    store,
    { tenant: query.tenant, devices: query.devices, ...range },
    { now, keptFrom: rawMs > 0 ? now - rawMs : 0, listed: query.devices ?? [], ...devices },
  );
}

function rawNotes(range: { from: number }, counted: Completeness, zone: Zone): string[] {
  if (counted.from <= range.from) return [];
  return [
    `Readings before ${zone.iso(counted.from)} are no longer kept; completeness counts from there.`,
  ];
}

async function runRaw(
  store: StoreReader,
  query: ResolvedQuery,
  deps: QueryDeps,
  now: number,
): Promise<RawReport> {
  const { tenant, devices, metrics, from, to, zone } = query;
  const readings = await store.readings({
    ...{ tenant, from, to, limit: deps.rowsMax + 1 },
    ...(devices && { devices }),
    ...(metrics && { metrics }),
  });
  if (readings.length > deps.rowsMax) {
    throw tooLarge('readings', `more than ${deps.rowsMax}`, deps.rowsMax);
  }
  const names = new Set<string>(metrics);
  for (const reading of readings) for (const name of Object.keys(reading.values)) names.add(name);
  const columns = metrics ?? [...names].sort();
  const known = await devicesOf(store, query, deps);
  const counted = await completeness(store, query, { from, to }, deps, now, known);
  return {
    kind: 'raw',
    ...{ tenant, from, to, zone, step: 'raw', asked: { from, to } },
    metrics: columns.map((metric) => ({ metric, unit: commonUnit(known.types.values(), metric) })),
    rows: readings.map(({ ts, received, device, values }) => ({
      at: ts,
      received,
      device,
      values: columns.map((name) => (Object.hasOwn(values, name) ? (values[name] ?? null) : null)),
    })),
    completeness: counted,
    notes: rawNotes({ from }, counted, zone),
  };
}

function unitOf(type: DeviceType | undefined, metric: string): string | undefined {
  return type !== undefined && Object.hasOwn(type.metrics, metric)
    ? type.metrics[metric]?.unit
    : undefined;
}

/** The unit of a metric, unless device types differ in it. */
function commonUnit(types: Iterable<DeviceType>, metric: string): string | undefined {
  const units = new Set<string>();
  for (const type of types) {
    if (Object.hasOwn(type.metrics, metric)) units.add(unitOf(type, metric) ?? '');
  }
  const [unit] = units;
  return units.size === 1 && unit !== '' ? unit : undefined;
}

async function runBuckets(
  store: StoreReader,
  query: ResolvedQuery,
  deps: QueryDeps,
  now: number,
  step: Exclude<ResolvedQuery['step'], { kind: 'raw' }>,
): Promise<BucketReport> {
  const { tenant, zone, stats } = query;
  const { baseWindowMs, rowsMax } = deps;
  const from = Math.floor(query.from / baseWindowMs) * baseWindowMs;
  const to = Math.ceil(query.to / baseWindowMs) * baseWindowMs;
  if ((to - from) / shortestMs(step) > 4 * rowsMax + 4) {
    throw tooLarge('buckets', `more than ${rowsMax}`, rowsMax);
  }
  const buckets = bucketsOf(zone, from, to, step, rowsMax);
  if (buckets.length > rowsMax) throw tooLarge('buckets', `more than ${rowsMax}`, rowsMax);
  if (buckets.some(({ start }) => start % baseWindowMs !== 0)) {
    const base = formatDuration(baseWindowMs);
    throw invalid('tz', `a zone whose offsets are multiples of the base window ${base}`, zone.name);
  }
  const known = await devicesOf(store, query, deps);
  const series = await seriesOf(store, query, known);
  if (series.length * buckets.length > rowsMax) {
    const count = `${series.length * buckets.length} rows (${series.length} series of ${buckets.length}`;
    throw tooLarge('buckets)', count, rowsMax);
  }
  const segments = segmentsOf(buckets, baseWindowMs, now);
  const windows = segments.reduce((sum, s) => sum + (s.end - s.start) / s.windowMs, 0);
  if (windows * series.length > WINDOWS_PER_ROW_MAX * rowsMax) {
    throw tooLarge(
      'rollup windows to read',
      windows * series.length,
      WINDOWS_PER_ROW_MAX * rowsMax,
    );
  }
  const rows = await readBuckets(store, { ...query, series, buckets, segments });
  const counted = await completeness(store, query, { from, to }, deps, now, known);
  return {
    kind: 'buckets',
    ...{
      tenant,
      from,
      to,
      zone,
      step: formatStep(step),
      asked: { from: query.from, to: query.to },
    },
    ...{ stats, series, rows, completeness: counted },
    notes: [
      ...rawNotes({ from }, counted, zone),
      ...levelNotes(segments, deps.retention, now, zone),
    ],
  };
}

async function seriesOf(
  store: StoreReader,
  query: ResolvedQuery,
  known: KnownDevices,
): Promise<Series[]> {
  const devices = query.devices && new Set(query.devices);
  const metrics = query.metrics && new Set(query.metrics);
  const found: Series[] = [];
  for (const entry of await store.series(query.tenant)) {
    if (devices !== undefined && !devices.has(entry.device)) continue;
    for (const metric of entry.metrics) {
      if (metrics !== undefined && !metrics.has(metric)) continue;
      const unit = unitOf(known.types.get(entry.device), metric);
      found.push({ device: entry.device, metric, unit });
    }
  }
  const order = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);
  return found.sort((a, b) => order(a.device, b.device) || order(a.metric, b.metric));
}

/** Says where a gap may come from retention rather than from the device. */
function levelNotes(
  segments: readonly Segment[],
  retention: Retention | undefined,
  now: number,
  zone: Zone,
): string[] {
  const levels = new Set<number>();
  for (const { windowMs, start } of segments) {
    const keptMs = retention?.rollupsMs.get(windowMs) ?? 0;
    if (keptMs > 0 && start < now - keptMs) levels.add(windowMs);
  }
  return [...levels].map((windowMs) => {
    const since = zone.iso(now - (retention?.rollupsMs.get(windowMs) ?? 0));
    return `Rollups of ${formatDuration(windowMs)} before ${since} are no longer kept; ask for a step of whole hours or days.`;
  });
}
