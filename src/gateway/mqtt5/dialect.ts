import type { IDisconnectPacket, ISubscribePacket, IUnsubscribePacket } from 'mqtt-packet';
import type { ConnectionEnd } from '../../core/refusals.ts';
import { FrameReader, PUBLISH, type ViolationReason } from '../frames.ts';
import { type Answer, isRefusal } from './answer.ts';
import { type ConnectTerms, connack, expiryMs } from './connect.ts';
import { packetOf, readPacket, writePacket } from './packets.ts';
import {
  type Kinds,
  OF_ACKNOWLEDGEMENT,
  OF_DISCONNECT,
  OF_SUBSCRIBE,
  OF_UNSUBSCRIBE,
  readProperties,
  UNEXPECTED,
} from './properties.ts';
import { REASON, reasonOfEnd, reasonOfFilter, reasonOfReturnCode } from './reasons.ts';

/** What the dialect needs of its connection. */
export interface DialectHost {
  violation(reason: ViolationReason): void;
  /** To the broker, in 3.1.1. */
  inject(packet: Buffer): void;
  /** To the device, in MQTT 5. */
  send(bytes: Buffer): void;
  /** Packets of the device can be handled again. */
  resumeReading(): void;
  /** A QoS 2 publish was refused: no PUBREL follows, and its id is free at once [MQTT5-4.3.3-9]. */
  release(messageId: number): void;
  /** The device leaves, and wants its will published. */
  leave(): void;
}

const CONNECT = 1;
const CONNACK = 2;
const PUBACK = 4;
const PUBREC = 5;
const PUBREL = 6;
const PUBCOMP = 7;
const SUBSCRIBE = 8;
const SUBACK = 9;
const UNSUBSCRIBE = 10;
const UNSUBACK = 11;
const PINGREQ = 12;
const DISCONNECT = 14;
/** [MQTT5-2.1.3-1] Those whose header has flags, always these. */
const FLAGS: Readonly<Record<number, number>> = { [PUBREL]: 2, [SUBSCRIBE]: 2, [UNSUBSCRIBE]: 2 };

/** Topics that a device may give a number to save their bytes. */
export const TOPIC_ALIAS_MAX = 16;
/** Longer topics are nobody's own. */
const ALIASED_BYTES_MAX = 256;
/** SUBSCRIBEs and UNSUBSCRIBEs whose answer is awaited; with as many the device is not read. */
const REQUESTS_MAX = 64;
/** Refused QoS 2 publishes that are remembered for clients that release them all the same. */
const REFUSED_MAX = 256;
/** Of a text in a packet; the receipt has all of it. */
const REASON_CHARS_MAX = 256;
const PROPERTIES: Readonly<Record<number, Kinds>> = {
  [PUBACK]: OF_ACKNOWLEDGEMENT,
  [PUBREC]: OF_ACKNOWLEDGEMENT,
  [PUBREL]: OF_ACKNOWLEDGEMENT,
  [PUBCOMP]: OF_ACKNOWLEDGEMENT,
  [SUBSCRIBE]: OF_SUBSCRIBE,
  [UNSUBSCRIBE]: OF_UNSUBSCRIBE,
  [DISCONNECT]: OF_DISCONNECT,
};
const NO_PROPERTIES = Buffer.from([0]);
const NOTHING: Buffer = Buffer.alloc(0);

/**
 * MQTT 5 for one connection, in front of a broker that speaks 3.1.1: packets of the device are said to the
 * broker in 3.1.1, those of the broker to the device in MQTT 5. Both have the same flow, so nothing is kept but
 * what one side can't be told: topic aliases, reasons, how much the device takes at once.
 */
