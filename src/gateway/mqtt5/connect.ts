import { randomUUID } from 'node:crypto';
import type { IConnackPacket, IConnectPacket } from 'mqtt-packet';
import { readPacket, writePacket } from './packets.ts';
import { REASON } from './reasons.ts';

/** What the gateway allows a connection; its CONNACK says so where MQTT 5 would assume otherwise. */
export interface ServerTerms {
  /** Publishes that may wait for their acknowledgement. */
  receiveMaximum: number;
  packetBytesMax: number;
  keepAliveMaxSeconds: number;
  topicAliasMax: number;
}

/** What a CONNECT of MQTT 5 asks for beyond one of 3.1.1. */
export interface ConnectTerms {
  /** The same CONNECT as a client of 3.1.1 would send it. */
  connect: Buffer;
  /** A session from before is forgotten. */
  cleanStart: boolean;
  /** How long the session is kept after the connection, ms; Infinity: without end. */
  sessionExpiryMs: number;
  /** Publishes at QoS 1 that the device takes before it acknowledges the first. */
  receiveMaximum: number;
  /** The largest packet that it takes, bytes. */
  packetBytesMax: number;
  /** It wants reasons in words. */
  wantsReasons: boolean;
  /** How long the will waits for the device to come back, ms. */
  willDelayMs: number;
  /** What CONNACK tells of the connection's own terms. */
  granted: NonNullable<IConnackPacket['properties']>;
}

const NEVER_EXPIRES = 0xffff_ffff;

/** The reason code of the CONNACK when the CONNECT can't be taken. */
export function readConnect5(bytes: Buffer, terms: ServerTerms): ConnectTerms | { reason: number } {
  const packet = readPacket(bytes);
  if (packet?.cmd !== 'connect') return { reason: REASON.MALFORMED };
  const { properties = {}, will, ...connect } = packet;
  // [MQTT5 4.12] only known methods; there are none.
  if (properties.authenticationMethod !== undefined) return { reason: REASON.BAD_METHOD };
  if (properties.authenticationData !== undefined) return { reason: REASON.PROTOCOL_ERROR };
  if (will?.topic === '') return { reason: REASON.TOPIC_INVALID };
  const { receiveMaximum = 65_535, maximumPacketSize = Number.POSITIVE_INFINITY } = properties;
  if (receiveMaximum === 0 || maximumPacketSize === 0) return { reason: REASON.PROTOCOL_ERROR };
  const cleanStart = connect.clean === true;
  const sessionExpiryMs = expiryMs(properties.sessionExpiryInterval ?? 0);
  const granted = grantedTerms(packet, terms);
  // [MQTT5-3.1.2-24] it takes no CONNACK, and nothing else of use.
  const answer = connack(REASON.SUCCESS, false, granted);
  if (answer.length > maximumPacketSize) return { reason: REASON.PACKET_TOO_LARGE };
  const { assignedClientIdentifier } = granted;
  const v4: IConnectPacket = {
    ...connect,
    protocolVersion: 4,
    clientId: assignedClientIdentifier ?? connect.clientId,
    // The broker's own way to forget at the end what it has not kept.
    clean: cleanStart && sessionExpiryMs === 0,
  };
  if (will !== undefined) {
    const { properties: _, ...plain } = will;
    v4.will = plain;
  }
  try {
    return {
      connect: writePacket(v4, 4),
      cleanStart,
      sessionExpiryMs,
      receiveMaximum,
      packetBytesMax: maximumPacketSize,
      wantsReasons: properties.requestProblemInformation !== false,
      willDelayMs: (will?.properties?.willDelayInterval ?? 0) * 1_000,
      granted,
    };
  } catch {
    // A password without a name, which 3.1.1 can't say and nobody here has.
    return { reason: REASON.BAD_CREDENTIALS };
  }
}

export function connack(
  reasonCode: number,
  sessionPresent: boolean,
  properties: ConnectTerms['granted'] = {},
): Buffer {
  return writePacket({ cmd: 'connack', sessionPresent, reasonCode, properties }, 5);
}

export function expiryMs(seconds: number): number {
  return seconds === NEVER_EXPIRES ? Number.POSITIVE_INFINITY : seconds * 1_000;
}

function grantedTerms(
  { clientId, keepalive = 0 }: IConnectPacket,
  terms: ServerTerms,
): ConnectTerms['granted'] {
  const { keepAliveMaxSeconds: keepAliveMax } = terms;
  return {
    receiveMaximum: terms.receiveMaximum,
    maximumPacketSize: terms.packetBytesMax,
    topicAliasMaximum: terms.topicAliasMax,
    // Retained messages are taken and not kept. Nobody may listen where one is published, so nobody can
    // tell, and who reuses code for other brokers is not closed for a flag.
    wildcardSubscriptionAvailable: false,
    subscriptionIdentifiersAvailable: false,
    sharedSubscriptionAvailable: false,
    ...((keepalive === 0 || keepalive > keepAliveMax) && { serverKeepAlive: keepAliveMax }),
    ...(clientId === '' && { assignedClientIdentifier: randomUUID() }),
  };
}
