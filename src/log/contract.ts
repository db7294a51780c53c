import type { LogRecord, ReceivedCount } from '../core/nouns.ts';

/**
 * The log between ingestion and everything else. Types only.
 *
 * A log has one or more partitions. Within a partition records have offsets that grow by one.
 * All records of a device go to the same partition, in the order in which they were appended.
 */

/** What one message becomes: all of its records are made durable together or not at all. */
export interface AppendRequest {
  /** Encoded records (`log/record.ts`), one JSON object each, without line breaks. */
  records: string[];
  /** One key of `log/record.ts:tallyKey` for each record, for the gateways' own account. */
  tallyKeys: string[];
  /** For `shed` records: how many messages each stands for; 1 where absent. */
  counts?: number[];
}

/** The writing end. */
export interface LogAppender {
  /**
   * Queues one message. `done` is called once, asynchronously, in the order of the calls: without an
   * error after the group commit that holds the records is durable, with a {@link SpillwayError}
   * (LOG_SATURATED, LOG_CLOSED, LOG_WRITE_FAILED) when it will never be. While the disk budget is used
   * up, `done` is not called until there is space again.
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

/** Records of one partition, in order, without gaps unless the log was trimmed. */
export interface LogBatch {
  partition: number;
  firstOffset: number;
  /** Offset behind the last record: where the next batch begins. */
  nextOffset: number;
  records: LogRecord[];
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
}

/** The reading end; any number of groups, each sees every record. */
export interface LogConsumer {
  /** Yields batches as they come, waits when there is none, ends when `signal` aborts. Throws LOG_CORRUPT. */
  consume(group: string, options: ConsumeOptions): AsyncIterable<LogBatch>;
  /** Makes durable that the group needs nothing before `offset`. */
  commit(group: string, partition: number, offset: number): Promise<void>;
  /** Committed offset by partition. */
  committed(group: string): Promise<Map<number, number>>;
  /** First kept and next offset by partition. */
  bounds(): Promise<Map<number, { first: number; end: number }>>;
  /** The gateways' own account of what was received, from durable counts. */
  received(filter: { tenant?: string; from?: number; to?: number }): Promise<ReceivedCount[]>;
  close(): Promise<void>;
}
