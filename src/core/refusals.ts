/**
 * Why a message is not taken, and other codes of the gateway. A code is never reused for
 * another meaning; `docs/errors.md` lists all of them and is tested against this file.
 */
export const REFUSALS = {
  PAYLOAD_EMPTY: 'The payload is empty; send one of the documented JSON forms.',
  PAYLOAD_TOO_LARGE: 'The payload exceeds the limit; send fewer readings in a message.',
  JSON_INVALID: 'The payload is not JSON; NaN and Infinity are not JSON either.',
  JSON_TOO_DEEP: 'The payload nests too deep; values are numbers, booleans or strings.',
  SHAPE_INVALID: 'The payload is JSON, but none of the documented forms.',
  READINGS_TOO_MANY: 'The message holds too many readings; split it.',
  METRICS_TOO_MANY: 'The reading holds too many metrics; split it.',
  METRICS_NONE: 'The reading holds no metric.',
  METRIC_NAME_INVALID: 'A metric name is 1 to 64 of A-Z a-z 0-9 _ . : / - and no reserved word.',
  METRIC_UNKNOWN: "The device's type does not declare this metric.",
  METRIC_MISSING: "The device's type requires this metric.",
  VALUE_KIND: 'The value is of another kind than the type declares; numbers go without quotes.',
  VALUE_NOT_FINITE: 'The value is not a finite number.',
  VALUE_BOUNDS: 'The value lies outside the bounds that the type declares.',
  VALUE_TOO_LONG: 'The text is longer than the limit.',
  TS_INVALID: 'The time is neither milliseconds since the epoch nor ISO 8601 with a zone.',
  TS_SECONDS: 'The time seems to be in seconds; send milliseconds since the epoch.',
  TS_FUTURE: 'The time lies too far ahead of the gateway; check the clock of the device.',
  TS_PAST: 'The time lies further back than the type allows, or than raw readings are kept.',
  SEQ_INVALID: 'The sequence number is not a whole number from 0 to 2^53 - 1.',
  TYPE_UNKNOWN: "The device's type is not declared in the configuration; tell the operator.",
  DEVICE_NOT_ALLOWED: 'The credentials do not allow readings of this device.',
  TOPIC_NOT_ALLOWED: 'The credentials do not allow publishing to this topic.',
  TOPIC_INVALID: 'The topic holds wildcards, control characters or invalid UTF-8.',
  STATE_INVALID: 'A state message is one JSON value within the payload limit.',
  WILL_NOT_ALLOWED:
    'A will may go to the own state topic alone; the connection goes on without it.',
  RETAIN_IGNORED: 'The message was taken; telemetry is not retained. Clear the retain flag.',
  LOG_REFUSED: 'The log refused the record as too large; send less in one reading.',
  DEVICE_METRICS: 'The device has sent as many undeclared metrics today as its quota allows.',
  TENANT_METRICS: 'The tenant has sent as many undeclared metrics today as its quota allows.',
  DEVICES_TOO_MANY: 'The tenant has sent for as many devices today as its quota allows.',
  TIME_REQUESTS_TOO_MANY: 'The time was asked for too often; one request a second is answered.',
  STORE_REFUSED: 'The store refused the reading; tell the operator.',
} as const satisfies Record<string, string>;

export type RefusalCode = keyof typeof REFUSALS;

/** Why a QoS 0 message was dropped unread. */
export const SHED_REASONS = {
  LOG_FULL: 'The disk budget of the log is used up.',
  LOG_SATURATED: 'The log is slower than its input.',
  OVER_SHARE: 'The gateway is overloaded, and the tenant uses more than its share.',
  OVERLOADED: 'The gateway is overloaded.',
} as const satisfies Record<string, string>;

export type ShedReason = keyof typeof SHED_REASONS;

/**
 * What slows a device down, or keeps it from connecting. It is told by a receipt (`notice`) or by the
 * answer to its CONNECT, and the operator by metrics and the status.
 */