export class Dialect {
  readonly terms: ConnectTerms;
  private readonly host: DialectHost;
  private readonly frames: FrameReader;
  private sessionExpiry: number;
  /** There is a session to go on with, which the broker knows of only while it has subscriptions. */
  sessionPresent = false;
  /** What the CONNACK of a refusal says instead of what the broker does. */
  refusal: Buffer | undefined;
  private readonly aliases = new Map<number, string | undefined>();
  /** The filters of requests that wait for their answer, by packet id. */
  private readonly requests = new Map<number, string[]>();
  /**
   * What to say with acknowledgements that the broker writes, by packet id, each time that it came; as many as
   * publishes may wait.
   */
  private readonly answers = new Map<number, Answer[]>();
  /** Ids of the latest QoS 2 publishes that were refused. */
  private readonly refused = new Set<number>();
  private converted: Buffer[] = [];
  /** Publishes beyond what the device takes at once, in order. */
  private readonly held: Buffer[] = [];
  heldBytes = 0;
  private unacknowledged = 0;
  /** The next PUBACK says so. */
  private noticed = '';

  constructor(terms: ConnectTerms, host: DialectHost) {
    this.terms = terms;
    this.host = host;
    this.sessionExpiry = terms.sessionExpiryMs;
    const any = Number.POSITIVE_INFINITY;
    this.frames = new FrameReader(
      { bodyMax: () => any, bufferedMax: any, keptMax: any },
      {
        ready: () => true,
        frame: (bytes, start, body, end) => this.convert(bytes, start, body, end),
        violation: (reason) => host.violation(reason),
      },
    );
  }

  /** How long the session is kept after the connection, ms. */
  get sessionExpiryMs(): number {
    return this.sessionExpiry;
  }

  /** How long the will waits for the device to come back, ms; the end of the session is the latest time. */
  get willDelayMs(): number {
    return Math.min(this.terms.willDelayMs, this.sessionExpiry);
  }

  /**
   * The topic of a publish with an alias, which `given` defines when it has bytes; undefined: it is invalid.
   * Closes the connection when there is no such alias.
   */
  topicOf(alias: number, given: string | undefined, givenBytes: number): string | undefined {
    if (alias > TOPIC_ALIAS_MAX || givenBytes > ALIASED_BYTES_MAX) {
      this.host.violation('TOPIC_ALIAS_INVALID');
      return undefined;
    }
    if (givenBytes > 0) {
      // An invalid topic is refused with its message, and so is each that comes by the alias.
      this.aliases.set(alias, given);
      return given;
    }
    if (!this.aliases.has(alias)) this.host.violation('PACKET_UNEXPECTED');
    return this.aliases.get(alias);
  }

  /** A packet of the device that is neither CONNECT nor PUBLISH, for the broker; undefined: it has no part in it. */
  fromDevice(packet: Buffer): Buffer | undefined {
    const fault = faultOf(packet);
    if (fault !== undefined) return this.violate(fault);
    const type = (packet[0] as number) >> 4;
    if (type === PINGREQ) return packet;
    if (type <= PUBCOMP) return this.acknowledged(packet);
    const read = readPacket(packet);
    if (read?.cmd === 'disconnect') return this.disconnect(read);
    if (read?.cmd === 'subscribe') return this.subscribe(read);
    if (read?.cmd === 'unsubscribe') return this.unsubscribe(read);
    return this.violate('PACKET_MALFORMED');
  }

  /** True while the device asks faster than it is answered. */
  get isFull(): boolean {
    return this.requests.size >= REQUESTS_MAX;
  }

  private violate(reason: ViolationReason): undefined {
    this.host.violation(reason);
  }

  private subscribe({
    messageId = 0,
    subscriptions,
    properties,
  }: ISubscribePacket): Buffer | undefined {
    if (properties?.subscriptionIdentifier !== undefined)
      return this.violate('SUBSCRIPTION_IDENTIFIER');
    const filters = subscriptions.map(({ topic }) => topic);
    if (!this.mayAsk(messageId, filters)) return undefined;
    // The broker closes the connection for a filter that is not valid.
    const asked = subscriptions.filter(({ topic }) => reasonOfFilter(topic) === undefined);
    if (asked.length === 0) {
      this.host.send(suback(messageId, filters, NOTHING));
      return undefined;
    }
    this.requests.set(messageId, filters);
    const plain = asked.map(({ topic, qos }) => ({ topic, qos }));
    return writePacket({ cmd: 'subscribe', messageId, subscriptions: plain }, 4);
  }

