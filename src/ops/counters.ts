import type { LogStats } from '../log/contract.ts';

/**
 * What the gateway counts: plain numbers, because the path of a reading only increments; the metrics
 * read them when they are asked for.
 */
export interface GatewayCounters {
  /** Connections that are open now. */
  connections: number;
  connectionsTotal: number;
  /** Connections refused or closed for a broken rule, by reason. */
  refusedConnections: Map<string, number>;
  /** Publishes that came in. */
  messages: number;
  /** Their payloads, in bytes. */
  bytes: number;
  /** By tenant. */
  readingsAccepted: Map<string, number>;
  /** By refusal code. */
  deadLetters: Map<string, number>;
  /** By reason. */
  shed: Map<string, number>;
  receiptsSent: number;
}

export function gatewayCounters(): GatewayCounters {
  return {
    connections: 0,
    connectionsTotal: 0,
    refusedConnections: new Map(),
    messages: 0,
    bytes: 0,
    readingsAccepted: new Map(),
    deadLetters: new Map(),
    shed: new Map(),
    receiptsSent: 0,
  };
}

/** What the rollup workers tell of themselves. */
export interface RollupStatus {
  /** Records of the log that are not processed yet. */
  lagRecords: number;
  openWindows: number;
  openReadings: number;
  devices: number;
  processed: number;
  stored: number;
  duplicates: Record<string, number>;
  lateCorrections: number;
  flushMs: number;
  /** Delay of the thread's event loop, p99, ms. */
  loopDelayMs: number;
}

/** Before the first word of a worker. */
export const NO_STATUS: RollupStatus = {
  lagRecords: 0,
  openWindows: 0,
  openReadings: 0,
  devices: 0,
  processed: 0,
  stored: 0,
  duplicates: {},
  lateCorrections: 0,
  flushMs: 0,
  loopDelayMs: 0,
};

/** What a gateway's forwarder tells of itself, since its start. */
export interface ForwardingStatus {
  /** Records of the spool that Kafka does not have yet. */
  backlogRecords: number;
  records: number;
  /** As sent, compressed. */
  bytes: number;
  /** Records that became dead letters because Kafka refused them. */
  refused: number;
  retries: number;
  /** Why Kafka is away; an empty text while it is there. */
  error: string;
}

/** What happens now, for the console and `GET /api/v1/status`. */
export interface LiveStatus {
  /** ms since the epoch. */
  startedAt: number;
  version: string;
  roles: readonly string[];
  ready: boolean;
  /** Why not, or an empty text. */
  readyReason: string;
  connections: number;
  messagesPerSecond: number;
  readingsPerSecond: number;
  log: LogStats;
  rollup: RollupStatus;
  /** Absent on the embedded log. */
  forwarding?: ForwardingStatus;
  deadLettersByCode: Record<string, number>;
  shedByReason: Record<string, number>;
}
