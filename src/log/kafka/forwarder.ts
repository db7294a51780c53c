import type { LogBatch, LogConsumer } from '../contract.ts';
import { createKafka } from './client.ts';
import type { WrittenCodec } from './codecs.ts';
import { reasonOf } from './errors.ts';
import { Parcel } from './parcel.ts';
import { Producer } from './producer.ts';
import { type TallySource, TallyWriter } from './received-tally.ts';
import { Router } from './routing.ts';
import type { KafkaLogger, KafkaSettings } from './settings.ts';
import { Shipping } from './shipping.ts';
import {
  ensureTopics,
  fullName,
  LOG_TOPICS,
  type LogTopic,
  type ReadingsTopic,
  type TopicFacts,
  type TopicName,
  type TopicsSettings,
} from './topics.ts';
import { Bell, backoffMs, pause, within } from './waiting.ts';

/** The forwarder's consumer group of the spool. */
export const FORWARDER_GROUP = 'forwarder';

export interface ForwarderOptions {
  settings: KafkaSettings;
  topics: TopicsSettings;
  /** The reading end of the spool; the caller closes it after the forwarder. */
  spool: LogConsumer & TallySource;
  /**
   * The spool's own name in `source` headers, `[A-Za-z0-9_-]{1,64}`. It must be made with the spool's
   * files and end with them: a new spool with an old name would have its records taken for retransmissions.
   */
  source: string;
  /** Where readings go; default `readings`. */
  readingsTopic?: ReadingsTopic;
  codec: WrittenCodec;
  /** A parcel is sent when it holds so many bytes before compression, or at this age. */
  parcelBytesMax: number;
  lingerMs: number;
  /** How long brokers wait for all replicas in one attempt, ms. */
  acknowledgeTimeoutMs: number;
  /** Longest time between two commits of the spool's offset, ms: what a crash sends again. */
  commitIntervalMs: number;
  /** Longest time between two writes of the gateway's account while it changes, ms. */
  tallyIntervalMs: number;
  /** Code and advice of dead letters for records that Kafka refuses. */
  refusal: { code: string; message: string };
  deadLetterPayloadBytesMax: number;
  logger: KafkaLogger;
  /** After each parcel: everything in the spool before this offset is in Kafka. */
  onForwarded?(spoolOffset: number): void;
  /** The spool can't be read any more; nothing is forwarded from here on. */
  onFailed?(error: unknown): void;
}

/** Since the start. */
export interface ForwarderStats {
  /** Offset of the spool before which everything is in Kafka; undefined while that is not known. */
  forwardedOffset: number | undefined;
  records: number;
  parcels: number;
  /** Before compression, and as sent. */
  bytes: number;
  packedBytes: number;
  /** Records that became dead letters because Kafka refused them. */
  refused: number;
  retries: number;
  /** Why Kafka is away at the moment; undefined while it is there. */
  lastError: string | undefined;
}

const RECORDS_MAX = 4_000;

type Arrived = { batch: LogBatch | undefined } | { error: unknown };

/**
 * Brings the spool to Kafka, in its order. One parcel is sent while the next one is filled; the spool's
 * offset is committed after Kafka has acknowledged everything before it, so that a crash at any point
 * sends again but never skips. Records sent again bear the same `source` and `number`.
 */
export class Forwarder {
  private readonly options: ForwarderOptions;
  private readonly reading = new AbortController();
  private readonly bell = new Bell();
  private producer: Producer | undefined;
  private shipping: Shipping | undefined;
  private tally: TallyWriter | undefined;
  private arrived: Arrived | undefined;
  private sending: Promise<void> | undefined;
  private forwarded: number | undefined;
  private committed = 0;
  private committedAt = 0;
  private spoolPartition = 0;
  private spoolEnd = 0;
  private failure: { error: unknown } | undefined;
  /** Least gateway time of what was forwarded since the account was written, ms; undefined: none. */
  private untallied: number | undefined = 0;
  private talliedAt = Number.NEGATIVE_INFINITY;
  private drains: { target: number; resolve: () => void }[] = [];
  private records = 0;
  private parcels = 0;
  private bytes = 0;
  private startError: string | undefined;
  private readonly done: Promise<void>;

  /** Starts in the background and tries for as long as it takes; Kafka may be away. */
  constructor(options: ForwarderOptions) {
    this.options = options;
    this.done = this.run().catch((error: unknown) => {
      if (this.reading.signal.aborted) return;
      options.logger.warn({ err: error }, 'the forwarder has failed');
      options.onFailed?.(error);
    });
  }

