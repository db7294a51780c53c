import type { LedgerCount, LogRecord, ReceivedCount } from '../core/nouns.ts';

/** What both ways of auditing are made of. */

/** Offset by partition. */
export type Positions = ReadonlyMap<number, number>;

export interface AuditRow {
  tenant: string;
  /** Absent where a row is of a whole tenant. */
  device?: string;
  /** Start of the hour of gateway time, ms; absent where a row is of all hours. */
  hour?: number;
  received: number;
  stored: number;
  /** By refusal code. */
  deadLettered: Map<string, number>;
  /** By reason. */
  shed: Map<string, number>;
  /** By kind. */
  duplicate: Map<string, number>;
  inFlight: number;
  /** received − all others; 0 when every message is accounted for. */
  difference: number;
}

/** What has a row of its own: a tenant, one of its devices, or a device in an hour. */
export type RowsBy = 'tenant' | 'device' | 'hour';

/** What an audit is about; hours of gateway time, ms. */
export interface Scope {
  tenant?: string;
  from?: number;
  to?: number;
}

export interface Look {
  rows: AuditRow[];
  balanced: boolean;
  /** True when the system moved while it was looked at, so that a difference may be of the look. */
  moved: boolean;
  /** Records that were not counted because there are too many. */
  uncounted: number;
  /** Looking again at once would not help. */
  isFinal?: boolean;
  /** Why nothing can be told, or what else is to be said. */
  note?: string;
}

const HOUR_MS = 3_600_000;

/** The rows of one audit, with a count of those that do not balance. */
export class AccountRows {
  readonly rows = new Map<string, AuditRow>();
  unbalanced = 0;
  /** How far the rows are from balancing, all together. */
  distance = 0;
  private readonly by: RowsBy;

  constructor(by: RowsBy) {
    this.by = by;
  }

  private row(tenant: string, device: string, hour: number): AuditRow {
    const { by } = this;
    // Names hold no slash.
    const ofDevice = by === 'tenant' ? tenant : `${tenant}/${device}`;
    const key = by === 'hour' ? `${ofDevice}/${hour}` : ofDevice;
    let row = this.rows.get(key);
    if (row === undefined) {
      row = {
        tenant,
        ...(by !== 'tenant' && { device }),
        ...(by === 'hour' && { hour }),
        ...{ received: 0, stored: 0, inFlight: 0, difference: 0 },
        ...{ deadLettered: new Map(), shed: new Map(), duplicate: new Map() },
      };
      this.rows.set(key, row);
    }
    return row;
  }

  private differ(row: AuditRow, by: number): void {
    const before = row.difference === 0;
    this.distance -= Math.abs(row.difference);
    row.difference += by;
    this.distance += Math.abs(row.difference);
    if (before && row.difference !== 0) this.unbalanced += 1;
    else if (!before && row.difference === 0) this.unbalanced -= 1;
  }

  /** The two accounts, without what is in flight. */
  add(received: readonly ReceivedCount[], ledger: readonly LedgerCount[]): void {
    for (const line of ledger) this.outcome(line);
    for (const { tenant, device, hour, count } of received) {
      this.received(tenant, device, hour, count);
    }
  }

  private received(tenant: string, device: string, hour: number, count: number): void {
    const row = this.row(tenant, device, hour);
    row.received += count;
    this.differ(row, count);
  }

  private outcome({ tenant, device, hour, outcome, code, count }: LedgerCount): void {
    const row = this.row(tenant, device, hour);
    if (outcome === 'stored') row.stored += count;
    else {
      const codes = outcome === 'deadLetter' ? row.deadLettered : row[outcome];
      codes.set(code, (codes.get(code) ?? 0) + count);
    }
    this.differ(row, -count);
  }

  /** `received`: gateway time of the records, ms. */
  inFlight(record: { tenant: string; device: string; received: number }, count: number): void {
    const hour = Math.floor(record.received / HOUR_MS) * HOUR_MS;
    const row = this.row(record.tenant, record.device, hour);
    row.inFlight += count;
    this.differ(row, -count);
  }

  copy(): AuditRow[] {
    return [...this.rows.values()].map((row) => ({ ...row }));
  }
}

/** How many items of the ledger a record stands for; 0 outside the scope. */
export function itemsOf(record: LogRecord, scope: Scope): number {
  if (record.kind === 'event') return 0;
  if (scope.tenant !== undefined && record.tenant !== scope.tenant) return 0;
  const hour = Math.floor(record.received / HOUR_MS) * HOUR_MS;
  if (hour < (scope.from ?? 0) || hour >= (scope.to ?? Number.POSITIVE_INFINITY)) return 0;
  return record.kind === 'shed' ? record.count : 1;
}
