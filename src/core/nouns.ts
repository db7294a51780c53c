/**
 * The nouns of Spillway. This room imports nothing of ours.
 *
 * tenant       a customer; owns devices, quotas and data
 * device       one identity that connects
 * device type  the measurements that a kind of device sends, with kinds, units and bounds
 * reading      one device's measurements at one time
 * log          the durable, ordered, replayable stream between ingestion and everything else
 * record       one entry of the log: a reading, a dead letter, a shed count or an event
 * offset       the place of a record in its partition of the log; grows by one for each record
 * backfill     readings that come long after they were measured, in a lane of their own
 * rollup       statistics of one device's metric over one window
 * store        the time-series database of raw readings and rollups
 * receipt      what a device is told about a message that was not taken
 * dead letter  a message that was not taken, kept with its reason
 * ledger       the account of what became of every message
 */

/** A measured value. Strings are states ("open"), never numbers in quotes. */
export type Value = number | boolean | string;

/** The metrics of one reading. Keys have passed {@link isMetricName}. */
export type Values = Record<string, Value>;

/** A reading as it stands in the log. Times are in ms since the epoch. */
export interface ReadingRecord {
  kind: 'reading';
  tenant: string;
  device: string;
  type: string;
  /** Only where it came long after it was measured, and takes a way of its own. */
  lane?: 'backfill';
  /** Event time: when the device measured. */
  ts: number;
  /** Gateway time: when the gateway took it. */
  received: number;
  /** The device's own counter, where it sends one. */
  seq?: number;
  values: Values;
  /** Only where it is the replay of a dead letter: how many replays brought it here. */
  attempt?: number;
}

/** Why a message or a part of it was not taken. */
export interface Refusal {
  /** A stable code of `core/refusals.ts`. */
  code: string;
  /** A sentence that says what to do next. */
  message: string;
  /** Where in the payload, as a JSON pointer (RFC 6901): `/values/temperature`. */
  path?: string;
  expected?: string;
  actual?: string;
}

/** A message, or the part of a message, that was not taken. */
export interface DeadLetterRecord extends Refusal {
  kind: 'deadLetter';
  tenant: string;
  device: string;
  type: string;
  /** {@link DeviceType.version} of the type that it was checked against; absent where there was none. */
  typeVersion?: string;
  received: number;
  /** Only where it was replayed and refused again: how many replays that was. */
  attempt?: number;
  /** The topic as the device wrote it. */
  topic: string;
  /** The original bytes, base64; cut at the configured bound. */
  payload: string;
  /** Length of the original payload in bytes. */
  payloadBytes: number;
}

/** QoS 0 messages that were dropped under overload, counted together. */
export interface ShedRecord {
  kind: 'shed';
  tenant: string;
  device: string;
  received: number;
  code: string;
  count: number;
}

/**
 * Something that happened to a device, or that was done with its dead letters: presence, a state message,
 * that it went silent or came back, a {@link LetterReplay}, a {@link LetterPurge}. Not part of the ledger.
 */
export interface EventRecord {
  kind: 'event';
  tenant: string;
  device: string;
  received: number;
  event:
    | 'connected'
    | 'disconnected'
    | 'state'
    | 'online'
    | 'offline'
    | 'letterReplayed'
    | 'lettersPurged';
  /** Only of a state that was the device's will: its connection broke. */
  will?: true;
  data?: unknown;
}

/** Which dead letter of a device: its place in the log, and what the stores file it under. */
export interface LetterKey {
  partition: number;
  offset: number;
  received: number;
  code: string;
  type: string;
  typeVersion?: string;
}

/** `data` of the event `letterReplayed`. */
export interface LetterReplay extends LetterKey {
  /** How many replays the letter has had, this one included. */
  attempt: number;
  /** At least one reading was taken; else nothing was, and the letter stays open. */
  taken: boolean;
}

/** `data` of the event `lettersPurged`: which of the device's letters lose their contents. */
export interface LetterPurge {
  /** Gateway time, ms; `from` inclusive, `to` exclusive. */
  from: number;
  to: number;
  code?: string;
  type?: string;
  typeVersion?: string;
  state?: 'open' | 'replayed';
  /** These alone, as `[partition, offset]`. */
  letters?: [partition: number, offset: number][];
}

export type LogRecord = ReadingRecord | DeadLetterRecord | ShedRecord | EventRecord;

/** What became of a message: the ledger's columns. */
export type Outcome = 'stored' | 'deadLetter' | 'shed' | 'duplicate';

/** One line of the ledger: how many items of a device came to one outcome within one hour of gateway time. */
export interface LedgerCount {
  tenant: string;
  device: string;
  /** Start of the hour of `received`, ms since the epoch. */
  hour: number;
  outcome: Outcome;
  /** Refusal code, shed reason or kind of duplicate; empty for `stored`. */
  code: string;
  count: number;
}

/** One line of the gateways' own account: how many items were received (made durable in the log). */
export interface ReceivedCount {
  tenant: string;
  device: string;
  hour: number;
  /** `reading`: accepted into the log; `deadLetter` and `shed` with their code. */
  outcome: 'reading' | 'deadLetter' | 'shed';
  code: string;
  count: number;
}

/** Statistics of one metric over one window; merges with its like. */
export interface AggregateState {
  count: number;
  /** Numeric fields are 0 / undefined for string metrics. Booleans count as 0 and 1. */
  sum: number;
  min: number;
  max: number;
  mean: number;
  /** Sum of squared differences from the mean (Welford); stddev = sqrt(m2 / (count - 1)). */
  m2: number;
  firstTs: number;
  first: Value;
  lastTs: number;
  last: Value;
  /** DDSketch in the rollup room's own encoding; absent for string metrics. */
  sketch?: Uint8Array;
}

/** A rollup row: one metric of one device over `[start, start + windowMs)` in event time. */
export interface RollupRow {
  tenant: string;
  device: string;
  metric: string;
  windowMs: number;
  start: number;
  state: AggregateState;
  /** Counts the times that a final row was changed by late data; 0 while open and when first final. */
  revision: number;
  /** Gateway time of the last change, ms. */
  changedAt: number;
}

/** The kinds of a metric's value. */
export type MetricKind = 'float' | 'int' | 'bool' | 'string';

export interface MetricType {
  kind: MetricKind;
  /** Free text for people and charts: `°C`, `hPa`. */
  unit?: string | undefined;
  min?: number | undefined;
  max?: number | undefined;
  /** Allowed values of a string metric. */
  values?: string[] | undefined;
  required: boolean;
}

/** What a kind of device sends, from the configuration. */
export interface DeviceType {
  name: string;
  /** The first 8 hex digits of the SHA-256 of its definition: another definition, another version. */
  version: string;
  metrics: Record<string, MetricType>;
  unknownMetrics: 'reject' | 'keep' | 'drop';
  /** The period between readings that the device should keep, ms; for completeness. 0: unknown. */
  periodMs: number;
  /** How far a reading's time may lie ahead of gateway time, ms. */
  futureMs: number;
  /** What happens beyond that. */
  future: 'reject' | 'useReceived';
  /** How far a reading's time may lie behind gateway time, ms. */
  pastMs: number;
}

/** Retention by kind of data, ms; 0 keeps for ever. */
export interface Retention {
  rawMs: number;
  deadLettersMs: number;
  /** The ledger and the gateways' own account, by hours of gateway time; absent: for ever. */
  ledgerMs?: number;
  /** By window size in ms. */
  rollupsMs: ReadonlyMap<number, number>;
}