  stats(): ForwarderStats {
    return {
      forwardedOffset: this.forwarded,
      records: this.records,
      parcels: this.parcels,
      bytes: this.bytes,
      packedBytes: this.shipping?.packedBytes ?? 0,
      refused: this.shipping?.refused ?? 0,
      retries: this.producer?.stats.retries ?? 0,
      lastError: this.producer === undefined ? this.startError : this.producer.stats.lastError,
    };
  }

  /** Resolves when everything that is in the spool now is in Kafka, and the gateway's account of it. */
  async drained(): Promise<void> {
    const bounds = await this.options.spool.bounds();
    const target = Math.max(0, ...[...bounds.values()].map(({ end }) => end));
    await new Promise<void>((resolve) => {
      this.drains.push({ target, resolve });
      this.bell.ring();
    });
  }

  /** Ends after the parcel that is being sent, or without its answer after `patienceMs`. */
  async close(patienceMs = 5_000): Promise<void> {
    this.reading.abort();
    this.bell.ring();
    await within(this.done, patienceMs);
    await this.producer?.close();
    await this.done;
  }

  private async run(): Promise<void> {
    const { signal } = this.reading;
    const facts = await this.prepare();
    if (facts === undefined) return;
    const router = this.open(facts);
    for (const [partition, offset] of await this.options.spool.committed(FORWARDER_GROUP)) {
      this.spoolPartition = partition;
      this.forwarded = offset;
      this.committed = offset;
      this.spoolEnd = offset;
    }
    const batches = this.options.spool
      .consume(FORWARDER_GROUP, { signal, recordsMax: RECORDS_MAX, lines: true })
      [Symbol.asyncIterator]();
    this.pull(batches);
    try {
      await this.forward(batches, router);
    } finally {
      this.reading.abort();
      await this.sending;
      await this.commitSpool();
    }
  }

  private async forward(batches: AsyncIterator<LogBatch>, router: Router): Promise<void> {
    const { parcelBytesMax, lingerMs } = this.options;
    let parcel = new Parcel(router);
    while (!this.reading.signal.aborted) {
      if (this.failure !== undefined) throw this.failure.error;
      if (this.arrived !== undefined && parcel.bytes < parcelBytesMax) {
        if ('error' in this.arrived) throw this.arrived.error;
        if (this.arrived.batch === undefined) return;
        this.load(parcel, this.arrived.batch);
        this.pull(batches);
        continue;
      }
      const waitedMs = performance.now() - parcel.since;
      let wakeMs: number | undefined;
      if (this.sending === undefined) {
        const isDue = parcel.bytes >= parcelBytesMax || waitedMs >= lingerMs;
        if (parcel.records > 0 && isDue) {
          this.start(this.ship(parcel));
          parcel = new Parcel(router);
          continue;
        }
        if (parcel.records > 0) wakeMs = lingerMs - waitedMs;
        const tallyMs = this.tallyDueMs();
        if (tallyMs !== undefined && tallyMs <= 0) {
          this.start(this.writeTally());
          continue;
        }
        wakeMs = Math.min(wakeMs ?? Number.POSITIVE_INFINITY, tallyMs ?? Number.POSITIVE_INFINITY);
        const commitMs = this.commitDueMs();
        if (commitMs <= 0) await this.commitSpool();
        else wakeMs = Math.min(wakeMs, commitMs);
        if (this.untallied === undefined) this.resolveDrains(this.forwarded ?? 0);
      }
      await this.bell.wait(wakeMs === Number.POSITIVE_INFINITY ? undefined : wakeMs);
      if (parcel.records === 0) parcel.since = performance.now();
    }
  }

  /** Undefined when the forwarder is closed meanwhile. */
  private async prepare(): Promise<Map<TopicName, TopicFacts> | undefined> {
    const { settings, topics, logger } = this.options;
    const kafka = createKafka(settings, logger);
    for (let attempt = 0; !this.reading.signal.aborted; attempt++) {
      try {
        return await ensureTopics(kafka, settings.topicPrefix, topics, logger);
      } catch (error) {
        if (this.startError === undefined) {
          logger.warn({ reason: reasonOf(error) }, 'Kafka is not ready; trying on');
        }
        this.startError = reasonOf(error);
      }
      await pause(backoffMs(attempt), this.reading.signal);
    }
    return undefined;
  }

