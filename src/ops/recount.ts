import type { DeviceType, LedgerCount, Retention } from '../core/nouns.ts';
import type { StoreReader } from '../store/contract.ts';
import type { Positions } from './account-rows.ts';

/**
 * Proves the ledger against the data: raw rows by hour of gateway time against `stored`, dead letters by
 * code against `deadLetter`.
 *
 * The ledger L is read together with the position P of the workers, and then what is stored is counted as
 * far as records before P made it. A row is made once and names the record that made it, so what the
 * workers write meanwhile changes nothing; what they made and retention has dropped is missing. So the
 * data may be less than the ledger says where retention may have been, and never more.
 */

export interface RecountOptions {
  store: StoreReader;
  group: string;
  /** The customers to look at. */
  tenants: readonly string[];
  /** Hours of gateway time, ms; `from` and `to` are widened to whole hours. */
  from: number;
  to: number;
  retention: Retention;
  types: ReadonlyMap<string, DeviceType>;
  /** Gateway time, ms. */
  now: number;
}

export interface RecountRow {
  tenant: string;
  device: string;
  hour: number;
  outcome: 'stored' | 'deadLetter';
  code: string;
  ledger: number;
  /** Rows of data. */
  counted: number;
}

export interface Recount {
  /** False: the data is not what the ledger says. Null: the system moved too fast to tell. */
  proven: boolean | null;
  note: string;
  from: number;
  to: number;
  /** Sums over everything that was compared. */
  stored: { ledger: number; counted: number };
  deadLettered: { ledger: number; counted: number };
  /** Lines of the ledger that were compared. */
  lines: number;
  /** Lines whose data retention may have dropped in part, so that less of it is no difference. */
  beyondRetention: number;
  /** Lines where ledger and data differ. */
  differences: RecountRow[];
}

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
/** Tries to read ledger and position of one moment. */
const TRIES = 8;
/** A time far enough ahead that a type's bound lets it through. */
const AHEAD_MS = 366 * DAY_MS;

/** Throws what the store throws. */
export async function recount(options: RecountOptions): Promise<Recount> {
  const { store, now } = options;
  const from = Math.floor(Math.max(0, options.from) / HOUR_MS) * HOUR_MS;
  const to = Math.ceil(Math.min(options.to, now + DAY_MS) / HOUR_MS) * HOUR_MS;
  const result: Recount = {
    ...{ proven: true, note: '', from, to, lines: 0, beyondRetention: 0, differences: [] },
    stored: { ledger: 0, counted: 0 },
    deadLettered: { ledger: 0, counted: 0 },
  };
  const bounds = boundsOf(options);
  for (const tenant of options.tenants) {
    const scope = { tenant, from, to };
    const read = await readLedger(options, scope);
    if (read === undefined) {
      return { ...result, proven: null, note: 'The workers commit too fast; try again.' };
    }
    const { ledger, position } = read;
    const count = (tsFrom: number, tsTo: number) =>
      store.recount({ ...scope, tsFrom, tsTo, before: position });
    let rows = rowsOf(ledger, await count(from - bounds.pastMs, to + bounds.futureMs));
    // A type that is gone by now may have let other times through.
    if (rows.some((row) => row.counted < row.ledger)) {
      rows = rowsOf(ledger, await count(0, to + AHEAD_MS));
    }
    for (const row of rows) add(result, row, bounds);
  }
  if (result.differences.length > 0) result.proven = false;
  if (bounds.note !== '') result.note = bounds.note;
  return result;
}

interface Bounds {
  /** How far before its arrival a reading may have been measured, ms. */
  pastMs: number;
  /** And how far after it. */
  futureMs: number;
  /** The first hours of which everything is kept. */
  rawFrom: number;
  lettersFrom: number;
  note: string;
}

function boundsOf({ types, retention, now }: RecountOptions): Bounds {
  const { rawMs, deadLettersMs } = retention;
  const kinds = [...types.values()];
  const pastMs = Math.max(0, ...kinds.map((type) => type.pastMs));
  const futureMs = Math.max(0, ...kinds.map((type) => type.futureMs));
  const rawFrom = rawMs === 0 ? 0 : Math.ceil((now - rawMs + pastMs) / HOUR_MS) * HOUR_MS;
  const lettersFrom =
    deadLettersMs === 0 ? 0 : Math.ceil((now - deadLettersMs) / HOUR_MS) * HOUR_MS;
  const note =
    rawFrom < now
      ? ''
      : 'Types let through readings as old as raw data is kept: that data is missing can not be told.';
  return { pastMs, futureMs, rawFrom, lettersFrom, note };
}

async function readLedger(
  { store, group }: RecountOptions,
  scope: { tenant: string; from: number; to: number },
): Promise<{ ledger: LedgerCount[]; position: Positions } | undefined> {
  for (let attempt = 1; attempt <= TRIES; attempt += 1) {
    const position = await store.position(group);
    const ledger = await store.ledger(scope);
    const after = await store.position(group);
    const same = [...after].every(([p, offset]) => position.get(p) === offset);
    if (same && after.size === position.size) return { ledger, position };
  }
  return undefined;
}

/** Both sides of each line. */
function rowsOf(ledger: readonly LedgerCount[], counted: readonly LedgerCount[]): RecountRow[] {
  const rows = new Map<string, RecountRow>();
  const row = ({ tenant, device, hour, outcome, code }: LedgerCount): RecountRow | undefined => {
    if (outcome !== 'stored' && outcome !== 'deadLetter') return undefined;
    const key = `${device}/${hour}/${outcome}/${code}`;
    const known = rows.get(key) ?? {
      ...{ tenant, device, hour, outcome, code, ledger: 0, counted: 0 },
    };
    rows.set(key, known);
    return known;
  };
  for (const line of ledger) {
    const of = row(line);
    if (of !== undefined) of.ledger += line.count;
  }
  for (const line of counted) {
    const of = row(line);
    if (of !== undefined) of.counted += line.count;
  }
  return [...rows.values()];
}

function add(result: Recount, row: RecountRow, bounds: Bounds): void {
  const sums = row.outcome === 'stored' ? result.stored : result.deadLettered;
  sums.ledger += row.ledger;
  sums.counted += row.counted;
  result.lines += 1;
  const isBeyond = row.hour < (row.outcome === 'stored' ? bounds.rawFrom : bounds.lettersFrom);
  if (isBeyond) result.beyondRetention += 1;
  const mayBeLess = isBeyond && row.counted < row.ledger;
  if (row.ledger !== row.counted && !mayBeLess) result.differences.push(row);
}
