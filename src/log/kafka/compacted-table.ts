import { compress, decompress } from './codecs.ts';
import { closed, corrupt, reasonOf } from './errors.ts';
import { Producer, type Shipment } from './producer.ts';
import { Reader } from './reader.ts';
import {
  isControl,
  packedRecords,
  type RawBatch,
  RecordCursor,
  RecordWriter,
} from './record-batch.ts';
import { partitionOf } from './routing.ts';
import type { KafkaLogger, KafkaSettings } from './settings.ts';
import { backoffMs, pause } from './waiting.ts';
import { type Placement, Wire } from './wire.ts';

export interface CompactedTableOptions<V> {
  settings: KafkaSettings;
  logger: KafkaLogger;
  /** Full name of a topic that exists. */
  topic: string;
  /** Reads a value; what it throws leaves the key as it was, with a warning. */
  decode?(value: string): V;
  /** After each change that came from Kafka, also of our own; undefined: removed. Not before `ready`. */
  onChange?(key: string, value: V | undefined): void;
}

const LIMITS = { fetchWaitMs: 500, fetchBytesMax: 8 * 2 ** 20, partitionBytesMax: 2 ** 20 };
const ACKNOWLEDGE_TIMEOUT_MS = 10_000;
/** Of one request; values are small, and a batch has a limit. */
const PUTS_AT_ONCE = 1_000;

interface Waiter {
  ends: Map<number, number>;
  resolve: () => void;
  reject: (error: unknown) => void;
}

/**
 * A compacted topic as a map, the same in every process: the last value of each key, in the order that
 * Kafka gave. A change is seen elsewhere as soon as Kafka has it, since readers wait at the brokers.
 */
export class CompactedTable<V = unknown> {
  private readonly options: CompactedTableOptions<V>;
  private readonly map = new Map<string, V>();
  private readonly wire: Wire;
  private readonly reader: Reader;
  private readonly closing = new AbortController();
  private producer: Producer | undefined;
  private partitions = 0;
  /** Next offset by partition. */
  private readonly applied = new Map<number, number>();
  private applying: Promise<void> = Promise.resolve();
  private putting: Promise<unknown> = Promise.resolve();
  private waiters: Waiter[] = [];
  private isReady = false;
  private failure: { error: unknown } | undefined;
  private readonly started: Promise<void>;

  constructor(options: CompactedTableOptions<V>) {
    this.options = options;
    const { settings, topic, logger } = options;
    this.wire = new Wire(settings, logger, [topic]);
    this.reader = new Reader(
      settings,
      [topic],
      LIMITS,
      {
        wants: () => true,
        onBatches: (at, batches) => this.take(at, batches),
        onGap: () => {},
        onFailed: (error) => this.fail(error),
      },
      logger,
    );
    this.started = this.start();
    this.started.catch((error: unknown) => this.fail(error));
  }

  /** Resolves when everything that was in the topic at the start is in the map. */
  async ready(): Promise<void> {
    await this.caughtUp();
    this.isReady = true;
  }

  get(key: string): V | undefined {
    return this.map.get(key);
  }

  entries(): Iterable<[string, V]> {
    return this.map.entries();
  }

  get size(): number {
    return this.map.size;
  }

  /**
   * Resolves when all in-sync replicas have the change and this map shows it. `null` removes the key.
   * Tries for as long as it takes; rejects with LOG_CLOSED.
   */
  put(key: string, value: unknown): Promise<void> {
    return this.putAll([[key, value]]);
  }

  /** The same for many, in their order. Not in one transaction: others may see some before the rest. */
  putAll(changes: Iterable<readonly [key: string, value: unknown]>): Promise<void> {
    const all = [...changes];
    const put = this.putting.then(async () => {
      for (let i = 0; i < all.length; i += PUTS_AT_ONCE) {
        await this.send(all.slice(i, i + PUTS_AT_ONCE));
      }
    });
    this.putting = put.catch(() => {});
    return put;
  }

