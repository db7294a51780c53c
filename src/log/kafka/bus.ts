import { compress } from './codecs.ts';
import { reasonOf } from './errors.ts';
import { Producer } from './producer.ts';
import { RecordWriter } from './record-batch.ts';
import { partitionOf } from './routing.ts';
import type { KafkaLogger, KafkaSettings } from './settings.ts';
import { TopicFollower } from './topic-follower.ts';

export interface BusOptions {
  settings: KafkaSettings;
  logger: KafkaLogger;
  /** Full name of a topic that exists. */
  topic: string;
  /** Messages that come after the bus was opened, of all processes; absent: none are read. */
  onMessage?: (key: string, value: string) => void;
}

const ACKNOWLEDGE_TIMEOUT_MS = 5_000;
/** Messages that wait for Kafka. */
const WAITING_MAX = 1_000;

/**
 * Messages that every process gets which listens at the time; nobody gets old ones. No consumer group:
 * each process reads all partitions from their ends.
 */
export class Bus {
  private readonly topic: string;
  private readonly follower: TopicFollower | undefined;
  private readonly producer: Producer;
  private sending: Promise<unknown> = Promise.resolve();
  private waiting = 0;

  constructor({ settings, topic, logger, onMessage }: BusOptions) {
    this.topic = topic;
    this.producer = new Producer(settings, [topic], ACKNOWLEDGE_TIMEOUT_MS, logger);
    if (onMessage === undefined) return;
    this.follower = new TopicFollower({
      settings,
      logger,
      topic,
      from: 'end',
      onRecord: (key, value) => {
        if (value !== null) onMessage(key ?? '', value);
      },
      onFailed: (error) =>
        logger.warn({ topic, reason: reasonOf(error) }, 'a topic can not be read'),
    });
  }

  /** Resolves when it listens. Rejects with LOG_CLOSED. */
  async ready(): Promise<void> {
    await this.follower?.started;
  }

  /** Resolves when all in-sync replicas have it. False, at once, when too many wait. */
  async send(key: string, value: string): Promise<boolean> {
    if (this.waiting >= WAITING_MAX) return false;
    this.waiting += 1;
    const sent = this.sending.then(() => this.ship(key, value));
    this.sending = sent.catch(() => {});
    try {
      await sent;
      return true;
    } finally {
      this.waiting -= 1;
    }
  }

  async close(): Promise<void> {
    await Promise.all([this.follower?.close(), this.producer.close()]);
  }

  private async ship(key: string, value: string): Promise<void> {
    const { topic } = this;
    const partition = partitionOf(key, await this.producer.partitions(topic));
    const writer = new RecordWriter(1_024);
    writer.add(Buffer.from(key), value);
    const records = compress(writer.records, 'none');
    const [outcome] = await this.producer.send([
      { topic, partition, codec: 'none', records, count: 1 },
    ]);
    if (outcome === undefined || 'refusedWith' in outcome) {
      throw new Error(`Kafka refused a message with code ${outcome?.refusedWith}`);
    }
  }
}
