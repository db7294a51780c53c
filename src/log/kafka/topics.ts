import { setTimeout as sleep } from 'node:timers/promises';
import kafkajs, { type Admin } from 'kafkajs';
import { createKafka } from './client.ts';
import { typeOf, unavailable } from './errors.ts';
import type { KafkaLogger, KafkaSettings } from './settings.ts';
import { Sockets } from './sockets.ts';
import { within } from './waiting.ts';

/**
 * The topics that hold the log: accepted readings; what was not taken (dead letters and shed counts); what
 * happened to devices; readings of old times, which would hold up live ones. Their order gives
 * their partitions' numbers in the contract, so new ones come last. They have equally many partitions: the
 * ones with the same number hold the same devices and go to the same member of a group (`assigner.ts`).
 */
export const LOG_TOPICS = ['readings', 'dead-letters', 'presence', 'backfill'] as const;
export type LogTopic = (typeof LOG_TOPICS)[number];
/**
 * Beside the log: what devices are told; tenants, devices and credentials; each process's status; the
 * gateways' account of what they received. The last three are compacted.
 */
export type TopicName = LogTopic | 'commands' | 'registry' | 'processes' | 'received';

/** Durations in ms, sizes in bytes; 0 for a retention keeps for ever. */
export interface TopicSettings {
  partitions: number;
  replication: number;
  retainForMs: number;
  /** Of one partition; 0: no limit. */
  retainBytes: number;
  compacted: boolean;
  /** Largest batch that the broker takes, compressed. */
  batchBytesMax: number;
}

export type TopicsSettings = Readonly<Record<TopicName, TopicSettings>>;

const NEW: ReadonlySet<string | undefined> = new Set([
  'UNKNOWN_TOPIC_OR_PARTITION',
  'LEADER_NOT_AVAILABLE',
]);
const NEW_TRIES = 50;
const NEW_PAUSE_MS = 100;

/** How many timeouts the calls of {@link ensureTopics} may take together. */
const PATIENCE = 4;

/** So many partitions a topic can have in the contract's numbers. */
export const PARTITIONS_MAX = 1_024;

export function fullName(prefix: string, topic: TopicName): string {
  return `${prefix}.${topic}`;
}

/** The contract's number of a topic's partition. */
export function partitionNumber(topic: LogTopic, partition: number): number {
  return LOG_TOPICS.indexOf(topic) * PARTITIONS_MAX + partition;
}

/** Undefined for a number that no topic has. */
export function topicPartition(number: number): { topic: LogTopic; partition: number } | undefined {
  const topic = LOG_TOPICS[Math.floor(number / PARTITIONS_MAX)];
  return topic === undefined ? undefined : { topic, partition: number % PARTITIONS_MAX };
}

/**
 * What is wanted of a topic, in Kafka's words. The broker's time is the record's time: gateways with a
 * wrong clock are not refused (INVALID_TIMESTAMP), and retention counts from when a record came.
 */
function configOf(settings: TopicSettings): Record<string, string> {
  const retention = settings.retainForMs === 0 ? '-1' : String(settings.retainForMs);
  const bytes = settings.retainBytes === 0 ? '-1' : String(settings.retainBytes);
  return {
    'cleanup.policy': settings.compacted
      ? settings.retainForMs === 0
        ? 'compact'
        : 'compact,delete'
      : 'delete',
    'retention.ms': retention,
    'retention.bytes': bytes,
    'max.message.bytes': String(settings.batchBytesMax),
    'message.timestamp.type': 'LogAppendTime',
    // A compacted topic keeps what is in its open segment: small ones keep a reader's start short.
    ...(settings.compacted ? { 'segment.bytes': String(16 * 2 ** 20) } : {}),
  };
}

/** What the log needs to know of a topic as it is. */
export interface TopicFacts {
  partitions: number;
  /** Largest batch that the broker takes, compressed, bytes. */
  batchBytesMax: number;
}

/**
 * Creates the topics that are absent. One that exists with other settings is left as it is, with a
 * warning that names them. Throws a retryable error while Kafka is away.
 */
