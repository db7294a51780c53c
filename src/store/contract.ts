import type {
  DeadLetterRecord,
  LedgerCount,
  LetterKey,
  LetterPurge,
  Outcome,
  ReadingRecord,
  RollupRow,
} from '../core/nouns.ts';

export type { Retention } from '../core/nouns.ts';

/**
 * The store of raw readings, rollups, dead letters and the ledger. Types only.
 *
 * Writes are idempotent: the same series and time overwrite. The writer calls, in this order,
 * `writeNotes` where it has some, `writeReadings`, `writeDeadLetters`, `writeRollups`, `commit`; a crash between any two is made good
 * by processing the same records again. Each call is durable (fsync) when it resolves.
 */

/** Where in the log a stored row came from. */
export interface Origin {
  partition: number;
  offset: number;
}

export interface StoredReading extends Omit<ReadingRecord, 'kind' | 'attempt' | 'lane'>, Origin {
  /**
   * Where metrics came from that another record than the row's creator brought. Only in what is read, where
   * {@link RangeQuery.mergedFrom} asked for it, and only in rows that were merged.
   */
  mergedFrom?: Readonly<Record<string, Origin>>;
  /**
   * Only in what is written: the ledger counts this record as the one that is stored. Its row counts as its
   * own then, whichever record created it: records of several partitions may come in another order after
   * a crash.
   */
  claims?: boolean;
}

export interface StoredDeadLetter extends Omit<DeadLetterRecord, 'kind'>, Origin {
  /** Gateway time of the replay that took it, ms; absent while it is open. */
  replayed?: number;
}

/** What a replay makes of a letter. */
export interface LetterMark extends LetterKey {
  tenant: string;
  device: string;
  attempt: number;
  /** Gateway time of the replay that took it, ms; absent where it took nothing. */
  replayed?: number;
}

/** Letters of one device whose contents go. */
export interface DevicePurge extends LetterPurge {
  tenant: string;
  device: string;
  /** Gateway time of the purge, ms. */
  purged: number;
}

export interface RefusedReading {
  reading: StoredReading;
  /** The database's own words. */
  message: string;
}

/** What a consumer has processed, with the ledger lines that this adds; applied atomically. */
export interface Progress {
  group: string;
  partition: number;
  /** Offset behind the last processed record. */
  nextOffset: number;
  /** Counts to add. */
  ledger: LedgerCount[];
  /** The last number processed of each source of the partition, where the log has sources. */
  sources?: ReadonlyMap<string, number>;
}

export interface StoreWriter {
  /**
   * Keeps texts of a consumer for a partition, in place of those before: what it must know again after a crash
   * of what it writes next. Each is at most 20,000 characters of `A-Z a-z 0-9 +`. A crash on the way may leave
   * some of both.
   */
  writeNotes(group: string, partition: number, notes: readonly string[]): Promise<void>;
  /** By partition, in any order; some may be of before. */
  notes(group: string): Promise<Map<number, string[]>>;
  /**
   * Writes raw readings. The key is (tenant, device, ts). Where a row exists, metrics are merged: those
   * of the later offset win, of several partitions those of the higher one; the row keeps the
   * `partition`/`offset`, `received` and `seq` of the record that created it, or claimed it last.
   * Returns readings that the store will never take; all others are durable.
   */
  writeReadings(readings: readonly StoredReading[]): Promise<RefusedReading[]>;
  /** Key: (partition, offset). What is there already, with its marks, stays as it is. */
  writeDeadLetters(letters: readonly StoredDeadLetter[]): Promise<void>;
  /** Notes replays, in order; may be repeated. Letters that are not there any more are passed over. */
  markDeadLetters(marks: readonly LetterMark[]): Promise<void>;
  /**
   * Removes the contents of letters: queries find them no more. That they were there is kept until their
   * retention, so that they can still be counted against the ledger.
   */
  purgeDeadLetters(purge: DevicePurge): Promise<void>;
  /** Key: (windowMs, tenant, device, metric, start). Overwrites. */
  writeRollups(rows: readonly RollupRow[]): Promise<void>;
  /** Adds the ledger lines and moves the position, in one transaction; does nothing when the stored position is already at or past `nextOffset`. Calls for several partitions may be under way at once. */
  commit(progress: Progress): Promise<void>;
  /** Drops what is older than its retention, in whole files; never blocks writes for long. Returns the names of what was dropped. */
  applyRetention(now: number): Promise<string[]>;
  close(): Promise<void>;
}

