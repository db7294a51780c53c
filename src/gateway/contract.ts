import type { DeadLetterRecord, Refusal, Values } from '../core/nouns.ts';
import type { Unreadable } from '../core/refusals.ts';

/** What others may ask of the gateway's checks. Types only. */

/** A dead letter as far as it takes to look at it again. */
export type Letter = Omit<DeadLetterRecord, 'kind' | 'message'>;

/** What the gateway would make of one reading of a letter now. */
export type Examined = { device: string; type: string; typeVersion?: string } & (
  | { ts: number; seq: number | undefined; values: Values }
  | { refusal: Refusal; payload: Buffer }
);

export type Examination = { items: Examined[] } | { unreadable: Unreadable };

/** Throws what the directory throws. */
export type Examine = (letter: Letter) => Examination;

/** What was done with messages of a device, and why. */
export interface Decision {
  /** Gateway time of the first of them, ms. */
  at: number;
  what: 'accepted' | 'refused' | 'shed' | 'slowed';
  /** A refusal's code, the reason of a shed message, or the limit that slowed the connection; else empty. */
  code: string;
  /** Readings or messages within a second. */
  count: number;
}

export interface ClockSkew {
  /** The device's clock less the gateway's, less the shortest delay on the way, ms. */
  skewMs: number;
  /** How far its measurements are apart, ms. */
  spreadMs: number;
  /** False: too few readings yet, buffered readings, or a clock that jumps. */
  settled: boolean;
  readings: number;
  /** Gateway time of the last one, ms. */
  measuredAt: number;
}

export interface ConnectionView {
  clientId: string;
  /** Address and port of its other end. */
  from: string;
  /** `MQTT 3.1.1` */
  protocol: string;
  /** It began without a session from before. */
  clean: boolean;
  keepAliveSeconds: number;
  /** Gateway time, ms. */
  since: number;
  /** Null while it is open. */
  endedAt: number | null;
  /** Why it ended: DISCONNECT is the device's farewell; empty while it is open. */
  reason: string;
}

/** Old readings that were accepted of a device. Times in ms. */
export interface BackfillView {
  readings: number;
  /** Gateway time of the first and the last. */
  since: number;
  at: number;
  /** Event time of the last, and the least of all. */
  ts: number;
  oldest: number;
}

/** What this gateway knows of a device since it started. */
export interface DeviceView {
  /** Open connections, the newest first. */
  connections: ConnectionView[];
  /** The last one that ended. */
  lastConnection: ConnectionView | null;
  /** Newest first. */
  decisions: Decision[];
  clock: ClockSkew | null;
  /** Null when none came. */
  backfill: BackfillView | null;
}
