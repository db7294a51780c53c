import { systemClock } from '../../core/clock.ts';
import type { LogConsumer } from '../contract.ts';
import { ACCOUNT_GROUP, AccountKeeper, type AccountStart } from './account-keeper.ts';
import type { WrittenCodec } from './codecs.ts';
import { Producer } from './producer.ts';
import { type TallySource, TallyWriter } from './received-tally.ts';
import { Router } from './routing.ts';
import type { KafkaLogger, KafkaSettings } from './settings.ts';
import { Shipping } from './shipping.ts';
import type { TopicsSettings } from './topics.ts';
import { fullName, LOG_TOPICS, type LogTopic, type TopicFacts, type TopicName } from './topics.ts';

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
  codec: WrittenCodec;
  /** A parcel is sent when it holds so many bytes before compression, or at this age. */
  parcelBytesMax: number;
  lingerMs: number;
  /** How long brokers wait for all replicas in one attempt, ms. */
  acknowledgeTimeoutMs: number;
  /** Longest time between two commits of the spool's offset, ms: what a crash sends again. */
  commitIntervalMs: number;
  /** Least time between two writes of the gateway's account while it changes, ms. */
  tallyIntervalMs: number;
  /** How long the spool keeps its account, ms; 0: for ever. */
  accountForMs: number;
  /** Code and advice of dead letters for records that Kafka refuses. */
  refusal: { code: string; message: string };
  deadLetterPayloadBytesMax: number;
  logger: KafkaLogger;
  /** After each parcel: everything in the spool before this offset is in Kafka. */
  onForwarded?(spoolOffset: number): void;
  /** The spool can't be read any more; nothing is forwarded from here on. */
  onFailed?(error: unknown): void;
}

/** What a forwarder needs when Kafka has been reached for the first time. */
export interface Delivery {
  producer: Producer;
  shipping: Shipping;
  router: Router;
  account: AccountKeeper;
}

/** Where the spool stands. */
interface SpoolPosition {
  partition: number;
  /** Everything before it is in Kafka. */
  forwarded: number;
  signal: AbortSignal;
}

/** The parts of a forwarder that need to know the topics. Throws what the spool throws. */
export async function openDelivery(
  options: ForwarderOptions,
  facts: ReadonlyMap<TopicName, TopicFacts>,
  position: SpoolPosition,
): Promise<Delivery> {
  const { settings, logger, codec, source, spool, refusal } = options;
  const prefix = settings.topicPrefix;
  const factsOf = (topic: TopicName) => facts.get(topic) ?? { partitions: 1, batchBytesMax: 0 };
  const partitions = (topic: LogTopic) => factsOf(topic).partitions;
  const received = fullName(prefix, 'received');
  const router = new Router(source, partitions);
  const from = await accountStart(options, router, position);
  const producer = new Producer(
    settings,
    [...LOG_TOPICS.map((topic) => fullName(prefix, topic)), received],
    options.acknowledgeTimeoutMs,
    logger,
  );
  const shipping = new Shipping({
    producer,
    prefix,
    codec,
    source,
    refusal,
    logger,
    partitions,
    batchBytesMax: (topic) => factsOf(topic).batchBytesMax,
    deadLetterPayloadBytesMax: options.deadLetterPayloadBytesMax,
  });
  const writer = new TallyWriter({
    spool,
    gateway: source,
    topic: received,
    partitions: factsOf('received').partitions,
    codec,
    logger,
    keepMs: options.accountForMs,
    clock: systemClock,
  });
  const intervalMs = options.tallyIntervalMs;
  const account = new AccountKeeper({ writer, producer, spool, intervalMs, from });
  return { producer, shipping, router, account };
}

/** Looks through what was forwarded, but may not be in the account, for its least gateway time. */
async function accountStart(
  { spool }: ForwarderOptions,
  router: Router,
  { partition, forwarded, signal }: SpoolPosition,
): Promise<AccountStart> {
  const written = (await spool.committed(ACCOUNT_GROUP)).get(partition);
  if (written === undefined) return { written: 0, oldest: 0 };
  let oldest: number | undefined;
  if (written < forwarded) {
    const from = new Map([[partition, written]]);
    for await (const batch of spool.consume(ACCOUNT_GROUP, { from, signal, lines: true })) {
      for (const line of batch.lines ?? batch.records.map((record) => JSON.stringify(record))) {
        router.route(line);
        const received = Number(router.received);
        oldest = Math.min(oldest ?? received, received);
      }
      if (batch.nextOffset >= forwarded) break;
    }
  }
  return { written, oldest };
}
