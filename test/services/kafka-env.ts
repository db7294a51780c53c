import { randomUUID } from 'node:crypto';
import type { TestContext } from 'node:test';
import kafkajs, { type Admin, type Consumer, type Kafka, type KafkaMessage } from 'kafkajs';
import { registerCodecs } from '../../src/log/kafka/codecs.ts';
import { KafkaLogConsumer } from '../../src/log/kafka/consumer.ts';
import type { ConsumptionLimits } from '../../src/log/kafka/consumption.ts';
import { Forwarder, type ForwarderOptions } from '../../src/log/kafka/forwarder.ts';
import type { KafkaLogger, KafkaSettings } from '../../src/log/kafka/settings.ts';
import {
  ensureTopics,
  type TopicSettings,
  type TopicsSettings,
} from '../../src/log/kafka/topics.ts';
import { within } from '../../src/log/kafka/waiting.ts';

/** The brokers of the environment; undefined when none are set. */
export const BROKERS = process.env.KAFKA_BROKERS?.split(',');
export const SKIP = BROKERS === undefined ? 'KAFKA_BROKERS is not set' : false;

export const SOURCE = 'spool-1';

const TOPIC: TopicSettings = {
  partitions: 3,
  replication: 1,
  retainForMs: 3_600_000,
  retainBytes: 0,
  compacted: false,
  batchBytesMax: 2 ** 20,
};
const TABLE: TopicSettings = { ...TOPIC, partitions: 1, retainForMs: 0, compacted: true };

export const TOPICS: TopicsSettings = {
  readings: TOPIC,
  'dead-letters': TOPIC,
  presence: TOPIC,
  backfill: TOPIC,
  commands: TOPIC,
  registry: TABLE,
  processes: { ...TABLE, retainForMs: 3_600_000 },
  received: TABLE,
};

export const LIMITS: ConsumptionLimits = {
  sessionTimeoutMs: 10_000,
  heartbeatMs: 500,
  rebalanceTimeoutMs: 15_000,
  fetchWaitMs: 250,
  fetchBytesMax: 4 * 2 ** 20,
  partitionBytesMax: 2 ** 20,
  bufferBytesMax: 8 * 2 ** 20,
};

export interface LogLine {
  level: 'debug' | 'info' | 'warn';
  fields: Record<string, unknown>;
  message: string;
}

/** Keeps what is logged; prints it with KAFKA_TEST_LOG set. */
export function recordingLogger(): KafkaLogger & { lines: LogLine[] } {
  const lines: LogLine[] = [];
  const at = (level: LogLine['level']) => (fields: Record<string, unknown>, message: string) => {
    lines.push({ level, fields, message });
    if (process.env.KAFKA_TEST_LOG !== undefined) {
      process.stderr.write(
        `${performance.now().toFixed(0)} ${level} ${message} ${JSON.stringify(fields)}\n`,
      );
    }
  };
  return { lines, debug: at('debug'), info: at('info'), warn: at('warn') };
}

export interface KafkaPlace {
  settings: KafkaSettings;
  topics: TopicsSettings;
  logger: ReturnType<typeof recordingLogger>;
  admin: Admin;
  kafka: Kafka;
  /** Full name of a topic. */
  name(topic: string): string;
  /** Closed after the test, in the opposite order of opening. */
  own<T extends { close(): Promise<void> }>(it: T): T;
  consumer(limits?: Partial<ConsumptionLimits>): KafkaLogConsumer;
  forwarder(spool: ForwarderOptions['spool'], options?: Partial<ForwarderOptions>): Forwarder;
}

export interface PlaceOptions {
  topics?: Partial<TopicsSettings>;
  /** False: the test makes the topics. */
  create?: boolean;
  /** Others than those of the environment. */
  brokers?: string[];
  settings?: Partial<KafkaSettings>;
}

