import type { ConnectionEnd, RefusalCode } from '../../core/refusals.ts';
import { isDeep } from '../topics.ts';

/** Reason codes of MQTT 5 [MQTT5 2.4] that this gateway sends. */
export const REASON = {
  SUCCESS: 0x00,
  NO_SUBSCRIPTION: 0x11,
  UNSPECIFIED: 0x80,
  MALFORMED: 0x81,
  PROTOCOL_ERROR: 0x82,
  IMPLEMENTATION: 0x83,
  VERSION_UNSUPPORTED: 0x84,
  CLIENT_ID: 0x85,
  BAD_CREDENTIALS: 0x86,
  NOT_AUTHORIZED: 0x87,
  UNAVAILABLE: 0x88,
  SHUTTING_DOWN: 0x8b,
  BAD_METHOD: 0x8c,
  KEEP_ALIVE: 0x8d,
  TAKEN_OVER: 0x8e,
  FILTER_INVALID: 0x8f,
  TOPIC_INVALID: 0x90,
  ID_NOT_FOUND: 0x92,
  TOPIC_ALIAS: 0x94,
  PACKET_TOO_LARGE: 0x95,
  QUOTA: 0x97,
  ADMINISTRATIVE: 0x98,
  PAYLOAD_FORMAT: 0x99,
  SHARED_UNSUPPORTED: 0x9e,
  SUBSCRIPTION_IDS_UNSUPPORTED: 0xa1,
  WILDCARDS_UNSUPPORTED: 0xa2,
} as const;

/** Refusals that say more than "valid, but not acceptable here" (0x83). */
const OF_REFUSAL: Partial<Record<RefusalCode, number>> = {
  TOPIC_NOT_ALLOWED: REASON.NOT_AUTHORIZED,
  DEVICE_NOT_ALLOWED: REASON.NOT_AUTHORIZED,
  TOPIC_INVALID: REASON.TOPIC_INVALID,
  PAYLOAD_TOO_LARGE: REASON.QUOTA,
  READINGS_TOO_MANY: REASON.QUOTA,
  METRICS_TOO_MANY: REASON.QUOTA,
  DEVICE_METRICS: REASON.QUOTA,
  TENANT_METRICS: REASON.QUOTA,
  DEVICES_TOO_MANY: REASON.QUOTA,
  TIME_REQUESTS_TOO_MANY: REASON.QUOTA,
  PAYLOAD_EMPTY: REASON.PAYLOAD_FORMAT,
  JSON_INVALID: REASON.PAYLOAD_FORMAT,
  JSON_TOO_DEEP: REASON.PAYLOAD_FORMAT,
  SHAPE_INVALID: REASON.PAYLOAD_FORMAT,
  STATE_INVALID: REASON.PAYLOAD_FORMAT,
};

/** The reason code of a PUBACK or PUBREC for a message that was not taken. */
export function reasonOfRefusal(code: string): number {
  return OF_REFUSAL[code as RefusalCode] ?? REASON.IMPLEMENTATION;
}

/** Why a connection ended (`Gate.endedBy`), as its DISCONNECT says it; others are not told. */
const OF_END: Partial<Record<ConnectionEnd, number>> = {
  PACKET_MALFORMED: REASON.MALFORMED,
  PACKET_UNEXPECTED: REASON.PROTOCOL_ERROR,
  PACKET_TOO_LARGE: REASON.PACKET_TOO_LARGE,
  PACKET_TOO_SLOW: REASON.IMPLEMENTATION,
  TOPIC_ALIAS_INVALID: REASON.TOPIC_ALIAS,
  SUBSCRIPTION_IDENTIFIER: REASON.SUBSCRIPTION_IDS_UNSUPPORTED,
  KEEP_ALIVE: REASON.KEEP_ALIVE,
  TAKEN_OVER: REASON.TAKEN_OVER,
  STOPPING: REASON.SHUTTING_DOWN,
  REVOKED: REASON.ADMINISTRATIVE,
  NOT_COMMITTED: REASON.IMPLEMENTATION,
  CLOSED_BY_GATEWAY: REASON.UNSPECIFIED,
};

export function reasonOfEnd(endedBy: ConnectionEnd): number | undefined {
  return OF_END[endedBy];
}

/** Return codes of a CONNACK of 3.1.1 [MQTT-3.2.2.3] in the terms of MQTT 5. */
const OF_RETURN_CODE: readonly number[] = [
  REASON.SUCCESS,
  REASON.PROTOCOL_ERROR,
  REASON.CLIENT_ID,
  REASON.UNAVAILABLE,
  REASON.BAD_CREDENTIALS,
  REASON.NOT_AUTHORIZED,
];

export function reasonOfReturnCode(code: number): number {
  return OF_RETURN_CODE[code] ?? REASON.UNSPECIFIED;
}

/**
 * Why a filter can't be granted to anybody: nobody listens to more than the own channels, by their whole names.
 * Undefined: the broker is asked.
 */
export function reasonOfFilter(filter: string): number | undefined {
  // [MQTT5-4.7.1-1] [MQTT5-4.7.1-2] [MQTT5-4.7.3-1] [MQTT5-4.7.3-2]
  const isValid = /^([^+#/\0]*|\+)(\/([^+#/\0]*|\+))*(\/#)?$|^#$/.test(filter) && filter !== '';
  if (!isValid) return REASON.FILTER_INVALID;
  if (filter.startsWith('$share/')) return REASON.SHARED_UNSUPPORTED;
  if (/[#+]/.test(filter)) return REASON.WILDCARDS_UNSUPPORTED;
  return isDeep(filter) ? REASON.NOT_AUTHORIZED : undefined;
}