  private unsubscribe({ messageId = 0, unsubscriptions }: IUnsubscribePacket): Buffer | undefined {
    if (!this.mayAsk(messageId, unsubscriptions)) return undefined;
    const asked = unsubscriptions.filter((filter) => reasonOfFilter(filter) === undefined);
    if (asked.length === 0) {
      this.host.send(unsuback(messageId, unsubscriptions));
      return undefined;
    }
    this.requests.set(messageId, unsubscriptions);
    return writePacket({ cmd: 'unsubscribe', messageId, unsubscriptions: asked }, 4);
  }

  /** False: the connection is closed for the request. */
  private mayAsk(messageId: number, filters: string[]): boolean {
    // [MQTT5-2.2.1-3] [MQTT5-3.8.3-2] [MQTT5-3.10.3-2]
    const isValid = messageId !== 0 && !this.requests.has(messageId) && filters.length > 0;
    if (!isValid) this.violate('PACKET_UNEXPECTED');
    return isValid;
  }

  /** Bytes of the broker, which may end within a packet, for the device. */
  toDevice(chunk: Buffer): Buffer {
    this.converted = [];
    this.frames.feed(chunk);
    const { converted } = this;
    this.converted = [];
    return converted.length === 1 ? (converted[0] as Buffer) : Buffer.concat(converted);
  }

  /** What the broker's acknowledgement of a publish shall say. */
  answer(messageId: number, answer: Answer): void {
    const known = this.answers.get(messageId);
    if (known === undefined) this.answers.set(messageId, [answer]);
    else known.push(answer);
  }

  /** The next PUBACK tells of a limit that slows the device down; it is none the less one of success. */
  notice(text: string): void {
    this.noticed = text;
  }

  /**
   * The acknowledgement of a publish, where it says more than that; `first`: the first byte of its header.
   * Undefined: the one of 3.1.1 says it all.
   */
  reasoned(first: number, messageId: number, answer: Answer | undefined): Buffer | undefined {
    if (first >> 4 === PUBREC) this.noteOutcome(messageId, answer);
    if (answer === undefined && this.noticed === '') return undefined;
    const { reasonCode = REASON.SUCCESS } = answer ?? {};
    let { reason = '' } = answer ?? {};
    if (reason === '') {
      reason = this.noticed;
      this.noticed = '';
    }
    return this.withReason(first, [...idOf(messageId), reasonCode], reason);
  }

  /** The DISCONNECT for the reason why the gateway ends the connection; undefined: there is nothing to say. */
  farewell(endedBy: ConnectionEnd): Buffer | undefined {
    const code = reasonOfEnd(endedBy);
    return code === undefined ? undefined : this.withReason(DISCONNECT << 4, [code], endedBy);
  }

  /** A packet that ends with a reason in words: they are left out where they make it too large [MQTT5-3.4.2-2]. */
  private withReason(first: number, head: number[], reason: string): Buffer {
    const code = Buffer.from(head);
    const packet = packetOf(first, code, this.reasonProperties(reason));
    return packet.length <= this.terms.packetBytesMax ? packet : packetOf(first, code);
  }

  private reasonProperties(reason: string): Buffer {
    if (reason === '' || !this.terms.wantsReasons) return NO_PROPERTIES;
    const text = Buffer.from(reason.slice(0, REASON_CHARS_MAX), 'utf8');
    const head = Buffer.from([0x1f, text.length >> 8, text.length & 0xff]);
    return packetOf(0, head, text).subarray(1);
  }

  private noteOutcome(messageId: number, answer: Answer | undefined): void {
    this.refused.delete(messageId);
    if (!isRefusal(answer)) return;
    const [oldest] = this.refused;
    if (oldest !== undefined && this.refused.size >= REFUSED_MAX) this.refused.delete(oldest);
    this.refused.add(messageId);
  }