/** Topics of its own for a test, by a client that isn't ours; removed after it. */
export async function openKafka(t: TestContext, changes: PlaceOptions = {}): Promise<KafkaPlace> {
  registerCodecs();
  const prefix = `test-${randomUUID().slice(0, 8)}`;
  const settings: KafkaSettings = {
    brokers: changes.brokers ?? BROKERS ?? [],
    clientId: 'spillway-test',
    topicPrefix: prefix,
    connectTimeoutMs: 2_000,
    requestTimeoutMs: 10_000,
    ...changes.settings,
  };
  const topics = { ...TOPICS, ...changes.topics };
  const logger = recordingLogger();
  const kafka = new kafkajs.Kafka({
    brokers: settings.brokers,
    clientId: 'foreign',
    logLevel: kafkajs.logLevel.NOTHING,
    retry: { retries: 20, maxRetryTime: 1_000 },
  });
  const admin = kafka.admin();
  await admin.connect();
  const open: { close(): Promise<void> }[] = [];
  t.after(async () => {
    for (const one of open.reverse()) await one.close();
    const clean = async () => {
      const mine = (await admin.listTopics()).filter((topic) => topic.startsWith(`${prefix}.`));
      if (mine.length > 0) await admin.deleteTopics({ topics: mine });
      await admin.disconnect();
    };
    // A broker of the test's own may be away for good.
    await within(clean(), 10_000);
  });
  const own = <T extends { close(): Promise<void> }>(it: T): T => {
    open.push(it);
    return it;
  };
  if (changes.create !== false) await ensureTopics(settings, topics, logger);
  return {
    settings,
    topics,
    logger,
    admin,
    kafka,
    own,
    name: (topic) => `${prefix}.${topic}`,
    consumer: (limits = {}) =>
      own(new KafkaLogConsumer({ settings, logger, limits: { ...LIMITS, ...limits } })),
    forwarder: (spool, options = {}) =>
      own(
        new Forwarder({
          settings,
          topics,
          spool,
          logger,
          ...FORWARDER,
          ...options,
        }),
      ),
  };
}

export const FORWARDER = {
  source: SOURCE,
  codec: 'zstd',
  parcelBytesMax: 2 ** 20,
  lingerMs: 5,
  acknowledgeTimeoutMs: 5_000,
  commitIntervalMs: 200,
  tallyIntervalMs: 1_000,
  accountForMs: 0,
  refusal: { code: 'LOG_REFUSED', message: 'Kafka refused the record.' },
  deadLetterPayloadBytesMax: 16_384,
} as const satisfies Partial<ForwarderOptions>;

export interface ForeignRecord {
  partition: number;
  offset: number;
  key: string;
  value: string | null;
  headers: Record<string, string>;
  timestamp: number;
}

/** What stands in a topic, read by kafkajs's own consumer. */
export async function readTopic(place: KafkaPlace, topic: string): Promise<ForeignRecord[]> {
  const ends = await place.admin.fetchTopicOffsets(place.name(topic));
  let left = ends.reduce((sum, { high, low }) => sum + Number(high) - Number(low), 0);
  const records: ForeignRecord[] = [];
  if (left === 0) return records;
  const consumer: Consumer = place.kafka.consumer({
    groupId: `foreign-${randomUUID()}`,
    maxWaitTimeInMs: 100,
  });
  await consumer.connect();
  try {
    await consumer.subscribe({ topic: place.name(topic), fromBeginning: true });
    await new Promise<void>((resolve) => {
      void consumer.run({
        autoCommit: false,
        eachBatch: async ({ batch }) => {
          for (const message of batch.messages) {
            records.push(foreign(batch.partition, message));
            left -= 1;
          }
          if (left <= 0) resolve();
        },
      });
    });
  } finally {
    await consumer.disconnect();
  }
  return records.sort((a, b) => a.partition - b.partition || a.offset - b.offset);
}

function foreign(partition: number, message: KafkaMessage): ForeignRecord {
  return {
    partition,
    offset: Number(message.offset),
    key: message.key?.toString() ?? '',
    value: message.value?.toString() ?? null,
    headers: Object.fromEntries(
      Object.entries(message.headers ?? {}).map(([name, value]) => [name, String(value)]),
    ),
    timestamp: Number(message.timestamp),
  };
}