export async function ensureTopics(
  settings: KafkaSettings,
  wanted: Partial<TopicsSettings>,
  logger: KafkaLogger,
): Promise<Map<TopicName, TopicFacts>> {
  const sockets = new Sockets();
  const admin = createKafka(settings, logger, { sockets }).admin();
  const what = 'its topics could not be made ready';
  const patienceMs = PATIENCE * (settings.connectTimeoutMs + settings.requestTimeoutMs);
  try {
    const made = admin
      .connect()
      .then(() => createAbsent(admin, settings.topicPrefix, wanted, logger));
    const facts = await within(made, patienceMs);
    if (facts !== undefined) return facts;
  } catch (cause) {
    throw unavailable(what, cause);
  } finally {
    sockets.close();
    void admin.disconnect().catch(() => {});
  }
  throw unavailable(what);
}

async function createAbsent(
  admin: Admin,
  prefix: string,
  wanted: Partial<TopicsSettings>,
  logger: KafkaLogger,
): Promise<Map<TopicName, TopicFacts>> {
  const entries = Object.entries(wanted) as [TopicName, TopicSettings][];
  const existing = new Set(await admin.listTopics());
  const absent = entries.filter(([topic]) => !existing.has(fullName(prefix, topic)));
  if (absent.length > 0) {
    await admin.createTopics({
      waitForLeaders: false,
      topics: absent.map(([topic, settings]) => ({
        topic: fullName(prefix, topic),
        numPartitions: settings.partitions,
        replicationFactor: settings.replication,
        configEntries: Object.entries(configOf(settings)).map(([name, value]) => ({ name, value })),
      })),
    });
    logger.info({ topics: absent.map(([topic]) => fullName(prefix, topic)) }, 'topics created');
  }
  const names = entries.map(([topic]) => fullName(prefix, topic));
  const { topics } = await metadataOf(admin, names);
  const { resources } = await admin.describeConfigs({
    includeSynonyms: false,
    resources: names.map((name) => ({ type: kafkajs.ConfigResourceTypes.TOPIC, name })),
  });
  const facts = new Map<TopicName, TopicFacts>();
  for (const [topic, settings] of entries) {
    const name = fullName(prefix, topic);
    const partitions = topics.find((one) => one.name === name)?.partitions ?? [];
    const replication = Math.min(...partitions.map((one) => one.replicas.length));
    const configs = resources.find((one) => one.resourceName === name)?.configEntries ?? [];
    const actual = new Map(configs.map((entry) => [entry.configName, entry.configValue]));
    const differs = Object.entries(configOf(settings))
      .filter(([key, value]) => !isSame(actual.get(key), value))
      .map(([key, value]) => ({ key, wanted: value, actual: actual.get(key) }));
    const shape = [
      { key: 'partitions', wanted: settings.partitions, actual: partitions.length },
      { key: 'replication', wanted: settings.replication, actual: replication },
    ].filter((one) => one.wanted !== one.actual);
    if (shape.length + differs.length > 0) {
      logger.warn(
        { topic: name, differs: [...shape, ...differs] },
        'a topic exists with other settings than configured; it is used as it is',
      );
    }
    facts.set(topic, {
      partitions: partitions.length,
      batchBytesMax: Number(actual.get('max.message.bytes') ?? settings.batchBytesMax),
    });
  }
  warnOfUnequal(prefix, facts, logger);
  return facts;
}

/** A new topic is not known to every broker at once, and has no leaders at first. */
async function metadataOf(admin: Admin, topics: string[]) {
  for (let tries = 1; ; tries++) {
    try {
      return await admin.fetchTopicMetadata({ topics });
    } catch (error) {
      if (tries === NEW_TRIES || !NEW.has(typeOf(error))) throw error;
    }
    await sleep(NEW_PAUSE_MS);
  }
}

/** A device's state lives where its readings are read; its other records have to come there, too. */
function warnOfUnequal(
  prefix: string,
  facts: ReadonlyMap<TopicName, TopicFacts>,
  logger: KafkaLogger,
): void {
  const wanted = facts.get('readings')?.partitions;
  for (const topic of LOG_TOPICS) {
    const actual = facts.get(topic)?.partitions;
    if (wanted === undefined || actual === undefined || actual === wanted) continue;
    logger.warn(
      { topic: fullName(prefix, topic), partitions: actual, readings: wanted },
      'a topic has another number of partitions than readings; records of one device may go to two members of a group',
    );
  }
}

/** Lists are compared without their order. */
function isSame(actual: string | undefined, wanted: string): boolean {
  if (actual === undefined) return false;
  return actual.split(',').sort().join() === wanted.split(',').sort().join();
}
