import type { LogRecord, ReceivedCount } from '../core/nouns.ts';

/**
 * The log between ingestion and everything else. Types only.
 *
 * A log has one or more partitions. Within a partition records have offsets that grow by one.
 * All records of a device and kind go to the same partition, in the order in which they were appended;
 * a log may keep kinds apart, and then there is no order between them. The partitions that hold the
 * records of one device are always read by the same member of a group.
 */

/** What one message becomes: all of its records are made durable together or not at all. */
export interface AppendRequest {
  /** Encoded records (`log/record.ts`), one JSON object each, without line breaks. */
  records: string[];
  /** One key of `log/record.ts:tallyKey` for each record, for the gateways' own account. */
  tallyKeys: string[];
  /** For `shed` records: how many messages each stands for; 1 where absent. */
  counts?: number[];
  /** True for records that a log which has a lane for old readings puts there; absent: none. */
  backfill?: boolean[];
}

/** The writing end. */
export interface LogAppender {
  /**
   * Queues one message. `done` is called once, asynchronously: without an error, in the order of the calls,
   * after the group commit that holds the records is durable; with a {@link SpillwayError} (LOG_SATURATED,
   * LOG_CLOSED, LOG_WRITE_FAILED) when it will never be, which may come before earlier ones are settled.
   * While the disk budget is used up, `done` is not called until there is space again.
   */
  append(request: AppendRequest, done: (error: Error | null) => void): void;
  /** True while callers should stop reading their sockets; `onRelief` callbacks follow. */
  readonly saturated: boolean;
  /** True while the disk budget is used up. */
  readonly full: boolean;
  /** Calls back each time `saturated` goes from true to false. */
  onRelief(callback: () => void): void;
  stats(): LogStats;
  /** Resolves when everything appended so far is durable. */
  flush(): Promise<void>;
  close(): Promise<void>;
}

export interface LogStats {
  /** Bytes and records that wait for their commit. */
  pendingBytes: number;
  pendingRecords: number;
  /** Next offset to be given. */
  endOffset: number;
  /** First offset that is still kept. */
  firstOffset: number;
  /** Bytes on disk that count against the budget. */
  diskBytes: number;
  diskBytesMax: number;
  full: boolean;
  commits: number;
  /** Duration of the last commit and the mean over the recent ones, ms. */
  commitMsLast: number;
  commitMsMean: number;
  /** Records in the lane for old readings that nobody has processed; about a second old. Absent: no lane. */
  backfillWaiting?: number;
}

/**
 * Who put a record into a shared log, and under which number of its own. A sender that is not sure
 * whether a record arrived sends it again with the same number; numbers of a source only grow within a
 * partition, so a record whose number is not larger than the last one of its source is a retransmission.
 */
export interface RecordSource {
  source: string;
  number: number;
}

/**
 * Records of one partition, in order, without gaps unless the log was trimmed. A log that others can write
 * to leaves out what is no record of ours; a batch may be empty by that.
 */
export interface LogBatch {
  partition: number;
  firstOffset: number;
  /** Offset behind the last record: where the next batch begins. */
  nextOffset: number;
  records: LogRecord[];
  /** The records as they stand in the log, where {@link ConsumeOptions.lines} asked for it. */
  lines?: readonly string[];
  /** One for each record, where the log is filled by senders that may repeat themselves. */
  sources?: readonly RecordSource[];
  /** Gateway time of the batch's commit, ms. */
  appendedAt: number;
}

export interface ConsumeOptions {
  signal: AbortSignal;
  /** Where to begin; default: the group's committed offset, else the log's first. */
  from?: ReadonlyMap<number, number>;
  /** At most about so many records in a batch (a group commit is never split). */
  recordsMax?: number;
  /**
   * Asks for `lines` in place of `records`, which are empty then: for those who pass records on. A log
   * that can't do so gives `records`.
   */
  lines?: boolean;
  /**
   * Reads every partition, beside all groups: nothing is shared with other readers, or committed. A
   * partition without an offset in `from` begins at its first.
   */
  alone?: boolean;
  /** Asked before each batch: true while none of the partition shall be yielded. Asked again soon. */
  holdsBack?(partition: number): boolean;
  /**
   * Where the members of a group share the partitions, the three callbacks say who has which. A log that
   * has one reader for each group never calls them.
   *
   * All or some of the partitions may be taken away. No batch is yielded until the promise has resolved and
   * the members have agreed: then `onRevoked` and `onAssigned` are called for what has changed, if anything,
   * and batches of the rest go on. What the caller has to write of what it was given must be written when
   * the promise resolves. The log waits for a bounded time.
   */
  onRevoking?(partitions: readonly number[]): Promise<void>;
  /**
   * These belong to another member now, or to nobody: what is kept of them in memory has to be forgotten,
   * and nothing of them may be written or committed any more. A batch of them that was yielded before and
   * is not processed yet has to be dropped.
   */
  onRevoked?(partitions: readonly number[]): void;
  /**
   * These are this member's from here on. Resolves with the offsets where they begin; a partition without
   * one begins at `from` when it is assigned for the first time, and else at the committed offset. No batch
   * of them is yielded before.
   */
  onAssigned?(partitions: readonly number[]): Promise<ReadonlyMap<number, number> | undefined>;
}

export interface ReceivedFilter {
  tenant?: string;
  /** Hours of gateway time, ms; `from` inclusive, `to` exclusive. */
  from?: number;
  to?: number;
}

export interface Account {
  counts: ReceivedCount[];
  /** By source, without what stands behind a dot in its name. */
  upTo: Map<string, number>;
  /** Records that senders have made durable and not brought here yet, as far as is known. */
  waiting: number;
}

/** The reading end; any number of groups, each sees every record. */
export interface LogConsumer {
  /** Yields batches as they come, waits when there is none, ends when `signal` aborts. Throws LOG_CORRUPT. */
  consume(group: string, options: ConsumeOptions): AsyncIterable<LogBatch>;
  /** Makes durable that the group needs nothing before `offset`; a smaller one than before changes nothing. */
  commit(group: string, partition: number, offset: number): Promise<void>;
  /** Committed offset by partition. */
  committed(group: string): Promise<Map<number, number>>;
  /** First kept and next offset by partition. */
  bounds(): Promise<Map<number, { first: number; end: number }>>;
  /**
   * Where the readings of a device are, once {@link bounds} were asked for. Absent: the members of a group
   * don't share the partitions.
   */
  partitionOf?(tenant: string, device: string): number | undefined;
  /** All partitions that hold records of a device, once {@link bounds} were asked for. Absent: all of them. */
  partitionsOf?(tenant: string, device: string): readonly number[];
  /** True for partitions that hold the lane of old readings. Absent: there are none. */
  isBackfill?(partition: number): boolean;
  /** The gateways' own account of what was received, from durable counts. */
  received(filter: ReceivedFilter): Promise<ReceivedCount[]>;
  /**
   * The same with how far it reaches, where the log is filled by several senders: the account counts the
   * records of a source with a number below that of `upTo`, and no others. All of these are in the log.
   */
  account?(filter: ReceivedFilter): Promise<Account>;
  close(): Promise<void>;
}
