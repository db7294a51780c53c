import { SpillwayError } from '../core/errors.ts';
import type { LogConsumer } from '../log/contract.ts';
import type { StoreReader } from '../store/contract.ts';
import {
  AccountRows,
  type AuditRow,
  itemsOf,
  type Look,
  type Positions,
  type RowsBy,
  type Scope,
} from './account-rows.ts';
import { lookAtSources } from './shared-ledger.ts';

export type { AuditRow } from './account-rows.ts';

/**
 * The account of what became of every message, from durable counts alone:
 *
 *     received = stored + dead-lettered + shed + duplicate + in flight
 *
 * Four things are read from a system that moves: the store's position P with its ledger L, and the log's
 * end E with the gateways' account R. P and L change in one transaction of the store, E and R in one of
 * the log. So each pair is read as: first number, account, number again; when the number is the same,
 * the pair belongs together. L is read before R: what the workers process in between stays in flight
 * for this audit (the records from P on), and nothing can be processed that R does not hold.
 *
 * When the log grows too fast to read R between two equal ends E1 and E2, R belongs to some end between
 * them. Then the records from E1 to E2 are counted one by one, and the account is taken where it
 * balances; if it balances nowhere, where the difference is smallest. An audit of such a log that finds
 * a difference is repeated before it is believed.
 *
 * A log that several gateways fill is looked at by `shared-ledger.ts`.
 */

export interface AuditOptions {
  store: StoreReader;
  consumer: LogConsumer;
  /** The group whose position the store keeps. */
  group: string;
  tenant?: string;
  /** Gateway time, ms; widened to whole hours, as the counts are kept by hour. */
  from?: number;
  to?: number;
  /** What has a row of its own; default: each tenant. */
  by?: RowsBy;
  /** Older hours are not counted, ms: one of the accounts may have dropped them. */
  keptFrom?: number;
  /** More records in flight than this are not counted one by one; default 5,000,000. */
  inFlightMax?: number;
  /** Ends the audit; it throws the signal's reason. Default: after 60 s. */
  signal?: AbortSignal;
}

export interface Audit {
  rows: AuditRow[];
  /** Null when it can't be told, as `note` says. */
  balanced: boolean | null;
  note: string;
  /** Hours that were counted, ms; absent: all. */
  from?: number;
  to?: number;
}

const HOUR_MS = 3_600_000;
const IN_FLIGHT_MAX = 5_000_000;
const AUDIT_MS = 60_000;
/** Tries to read a pair, and to find a balance in a log that grows. */
const TRIES = 8;
const ATTEMPTS = 3;
/** Rows that are copied each time the account comes closer to balancing. */
const COPIED_MAX = 1_000;

function same(a: Positions, b: Positions): boolean {
  return a.size === b.size && [...a].every(([partition, offset]) => b.get(partition) === offset);
}

/** Reads an account together with the number that changes with it. */
async function pair<T>(
  number: () => Promise<Positions>,
  account: () => Promise<T>,
  signal: AbortSignal,
): Promise<{ before: Positions; after: Positions; account: T }> {
  for (let attempt = 1; ; attempt += 1) {
    signal.throwIfAborted();
    const before = await number();
    const value = await account();
    const after = await number();
    if (same(before, after) || attempt === TRIES) return { before, after, account: value };
  }
}

async function look(options: AuditOptions, scope: Scope, signal: AbortSignal): Promise<Look> {
  const { store, consumer, group } = options;
  const account = new AccountRows(options.by ?? 'tenant');
  const left = await pair(
    () => store.position(group),
    () => store.ledger(scope),
    signal,
  );
  const ends = async () => new Map([...(await consumer.bounds())].map(([p, { end }]) => [p, end]));
  const right = await pair(ends, () => consumer.received(scope), signal);
  account.add(right.account, left.account);
  const firsts = new Map([...(await consumer.bounds())].map(([p, { first }]) => [p, first]));
  const from = new Map(
    [...right.after.keys()].map((p) => [p, left.after.get(p) ?? firsts.get(p) ?? 0]),
  );
  const records = [...right.after].reduce(
    (sum, [p, end]) => sum + Math.max(0, end - (from.get(p) ?? 0)),
    0,
  );
  const uncounted = records > (options.inFlightMax ?? IN_FLIGHT_MAX) ? records : 0;
  const walked =
    uncounted > 0
      ? { rows: account.copy(), balanced: false, gap: false }
      : await walk(
          consumer,
          account,
          scope,
          { from, sure: right.before, until: right.after },
          signal,
        );
  const quiet = same(left.before, left.after) && same(right.before, right.after) && !walked.gap;
  return { rows: walked.rows, balanced: walked.balanced, moved: !quiet, uncounted };
}