  private open(facts: Map<TopicName, TopicFacts>): Router {
    const { settings, logger, codec, source, spool, refusal } = this.options;
    const prefix = settings.topicPrefix;
    const factsOf = (topic: TopicName) => facts.get(topic) ?? { partitions: 1, batchBytesMax: 0 };
    const partitions = (topic: LogTopic) => factsOf(topic).partitions;
    const received = fullName(prefix, 'received');
    this.producer = new Producer(
      settings,
      [...LOG_TOPICS.map((topic) => fullName(prefix, topic)), received],
      this.options.acknowledgeTimeoutMs,
      logger,
    );
    this.shipping = new Shipping({
      producer: this.producer,
      prefix,
      codec,
      source,
      refusal,
      logger,
      partitions,
      batchBytesMax: (topic) => factsOf(topic).batchBytesMax,
      deadLetterPayloadBytesMax: this.options.deadLetterPayloadBytesMax,
    });
    this.tally = new TallyWriter({
      spool,
      gateway: source,
      topic: received,
      partitions: factsOf('received').partitions,
      codec,
    });
    return new Router(source, partitions, this.options.readingsTopic);
  }

  /** Asks the spool for the next batch; there is at most one that is not loaded. */
  private pull(batches: AsyncIterator<LogBatch>): void {
    this.arrived = undefined;
    const settle = (arrived: Arrived) => {
      this.arrived = arrived;
      this.bell.ring();
    };
    batches.next().then(
      (result) => settle({ batch: result.done === true ? undefined : result.value }),
      (error: unknown) => settle({ error }),
    );
  }

  private load(parcel: Parcel, batch: LogBatch): void {
    const lines = batch.lines ?? batch.records.map((record) => JSON.stringify(record));
    if (this.forwarded !== undefined && batch.firstOffset > this.spoolEnd) {
      const skipped = batch.firstOffset - this.spoolEnd;
      this.options.logger.warn({ skipped }, 'the spool dropped records that were not forwarded');
    }
    this.spoolPartition = batch.partition;
    this.spoolEnd = batch.nextOffset;
    for (let i = 0; i < lines.length; i++) parcel.add(lines[i] as string, batch.firstOffset + i);
    this.untallied = Math.min(this.untallied ?? parcel.oldest, parcel.oldest);
  }

  private start(work: Promise<void>): void {
    this.sending = work
      .catch((error: unknown) => {
        this.failure = { error };
      })
      .finally(() => {
        this.sending = undefined;
        this.bell.ring();
      });
  }

  private async ship(parcel: Parcel): Promise<void> {
    await this.shipping?.ship(parcel);
    this.forwarded = parcel.endOffset;
    this.records += parcel.records;
    this.bytes += parcel.bytes;
    this.parcels += 1;
    this.options.onForwarded?.(parcel.endOffset);
  }

  private tallyDueMs(): number | undefined {
    if (this.untallied === undefined) return undefined;
    if (this.drains.some(({ target }) => target <= (this.forwarded ?? 0))) return 0;
    return this.talliedAt + this.options.tallyIntervalMs - performance.now();
  }

  private async writeTally(): Promise<void> {
    const oldest = this.untallied ?? 0;
    this.untallied = undefined;
    this.talliedAt = performance.now();
    const forwarded = this.forwarded ?? 0;
    const end = Math.max(0, ...[...(await this.options.spool.bounds()).values()].map((b) => b.end));
    const waiting = Math.max(0, end - forwarded);
    if (this.producer !== undefined) {
      await this.tally?.write(this.producer, { oldest, upTo: forwarded, waiting });
    }
    this.resolveDrains(forwarded);
  }

  private commitDueMs(): number {
    if (this.forwarded === undefined || this.forwarded === this.committed) {
      return Number.POSITIVE_INFINITY;
    }
    return this.committedAt + this.options.commitIntervalMs - performance.now();
  }

  private async commitSpool(): Promise<void> {
    if (this.forwarded === undefined || this.forwarded === this.committed) return;
    this.committed = this.forwarded;
    this.committedAt = performance.now();
    await this.options.spool.commit(FORWARDER_GROUP, this.spoolPartition, this.committed);
  }

  private resolveDrains(end: number): void {
    this.drains = this.drains.filter(({ target, resolve }) => {
      if (target > end) return true;
      resolve();
      return false;
    });
  }
}
