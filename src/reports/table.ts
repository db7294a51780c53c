import type { Value } from '../core/nouns.ts';
import type { BucketReport, RawReport, Report } from './query.ts';

/** Reports as aligned columns for terminals: units in the headers, completeness at the end. */

const TEXT_CHARS_MAX = 32;

/** Nothing that a terminal would obey: control characters and marks that turn the direction of text. */
export function printable(text: string): string {
  return text.replace(
    // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what must not be printed
    /[\u0000-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]/g,
    (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

/** Six significant digits are enough for eyes; other formats give every digit. */
function cell(value: Value | null): string {
  if (value === null) return '-';
  if (typeof value === 'boolean') return String(value);
  if (typeof value === 'number') {
    return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(6)));
  }
  const text = printable(value);
  return text.length > TEXT_CHARS_MAX ? `${text.slice(0, TEXT_CHARS_MAX - 1)}…` : text;
}

/** Lines of a table; columns whose index is in `right` are aligned to the right. */
export function alignedLines(
  header: readonly string[],
  rows: readonly (readonly string[])[],
  right: ReadonlySet<number>,
): string[] {
  const widths = header.map((text) => text.length);
  for (const row of rows) {
    row.forEach((text, i) => {
      widths[i] = Math.max(widths[i] ?? 0, text.length);
    });
  }
  const line = (row: readonly string[]): string =>
    row
      .map((text, i) =>
        right.has(i) ? text.padStart(widths[i] ?? 0) : text.padEnd(widths[i] ?? 0),
      )
      .join('  ')
      .trimEnd();
  return [line(header), line(widths.map((width) => '-'.repeat(width))), ...rows.map(line)];
}

const range = (from: number, to: number): Set<number> =>
  new Set(Array.from({ length: to - from }, (_, i) => from + i));

function* block(
  header: readonly string[],
  rows: readonly (readonly string[])[],
  right: ReadonlySet<number>,
): Generator<string> {
  for (const line of alignedLines(header, rows, right)) yield `${line}\n`;
  yield '\n';
}

function* bucketBlocks(report: BucketReport): Generator<string> {
  const groups = new Map<string, BucketReport['rows']>();
  for (const row of report.rows) {
    const key = `${row.series.metric} ${row.series.unit ?? ''}`;
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [row]);
    else group.push(row);
  }
  for (const rows of groups.values()) {
    const { metric = '', unit } = rows[0]?.series ?? {};
    const named = report.stats.map((stat) =>
      unit === undefined || stat === 'count' ? stat : `${stat} ${printable(unit)}`,
    );
    yield `${metric}\n`;
    const lines = rows.map(({ at, series, values }) => [
      report.zone.iso(at),
      series.device,
      ...values.map(cell),
    ]);
    yield* block(['time', 'device', ...named], lines, range(2, 2 + named.length));
  }
}

function* rawBlock(report: RawReport): Generator<string> {
  const named = report.metrics.map(({ metric, unit }) =>
    unit === undefined ? metric : `${metric} ${printable(unit)}`,
  );
  const lines = report.rows.map(({ at, received, device, values }) => [
    report.zone.iso(at),
    report.zone.iso(received),
    device,
    ...values.map(cell),
  ]);
  yield* block(['time', 'received', 'device', ...named], lines, range(3, 3 + named.length));
}

function* completenessBlock(report: Report): Generator<string> {
  const { zone, completeness } = report;
  const { totals } = completeness;
  const line = (name: string, row: Omit<typeof totals, 'devices' | 'unknownPeriod'>): string[] => [
    name,
    row.expected === null ? '-' : String(row.expected),
    String(row.received),
    row.expected === null || row.expected === 0
      ? '-'
      : `${((row.received / row.expected) * 100).toFixed(1)} %`,
    [...row.deadLettered].map(([code, count]) => `${code} ${count}`).join(', ') || '0',
    row.dataAsOf === null ? '-' : zone.iso(row.dataAsOf),
  ];
  yield `Completeness, readings from ${zone.iso(completeness.from)} to ${zone.iso(completeness.to)}\n`;
  const rows = completeness.devices.map((row) => line(row.device, row));
  // A share over all devices would be wrong while it is not known for some.
  const sum = line('(all)', totals);
  if (totals.unknownPeriod > 0) sum[3] = '-';
  yield* block(
    ['device', 'expected', 'received', 'complete', 'dead letters', 'data as of'],
    [...rows, sum],
    range(1, 4),
  );
}

export function* formatTable(report: Report): Generator<string> {
  const { zone } = report;
  yield `${report.tenant}, ${zone.iso(report.from)} to ${zone.iso(report.to)}, step ${report.step}, ${zone.name}\n\n`;
  if (report.rows.length === 0) yield 'No data in this range.\n\n';
  else if (report.kind === 'raw') yield* rawBlock(report);
  else yield* bucketBlocks(report);
  yield* completenessBlock(report);
  for (const note of report.notes) yield `Note: ${note}\n`;
}
