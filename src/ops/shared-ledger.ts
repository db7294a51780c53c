import { setTimeout as sleep } from 'node:timers/promises';
import { counted } from '../core/counted.ts';
import type { Account, LogConsumer } from '../log/contract.ts';
import type { StoreReader } from '../store/contract.ts';
import {
  AccountRows,
  itemsOf,
  type Look,
  type Positions,
  type RowsBy,
  type Scope,
} from './account-rows.ts';

/**
 * The account of a log that several gateways fill, each of which may repeat itself. Here R, what the
 * gateways received, is not written together with the log's ends, but says of each gateway up to which of
 * its own numbers it counts, U; all of these records are in the log. And the ledger L comes with the
 * numbers S of each source that the workers have processed. So
 *
 *     in flight = the records from the store's position on whose number is below U and above S,
 *
 * whatever else the log holds, and the account is exact when no S has passed its U: then R is read again,
 * since a gateway writes it about once a second.
 */

const TRIES = 8;
const IN_FLIGHT_MAX = 5_000_000;
/** How long a gateway's account may be behind what was processed, before it is taken for gone. */
const BEHIND_TRIES = 20;
const BEHIND_PAUSE_MS = 250;

export interface SharedLookOptions {
  store: StoreReader;
  consumer: LogConsumer;
  group: string;
  by?: RowsBy;
  inFlightMax?: number;
}

type Numbers = Map<number, Map<string, number>>;

export async function lookAtSources(
  options: SharedLookOptions,
  scope: Scope,
  signal: AbortSignal,
): Promise<Look> {
  const { consumer } = options;
  const left = await readLedger(options, scope, signal);
  const { account, behind } = await accountOf(consumer, left.sources, scope, signal);
  const rows = new AccountRows(options.by ?? 'tenant');
  rows.add(account.counts, left.ledger);
  const bounds = await consumer.bounds();
  const until = new Map([...bounds].map(([p, { end }]) => [p, end]));
  const from = new Map([...bounds].map(([p, { first }]) => [p, left.position.get(p) ?? first]));
  const records = [...until].reduce(
    (sum, [p, end]) => sum + Math.max(0, end - (from.get(p) ?? 0)),
    0,
  );
  if (records > (options.inFlightMax ?? IN_FLIGHT_MAX)) {
    return { rows: rows.copy(), balanced: false, moved: true, uncounted: records };
  }
  const gap = await countInFlight(
    { consumer, rows, scope, account, signal },
    left.sources,
    from,
    until,
  );
  const balanced = rows.unbalanced === 0;
  const moved = !left.stable || gap || behind.length > 0;
  const note = noteOf(balanced ? [] : behind, account.waiting);
  return {
    ...{ rows: rows.copy(), balanced, moved, uncounted: 0, isFinal: behind.length > 0 },
    ...(note !== '' && { note }),
  };
}

/** The source that a gateway's own name stands for: what is behind a dot tells its parts apart. */
function gatewayOf(source: string): string {
  const dot = source.indexOf('.');
  return dot < 0 ? source : source.slice(0, dot);
}

/** Position, ledger and numbers of one moment. */
async function readLedger({ store, group }: SharedLookOptions, scope: Scope, signal: AbortSignal) {
  for (let attempt = 1; ; attempt += 1) {
    signal.throwIfAborted();
    const position = await store.position(group);
    const [ledger, sources] = await Promise.all([
      store.ledger(scope),
      store.sources?.(group) ?? Promise.resolve<Numbers>(new Map()),
    ]);
    const stable = same(position, await store.position(group));
    if (stable || attempt === TRIES) return { position, ledger, sources, stable };
  }
}

function same(a: Positions, b: Positions): boolean {
  return a.size === b.size && [...a].every(([partition, offset]) => b.get(partition) === offset);
}

/** The gateways' account, when it has everything that was processed; else with those that are behind. */
async function accountOf(
  consumer: LogConsumer,
  processed: Numbers,
  scope: Scope,
  signal: AbortSignal,
): Promise<{ account: Account; behind: string[] }> {
  const reached = new Map<string, number>();
  for (const numbers of processed.values()) {
    for (const [source, number] of numbers) {
      const gateway = gatewayOf(source);
      reached.set(gateway, Math.max(reached.get(gateway) ?? -1, number));
    }
  }
  for (let attempt = 1; ; attempt += 1) {
    signal.throwIfAborted();
    const account = (await consumer.account?.(scope)) ?? {
      counts: [],
      upTo: new Map(),
      waiting: 0,
    };
    const behind = [...reached]
      .filter(([gateway, number]) => number >= (account.upTo.get(gateway) ?? 0))
      .map(([gateway]) => gateway);
    if (behind.length === 0 || attempt === BEHIND_TRIES) return { account, behind };
    await sleep(BEHIND_PAUSE_MS, undefined, { signal });
  }
}

/** True when records were trimmed before they could be counted. */
async function countInFlight(
  parts: {
    consumer: LogConsumer;
    rows: AccountRows;
    scope: Scope;
    account: Account;
    signal: AbortSignal;
  },
  processed: Numbers,
  from: ReadonlyMap<number, number>,
  until: ReadonlyMap<number, number>,
): Promise<boolean> {
  const at = new Map(from);
  const isShort = () => [...until].some(([p, end]) => (at.get(p) ?? 0) < end);
  if (!isShort()) return false;
  const { consumer, rows, scope, account, signal } = parts;
  const seen: Numbers = new Map([...processed].map(([p, numbers]) => [p, new Map(numbers)]));
  const stop = new AbortController();
  let gap = false;
  for await (const batch of consumer.consume('audit', {
    signal: AbortSignal.any([stop.signal, signal]),
    from: at,
    alone: true,
  })) {
    const { partition, firstOffset, nextOffset, records, sources } = batch;
    const end = until.get(partition) ?? 0;
    const numbers = seen.get(partition) ?? new Map<string, number>();
    seen.set(partition, numbers);
    records.forEach((record, i) => {
      const from = sources?.[i];
      if (from === undefined || firstOffset + i >= end) return;
      if (from.number <= (numbers.get(from.source) ?? -1)) return;
      numbers.set(from.source, from.number);
      const isCounted = from.number < (account.upTo.get(gatewayOf(from.source)) ?? 0);
      const items = isCounted ? itemsOf(record, scope) : 0;
      if (items > 0) rows.inFlight(record, items);
    });
    at.set(partition, nextOffset);
    if (!isShort()) break;
  }
  stop.abort();
  signal.throwIfAborted();
  for (const [partition, { first }] of await consumer.bounds()) {
    if (first > (from.get(partition) ?? 0)) gap = true;
  }
  return gap;
}

function noteOf(behind: readonly string[], waiting: number): string {
  if (behind.length > 0) {
    return `The account of the gateway with the spool ${behind[0]} is behind what it brought to the log; when it is gone, start it again on its data directory.`;
  }
  if (waiting === 0) return '';
  return `${counted(waiting, 'record waits', 'records wait')} on the disks of gateways for Kafka, in no column yet.`;
}