/**
 * Counts what is in flight: the records from `from` to `sure`, and on to where the account balances, at
 * most to `until`. `gap`: records were trimmed before they could be counted.
 */
async function walk(
  consumer: LogConsumer,
  account: AccountRows,
  scope: Scope,
  range: { from: Positions; sure: Positions; until: Positions },
  signal: AbortSignal,
): Promise<{ rows: AuditRow[]; balanced: boolean; gap: boolean }> {
  const at = new Map(range.from);
  const short = (of: Positions): boolean => [...of].some(([p, end]) => (at.get(p) ?? 0) < end);
  let best: AuditRow[] | undefined;
  let distance = Number.POSITIVE_INFINITY;
  const balanced = (): boolean => {
    if (short(range.sure)) return false;
    const here = account.distance;
    if (here < distance) {
      distance = here;
      // Of many rows those at the end are shown: copies would cost more than all else.
      best = account.rows.size <= COPIED_MAX ? account.copy() : undefined;
    }
    return here === 0;
  };
  let gap = false;
  if (!balanced() && short(range.until)) {
    const stop = new AbortController();
    const either = AbortSignal.any([stop.signal, signal]);
    reading: for await (const batch of consumer.consume('audit', {
      signal: either,
      from: at,
      alone: true,
    })) {
      const { partition } = batch;
      let offset = batch.firstOffset;
      if (offset > (at.get(partition) ?? 0)) gap = true;
      for (const record of batch.records) {
        if (offset >= (range.until.get(partition) ?? 0)) break;
        offset += 1;
        at.set(partition, offset);
        const items = itemsOf(record, scope);
        if (items > 0) account.inFlight(record, items);
        if (balanced()) break reading;
      }
      if (!short(range.until)) break;
    }
    stop.abort();
    signal.throwIfAborted();
  }
  return { rows: best ?? account.copy(), balanced: distance === 0, gap };
}

/**
 * The account by tenant or device. Never reports a difference that only comes from looking at a running
 * system. Throws what the store and the log throw (LOG_CORRUPT among them), and the signal's reason.
 */
export async function audit(options: AuditOptions): Promise<Audit> {
  const asked = options.from === undefined ? 0 : Math.floor(options.from / HOUR_MS) * HOUR_MS;
  const from = Math.max(asked, options.keptFrom ?? 0) || undefined;
  const scope: Scope = {
    ...(options.tenant !== undefined && { tenant: options.tenant }),
    ...(from !== undefined && { from }),
    ...(options.to !== undefined && { to: Math.ceil(options.to / HOUR_MS) * HOUR_MS }),
  };
  const signal = options.signal ?? AbortSignal.timeout(AUDIT_MS);
  const { consumer } = options;
  const once =
    consumer.account === undefined
      ? () => look(options, scope, signal)
      : () => lookAtSources(options, scope, signal);
  let seen = await once();
  for (let again = 1; again < ATTEMPTS && !seen.balanced && seen.moved; again += 1) {
    if (seen.uncounted > 0 || seen.isFinal === true) break;
    seen = await once();
  }
  const { tenant: _, ...hours } = scope;
  const order = (a: AuditRow, b: AuditRow): number =>
    compare(`${a.tenant}/${a.device ?? ''}`, `${b.tenant}/${b.device ?? ''}`) ||
    (a.hour ?? 0) - (b.hour ?? 0);
  const rows = seen.rows.sort(order);
  if (seen.uncounted > 0) {
    const note = `${seen.uncounted} records are in flight, too many to count; audit again when the backlog is smaller.`;
    return { rows, balanced: null, note, ...hours };
  }
  if (!seen.balanced && seen.moved) {
    const note =
      seen.note ??
      'The system moved too fast for an exact account; audit again, or when it is quieter.';
    return { rows, balanced: null, note, ...hours };
  }
  return { rows, balanced: seen.balanced, note: seen.note ?? '', ...hours };
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** Throws AUDIT_UNBALANCED with the tenants whose messages are not all accounted for. */
export function assertBalanced(result: Audit): void {
  if (result.balanced !== false) return;
  const wrong = result.rows.filter((row) => row.difference !== 0);
  const names = wrong
    .slice(0, 5)
    .map((row) => `${row.tenant}${row.device ? `/${row.device}` : ''} ${row.difference}`);
  throw new SpillwayError('AUDIT_UNBALANCED', `The ledger does not balance: ${names.join(', ')}.`);
}