  /** Resolves when everything that is in the topic now is in the map. */
  async caughtUp(): Promise<void> {
    await this.started;
    const ends = await this.offsets(false);
    await this.reached(new Map(ends.map(({ partition, offset }) => [partition, offset])));
  }

  async close(): Promise<void> {
    this.closing.abort();
    this.fail(closed());
    await Promise.all([this.reader.close(), this.producer?.close(), this.wire.close()]);
  }

  private async start(): Promise<void> {
    for (const { partition, offset } of await this.offsets(true)) {
      this.applied.set(partition, offset);
      this.reader.start({ topic: this.options.topic, partition }, offset);
    }
  }

  private async offsets(earliest: boolean): Promise<(Placement & { offset: number })[]> {
    const { topic, logger } = this.options;
    for (let attempt = 0; ; attempt++) {
      if (this.closing.signal.aborted) throw closed();
      try {
        await this.wire.prepare();
        this.partitions = this.wire.partitions(topic);
        const all = Array.from({ length: this.partitions }, (_, partition) => ({
          topic,
          partition,
        }));
        return await this.wire.offsets(all, earliest);
      } catch (error) {
        logger.debug({ reason: reasonOf(error) }, 'offsets could not be read');
      }
      await pause(backoffMs(attempt), this.closing.signal);
    }
  }

  private async send(changes: readonly (readonly [key: string, value: unknown])[]): Promise<void> {
    await this.started;
    if (this.closing.signal.aborted) throw closed();
    const { settings, topic, logger } = this.options;
    this.producer ??= new Producer(settings, [topic], ACKNOWLEDGE_TIMEOUT_MS, logger);
    const writers = new Map<number, RecordWriter>();
    for (const [key, value] of changes) {
      const partition = partitionOf(key, this.partitions);
      const writer = writers.get(partition) ?? new RecordWriter(1_024);
      writers.set(partition, writer);
      writer.add(Buffer.from(key), value === null ? null : JSON.stringify(value));
    }
    const shipments: Shipment[] = [...writers].map(([partition, writer]) => ({
      topic,
      partition,
      codec: 'none',
      records: compress(writer.records, 'none'),
      count: writer.count,
    }));
    const outcomes = await this.producer.send(shipments);
    const ends = new Map<number, number>();
    for (const [i, { partition, count }] of shipments.entries()) {
      const outcome = outcomes[i];
      if (outcome === undefined || 'refusedWith' in outcome) {
        throw corrupt(topic, `values were refused with code ${outcome?.refusedWith}`);
      }
      // A retransmission that the broker recognised may come back without its offset.
      if (outcome.baseOffset >= 0) ends.set(partition, outcome.baseOffset + count);
    }
    if (ends.size === shipments.length) await this.reached(ends);
    else await this.caughtUp();
  }

  private take({ partition }: Placement, batches: RawBatch[]): void {
    this.applying = this.applying
      .then(() => this.apply(partition, batches))
      .catch((error: unknown) => this.fail(error));
  }

  private async apply(partition: number, batches: RawBatch[]): Promise<void> {
    const { decode = (value: string) => JSON.parse(value) as V, onChange, logger } = this.options;
    for (const batch of batches) {
      if (isControl(batch)) continue;
      const cursor = new RecordCursor(await decompress(packedRecords(batch), batch.attributes));
      while (cursor.next()) {
        const key = cursor.key();
        const value = cursor.value();
        if (key === null) continue;
        try {
          const decoded = value === null ? undefined : decode(value);
          if (decoded === undefined) this.map.delete(key);
          else this.map.set(key, decoded);
          if (this.isReady) onChange?.(key, decoded);
        } catch (error) {
          logger.warn({ key, reason: reasonOf(error) }, 'a value of the table can not be read');
        }
      }
      this.applied.set(partition, batch.lastOffset + 1);
    }
    this.settle();
  }

  private reached(ends: Map<number, number>): Promise<void> {
    return new Promise((resolve, reject) => {
      this.waiters.push({ ends, resolve, reject });
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
    this.failure ??= { error };
    this.settle();
  }
}