export const LIMITS = {
  DEVICE_MESSAGES: 'The device publishes more often than its quota; it is slowed down.',
  DEVICE_BYTES: 'The device publishes more bytes than its quota; it is slowed down.',
  TENANT_MESSAGES:
    'The devices of the tenant publish more often than its quota; they are slowed down.',
  TENANT_BYTES:
    'The devices of the tenant publish more bytes than its quota; they are slowed down.',
  FAIR_SHARE:
    'More comes than the gateway can take; those with more than their share are slowed down.',
  DEVICE_CONNECTIONS: 'The device has as many connections as its quota.',
  DEVICE_CONNECTS: 'The device connects more often than its quota.',
  TENANT_CONNECTIONS: 'The devices of the tenant have as many connections as its quota.',
  TENANT_CONNECTS: 'The devices of the tenant connect more often than its quota.',
  TENANT_DEVICES: 'More devices of the tenant were seen today than its quota.',
  PENALTY: 'The device, or its address, connected too often and has to wait.',
  ADDRESS_CONNECTS: 'More connections came from the address than are taken from one.',
  CONNECTS_WAITING: 'More CONNECTs came at once than can wait for their turn.',
  CONNECTIONS_MAX: 'The gateway has as many connections as it takes.',
  OVERLOADED: 'The gateway is overloaded and takes no new connections.',
  STOPPING: 'The gateway is stopping.',
} as const satisfies Record<string, string>;

export type LimitCode = keyof typeof LIMITS;

/** Why a socket is not read for a while: what `explain` calls `slowed`, beside {@link LIMITS}. */
export const SLOWED_BY = {
  INFLIGHT_MAX:
    'As many publishes of the connection as are allowed wait for their acknowledgement.',
  CONTROL_RATE: 'The device sends packets other than publishes faster than they are taken.',
  BROKER_BEHIND: 'What the device sent before is still worked on.',
  LOG_SATURATED: 'The log is slower than its input.',
  OUTPUT_UNREAD: 'The device does not read what it is sent.',
  BACKFILL_RATE: 'Old readings come faster than their budget.',
} as const satisfies Record<string, string>;

export type SlowedBy = keyof typeof SLOWED_BY;

/** Why a connection ended or was refused, beside {@link LIMITS}. */
export const CONNECTION_ENDS = {
  DISCONNECT: 'The device said farewell.',
  DISCONNECT_WITH_WILL: 'The device said farewell and asked for its will (MQTT 5).',
  CLOSED_BY_DEVICE: 'The device closed the connection without a farewell.',
  CONNECTION_LOST: 'The network broke the connection.',
  KEEP_ALIVE: 'The device was silent for one and a half keep-alives.',
  TAKEN_OVER: 'The device connected again with the same client id.',
  REVOKED: 'The device was removed, or its secret changed.',
  NOT_COMMITTED: 'A publish could not be written, so it was not acknowledged.',
  CLOSED_BY_GATEWAY: 'The gateway closed the connection.',
  BAD_CREDENTIALS: 'The username and password are not those of a device.',
  IDENTIFIER_REJECTED: 'The client id is too long, or empty without a clean session.',
  CONNECT_INVALID: 'The CONNECT of MQTT 5 can not be taken; its CONNACK says why.',
  CONNECTING_MAX: 'Too many connections had not sent a CONNECT; this was the oldest of them.',
  CONNECT_TOO_SLOW: 'It took too long until a CONNECT was accepted.',
  PACKET_TOO_SLOW: 'A packet took too long to arrive.',
  PACKET_TOO_LARGE: 'A packet was larger than the limit.',
  PACKET_MALFORMED: 'A packet was not MQTT.',
  PACKET_UNEXPECTED: 'A packet came that a client may not send, or not then.',
  TOPIC_ALIAS_INVALID: 'A topic alias was 0, too large, or for a long topic.',
  SUBSCRIPTION_IDENTIFIER: 'A SUBSCRIBE had an identifier, which is not supported.',
} as const satisfies Record<string, string>;

/** `STOPPING` is one of {@link LIMITS}: it refuses and ends. */
export type ConnectionEnd = keyof typeof CONNECTION_ENDS | 'STOPPING';

/** Why a dead letter can't be looked at again. */
export const UNREADABLE = {
  PAYLOAD_CUT: 'Only the beginning of the payload was kept.',
  PAYLOAD_GONE: 'Nothing of the payload was kept.',
  NO_TELEMETRY: 'It was no telemetry of the device.',
} as const satisfies Record<string, string>;

export type Unreadable = keyof typeof UNREADABLE;

/** The kinds of a duplicate. */
export const DUPLICATES = {
  IDENTICAL: 'The same reading came again.',
  MERGED: 'Further metrics of a reading that was stored; they were added to it.',
  CONFLICT: 'Another value for a stored metric and time; the later one won.',
} as const satisfies Record<string, string>;

export type DuplicateKind = keyof typeof DUPLICATES;
