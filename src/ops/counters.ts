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

/** What happens now, for the console and `GET /api/v1/status`. */
export interface LiveStatus {
  /** ms since the epoch. */
  startedAt: number;
  version: string;
  ready: boolean;
  /** Why not, or an empty text. */
  readyReason: string;
  connections: number;
  messagesPerSecond: number;
  readingsPerSecond: number;
  log: LogStats;
  rollup: RollupStatus;
  deadLettersByCode: Record<string, number>;
  shedByReason: Record<string, number>;
}
