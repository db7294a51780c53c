import type { Config } from '../config/schema.ts';
import { REFUSALS } from '../core/refusals.ts';
import type { LogConsumer } from '../log/contract.ts';
import { Bus } from '../log/kafka/bus.ts';
import { CompactedTable } from '../log/kafka/compacted-table.ts';
import { KafkaLogConsumer } from '../log/kafka/consumer.ts';
import { Forwarder, type ForwarderOptions } from '../log/kafka/forwarder.ts';
import type { KafkaLogger, KafkaSettings } from '../log/kafka/settings.ts';
import {
  ensureTopics,
  fullName,
  type TopicName,
  type TopicSettings,
  type TopicsSettings,
} from '../log/kafka/topics.ts';
import { backoffMs, pause } from '../log/kafka/waiting.ts';
import { readNamedFile, secretOf } from './secret-file.ts';

/** The Kafka engine as the configuration says. Loaded only where it is chosen. */

type KafkaConfig = Config['log']['kafka'];

/** How long a process's status outlives it, and the registry's and the accounts' deletions their keys, ms. */
const PROCESS_RETENTION_MS = 3_600_000;
const COMMAND_RETENTION_MS = 3_600_000;
const HEARTBEAT_SHARE = 1 / 8;
const COMMIT_INTERVAL_MS = 500;
const TALLY_INTERVAL_MS = 1_000;

/** Throws CONFIG_INVALID when a file that it names can't be read. */
export function kafkaSettings({ log }: Pick<Config, 'log'>): KafkaSettings {
  const { kafka } = log;
  return {
    brokers: kafka.brokers,
    clientId: kafka.clientId,
    topicPrefix: kafka.topicPrefix,
    connectTimeoutMs: kafka.connectTimeout,
    requestTimeoutMs: kafka.requestTimeout,
    ...tlsSettings(kafka),
    ...saslSettings(kafka),
  };
}

function tlsSettings({ tls }: KafkaConfig): Pick<KafkaSettings, 'tls'> {
  if (!tls.enabled) return {};
  const read = (name: 'caFile' | 'certFile' | 'keyFile') =>
    tls[name] === '' ? undefined : readNamedFile(tls[name], `log.kafka.tls.${name}`);
  const [ca, cert, key] = [read('caFile'), read('certFile'), read('keyFile')];
  return {
    tls: {
      ...(ca !== undefined && { ca }),
      ...(cert !== undefined && { cert }),
      ...(key !== undefined && { key }),
      ...(tls.servername !== '' && { servername: tls.servername }),
    },
  };
}

function saslSettings({ sasl }: KafkaConfig): Pick<KafkaSettings, 'sasl'> {
  const { mechanism, username, password, passwordFile } = sasl;
  if (mechanism === 'none') return {};
  const secret = secretOf(password, passwordFile, 'log.kafka.sasl.passwordFile');
  return { sasl: { mechanism, username, password: secret } };
}

/** What absent topics are made with. */
export function topicsSettings({ log }: Pick<Config, 'log'>): TopicsSettings {
  const { partitions, replication, retainFor, retainBytes, batchBytesMax } = log.kafka;
  const stream: TopicSettings = {
    partitions,
    replication,
    retainForMs: retainFor,
    retainBytes,
    compacted: false,
    batchBytesMax,
  };
  const table: TopicSettings = {
    ...stream,
    partitions: 1,
    retainForMs: 0,
    retainBytes: 0,
    compacted: true,
  };
  return {
    readings: stream,
    'dead-letters': stream,
    presence: stream,
    backfill: stream,
    commands: { ...stream, partitions: 1, retainForMs: COMMAND_RETENTION_MS },
    registry: table,
    received: table,
    processes: { ...table, retainForMs: PROCESS_RETENTION_MS },
  };
}

export function openKafkaConsumer(config: Config, logger: KafkaLogger): LogConsumer {
  const { sessionTimeout } = config.log.kafka;
  return new KafkaLogConsumer({
    settings: kafkaSettings(config),
    logger,
    limits: {
      sessionTimeoutMs: sessionTimeout,
      heartbeatMs: Math.floor(sessionTimeout * HEARTBEAT_SHARE),
      // Also how long an answer to a join is waited for that got lost while Kafka was away.
      rebalanceTimeoutMs: sessionTimeout,
      fetchWaitMs: 500,
      fetchBytesMax: 8 * 2 ** 20,
      partitionBytesMax: 2 * 2 ** 20,
      bufferBytesMax: 32 * 2 ** 20,
    },
  });
}

/** Starts in the background; Kafka may be away. */
export function startForwarder(
  config: Config,
  parts: Pick<ForwarderOptions, 'spool' | 'source' | 'logger' | 'onForwarded' | 'onFailed'>,
): Forwarder {
  const { kafka } = config.log;
  return new Forwarder({
    ...parts,
    settings: kafkaSettings(config),
    topics: topicsSettings(config),
    codec: kafka.compression,
    parcelBytesMax: kafka.batchBytesMax,
    lingerMs: kafka.linger,
    acknowledgeTimeoutMs: kafka.requestTimeout / 2,
    commitIntervalMs: COMMIT_INTERVAL_MS,
    tallyIntervalMs: TALLY_INTERVAL_MS,
    accountForMs: config.store.retention.ledger,
    refusal: { code: 'LOG_REFUSED', message: REFUSALS.LOG_REFUSED },
    deadLetterPayloadBytesMax: config.gateway.deadLetterPayloadBytesMax,
  });
}

/** Makes topics unless they are there; tries until `signal` aborts, and rejects with LOG_UNAVAILABLE then. */
async function prepare(
  config: Config,
  names: readonly TopicName[],
  logger: KafkaLogger,
  signal: AbortSignal,
): Promise<void> {
  const settings = kafkaSettings(config);
  const all = topicsSettings(config);
  const wanted = Object.fromEntries(names.map((name) => [name, all[name]]));
  for (let attempt = 0; ; attempt++) {
    try {
      await ensureTopics(settings, wanted, logger);
      return;
    } catch (error) {
      if (signal.aborted) throw error;
      if (attempt === 1) logger.warn({ err: error }, 'Kafka is not ready; trying on');
    }
    await pause(backoffMs(attempt), signal);
  }
}

/** A table of all processes. Rejects with LOG_UNAVAILABLE when Kafka is away until `signal` aborts. */
export async function openTable(
  config: Config,
  topic: TopicName,
  parts: {
    logger: KafkaLogger;
    signal: AbortSignal;
    onChange?: (key: string, value: unknown) => void;
  },
): Promise<CompactedTable> {
  await prepare(config, [topic], parts.logger, parts.signal);
  const { logger, onChange } = parts;
  return new CompactedTable({
    settings: kafkaSettings(config),
    logger,
    topic: fullName(config.log.kafka.topicPrefix, topic),
    ...(onChange !== undefined && { onChange }),
  });
}

/** Commands on their way to the gateway that holds the device's connection. Rejects as {@link openTable}. */
export async function openCommandBus(
  config: Config,
  parts: {
    logger: KafkaLogger;
    signal: AbortSignal;
    onMessage?: (key: string, value: string) => void;
  },
): Promise<Bus> {
  await prepare(config, ['commands'], parts.logger, parts.signal);
  const { logger, onMessage } = parts;
  return new Bus({
    settings: kafkaSettings(config),
    logger,
    topic: fullName(config.log.kafka.topicPrefix, 'commands'),
    ...(onMessage !== undefined && { onMessage }),
  });
}