  /** PUBACK, PUBREC, PUBREL, PUBCOMP: their reasons say nothing that changes what follows. */
  private acknowledged(packet: Buffer): Buffer | undefined {
    const first = packet[0] as number;
    const body = bodyOf(packet);
    const type = first >> 4;
    if (type === PUBACK) this.acknowledgedOne();
    const id = packet.readUInt16BE(body);
    if (type === PUBREL && this.refused.delete(id)) {
      // Paho overlooks the PUBREC's reason, and would take this one for success.
      this.host.send(packetOf(PUBCOMP << 4, idOf(id), Buffer.from([REASON.ID_NOT_FOUND])));
      return undefined;
    }
    return packetOf(first, packet.subarray(body, body + 2));
  }

  private acknowledgedOne(): void {
    this.unacknowledged = Math.max(0, this.unacknowledged - 1);
    const next = this.held.shift();
    if (next === undefined) return;
    this.heldBytes -= next.length;
    this.unacknowledged++;
    this.host.send(next);
  }

  private disconnect({ reasonCode = 0, properties }: IDisconnectPacket): Buffer | undefined {
    const seconds = properties?.sessionExpiryInterval;
    if (seconds !== undefined) {
      // [MQTT5 3.14.2.2.2] what ends with the connection can't be kept any more
      if (this.terms.sessionExpiryMs === 0 && seconds > 0) return this.violate('PACKET_UNEXPECTED');
      this.sessionExpiry = expiryMs(seconds);
    }
    if (reasonCode === REASON.SUCCESS) return Buffer.from([DISCONNECT << 4, 0]);
    this.host.leave();
    return undefined;
  }

  /** One packet of the broker. */
  private convert(bytes: Buffer, start: number, body: number, end: number): void {
    const first = bytes[start] as number;
    const type = first >> 4;
    if (type === PUBLISH) {
      this.publish(first, bytes, body, end);
      return;
    }
    const messageId = body + 2 <= end ? bytes.readUInt16BE(body) : 0;
    if (type === CONNACK) this.converted.push(this.connack(bytes, body));
    else if (type === PUBACK || type === PUBREC) {
      const [answer, ...more] = this.answers.get(messageId) ?? [];
      if (more.length > 0) this.answers.set(messageId, more);
      else this.answers.delete(messageId);
      const said = this.reasoned(first, messageId, answer);
      this.converted.push(said ?? Buffer.from(bytes.subarray(start, end)));
      if (type === PUBREC && isRefusal(answer)) this.host.release(messageId);
    } else if (type === SUBACK) {
      const granted = bytes.subarray(body + 2, end);
      this.converted.push(suback(messageId, this.filtersOf(messageId), granted));
    } else if (type === UNSUBACK)
      this.converted.push(unsuback(messageId, this.filtersOf(messageId)));
    else this.converted.push(Buffer.from(bytes.subarray(start, end)));
  }

  private connack(bytes: Buffer, body: number): Buffer {
    const returnCode = bytes[body + 1] as number;
    if (returnCode !== 0 && this.refusal !== undefined) return this.refusal;
    if (returnCode !== 0) return connack(reasonOfReturnCode(returnCode), false);
    return connack(REASON.SUCCESS, this.sessionPresent, this.terms.granted);
  }

  private publish(first: number, bytes: Buffer, body: number, end: number): void {
    const qos = (first >> 1) & 3;
    const topicEnd = body + 2 + bytes.readUInt16BE(body);
    const headEnd = qos === 0 ? topicEnd : topicEnd + 2;
    const head = bytes.subarray(body, headEnd);
    const packet = packetOf(first, head, NO_PROPERTIES, bytes.subarray(headEnd, end));
    // [MQTT5-3.1.2-25] it is dropped as if it had been sent
    if (packet.length > this.terms.packetBytesMax) {
      if (qos > 0) this.host.inject(packetOf(PUBACK << 4, Buffer.from(head.subarray(-2))));
    } else if (qos === 0) this.converted.push(packet);
    else if (this.unacknowledged < this.terms.receiveMaximum) {
      this.unacknowledged++;
      this.converted.push(packet);
    } else {
      this.held.push(packet);
      this.heldBytes += packet.length;
    }
  }

