import { packetOf, variableBytes } from '../src/gateway/mqtt5/packets.ts';

/** MQTT as the load generators write it: with as little work for each message as there can be. */

/** 3.1.1 or 5. */
export type Version = 4 | 5;

/** The properties that a packet of MQTT 5 has: none. */
const noProperties = (version: Version) => Buffer.alloc(version === 5 ? 1 : 0);

const TS_DIGITS = 13;

export interface Client {
  username: string;
  password: string;
  topic: string;
}

function text(value: string): Buffer {
  const bytes = Buffer.from(value);
  return Buffer.concat([Buffer.from([bytes.length >> 8, bytes.length & 0xff]), bytes]);
}

export function connectPacket(
  clientId: string,
  username: string,
  password: string,
  options: { cleanSession?: boolean; version?: Version } = {},
): Buffer {
  const { cleanSession = true, version = 4 } = options;
  const body = Buffer.concat([
    text('MQTT'),
    Buffer.from([version, cleanSession ? 0xc2 : 0xc0, 0, 60]),
    noProperties(version),
    text(clientId),
    text(username),
    text(password),
  ]);
  return packetOf(0x10, body);
}

/** One filter at QoS 1; its SUBACK is nobody's business. */
export function subscribePacket(filter: string): Buffer {
  const body = Buffer.concat([Buffer.from([0, 1]), text(filter), Buffer.from([1])]);
  return packetOf(0x82, body);
}

/** Writes publishes of five metrics, each with its own time, into a buffer. */
export class PublishWriter {
  readonly size: number;
  private readonly template: Buffer;
  private readonly qos: 0 | 1;
  private readonly idAt: number;
  private readonly tsAt: number;
  private readonly valueAt: number;

  constructor(topic: string, qos: 0 | 1, version: Version = 4) {
    this.qos = qos;
    const payload = Buffer.from(
      `{"ts":${'0'.repeat(TS_DIGITS)},"values":{"temperature":20.00,"humidity":45.5,"pressure":1013.2,"battery":3.71,"heating":true}}`,
    );
    const name = text(topic);
    const body = Buffer.concat([name, Buffer.alloc(2 * qos), noProperties(version), payload]);
    const header = Buffer.from([qos === 1 ? 0x32 : 0x30, ...variableBytes(body.length)]);
    this.template = Buffer.concat([header, body]);
    this.size = this.template.length;
    this.idAt = header.length + name.length;
    this.tsAt = this.template.indexOf('"ts":') + 5;
    this.valueAt = this.template.indexOf('20.00');
  }

  /** `ts`: whole ms since the epoch; `id`: 1 to 65,535, for QoS 1; `digit`: the last of the temperature. */
  write(bytes: Buffer, at: number, ts: number, id: number, digit: number): void {
    this.template.copy(bytes, at);
    let digits = ts;
    for (let d = TS_DIGITS - 1; d >= 0; d--) {
      bytes[at + this.tsAt + d] = 48 + (digits % 10);
      digits = Math.floor(digits / 10);
    }
    bytes[at + this.valueAt + 3] = 48 + digit;
    if (this.qos === 1) bytes.writeUInt16BE(id, at + this.idAt);
  }
}
