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
  /** By tenant, then by reason. */
  shedByTenant: Map<string, Map<string, number>>;
  /** How often a limit slowed down or refused a device: by tenant, then by the code of the limit. */
  limited: Map<string, Map<string, number>>;
  receiptsSent: number;
  /** Accepted readings that were old, and connections that wait since they sent many. */
  backfill: { readings: number; held: number };
  overload: OverloadStatus;
}

/** The levels of overload, from the least. */
export const OVERLOAD_LEVELS: readonly string[] = ['normal', 'brake', 'shed', 'refuse'];

/** How loaded the gateway is, as `docs/overload.md` explains it. */
export interface OverloadStatus {
  level: string;
  /** Since when, ms since the epoch. */
  since: number;
  /** The signal that brought the level; empty while nothing has. */
  cause: string;
  /** Each signal now, and where its levels begin on this machine. */
  signals: Record<string, OverloadSignal>;
  /** The latest changes, newest first. */
  history: OverloadChange[];
  /** Changes to a level, since the start. */
  changes: Record<string, number>;
  admission: {
    /** What may be under way, and what is; bytes, with an overhead for each message. */
    windowBytes: number;
    underWayBytes: number;
    /** From taking a message to settling it, last measured, ms. */
    delayMs: number;
    /** How long turns have waited for the window, mean of the last interval, ms. */
    waitMs: number;
  };
  /** CONNECTs that wait for their turn. */
  connectsWaiting: number;
  /** Devices that a limit slowed down or refused, the latest first. */
  limited: OverloadLimited[];
}

export interface OverloadSignal {
  value: number;
  brake?: number;
  shed?: number;
  refuse?: number;
}

export interface OverloadChange {
  /** ms since the epoch. */
  at: number;
  from: string;
  to: string;
  cause: string;
  value: number;
}

export interface OverloadLimited {
  tenant: string;
  device: string;
  /** Of `core/refusals.ts:LIMITS`. */
  code: string;
  /** The limit in words. */
  expected: string;
  /** ms since the epoch. */
  at: number;
  count: number;
}

/** Adds to a count of two keys. */
export function countIn(
  counts: Map<string, Map<string, number>>,
  outer: string,
  inner: string,
): void {
  let of = counts.get(outer);
  if (of === undefined) {
    of = new Map();
    counts.set(outer, of);
  }
  of.set(inner, (of.get(inner) ?? 0) + 1);
}

function noOverload(): OverloadStatus {
  return {
    level: 'normal',
    since: Date.now(),
    cause: '',
    signals: {},
    history: [],
    changes: {},
    admission: { windowBytes: 0, underWayBytes: 0, delayMs: 0, waitMs: 0 },
    connectsWaiting: 0,
    limited: [],
  };
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
    shedByTenant: new Map(),
    limited: new Map(),
    receiptsSent: 0,
    backfill: { readings: 0, held: 0 },
    overload: noOverload(),
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
  /** Absent where nobody watches the devices. */
  presence?: PresenceStatistics;
  /** Absent before the first word. */
  backfill?: BackfillStatus;
  sequence?: SequenceStatus;
}

/** What devices' own counters say is missing; `ops/sequence-watch.ts`. */
export interface SequenceStatus {
  /** Gaps that were still open after a while, since the start. */
  gaps: number;
  /** Readings that are missing in those that are open now, as far as they are remembered. */
  missing: number;
  /** Counters that began anew. */
  restarts: number;
  /** Readings of devices that are not watched, since there are too many. */
  unwatched: number;
}

/** The lane of old readings. */
export interface BackfillStatus {
  /** Readings processed, and windows that they opened, since the start. */
  readings: number;
  windows: number;
  /** Readings a second, lately. */
  perSecond: number;
  /** Records that wait; the worker's `lagRecords` leaves them out. */
  lagRecords: number;
  /** How old the last batch was when it was processed, ms; 0 when none waits. */
  lagMs: number;
  /** The least event time of that batch, ms; absent when none waits. */
  ts?: number;
}

/** How many of the watched devices are what. */
export interface PresenceStatistics {
  online: number;
  offline: number;
  /** Records of devices that are not watched, since those are too many. */
  unwatched: number;
  /** Events in the log since the start, by status. */
  events: Record<string, number>;
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
  /** Absent from processes of the release before. */
  backfill?: GatewayCounters['backfill'];
  deadLettersByCode: Record<string, number>;
  shedByReason: Record<string, number>;
  overload: OverloadStatus;
}
