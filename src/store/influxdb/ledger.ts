import { setImmediate as turn } from 'node:timers/promises';
import type { LedgerCount, Outcome } from '../../core/nouns.ts';
import type { LedgerQuery, Progress } from '../contract.ts';
import { type CellKey, cellLine, newestValue, nextState, readCells } from './cells.ts';
import type { Connection } from './connection.ts';
import type { LineWriter } from './line-writer.ts';
import type { Ownership, Session } from './ownership.ts';
import type { Queries } from './queries.ts';
import { partitionKey, type SessionRecord, writeAll, writeSessions } from './sessions.ts';

export interface LedgerWriterOptions {
  ownership: Ownership;
  lines: LineWriter;
  bucket: string;
  /** Cells that one session remembers; with more, another session begins. */
  cellsMax: number;
}

interface Waiting {
  key: string;
  progress: Progress;
  resolve: () => void;
  reject: (error: unknown) => void;
}

/** What a commit writes, and what is remembered of it afterwards. */
interface Step {
  session: Session;
  moved: SessionRecord;
  states: Map<string, string>;
}

/**
 * Commits progress, exactly once whatever fails in between (`sessions.ts`). Partitions that are committed
 * at once share two requests: one for all cells, then one for all positions.
 */
export class LedgerWriter {
  private readonly options: LedgerWriterOptions;
  private waiting: Waiting[] = [];
  private isCommitting = false;

  constructor(options: LedgerWriterOptions) {
    this.options = options;
  }

  commit(progress: Progress): Promise<void> {
    return new Promise((resolve, reject) => {
      const key = partitionKey(progress.group, progress.partition);
      this.waiting.push({ key, progress, resolve, reject });
      if (!this.isCommitting) void this.commitWaiting();
    });
  }

  private async commitWaiting(): Promise<void> {
    this.isCommitting = true;
    while (this.waiting.length > 0) {
      await turn();
      // One of each partition at a time.
      const going = new Map<string, Waiting>();
      const later: Waiting[] = [];
      for (const one of this.waiting) {
        if (going.has(one.key)) later.push(one);
        else going.set(one.key, one);
      }
      this.waiting = later;
      try {
        await this.commitAll([...going.values()]);
        for (const { resolve } of going.values()) resolve();
      } catch (error) {
        // Nobody knows what of it has been written: new sessions find out and start from there.
        for (const { progress } of going.values()) {
          this.options.ownership.end(progress.group, progress.partition);
        }
        for (const { reject } of going.values()) reject(error);
      }
    }
    this.isCommitting = false;
  }

  private async commitAll(going: readonly Waiting[]): Promise<void> {
    const { ownership, lines, bucket, cellsMax } = this.options;
    const steps: Step[] = [];
    const texts: string[] = [];
    for (const [group, partitions] of partitionsOf(going)) await ownership.take(partitions, group);
    for (const { progress } of going) {
      const session = await ownership.session(progress.group, progress.partition);
      const { next } = session.record;
      if (next === null || next < progress.nextOffset) {
        steps.push({ session, ...stepOf(session, progress, texts) });
      }
    }
    await writeAll(lines, bucket, texts);
    await writeSessions(
      lines,
      bucket,
      steps.map(({ moved }) => moved),
    );
    for (const { session, moved, states } of steps) {
      session.record = moved;
      for (const [key, state] of states) session.cells.set(key, state);
      const { group, partition } = moved;
      if (session.cells.size > cellsMax) ownership.end(group, partition);
    }
  }
}

function partitionsOf(going: readonly Waiting[]): Map<string, Set<number>> {
  const groups = new Map<string, Set<number>>();
  for (const { progress } of going) {
    const { group, partition } = progress;
    groups.set(group, (groups.get(group) ?? new Set()).add(partition));
  }
  return groups;
}

/** Adds the lines of changed cells to `texts`. */
function stepOf(
  { record, cells }: Session,
  progress: Progress,
  texts: string[],
): Omit<Step, 'session'> {
  const { group, partition, nextOffset } = progress;
  const states = new Map<string, string>();
  for (const [key, change] of changesOf(progress)) {
    const before = cells.get(key);
    const newest = newestValue(before);
    const value = change.isSum ? newest + change.value : change.value;
    if (before !== undefined && value === newest) continue;
    const state = nextState(before, value, nextOffset);
    states.set(key, state);
    texts.push(cellLine(group, partition, record.number, change.key, state));
  }
  return { moved: { ...record, next: nextOffset }, states };
}

interface Change {
  key: CellKey;
  value: number;
  /** Added to the cell, or put in its place. */
  isSum: boolean;
}

