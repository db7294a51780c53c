import { connack } from './mqtt5/connect.ts';
import { type Kinds, OF_CONNECT, OF_WILL, readProperties, UNEXPECTED } from './mqtt5/properties.ts';
import { REASON } from './mqtt5/reasons.ts';

/**
 * What has to be known of a CONNECT before anybody spends something on it, and the answers that the gate
 * gives by itself, in the terms of the client's version.
 */
export interface ConnectSummary {
  /** 3 (MQTT 3.1), 4 (3.1.1), 5. */
  version: number;
  /** As claimed; nothing is proven yet. */
  username: string | undefined;
  /** MQTT 5: the reason code of what is wrong with it; what comes after that was not read. */
  fault?: number;
  /** MQTT 5: the largest packet that the device takes, bytes, where it says so. */
  packetBytesMax?: number;
}

const USERNAME_FLAG = 0x80;
const WILL_FLAG = 0x04;
const WILL_QOS = 0x18;

/** Undefined when the body is no CONNECT that can be read; its secrets are not looked at. */
export function readConnect(body: Buffer): ConnectSummary | undefined {
  const reader = new Reader(body);
  const name = reader.text();
  if (name !== 'MQTT' && name !== 'MQIsdp') return undefined;
  // The bridge bit of MQTT 3.1 [mosquitto]
  const version = reader.byte() & 0x7f;
  const flags = reader.byte();
  reader.skip(2);
  if (version === 5) {
    // [MQTT5-3.1.2-1] [MQTT5-3.1.2-12]
    if (name !== 'MQTT') reader.fault ??= REASON.VERSION_UNSUPPORTED;
    if ((flags & WILL_QOS) === WILL_QOS) reader.fault ??= REASON.MALFORMED;
    reader.properties(OF_CONNECT);
  }
  const { packetBytesMax } = reader;
  reader.skip(reader.length());
  if ((flags & WILL_FLAG) !== 0) {
    if (version === 5) reader.properties(OF_WILL);
    reader.skip(reader.length());
    reader.skip(reader.length());
  }
  const username = (flags & USERNAME_FLAG) === 0 ? undefined : reader.text();
  const { fault } = reader;
  if (version === 5 && (fault !== undefined || reader.failed))
    return { version, username: undefined, fault: fault ?? REASON.MALFORMED };
  if (reader.failed) return undefined;
  return { version, username, ...(packetBytesMax !== undefined && { packetBytesMax }) };
}

/** Why a CONNECT is refused, as both versions say it. */
export type ConnectRefusal = 'busy' | 'quota' | 'rate' | 'unavailable';

/** Return codes of MQTT 3.1.1 [MQTT-3.2.2.3] and reason codes of MQTT 5 [3.2.2.2]. */
const CODES: Record<ConnectRefusal, { v4: number; v5: number }> = {
  unavailable: { v4: 3, v5: 0x88 },
  busy: { v4: 3, v5: 0x89 },
  quota: { v4: 3, v5: 0x97 },
  rate: { v4: 3, v5: 0x9f },
};

/**
 * The CONNACK of a refusal. For MQTT 5 it says why in words, and when to try again, where the device takes a
 * packet of that size.
 */
export function refusingConnack(
  version: number,
  refusal: ConnectRefusal,
  reason: string,
  { retryAfterMs, packetBytesMax }: { retryAfterMs?: number; packetBytesMax?: number } = {},
): Buffer {
  const { v4, v5 } = CODES[refusal];
  if (version !== 5) return Buffer.from([0x20, 2, 0, v4]);
  const userProperties =
    retryAfterMs === undefined
      ? undefined
      : { 'retry-after': String(Math.ceil(retryAfterMs / 1_000)) };
  const properties = { reasonString: reason, ...(userProperties && { userProperties }) };
  const bytes = connack(v5, false, properties);
  // [MQTT5-3.2.2-19] [MQTT5-3.2.2-20]
  const isTooLarge = packetBytesMax !== undefined && bytes.length > packetBytesMax;
  return isTooLarge ? connack(v5, false) : bytes;
}

class Reader {
  private readonly bytes: Buffer;
  private at = 0;
  failed = false;
  /** The first that was found. */
  fault: number | undefined;
  packetBytesMax: number | undefined;

  constructor(bytes: Buffer) {
    this.bytes = bytes;
  }

  byte(): number {
    const byte = this.bytes[this.at++];
    if (byte === undefined) this.failed = true;
    return byte ?? 0;
  }

  /** A length of two bytes. */
  length(): number {
    return this.byte() * 256 + this.byte();
  }

  properties(kinds: Kinds): void {
    const { bytes } = this;
    const { end, packetBytesMax } = readProperties(bytes, this.at, bytes.length, kinds);
    if (end < 0) this.fault ??= end === UNEXPECTED ? REASON.PROTOCOL_ERROR : REASON.MALFORMED;
    else this.at = end;
    if (packetBytesMax < Number.POSITIVE_INFINITY) this.packetBytesMax = packetBytesMax;
  }

  skip(count: number): void {
    this.at += count;
    if (this.at > this.bytes.length) this.failed = true;
  }

  text(): string {
    const start = this.at + 2;
    this.skip(this.length());
    return this.bytes.toString('utf8', start, this.at);
  }
}