  private filtersOf(messageId: number): string[] {
    const { isFull } = this;
    const filters = this.requests.get(messageId) ?? [];
    this.requests.delete(messageId);
    // Not within the broker's own write.
    if (isFull) setImmediate(() => this.host.resumeReading());
    return filters;
  }
}

/** Why a packet that is neither CONNECT's nor a publish can't be looked at; undefined: nothing is against it. */
function faultOf(packet: Buffer): ViolationReason | undefined {
  const first = packet[0] as number;
  const type = first >> 4;
  // [MQTT5-3.1.0-2]
  if (type === CONNECT) return 'PACKET_UNEXPECTED';
  if ((first & 0x0f) !== (FLAGS[type] ?? 0)) return 'PACKET_MALFORMED';
  const body = bodyOf(packet);
  const length = packet.length - body;
  if (type === PINGREQ) return length === 0 ? undefined : 'PACKET_MALFORMED';
  const isRequest = type === SUBSCRIBE || type === UNSUBSCRIBE;
  const isShort = length < (type === DISCONNECT ? 0 : 2);
  if (isShort) return 'PACKET_MALFORMED';
  // A reason code, then properties; both may be left out.
  const before = type === DISCONNECT ? 1 : isRequest ? 2 : 3;
  if (!isRequest && length <= before) return undefined;
  const { end } = readProperties(packet, body + before, packet.length, PROPERTIES[type] ?? {});
  if (end === UNEXPECTED) return 'PACKET_UNEXPECTED';
  return end < 0 || (!isRequest && end !== packet.length) ? 'PACKET_MALFORMED' : undefined;
}

function suback(messageId: number, filters: string[], granted: Buffer): Buffer {
  // The broker answers a filter once, however often it was in the packet.
  const asked = [...new Set(filters)].filter((filter) => reasonOfFilter(filter) === undefined);
  const codes = filters.map((filter) => {
    const refused = reasonOfFilter(filter);
    if (refused !== undefined) return refused;
    const code = granted[asked.indexOf(filter)] ?? REASON.UNSPECIFIED;
    return code >= REASON.UNSPECIFIED ? REASON.NOT_AUTHORIZED : code;
  });
  return packetOf(SUBACK << 4, idOf(messageId), NO_PROPERTIES, Buffer.from(codes));
}

/** The broker doesn't say whether there was a subscription; to these filters there never is one. */
function unsuback(messageId: number, filters: string[]): Buffer {
  const codes = filters.map((filter) => {
    const refused = reasonOfFilter(filter);
    if (refused === undefined) return REASON.SUCCESS;
    return refused === REASON.FILTER_INVALID ? refused : REASON.NO_SUBSCRIPTION;
  });
  return packetOf(UNSUBACK << 4, idOf(messageId), NO_PROPERTIES, Buffer.from(codes));
}

function idOf(messageId: number): Buffer {
  return Buffer.from([messageId >> 8, messageId & 0xff]);
}

/** Where the body of a whole packet begins. */
function bodyOf(packet: Buffer): number {
  let at = 1;
  while ((packet[at] ?? 0) >= 0x80) at++;
  return at + 1;
}

/** A publish of MQTT 5 as 3.1.1 says it. */
export function plainPublish(
  first: number,
  topic: string,
  messageId: number,
  payload: Buffer,
): Buffer {
  const name = Buffer.from(topic, 'utf8');
  const length = Buffer.from([name.length >> 8, name.length & 0xff]);
  const id = (first & 0x06) === 0 ? NOTHING : idOf(messageId);
  return packetOf(first, length, name, id, payload);
}