function changesOf({ ledger, sources = new Map() }: Progress): Map<string, Change> {
  const changes = new Map<string, Change>();
  const add = (key: CellKey, value: number, isSum: boolean): void => {
    const text = keyOf(key);
    const change = changes.get(text);
    if (change === undefined) changes.set(text, { key, value, isSum });
    else change.value = isSum ? change.value + value : value;
  };
  for (const { tenant, device, hour, outcome, code, count } of ledger) {
    const tags = { tenant, device, outcome, code };
    add({ measurement: 'ledger', time: hour, tags }, count, true);
    add({ measurement: 'ledger_total', time: 0, tags: { tenant, outcome } }, count, true);
  }
  for (const [source, number] of sources) {
    add({ measurement: 'source', time: 0, tags: { source } }, number, false);
  }
  return changes;
}

function keyOf({ measurement, time, tags }: CellKey): string {
  return `${measurement} ${time} ${Object.values(tags).join(' ')}`;
}

/** Drops the lines of hours before `cutoff`, ms. Totals and positions stand at other times and stay. */
export async function forgetLedger(
  connection: Connection,
  org: string,
  bucket: string,
  cutoff: number,
): Promise<void> {
  await connection.write({
    method: 'POST',
    path: `/api/v2/delete?${new URLSearchParams({ org, bucket })}`,
    headers: { 'content-type': 'application/json; charset=utf-8' },
    body: JSON.stringify({
      start: new Date(0).toISOString(),
      stop: new Date(cutoff - 1).toISOString(),
      predicate: '_measurement="ledger"',
    }),
    status: 204,
  });
}

/** Ordered by tenant, device, hour, outcome, code. */
export async function queryLedger(
  queries: Queries,
  bucket: string,
  query: LedgerQuery,
): Promise<LedgerCount[]> {
  const { tenant, device, limit } = query;
  if (isEmpty(query)) return [];
  const cells = await readCells(queries, bucket, {
    measurement: 'ledger',
    tags: { tenant, device },
    ...rangeOf(query),
  });
  const lines = new Map<string, LedgerCount>();
  for (const { time, tags, value } of cells) {
    const { tenant = '', device = '', outcome = '', code = '' } = tags;
    const key = `${tenant}/${device}/${time}/${outcome}/${code}`;
    const line = lines.get(key);
    if (line !== undefined) line.count += value;
    else {
      lines.set(key, {
        tenant,
        device,
        hour: time,
        outcome: outcome as Outcome,
        code,
        count: value,
      });
    }
  }
  const sorted = [...lines.values()].sort(
    (a, b) =>
      compare(a.tenant, b.tenant) ||
      compare(a.device, b.device) ||
      a.hour - b.hour ||
      compare(a.outcome, b.outcome) ||
      compare(a.code, b.code),
  );
  return limit === undefined ? sorted : sorted.slice(0, limit);
}

/** Sums by outcome. Of a whole tenant, or all, without a range of hours they come from running totals. */
export async function queryLedgerTotals(
  queries: Queries,
  bucket: string,
  query: LedgerQuery,
): Promise<Map<Outcome, number>> {
  const { tenant, device, from, to } = query;
  if (isEmpty(query)) return new Map();
  const isWhole = device === undefined && from === undefined && to === undefined;
  const cells = await readCells(queries, bucket, {
    measurement: isWhole ? 'ledger_total' : 'ledger',
    tags: { tenant, device },
    ...rangeOf(query),
  });
  const totals = new Map<string, number>();
  for (const { tags, value } of cells) {
    const { outcome = '' } = tags;
    totals.set(outcome, (totals.get(outcome) ?? 0) + value);
  }
  const sorted = [...totals].sort(([a], [b]) => compare(a, b));
  return new Map(sorted as [Outcome, number][]);
}

/** The last number processed by partition and source. Numbers of a source only grow. */
export async function querySources(
  queries: Queries,
  bucket: string,
  group: string,
): Promise<Map<number, Map<string, number>>> {
  const cells = await readCells(queries, bucket, { measurement: 'source', group });
  const partitions = new Map<number, Map<string, number>>();
  for (const { partition, tags, value } of cells) {
    const sources = partitions.get(partition) ?? new Map<string, number>();
    const { source = '' } = tags;
    sources.set(source, Math.max(value, sources.get(source) ?? value));
    partitions.set(partition, sources);
  }
  return new Map([...partitions].sort(([a], [b]) => a - b));
}

/** Next offset to process by partition, of the sessions of one group. */
export function positionsOf(
  sessions: ReadonlyMap<string, readonly SessionRecord[]>,
): Map<number, number> {
  const positions: [number, number][] = [];
  for (const records of sessions.values()) {
    const last = records.at(-1);
    if (last !== undefined && last.next !== null) positions.push([last.partition, last.next]);
  }
  return new Map(positions.sort(([a], [b]) => a - b));
}

function isEmpty({ from = 0, to = Number.POSITIVE_INFINITY, limit }: LedgerQuery): boolean {
  return !(from < to) || limit === 0;
}

function rangeOf({ from, to }: LedgerQuery): { from?: number; to?: number } {
  return { ...(from === undefined ? {} : { from }), ...(to === undefined ? {} : { to }) };
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
