import type { Audit, AuditRow } from './ledger.ts';

/** An audit as text: JSON for programs, aligned columns for people. */

function sum(counts: ReadonlyMap<string, number>): number {
  let total = 0;
  for (const count of counts.values()) total += count;
  return total;
}

/** The object that the API and `spillway audit --format json` give. */
export function auditJson(audit: Audit): Record<string, unknown> {
  const hour = (at: number | undefined) => (at === undefined ? null : new Date(at).toISOString());
  return {
    balanced: audit.balanced,
    note: audit.note,
    from: hour(audit.from),
    to: hour(audit.to),
    rows: audit.rows.map((row) => ({
      ...row,
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
    ...[row.received, row.stored, sum(row.deadLettered), sum(row.shed), sum(row.duplicate)].map(
      String,
    ),
    ...[row.inFlight, row.difference].map(String),
    details(row),
  ]);
  const shown = audit.rows.some((row) => row.device !== undefined) ? [] : [1];
  const keep = (row: string[]): string[] => row.filter((_, i) => !shown.includes(i));
  const table = [header, ...lines].map(keep);
  const widths = keep(header).map((_, i) => Math.max(...table.map((row) => row[i]?.length ?? 0)));
  const texts = new Set(['tenant', 'device', 'codes']);
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
