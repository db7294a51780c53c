import { compress, decompress } from './codecs.ts';
import { closed, reasonOf } from './errors.ts';
import { Producer } from './producer.ts';
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

export interface BusOptions {
  settings: KafkaSettings;
  logger: KafkaLogger;
  /** Full name of a topic that exists. */
  topic: string;
  /** Messages that come after the bus was opened, of all processes; absent: none are read. */
  onMessage?: (key: string, value: string) => void;
}

const LIMITS = { fetchWaitMs: 500, fetchBytesMax: 4 * 2 ** 20, partitionBytesMax: 2 ** 20 };
const ACKNOWLEDGE_TIMEOUT_MS = 5_000;
/** Messages that wait for Kafka. */
const WAITING_MAX = 1_000;

/**
 * Messages that every process gets which listens at the time; nobody gets old ones. No consumer group:
 * each process reads all partitions from their ends.
 */
export class Bus {
  private readonly options: BusOptions;
  private readonly wire: Wire;
  private readonly reader: Reader;
  private readonly producer: Producer;
  private readonly closing = new AbortController();
  private applying: Promise<void> = Promise.resolve();
  private sending: Promise<unknown> = Promise.resolve();
  private waiting = 0;
  private readonly started: Promise<number>;

  constructor(options: BusOptions) {
    const { settings, topic, logger } = options;
    this.options = options;
    this.wire = new Wire(settings, logger, [topic]);
    this.producer = new Producer(settings, [topic], ACKNOWLEDGE_TIMEOUT_MS, logger);
    this.reader = new Reader(
      settings,
      [topic],
      LIMITS,
      {
        wants: () => true,
        onBatches: (_, batches) => {
          this.applying = this.applying.then(() => this.apply(batches));
        },
        onGap: () => {},
        onFailed: (error) =>
          logger.warn({ topic, reason: reasonOf(error) }, 'a topic can not be read'),
      },
      logger,
    );
    this.started = this.start();
    this.started.catch(() => {});
  }

  /** Resolves when it listens. Rejects with LOG_CLOSED. */
  async ready(): Promise<void> {
    await this.started;
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
    this.closing.abort();
    await Promise.all([this.reader.close(), this.producer.close(), this.wire.close()]);
  }

  /** Resolves with the number of partitions. */
  private async start(): Promise<number> {
    const { topic, logger, onMessage } = this.options;
    for (let attempt = 0; ; attempt++) {
      if (this.closing.signal.aborted) throw closed();
      try {
        await this.wire.prepare();
        const all: Placement[] = Array.from(
          { length: this.wire.partitions(topic) },
          (_, partition) => ({ topic, partition }),
        );
        if (onMessage !== undefined) {
          for (const { partition, offset } of await this.wire.offsets(all, false)) {
            this.reader.start({ topic, partition }, offset);
          }
        }
        return all.length;
      } catch (error) {
        logger.debug({ topic, reason: reasonOf(error) }, 'the ends of a topic are not known yet');
      }
      await pause(backoffMs(attempt), this.closing.signal);
    }
  }

  private async ship(key: string, value: string): Promise<void> {
    const partition = partitionOf(key, await this.started);
    const writer = new RecordWriter(1_024);
    writer.add(Buffer.from(key), value);
    const records = compress(writer.records, 'none');
    const { topic } = this.options;
    const [outcome] = await this.producer.send([
      { topic, partition, codec: 'none', records, count: 1 },
    ]);
    if (outcome === undefined || 'refusedWith' in outcome) {
      throw new Error(`Kafka refused a message with code ${outcome?.refusedWith}`);
    }
  }

  private async apply(batches: RawBatch[]): Promise<void> {
    const { topic, logger, onMessage } = this.options;
    for (const batch of batches) {
      if (isControl(batch)) continue;
      try {
        const cursor = new RecordCursor(await decompress(packedRecords(batch), batch.attributes));
        while (cursor.next()) {
          const value = cursor.value();
          if (value !== null) onMessage?.(cursor.key() ?? '', value);
        }
      } catch (error) {
        logger.warn({ topic, reason: reasonOf(error) }, 'messages of a topic can not be read');
      }
    }
  }
}
