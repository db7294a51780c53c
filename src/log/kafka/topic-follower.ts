import { SpillwayError } from '../../core/errors.ts';
import { decompress } from './codecs.ts';
import { closed, corrupt, reasonOf } from './errors.ts';
import { Reader } from './reader.ts';
import { isControl, isIntact, packedRecords, type RawBatch, RecordCursor } from './record-batch.ts';
import type { KafkaLogger, KafkaSettings } from './settings.ts';
import { backoffMs, pause } from './waiting.ts';
import { type Placement, Wire } from './wire.ts';

export interface FollowerOptions {
  settings: KafkaSettings;
  logger: KafkaLogger;
  /** Full name of a topic that exists. */
  topic: string;
  /** Where reading begins. */
  from: 'first' | 'end';
  /** Each record of a partition, in its order. */
  onRecord(key: string | null, value: string | null): void;
  /** The topic can't be read any more: LOG_CORRUPT. */
  onFailed?(error: unknown): void;
}

const LIMITS = { fetchWaitMs: 500, fetchBytesMax: 8 * 2 ** 20, partitionBytesMax: 2 ** 20 };
/** Compressed bytes that wait to be applied; beyond, nothing is fetched. */
const WAITING_BYTES_MAX = 16 * 2 ** 20;

interface Waiter {
  ends: ReadonlyMap<number, number>;
  resolve: () => void;
  reject: (error: unknown) => void;
}

/** Reads all partitions of a topic for itself, in no group, and goes on with what comes. */
export class TopicFollower {
  private readonly options: FollowerOptions;
  private readonly wire: Wire;
  private readonly reader: Reader;
  private readonly closing = new AbortController();
  /** Next offset by partition. */
  private readonly applied = new Map<number, number>();
  private applying: Promise<void> = Promise.resolve();
  private waitingBytes = 0;
  private waiters: Waiter[] = [];
  private failure: { error: unknown } | undefined;
  /** Resolves with the number of partitions when reading begins. Rejects with LOG_CLOSED. */
  readonly started: Promise<number>;

  constructor(options: FollowerOptions) {
    this.options = options;
    const { settings, topic, logger } = options;
    this.wire = new Wire(settings, logger, [topic]);
    this.reader = new Reader(
      settings,
      [topic],
      LIMITS,
      {
        wants: () => this.waitingBytes < WAITING_BYTES_MAX,
        onBatches: (at, batches) => this.take(at, batches),
        onGap: (at, _, first) => this.skip(at, first),
        onNothingBefore: (at, end) => this.skip(at, end),
        onFailed: (error) => this.fail(error),
      },
      logger,
    );
    this.started = this.start();
    this.started.catch((error: unknown) => this.fail(error));
  }

  /** Resolves when everything that is in the topic now has been applied. Rejects with LOG_CORRUPT, LOG_CLOSED. */
  async caughtUp(): Promise<void> {
    await this.started;
    const ends = await this.offsets(false);
    await this.reached(new Map(ends.map(({ partition, offset }) => [partition, offset])));
  }

  /** Resolves when everything before `ends` (by partition) has been applied. Rejects as {@link caughtUp}. */
  reached(ends: ReadonlyMap<number, number>): Promise<void> {
    return new Promise((resolve, reject) => {
      this.waiters.push({ ends, resolve, reject });
      this.settle();
    });
  }

  async close(): Promise<void> {
    this.closing.abort();
    this.fail(closed());
    await Promise.all([this.reader.close(), this.wire.close()]);
  }

  private async start(): Promise<number> {
    const begins = await this.offsets(this.options.from === 'first');
    for (const { partition, offset } of begins) {
      this.applied.set(partition, offset);
      this.reader.start({ topic: this.options.topic, partition }, offset);
    }
    return begins.length;
  }

  private async offsets(earliest: boolean): Promise<(Placement & { offset: number })[]> {
    const { topic, logger } = this.options;
    for (let attempt = 0; ; attempt++) {
      if (this.closing.signal.aborted) throw closed();
      try {
        await this.wire.prepare();
        const length = this.wire.partitions(topic);
        return await this.wire.offsets(
          Array.from({ length }, (_, partition) => ({ topic, partition })),
          earliest,
        );
      } catch (error) {
        logger.debug({ topic, reason: reasonOf(error) }, 'offsets could not be read');
      }
      await pause(backoffMs(attempt), this.closing.signal);
    }
  }

  private take({ partition }: Placement, batches: RawBatch[]): void {
    const bytes = batches.reduce((sum, batch) => sum + batch.bytes.length, 0);
    this.waitingBytes += bytes;
    this.applying = this.applying
      .then(() => this.apply(partition, batches))
      .catch((error: unknown) => this.fail(error))
      .finally(() => {
        this.waitingBytes -= bytes;
        this.reader.wake();
      });
  }

  private async apply(partition: number, batches: RawBatch[]): Promise<void> {
    const { topic } = this.options;
    for (const batch of batches) {
      if (this.failure !== undefined) return;
      if (!isControl(batch)) {
        const where = `partition ${topic}/${partition}, offset ${batch.baseOffset}`;
        if (!isIntact(batch)) throw corrupt(where, 'its checksum does not match');
        await this.read(batch, where);
      }
      this.applied.set(partition, batch.lastOffset + 1);
    }
    this.settle();
  }

  private async read(batch: RawBatch, where: string): Promise<void> {
    const { onRecord, logger } = this.options;
    try {
      const cursor = new RecordCursor(await decompress(packedRecords(batch), batch.attributes));
      while (cursor.next()) onRecord(cursor.key(), cursor.value());
    } catch (error) {
      if (error instanceof SpillwayError) throw error;
      logger.warn({ where, reason: reasonOf(error) }, 'a batch that others wrote does not unpack');
    }
  }

  /** There is nothing before `offset` that could be applied. */
  private skip({ partition }: Placement, offset: number): void {
    this.applying = this.applying.then(() => {
      this.applied.set(partition, Math.max(offset, this.applied.get(partition) ?? 0));
      this.settle();
    });
  }

  private settle(): void {
    const { failure } = this;
    this.waiters = this.waiters.filter(({ ends, resolve, reject }) => {
      if (failure !== undefined) reject(failure.error);
      else if ([...ends].every(([partition, end]) => (this.applied.get(partition) ?? 0) >= end)) {
        resolve();
      } else return true;
      return false;
    });
  }

  private fail(error: unknown): void {
    if (this.failure !== undefined) return;
    this.failure = { error };
    this.settle();
    if (!this.closing.signal.aborted) this.options.onFailed?.(error);
  }
}
