import { writePacket } from './mqtt5/packets.ts';

/**
 * What has to be known of a CONNECT before anybody spends something on it, and the answers that the gate
 * gives by itself, in the terms of the client's version.
 */
export interface ConnectSummary {
  /** 3 (MQTT 3.1), 4 (3.1.1), 5. */
  version: number;
  /** As claimed; nothing is proven yet. */
  username: string | undefined;
}

const USERNAME_FLAG = 0x80;
const WILL_FLAG = 0x04;

/** Undefined when the body is no CONNECT that can be read; its secrets are not looked at. */
export function readConnect(body: Buffer): ConnectSummary | undefined {
  const reader = new Reader(body);
  const name = reader.text();
  if (name !== 'MQTT' && name !== 'MQIsdp') return undefined;
  // The bridge bit of MQTT 3.1 [mosquitto]
  const version = reader.byte() & 0x7f;
  const flags = reader.byte();
  reader.skip(2);
  if (version === 5) reader.skip(reader.variable());
  reader.skip(reader.length());
  if ((flags & WILL_FLAG) !== 0) {
    if (version === 5) reader.skip(reader.variable());
    reader.skip(reader.length());
    reader.skip(reader.length());
  }
  const username = (flags & USERNAME_FLAG) === 0 ? undefined : reader.text();
  return reader.failed ? undefined : { version, username };
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

/** The CONNACK of a refusal. For MQTT 5 it says why in words, and when to try again. */
export function refusingConnack(
  version: number,
  refusal: ConnectRefusal,
  reason: string,
  retryAfterMs?: number,
): Buffer {
  const { v4, v5 } = CODES[refusal];
  if (version !== 5) return Buffer.from([0x20, 2, 0, v4]);
  const userProperties =
    retryAfterMs === undefined
      ? undefined
      : { 'retry-after': String(Math.ceil(retryAfterMs / 1_000)) };
  const properties = { reasonString: reason, ...(userProperties && { userProperties }) };
  return writePacket({ cmd: 'connack', sessionPresent: false, reasonCode: v5, properties }, 5);
}

/** The CONNACK of MQTT 5 with a reason code alone. */
export function refusingConnack5(reasonCode: number): Buffer {
  return writePacket({ cmd: 'connack', sessionPresent: false, reasonCode }, 5);
}

class Reader {
  private readonly bytes: Buffer;
  private at = 0;
  failed = false;

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

  /** A length of one to four bytes. */
  variable(): number {
    let value = 0;
    for (let factor = 1; factor <= 128 ** 3; factor *= 128) {
      const byte = this.byte();
      value += (byte & 0x7f) * factor;
      if (byte < 0x80) return value;
    }
    this.failed = true;
    return 0;
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