export interface RangeQuery {
  tenant: string;
  /** Raw readings with {@link StoredReading.mergedFrom}. */
  mergedFrom?: boolean;
  /** All devices of the tenant when absent. */
  devices?: readonly string[];
  /**
   * All metrics when absent. Raw readings come with these metrics only, and those that have none of
   * them are neither returned nor counted.
   */
  metrics?: readonly string[];
  /** Event time, ms, inclusive. */
  from: number;
  /** Event time, ms, exclusive. */
  to: number;
  /** At most so many rows; one more than this tells the caller that there are more. */
  limit?: number;
}

export interface RollupQuery extends RangeQuery {
  windowMs: number;
}

/** Purged letters are found by no query. */
export interface DeadLetterQuery {
  tenant: string;
  devices?: readonly string[];
  code?: string;
  type?: string;
  typeVersion?: string;
  /** Those that a replay has taken, or those that none has; both when absent. */
  state?: 'open' | 'replayed';
  /** Gateway time, ms; `from` inclusive, `to` exclusive. */
  from: number;
  to: number;
  limit?: number;
}

export interface DeadLetterPage extends DeadLetterQuery {
  /** Oldest first; newest first when absent. */
  oldestFirst?: boolean;
  /** Goes on behind this one. */
  after?: Pick<LetterKey, 'received' | 'partition' | 'offset'>;
}

/** Dead letters that have these in common. */
export interface DeadLetterGroup {
  device: string;
  code: string;
  type: string;
  /** Empty where the letters have none. */
  typeVersion: string;
  count: number;
  /** Of `count`, those that no replay has taken. */
  open: number;
  /** Gateway time, ms. */
  oldest: number;
  newest: number;
}

export interface LedgerQuery {
  tenant?: string;
  device?: string;
  /** Hours of gateway time, ms; `from` inclusive, `to` exclusive. */
  from?: number;
  to?: number;
  /** At most so many lines; does not apply to totals. */
  limit?: number;
}

export interface RecountQuery {
  tenant: string;
  /** Hours of gateway time, ms; `from` inclusive, `to` exclusive. */
  from: number;
  to: number;
  /** Event times that the rows may have, ms. Both ranges are walked through, so they have to be finite. */
  tsFrom: number;
  tsTo: number;
  /** Counts only what records before these offsets made, by partition. */
  before: ReadonlyMap<number, number>;
}

/** Of a raw row, ms. */
export interface RowTimes {
  /** Event time. */
  ts: number;
  /** Gateway time. */
  received: number;
}

export interface LatestQuery {
  /** Default: all of the tenant. */
  devices?: readonly string[] | undefined;
  /** Exclusive, event time, ms. */
  before?: number | undefined;
}

export interface StoreReader {
  /** Ordered by device, then ts. */
  readings(query: RangeQuery): Promise<StoredReading[]>;
  /** Ordered by device, metric, start. */
  rollups(query: RollupQuery): Promise<RollupRow[]>;
  /** Number of raw rows for each device. */
  countReadings(query: RangeQuery): Promise<Map<string, number>>;
  /** Newest event time for each device that has raw rows, those of before a time only where one is given. */
  latest(tenant: string, query?: LatestQuery): Promise<Map<string, number>>;
  /** The same rows, also with when they came. */
  newest(tenant: string, query?: LatestQuery): Promise<Map<string, RowTimes>>;
  /** Ordered by received, then partition and offset; newest first unless told otherwise. */
  deadLetters(query: DeadLetterPage): Promise<StoredDeadLetter[]>;
  /** Ordered by device, code, type, version; `limit` does not apply. */
  groupDeadLetters(query: DeadLetterQuery): Promise<DeadLetterGroup[]>;
  /** Counts by device and code, purged and replayed ones included; `limit` and `state` do not apply. */
  countDeadLetters(
    query: DeadLetterQuery,
  ): Promise<{ device: string; code: string; count: number }[]>;
  /** Devices of a tenant that have data, and the metrics that each has. */
  series(tenant: string): Promise<{ device: string; metrics: string[] }[]>;
  ledger(query: LedgerQuery): Promise<LedgerCount[]>;
  /** Sum of the ledger by outcome. */
  ledgerTotals(query: LedgerQuery): Promise<Map<Outcome, number>>;
  /**
   * Counts what is there, row by row: raw readings as `stored`, dead letters by code, purged ones too. Takes
   * its time, and in an engine that reads in its own thread the thread's.
   */
  recount(query: RecountQuery): Promise<LedgerCount[]>;
  /** Next offset to process by partition. A writer's rows are those of the first group that it asks for. */
  position(group: string): Promise<Map<number, number>>;
  /** The last number processed by partition and source. Absent: the engine cannot stand behind a log with sources. */
  sources?(group: string): Promise<Map<number, Map<string, number>>>;
  close(): Promise<void>;
}

export interface Store extends StoreWriter, StoreReader {}
