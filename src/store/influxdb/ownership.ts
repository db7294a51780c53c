import { randomUUID } from 'node:crypto';
import type { Clock } from '../../core/clock.ts';
import { SpillwayError } from '../../core/errors.ts';
import type { LineWriter } from './line-writer.ts';
import type { Queries } from './queries.ts';
import {
  partitionKey,
  readSessions,
  type SessionRecord,
  type Sessions,
  successorOf,
  writeSessions,
} from './sessions.ts';

/** A session of this writer. */
export interface Session {
  record: SessionRecord;
  /** Committed states of its cells (`ledger.ts`). */
  cells: Map<string, string>;
  /** Commits since the last look at who has the partition. */
  commits: number;
  /** Another one begins before the next write. */
  isOver: boolean;
}

export interface OwnershipOptions {
  queries: Queries;
  lines: LineWriter;
  bucket: string;
  clock: Clock;
  /** Rows are written for so long after a look at who has the partitions, ms. */
  leaseMs: number;
  /** Called when another writer may have written rows of this writer's devices. */
  onOthers: () => void;
}

/** The same for commits, ms. */
const COMMIT_LEASE_MS = 500;
/**
 * Commits of a session without a look. With the one that is under way when another writer takes over, they
 * are fewer than the values that a cell keeps (`cells.ts`).
 */
const COMMITS_MAX = 2;
/**
 * A look whose answer took longer than the lease is repeated: the process may have stood still with it. Where so
 * many take as long the database is slow, and rows are written all the same.
 */
const LOOKS_MAX = 3;
/** A session is begun anew when another writer began one with the same number at the same moment. */
const BEGINNINGS_MAX = 5;

/**
 * Which partitions this writer has, by its sessions (`sessions.ts`).
 *
 * A worker that was stopped for a while may go on in the middle of a flush when another one has its
 * partitions, and would overwrite newer rows of rollups by older ones. So a session begins before the
 * first row of a partition is written, and rows are sent only when the sessions were looked at within
 * the lease, which is shorter than a log takes to give a silent worker's partitions to another.
 *
 *     none ──rows or commit──▶ own ──a successor is seen──▶ lost ──`position` is called──▶ none
 *
 * What would be written of a lost partition throws STORE_TAKEN_OVER: the log has told the worker, or
 * the worker has to begin again from the position.
 */
export class Ownership {
  private readonly options: OwnershipOptions;
  private readonly id = randomUUID();
  private readonly sessions = new Map<string, Session>();
  private readonly lost = new Set<string>();
  /** By group: the last session of each partition when the position was asked for. */
  private readonly seen = new Map<string, ReadonlyMap<string, SessionRecord>>();
  /** By partition: numbers below were tried, with an outcome that may be unknown. */
  private readonly numberMin = new Map<string, number>();
  /** Whose partitions the rows are: the first group whose position was asked for. */
  private group: string | undefined;
  /** By the monotonic clock, ms. */
  private verifiedAt = Number.NEGATIVE_INFINITY;
  private verifying: Promise<void> | undefined;

  constructor(options: OwnershipOptions) {
    this.options = options;
  }

  /**
   * The worker begins, or got partitions: it knows from `found` where it stands. `askedAt`: when that was asked
   * for, by the monotonic clock, ms.
   */
  renew(group: string, found: Sessions, askedAt: number): void {
    this.group ??= group;
    if (group === this.group) {
      this.verifiedAt = askedAt;
      this.lost.clear();
    }
    const seen = new Map<string, SessionRecord>();
    for (const [key, records] of found) {
      const last = records.at(-1);
      if (last !== undefined) seen.set(key, last);
    }
    this.seen.set(group, seen);
    let hasLost = false;
    for (const [key, session] of this.sessions) {
      if (session.record.group !== group) continue;
      session.commits = 0;
      const last = seen.get(key);
      if (last !== undefined && isSame(last, session.record) && last.next === session.record.next) {
        continue;
      }
      this.sessions.delete(key);
      hasLost = true;
    }
    if (hasLost) this.options.onOthers();
  }

  /** The session for a commit, after {@link take}. Throws STORE_TAKEN_OVER. */
  async session(group: string, partition: number): Promise<Session> {
    const key = partitionKey(group, partition);
    const session = this.sessions.get(key);
    if (session === undefined || session.isOver) throw takenOver(partition);
    const age = performance.now() - this.verifiedAt;
    const isFresh = age <= COMMIT_LEASE_MS && session.commits < COMMITS_MAX;
    if (group === this.group && !isFresh) await this.verify(group);
    if (this.lost.has(key)) throw takenOver(partition);
    session.commits += 1;
    return session;
  }

