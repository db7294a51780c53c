import { deviceTypes } from '../config/device-types.ts';
import { quotasOf } from '../config/quotas.ts';
import type { Config } from '../config/schema.ts';
import { type Clock, monotonicClock } from '../core/clock.ts';
import type { LogAppender } from '../log/contract.ts';
import type { GatewayCounters } from '../ops/counters.ts';
import type { CredentialVerifier, Directory } from '../tenants/contract.ts';
import { decision, Histories } from './history.ts';
import { Ingest } from './ingest.ts';
import { ConnectRules } from './overload/connect-rules.ts';
import type { RollupLag } from './overload/lag-pace.ts';
import { Overload } from './overload/overload.ts';
import type { Readings } from './overload/signals.ts';
import type { GatewayLogger } from './reception.ts';
import { Gateway } from './server.ts';

export interface OpenGatewayOptions {
  config: Pick<Config, 'gateway' | 'types' | 'overload' | 'backfill' | 'quotas' | 'log'>;
  appender: LogAppender;
  directory: Directory;
  verifier: CredentialVerifier;
  counters: GatewayCounters;
  clock: Clock;
  logger: GatewayLogger;
  /** Time from the bytes of a QoS 1 publish to its PUBACK, ms. */
  observePuback?: (ms: number) => void;
  /** Part of the log's disk budget that holds what is not yet processed; default: all that it holds. */
  backlogShare?: () => number;
  /** How far the rollup worker of this process is behind; absent: there is none. */
  rollupLag?: (() => RollupLag) | undefined;
  /** For tests: signals in place of what is measured. */
  readings?: Partial<Readings>;
  /** Of spans; for tests. */
  monotonic?: Clock;
}

/** Listens for MQTT as the configuration says. Throws LISTEN_FAILED. */
export async function openGateway(options: OpenGatewayOptions): Promise<Gateway> {
  const { config, appender, directory, verifier, counters, clock, logger } = options;
  const { gateway: limits } = config;
  const { connects, protection } = config.overload;
  const monotonic = options.monotonic ?? monotonicClock;
  let gateway: Gateway | undefined;
  const histories = new Histories({ devicesMax: limits.rememberedDevicesMax });
  const overload = new Overload({
    config: config.overload,
    backfill: config.backfill,
    quotaOf: quotasOf(config),
    appender,
    counters,
    logger,
    clock: monotonic,
    wallClock: clock,
    connections: () => ({
      open: gateway?.load.open ?? 0,
      max: limits.connectionsMax,
      waiting: gateway?.load.waiting ?? 0,
    }),
    pendingBytesMax: config.log.embedded.pendingBytesMax,
    backlogShare: options.backlogShare,
    rollupLag: options.rollupLag,
    readings: options.readings,
    decided: ({ tenant, name }, what, code) =>
      histories.of(`${tenant.name}/${name}`)?.note(decision(what, code), clock.now()),
    tell: (...words) => gateway?.tell(...words),
  });
  const ingest = new Ingest({
    appender,
    directory,
    types: deviceTypes(config),
    counters,
    clock,
    overload,
    histories,
    backfillAfterMs: config.backfill.enabled ? config.backfill.after : Number.POSITIVE_INFINITY,
    limits: {
      payloadBytesMax: limits.payloadBytesMax,
      readingsPerMessageMax: limits.readingsPerMessageMax,
      metricsPerReadingMax: limits.metricsPerReadingMax,
      textMax: limits.textCharsMax,
      deadLetterPayloadBytesMax: limits.deadLetterPayloadBytesMax,
    },
  });
  gateway = await Gateway.listen({
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
    overload,
    rules: new ConnectRules({
      config: config.overload,
      book: overload.book,
      now: () => monotonic.now(),
      wallNow: () => clock.now(),
    }),
    handshakesMax: protection ? connects.handshakesMax : Number.POSITIVE_INFINITY,
    handshakesWaitingMax: connects.waitingMax,
    directory,
    verifier,
    counters,
    logger,
    saturated: () => appender.saturated,
    observePuback: options.observePuback ?? (() => {}),
  }).catch((error: unknown) => {
    overload.stop();
    ingest.close();
    throw error;
  });
  const opened = gateway;
  appender.onRelief(() => opened.relieve());
  overload.start();
  return opened;
}
