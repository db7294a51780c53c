import { deviceTypes } from '../config/device-types.ts';
import type { Config } from '../config/schema.ts';
import type { Clock } from '../core/clock.ts';
import type { LogAppender } from '../log/contract.ts';
import type { GatewayCounters } from '../ops/counters.ts';
import type { CredentialVerifier, Directory } from '../tenants/contract.ts';
import { Ingest } from './ingest.ts';
import { Gateway, type GatewayLogger } from './server.ts';

export interface OpenGatewayOptions {
  config: Pick<Config, 'gateway' | 'types'>;
  appender: LogAppender;
  directory: Directory;
  verifier: CredentialVerifier;
  counters: GatewayCounters;
  clock: Clock;
  logger: GatewayLogger;
  /** Time from the bytes of a QoS 1 publish to its PUBACK, ms. */
  observePuback?: (ms: number) => void;
}

/** Listens for MQTT as the configuration says. Throws LISTEN_FAILED. */
export async function openGateway(options: OpenGatewayOptions): Promise<Gateway> {
  const { config, appender, directory, verifier, counters, clock, logger } = options;
  const { gateway: limits } = config;
  const ingest = new Ingest({
    appender,
    directory,
    types: deviceTypes(config),
    counters,
    clock,
    limits: {
      payloadBytesMax: limits.payloadBytesMax,
      readingsPerMessageMax: limits.readingsPerMessageMax,
      metricsPerReadingMax: limits.metricsPerReadingMax,
      textMax: limits.textCharsMax,
      deadLetterPayloadBytesMax: limits.deadLetterPayloadBytesMax,
    },
  });
  const gateway = await Gateway.listen({
    host: limits.mqtt.host,
    port: limits.mqtt.port,
    fastPath: limits.fastPath,
    connectionsMax: limits.connectionsMax,
    connectingMax: limits.connectingMax,
    connectTimeoutMs: limits.connectTimeout,
    keepAliveMaxMs: limits.keepAliveMax,
    gate: {
      connectBytesMax: limits.connectBytesMax,
      packetBytesMax: limits.packetBytesMax,
      payloadBytesMax: limits.payloadBytesMax,
      keptBytesMax: limits.deadLetterPayloadBytesMax,
      inflightMax: limits.inflightMax,
      packetTimeoutMs: limits.packetTimeout,
    },
    ingest,
    directory,
    verifier,
    counters,
    logger,
    saturated: () => appender.saturated,
    observePuback: options.observePuback ?? (() => {}),
  }).catch((error: unknown) => {
    ingest.close();
    throw error;
  });
  appender.onRelief(() => gateway.relieve());
  return gateway;
}