  /**
   * Nobody knows what of it has been written, or it has become too large: another one begins next. Until then
   * {@link renew} tells by this one whether others came after it.
   */
  end(group: string, partition: number): void {
    const session = this.sessions.get(partitionKey(group, partition));
    if (session === undefined) return;
    session.isOver = true;
    session.cells.clear();
  }

  /**
   * Begins sessions where there are none: before rows of partitions are written, so that others see who has
   * them. Throws STORE_TAKEN_OVER.
   */
  async take(partitions: ReadonlySet<number>, group = this.group): Promise<void> {
    if (group === undefined) return;
    const missing = [...partitions].filter(
      (one) => this.sessions.get(partitionKey(group, one))?.isOver !== false,
    );
    if (missing.length > 0) await this.begin(group, missing);
  }

  /** Before each request with rows, or notes; those of other groups are not held to anything. Throws STORE_TAKEN_OVER. */
  async admit(partitions: ReadonlySet<number>, group = this.group): Promise<void> {
    if (group === undefined || group !== this.group) return;
    for (let looks = 0; looks < LOOKS_MAX && this.sessions.size > 0; looks += 1) {
      if (performance.now() - this.verifiedAt <= this.options.leaseMs) break;
      await this.verify(group);
    }
    for (const partition of partitions) {
      if (this.lost.has(partitionKey(group, partition))) throw takenOver(partition);
    }
  }

  private verify(group: string): Promise<void> {
    this.verifying ??= this.look(group).finally(() => {
      this.verifying = undefined;
    });
    return this.verifying;
  }

  private async look(group: string): Promise<void> {
    const { queries, bucket } = this.options;
    const began = performance.now();
    const found = await readSessions(queries, bucket, group);
    for (const [key, session] of this.sessions) {
      // Of one that is over its own successor may be there already.
      if (session.record.group !== group || session.isOver) continue;
      const last = found.get(key)?.at(-1);
      if (last !== undefined && !isSame(last, session.record)) this.lost.add(key);
      session.commits = 0;
    }
    this.verifiedAt = began;
  }

  private async begin(group: string, partitions: readonly number[]): Promise<void> {
    const { queries, lines, bucket } = this.options;
    let found = await readSessions(queries, bucket, group);
    let missing = partitions;
    for (let beginnings = 1; missing.length > 0; beginnings += 1) {
      if (beginnings > BEGINNINGS_MAX) throw takenOver(missing[0] ?? 0);
      const records = missing.map((partition) => this.successor(group, partition, found));
      await writeSessions(lines, bucket, records);
      found = await readSessions(queries, bucket, group);
      missing = records.filter((one) => !this.hasBegun(one, found)).map((one) => one.partition);
    }
  }

  private successor(group: string, partition: number, found: Sessions): SessionRecord {
    const key = partitionKey(group, partition);
    const known = found.get(key) ?? [];
    const last = known.at(-1);
    const seen = this.seen.get(group);
    // Of another writer, the last session must be the one behind which the worker goes on.
    if (seen !== undefined && last !== undefined && last.by !== this.id) {
      const expected = seen.get(key);
      const isExpected = expected !== undefined && isSame(last, expected);
      if (!isExpected || last.next !== expected.next) throw takenOver(partition);
    }
    const numberMin = this.numberMin.get(key) ?? 1;
    const base = last?.next ?? null;
    const now = this.options.clock.now();
    const record = successorOf(known, { group, partition, base, by: this.id }, now, numberMin);
    this.numberMin.set(key, record.number + 1);
    return record;
  }

  /**
   * False when two writers chose one number at once, since both would write the same cells, and when another
   * one has come after it.
   */
  private hasBegun(record: SessionRecord, found: Sessions): boolean {
    const key = partitionKey(record.group, record.partition);
    const known = found.get(key) ?? [];
    const last = known.at(-1);
    if (last === undefined || !isSame(last, record)) return false;
    if (known.some(({ by, number }) => by !== this.id && number === record.number)) return false;
    this.sessions.set(key, { record, cells: new Map(), commits: 0, isOver: false });
    return true;
  }
}

function isSame(a: SessionRecord, b: SessionRecord): boolean {
  return a.number === b.number && a.time === b.time && a.ns === b.ns;
}

function takenOver(partition: number): SpillwayError {
  return new SpillwayError(
    'STORE_TAKEN_OVER',
    `Another writer has taken over partition ${partition}.`,
  );
}
