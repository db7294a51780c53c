import { counted } from '../core/counted.ts';
import type { Audit, AuditRow } from './ledger.ts';
import type { Recount } from './recount.ts';

/** An audit as text: JSON for programs, aligned columns for people. */

function sum(counts: ReadonlyMap<string, number>): number {
  let total = 0;
  for (const count of counts.values()) total += count;
  return total;
}

const hour = (at: number | undefined) => (at === undefined ? null : new Date(at).toISOString());

/** The object that the API and `spillway audit --format json` give. */
export function auditJson(audit: Audit): Record<string, unknown> {
  return {
    balanced: audit.balanced,
    note: audit.note,
    from: hour(audit.from),
    to: hour(audit.to),
    rows: audit.rows.map((row) => ({
      ...row,
      ...(row.hour !== undefined && { hour: new Date(row.hour).toISOString() }),
      deadLettered: Object.fromEntries(row.deadLettered),
      shed: Object.fromEntries(row.shed),
      duplicate: Object.fromEntries(row.duplicate),
    })),
  };
}

function details(row: AuditRow): string {
  const parts = [row.deadLettered, row.shed, row.duplicate].flatMap((counts) =>
    [...counts].map(([code, count]) => `${code} ${count}`),
  );
  return parts.join(', ');
}

/** Ends with a line break. */
export function auditTable(audit: Audit): string {
  const header = [
    'tenant',
    'device',
    'hour',
    'received',
    'stored',
    'dead',
    'shed',
    'duplicate',
    'in flight',
    'difference',
    'codes',
  ];
  const lines = audit.rows.map((row) => [
    row.tenant,
    row.device ?? '',
    hour(row.hour) ?? '',
    ...[row.received, row.stored, sum(row.deadLettered), sum(row.shed), sum(row.duplicate)].map(
      String,
    ),
    ...[row.inFlight, row.difference].map(String),
    details(row),
  ]);
  const [first] = audit.rows;
  const left = [
    ...(first?.device === undefined ? [1] : []),
    ...(first?.hour === undefined ? [2] : []),
  ];
  const keep = (row: string[]): string[] => row.filter((_, i) => !left.includes(i));
  const table = [header, ...lines].map(keep);
  const widths = keep(header).map((_, i) => Math.max(...table.map((row) => row[i]?.length ?? 0)));
  const texts = new Set(['tenant', 'device', 'hour', 'codes']);
  const names = keep(header);
  const text = table.map((row) =>
    row
      .map((cell, i) =>
        texts.has(names[i] ?? '') ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0),
      )
      .join('  ')
      .trimEnd(),
  );
  const verdict = {
    true: 'Every message is accounted for.',
    false: 'NOT BALANCED: some messages are not accounted for.',
    null: 'Not decided.',
  }[String(audit.balanced) as 'true' | 'false' | 'null'];
  return `${text.join('\n')}\n\n${verdict}${audit.note === '' ? '' : ` ${audit.note}`}\n`;
}

/** At most so many differences are listed. */
const DIFFERENCES_MAX = 100;

/** The object that `spillway audit --recount --format json` adds. */
export function recountJson(recount: Recount): Record<string, unknown> {
  return {
    ...recount,
    from: hour(recount.from),
    to: hour(recount.to),
    differences: recount.differences.map((row) => ({ ...row, hour: hour(row.hour) })),
  };
}

/** Ends with a line break. */
export function recountText(recount: Recount): string {
  const { stored, deadLettered, lines, beyondRetention, differences, proven, note } = recount;
  const text = [
    `Counted again, ${counted(lines, 'line')} of the ledger:`,
    `  stored         ${stored.ledger} in the ledger, ${counted(stored.counted, 'raw reading')}`,
    `  dead-lettered  ${deadLettered.ledger} in the ledger, ${counted(deadLettered.counted, 'dead letter')}`,
  ];
  for (const row of differences.slice(0, DIFFERENCES_MAX)) {
    const what = row.outcome === 'stored' ? 'stored' : `dead-lettered ${row.code}`;
    const where = `${row.tenant}/${row.device} ${hour(row.hour)} ${what}`;
    text.push(`  ${where}: ${row.ledger} in the ledger, ${row.counted} counted`);
  }
  if (differences.length > DIFFERENCES_MAX) {
    text.push(`  and ${differences.length - DIFFERENCES_MAX} more`);
  }
  if (beyondRetention > 0) {
    text.push(
      beyondRetention === 1
        ? '1 line is so old that retention may have dropped some of its data.'
        : `${beyondRetention} lines are so old that retention may have dropped some of their data.`,
    );
  }
  const verdict = {
    true: 'The data is what the ledger says.',
    false: 'NOT PROVEN: the data differs from the ledger.',
    null: 'Not decided.',
  }[String(proven) as 'true' | 'false' | 'null'];
  return `${[...text, '', note === '' ? verdict : `${verdict} ${note}`].join('\n')}\n`;
}
