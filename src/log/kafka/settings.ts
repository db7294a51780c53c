import type { ConnectionOptions } from 'node:tls';
import kafkajs, { type KafkaConfig, type SASLOptions } from 'kafkajs';

/** What the room needs to know of the configuration. Times in ms, sizes in bytes. */
export interface KafkaSettings {
  /** `host:port` of some brokers; the others are learnt from them. */
  brokers: string[];
  clientId: string;
  /** First part of every topic's name. */
  topicPrefix: string;
  connectTimeoutMs: number;
  requestTimeoutMs: number;
  /** PEM texts, not paths. `true` trusts what the system trusts. */
  tls?: boolean | TlsSettings;
  sasl?: SaslSettings;
}

export interface TlsSettings {
  ca?: string;
  cert?: string;
  key?: string;
  passphrase?: string;
  /** Where the certificate names another host than `brokers`. */
  servername?: string;
}

export interface SaslSettings {
  mechanism: 'plain' | 'scram-sha-256' | 'scram-sha-512';
  username: string;
  password: string;
}

export interface KafkaLogger {
  debug(fields: Record<string, unknown>, message: string): void;
  info(fields: Record<string, unknown>, message: string): void;
  warn(fields: Record<string, unknown>, message: string): void;
}

/** How long kafkajs tries by itself: short, because every caller here has a loop of its own. */
const RETRY = { retries: 2, initialRetryTime: 150, maxRetryTime: 1_000 };

/** The settings in the words of kafkajs. TLS below 1.2 is refused. */
export function clientConfig(settings: KafkaSettings, logger: KafkaLogger): KafkaConfig {
  const { tls, sasl } = settings;
  return {
    brokers: settings.brokers,
    clientId: settings.clientId,
    connectionTimeout: settings.connectTimeoutMs,
    authenticationTimeout: settings.connectTimeoutMs,
    requestTimeout: settings.requestTimeoutMs,
    enforceRequestTimeout: true,
    retry: RETRY,
    // The rooms above say once that Kafka is away and once that it is back; what kafkajs says of each
    // attempt is for debugging.
    logLevel: kafkajs.logLevel.WARN,
    logCreator:
      () =>
      ({ namespace, log: { message, timestamp: _, ...fields } }) =>
        logger.debug({ ...fields, kafkajs: namespace }, message),
    ...(tls === undefined || tls === false ? {} : { ssl: tlsOptions(tls) }),
    ...(sasl === undefined ? {} : { sasl: sasl as SASLOptions }),
  };
}

function tlsOptions(tls: true | TlsSettings): ConnectionOptions {
  return { minVersion: 'TLSv1.2', ...(tls === true ? {} : tls) };
}
