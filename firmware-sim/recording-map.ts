import { z } from 'zod';
import type { Value, Values } from './models.ts';
import { checkShape, InputError, readYaml } from './yaml-file.ts';

const mapSchema = z.strictObject({
  time: z.strictObject({
    column: z.string().min(1),
    /** `iso`: 2010-01-01T01:00:00, with or without offset; `epochMs`, `epochS`: a number. */
    format: z.enum(['iso', 'epochMs', 'epochS']),
    /** For times without offset: UTC (the default), +HH:MM, -HH:MM or a name such as Europe/Paris. */
    zone: z
      .string()
      .default('UTC')
      .superRefine((zone, context) => {
        if (fixedOffsetMs(zone) !== undefined || isZoneName(zone)) return;
        const expected = 'UTC, an offset such as -08:00 or a zone such as Europe/Paris';
        context.addIssue({ code: 'custom', message: `expected ${expected}, got "${zone}"` });
      }),
  }),
  metrics: z
    .record(
      z.string().min(1).max(64),
      z.strictObject({
        column: z.string().min(1),
        kind: z.enum(['float', 'int', 'bool', 'string']),
        /** value = cell * scale + offset, then rounded to `decimals`. */
        scale: z.number().default(1),
        offset: z.number().default(0),
        decimals: z.int().min(0).max(12).optional(),
      }),
    )
    .refine((metrics) => Object.keys(metrics).length > 0, 'expected at least one metric'),
});

export type RecordingMap = z.output<typeof mapSchema>;
export type RecordingMapInput = z.input<typeof mapSchema>;
type MetricMap = RecordingMap['metrics'][string];

/**
 * @param map path of a YAML file, or what would be in it
 * @throws InputError that says which key is wrong
 */
export function loadRecordingMap(map: string | RecordingMapInput): Promise<RecordingMap> {
  if (typeof map === 'string') return readYaml(map, mapSchema);
  return Promise.resolve(checkShape(mapSchema, map, 'map'));
}

/** What one record of the CSV says; null when nothing in it can be used. */
export interface MappedRow {
  ts: number;
  values: Values;
}

/** Turns records of a CSV file into readings. */
export class RowMapper {
  readonly #map: RecordingMap;
  readonly #timeAt: number;
  readonly #metricsAt: [name: string, place: number, metric: MetricMap][];
  /** Cells that hold something which isn't of the metric's kind. */
  badCells = 0;

  /** @throws InputError when a column that the map names is missing */
  constructor(map: RecordingMap, header: readonly string[], source: string) {
    const placeOf = (column: string, key: string): number => {
      const place = header.indexOf(column);
      if (place >= 0) return place;
      throw new InputError(
        `${source}:1: ${key}.column: expected one of the columns ${header.join(', ')}, got "${column}"`,
      );
    };
    this.#map = map;
    this.#timeAt = placeOf(map.time.column, 'time');
    this.#metricsAt = Object.entries(map.metrics).map(([name, metric]) => [
      name,
      placeOf(metric.column, `metrics.${name}`),
      metric,
    ]);
  }

  /** An empty cell is a metric that was not measured; without time or any metric there is no reading. */
  map(fields: readonly string[]): MappedRow | null {
    const { format, zone } = this.#map.time;
    const ts = parseTime(fields[this.#timeAt] ?? '', format, zone);
    const values: Values = {};
    let any = false;
    for (const [name, place, metric] of this.#metricsAt) {
      const cell = (fields[place] ?? '').trim();
      if (cell === '') continue;
      const value = parseCell(cell, metric);
      if (value === undefined) {
        this.badCells++;
        continue;
      }
      values[name] = value;
      any = true;
    }
    return ts === undefined || !any ? null : { ts, values };
  }
}

function parseCell(cell: string, metric: MetricMap): Value | undefined {
  switch (metric.kind) {
    case 'string':
      return cell;
    case 'bool':
      if (/^(true|1|yes|on)$/i.test(cell)) return true;
      return /^(false|0|no|off)$/i.test(cell) ? false : undefined;
    case 'float':
    case 'int': {
      const value = Number(cell) * metric.scale + metric.offset;
      if (!Number.isFinite(value)) return undefined;
      if (metric.kind === 'int') return Math.round(value);
      if (metric.decimals === undefined) return value;
      return Math.round(value * 10 ** metric.decimals) / 10 ** metric.decimals;
    }
  }
}

/** @returns whole ms since the epoch; undefined when it is no time */
export function parseTime(
  text: string,
  format: RecordingMap['time']['format'],
  zone: string,
): number | undefined {
  const cell = text.trim();
  if (format !== 'iso') {
    const number = cell === '' ? Number.NaN : Number(cell);
    return Number.isFinite(number)
      ? Math.round(format === 'epochS' ? number * 1000 : number)
      : undefined;
  }
  const match =
    /^(\d{4}-\d{2}-\d{2})[T ](\d{2}:\d{2})(:\d{2}(?:\.\d{1,9})?)?(Z|[+-]\d{2}:?\d{2})?$/i.exec(
      cell,
    );
  if (match === null) return undefined;
  const local = Date.parse(`${match[1]}T${match[2]}${match[3] ?? ':00'}Z`);
  if (Number.isNaN(local)) return undefined;
  const own = match[4] === undefined ? undefined : fixedOffsetMs(match[4]);
  if (own !== undefined) return local - own;
  const fixed = fixedOffsetMs(zone);
  if (fixed !== undefined) return local - fixed;
  // The offset depends on the instant that is sought: the second look is right except in the hour that
  // a clock change repeats, where it takes one of the two.
  const guess = local - zoneOffsetMs(zone, local);
  return local - zoneOffsetMs(zone, guess);
}

function fixedOffsetMs(zone: string): number | undefined {
  if (/^(UTC|Z)$/i.test(zone)) return 0;
  const match = /^([+-])(\d{2}):?(\d{2})$/.exec(zone);
  if (match === null) return undefined;
  const minutes = Number(match[2]) * 60 + Number(match[3]);
  return (match[1] === '-' ? -minutes : minutes) * 60_000;
}

function isZoneName(zone: string): boolean {
  try {
    new Intl.DateTimeFormat('en', { timeZone: zone });
    return true;
  } catch {
    return false;
  }
}

let cachedZone = '';
let cachedFormat = new Intl.DateTimeFormat('en', { timeZone: 'UTC' });

function zoneOffsetMs(zone: string, instant: number): number {
  if (zone !== cachedZone) {
    cachedFormat = new Intl.DateTimeFormat('en', { timeZone: zone, timeZoneName: 'longOffset' });
    cachedZone = zone;
  }
  const parts = cachedFormat.formatToParts(instant);
  const name = parts.find(({ type }) => type === 'timeZoneName')?.value ?? 'GMT';
  return fixedOffsetMs(name.replace('GMT', '')) ?? 0;
}
