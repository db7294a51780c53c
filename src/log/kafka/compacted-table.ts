import { SpillwayError } from '../../core/errors.ts';
import { compress } from './codecs.ts';
import { closed, corrupt, reasonOf } from './errors.ts';
import { Producer, type Shipment } from './producer.ts';
import { RecordWriter } from './record-batch.ts';
import { partitionOf } from './routing.ts';
import type { KafkaLogger, KafkaSettings } from './settings.ts';
import { TopicFollower } from './topic-follower.ts';

export interface CompactedTableOptions<V> {
  settings: KafkaSettings;
  logger: KafkaLogger;
  /** Full name of a topic that exists. */
  topic: string;
  /** Reads a value; what it throws leaves the key as it was, with a warning. */
  decode?(value: string): V;
  /** After each change that came from Kafka, also of our own; undefined: removed. Not before `ready`. */
  onChange?(key: string, value: V | undefined): void;
  /** The topic can't be read any more (LOG_CORRUPT); the table stays as it is. */
  onFailed?(error: unknown): void;
}

const ACKNOWLEDGE_TIMEOUT_MS = 10_000;
/** Of one request: a batch has a limit. */
const PUTS_AT_ONCE = 1_000;
const PUT_BYTES = 512 * 2 ** 10;
/** Calls of `put` that wait for Kafka. */
const WAITING_MAX = 1_000;

type Change = readonly [key: string, value: unknown];

/**
 * A compacted topic as a map, the same in every process: the last value of each key, in the order that
 * Kafka gave. A change is seen elsewhere as soon as Kafka has it, since readers wait at the brokers.
 */
export class CompactedTable<V = unknown> {
  private readonly options: CompactedTableOptions<V>;
  private readonly map = new Map<string, V>();
  private readonly follower: TopicFollower;
  private readonly producer: Producer;
  private putting: Promise<unknown> = Promise.resolve();
  private waiting = 0;
  private isReady = false;
  private isClosed = false;

  constructor(options: CompactedTableOptions<V>) {
    this.options = options;
    const { settings, topic, logger, onFailed } = options;
    this.producer = new Producer(settings, [topic], ACKNOWLEDGE_TIMEOUT_MS, logger);
    this.follower = new TopicFollower({
      settings,
      logger,
      topic,
      from: 'first',
      onRecord: (key, value) => this.apply(key, value),
      onFailed: (error) => {
        logger.warn({ topic, reason: reasonOf(error) }, 'a table can not be read any more');
        onFailed?.(error);
      },
    });
  }

  /** Resolves when everything that was in the topic at the start is in the map. */
  async ready(): Promise<void> {
    await this.follower.caughtUp();
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
   * Tries for as long as it takes; rejects with LOG_CLOSED, or with LOG_SATURATED when too many calls wait.
   */
  put(key: string, value: unknown): Promise<void> {
    return this.putAll([[key, value]]);
  }

  /** The same for many, in their order. Not in one transaction: others may see some before the rest. */
  async putAll(changes: Iterable<Change>): Promise<void> {
    if (this.waiting >= WAITING_MAX) {
      throw new SpillwayError('LOG_SATURATED', 'Kafka: too many changes wait');
    }
    const all = [...changes];
    this.waiting += 1;
    const put = this.putting.then(() => this.sendAll(all));
    this.putting = put.catch(() => {});
    try {
      await put;
    } finally {
      this.waiting -= 1;
    }
  }

  /** Resolves when everything that is in the topic now is in the map. */
  caughtUp(): Promise<void> {
    return this.follower.caughtUp();
  }

  async close(): Promise<void> {
    this.isClosed = true;
    await Promise.all([this.follower.close(), this.producer.close()]);
  }

  private apply(key: string | null, value: string | null): void {
    if (key === null) return;
    const { decode = (text: string) => JSON.parse(text) as V, onChange, logger } = this.options;
    try {
      const decoded = value === null ? undefined : decode(value);
      if (decoded === undefined) this.map.delete(key);
      else this.map.set(key, decoded);
      if (this.isReady) onChange?.(key, decoded);
    } catch (error) {
      logger.warn({ key, reason: reasonOf(error) }, 'a value of the table can not be read');
    }
  }

  private async sendAll(changes: readonly Change[]): Promise<void> {
    const partitions = await this.follower.started;
    let writers = new Map<number, RecordWriter>();
    let records = 0;
    let bytes = 0;
    for (const [key, value] of changes) {
      const partition = partitionOf(key, partitions);
      const writer = writers.get(partition) ?? new RecordWriter(1_024);
      writers.set(partition, writer);
      bytes -= writer.bytes;
      writer.add(Buffer.from(key), value === null ? null : JSON.stringify(value));
      bytes += writer.bytes;
      records += 1;
      if (records >= PUTS_AT_ONCE || bytes >= PUT_BYTES) {
        await this.send(writers);
        writers = new Map();
        records = 0;
        bytes = 0;
      }
    }
    if (records > 0) await this.send(writers);
  }

  private async send(writers: ReadonlyMap<number, RecordWriter>): Promise<void> {
    const { topic } = this.options;
    if (this.isClosed) throw closed();
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
    if (ends.size === shipments.length) await this.follower.reached(ends);
    else await this.follower.caughtUp();
  }
}
