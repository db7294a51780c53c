import type { Value } from '../core/nouns.ts';
import type { Completeness } from './completeness.ts';
import type { Format } from './parameters.ts';
import type { BucketReport, RawReport, Report } from './query.ts';
import { formatTable } from './table.ts';

/**
 * Reports → text. The same for the API and the command line, byte for byte. Texts come in pieces of
 * about 16 KiB, so that a large report neither stands in memory twice nor holds up its thread.
 */

export const CONTENT_TYPES: Readonly<Record<Format, string>> = {
  json: 'application/json; charset=utf-8',
  csv: 'text/csv; charset=utf-8; header=present',
  ndjson: 'application/x-ndjson; charset=utf-8',
  table: 'text/plain; charset=utf-8',
};

const PIECE_CHARS = 16_384;

export function* formatReport(report: Report, format: Format): Generator<string> {
  let piece = '';
  for (const text of parts(report, format)) {
    piece += text;
    if (piece.length < PIECE_CHARS) continue;
    yield piece;
    piece = '';
  }
  if (piece !== '') yield piece;
}

function parts(report: Report, format: Format): Iterable<string> {
  if (format === 'csv') return csvLines(report);
  if (format === 'ndjson') return ndjsonLines(report);
  if (format === 'table') return formatTable(report);
  return jsonParts(report);
}

/** Completeness as it stands in JSON: times as ISO 8601 in the report's zone and in ms. */
export function completenessJson(report: Report): Record<string, unknown> {
  const { zone, completeness } = report;
  const time = (at: number | null) => (at === null ? null : zone.iso(at));
  const counts = (row: Completeness['devices'][number] | Completeness['totals']) => ({
    expected: row.expected,
    received: row.received,
    deadLettered: Object.fromEntries(row.deadLettered),
    dataAsOf: time(row.dataAsOf),
    dataAsOfMs: row.dataAsOf,
  });
  const { totals } = completeness;
  return {
    from: zone.iso(completeness.from),
    to: zone.iso(completeness.to),
    totals: { devices: totals.devices, unknownPeriod: totals.unknownPeriod, ...counts(totals) },
    devices: completeness.devices.map((row) => ({ device: row.device, ...counts(row) })),
  };
}

const HEADER_BYTES_MAX = 4_096;

/**
 * Completeness and notes on one line of ASCII, for the header `Spillway-Completeness` and for stderr.
 * With `bounded`, devices are left out (and counted as `devicesOmitted`) where they would exceed 4 KiB.
 */
export function completenessLine(report: Report, options: { bounded: boolean }): string {
  const ascii = (value: unknown): string =>
    JSON.stringify(value).replace(
      /[\u007f-\uffff]/g,
      (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`,
    );
  const full = { ...completenessJson(report), notes: report.notes };
  const line = ascii(full);
  if (!options.bounded || line.length <= HEADER_BYTES_MAX) return line;
  const { devices: _, ...rest } = full as Record<string, unknown>;
  return ascii({ ...rest, devicesOmitted: report.completeness.devices.length });
}

function bucketJson(report: BucketReport, row: BucketReport['rows'][number]): string {
  const stats = row.values.map((value, i) => `"${report.stats[i]}":${JSON.stringify(value)}`);
  const { device, metric } = row.series;
  const at = `"time":"${report.zone.iso(row.at)}","timeMs":${row.at},"endMs":${row.end}`;
  return `{${[at, `"device":"${device}","metric":"${metric}"`, ...stats].join(',')}}`;
}

function rawJson(report: RawReport, row: RawReport['rows'][number]): string {
  const values = row.values.flatMap((value, i) =>
    value === null ? [] : [`"${report.metrics[i]?.metric}":${JSON.stringify(value)}`],
  );
  const { zone } = report;
  const at = `"time":"${zone.iso(row.at)}","timeMs":${row.at}`;
  const received = `"received":"${zone.iso(row.received)}","receivedMs":${row.received}`;
  return `{${at},${received},"device":"${row.device}","values":{${values.join(',')}}}`;
}

function* rowsJson(report: Report): Generator<string> {
  // Names are of a character set that needs no escaping in JSON.
  if (report.kind === 'raw') for (const row of report.rows) yield rawJson(report, row);
  else for (const row of report.rows) yield bucketJson(report, row);
}

function* ndjsonLines(report: Report): Generator<string> {
  for (const row of rowsJson(report)) yield `${row}\n`;
  const { notes } = report;
  yield `${JSON.stringify({ completeness: completenessJson(report), notes })}\n`;
}

function* jsonParts(report: Report): Generator<string> {
  const { zone, asked } = report;
  const head = {
    tenant: report.tenant,
    ...{ from: zone.iso(report.from), fromMs: report.from },
    ...{ to: zone.iso(report.to), toMs: report.to },
    asked: { from: zone.iso(asked.from), to: zone.iso(asked.to) },
    ...{ tz: zone.name, step: report.step },
    ...(report.kind === 'raw'
      ? { metrics: report.metrics }
      : { stats: report.stats, series: report.series }),
  };
  yield `${JSON.stringify(head).slice(0, -1)},"rows":[`;
  let separator = '\n';
  for (const row of rowsJson(report)) {
    yield separator + row;
    separator = ',\n';
  }
  yield `\n],"completeness":${JSON.stringify(completenessJson(report))}`;
  yield `,"notes":${JSON.stringify(report.notes)}}\n`;
}

/**
 * A field of RFC 4180. Texts that a spreadsheet would take for a formula get an apostrophe in front;
 * numbers stay numbers.
 */
export function csvField(value: Value | null): string {
  if (value === null) return '';
  if (typeof value !== 'string') return String(value);
  const text = /^[=+\-@\t\r\n]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function* csvLines(report: Report): Generator<string> {
  const { zone } = report;
  const line = (fields: string[]): string => `${fields.join(',')}\r\n`;
  if (report.kind === 'raw') {
    yield line(['time', 'received', 'device', ...report.metrics.map(({ metric }) => metric)]);
    for (const { at, received, device, values } of report.rows) {
      yield line([zone.iso(at), zone.iso(received), device, ...values.map(csvField)]);
    }
    return;
  }
  yield line(['time', 'device', 'metric', ...report.stats]);
  for (const { at, series, values } of report.rows) {
    yield line([zone.iso(at), series.device, series.metric, ...values.map(csvField)]);
  }
}
