import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import mqtt, { type Packet, type Parser } from 'mqtt-packet';

/** `npm run test:mqtt5` runs the tests of the gateway in MQTT 5 instead of 3.1.1. */
export const PROTOCOL_VERSION = process.env.TEST_MQTT_VERSION === '5' ? 5 : 4;

/** A packet in the version that is tested. */
export function encode(packet: Packet): Buffer {
  return mqtt.generate(packet, { protocolVersion: PROTOCOL_VERSION });
}

/** What 3.1.1 says for a reason code of a CONNACK, so that the same tests read both. */
const RETURN_CODES: Readonly<Record<number, number>> = { 0: 0, 133: 2, 134: 4 };
const UNAVAILABLE = 3;

/** An MQTT client that sends what a library would refuse to send. */
export class RawClient {
  readonly socket: Socket;
  readonly packets: Packet[] = [];
  closed = false;
  private readonly parser: Parser;
  private readonly waiting: {
    match: (packet: Packet) => boolean;
    resolve: (packet: Packet) => void;
  }[] = [];
  private messageId = 0;
  readonly version: 4 | 5;

  private constructor(port: number, version: 4 | 5) {
    this.version = version;
    this.socket = connect({ port, host: '127.0.0.1', noDelay: true });
    this.parser = mqtt.parser({ protocolVersion: version });
    this.parser.on('packet', (packet: Packet) => {
      if (packet.cmd === 'connack' && version === 5)
        packet.returnCode = RETURN_CODES[packet.reasonCode ?? 0] ?? UNAVAILABLE;
      this.packets.push(packet);
      const index = this.waiting.findIndex(({ match }) => match(packet));
      if (index >= 0) this.waiting.splice(index, 1)[0]?.resolve(packet);
    });
    this.socket.on('data', (chunk) => this.parser.parse(chunk));
    this.socket.on('error', () => {});
    this.socket.on('close', () => {
      this.closed = true;
    });
  }

  static open(port: number, version: 4 | 5 = PROTOCOL_VERSION): RawClient {
    return new RawClient(port, version);
  }

  static async connect(
    port: number,
    username: string,
    password: string,
    keepalive = 60,
  ): Promise<RawClient> {
    const client = RawClient.open(port);
    const connack = client.next((packet) => packet.cmd === 'connack');
    client.send({
      cmd: 'connect',
      clientId: 'raw',
      username,
      password: Buffer.from(password),
      keepalive,
      clean: true,
      protocolId: 'MQTT',
      protocolVersion: PROTOCOL_VERSION,
    });
    await connack;
    return client;
  }

  send(packet: Packet): void {
    this.socket.write(mqtt.generate(packet, { protocolVersion: this.version }));
  }

  /** Sends a PUBLISH with any topic and resolves with its acknowledgement (at once for QoS 0). */
  async publish(topic: string, payload: string | Buffer, qos: 0 | 1 | 2): Promise<void> {
    this.messageId++;
    const id = this.messageId;
    this.socket.write(publishBytes(topic, Buffer.from(payload), qos, id, this.version));
    if (qos === 0) return;
    await this.next(
      (packet) => (packet.cmd === 'puback' || packet.cmd === 'pubrec') && packet.messageId === id,
    );
  }

  /** The next packet that matches, within 5 s. */
  next(match: (packet: Packet) => boolean): Promise<Packet> {
    return new Promise((resolve, reject) => {
      const late = setTimeout(() => reject(new Error('no such packet came')), 5_000);
      this.waiting.push({
        match,
        resolve: (packet) => {
          clearTimeout(late);
          resolve(packet);
        },
      });
    });
  }

  async ended(): Promise<void> {
    if (!this.closed) await once(this.socket, 'close');
  }

  close(): void {
    this.socket.destroy();
  }
}

/** A PUBLISH packet, built by hand so that anything can be in it. */
export function publishBytes(
  topic: string,
  payload: Buffer,
  qos: 0 | 1 | 2,
  id: number,
  version: 4 | 5 = PROTOCOL_VERSION,
): Buffer {
  const name = Buffer.from(topic, 'utf8');
  const body = Buffer.concat([
    Buffer.from([name.length >> 8, name.length & 0xff]),
    name,
    qos === 0 ? Buffer.alloc(0) : Buffer.from([id >> 8, id & 0xff]),
    version === 5 ? Buffer.from([0]) : Buffer.alloc(0),
    payload,
  ]);
  const length: number[] = [];
  for (let left = body.length; ; ) {
    const low = left % 128;
    left = Math.floor(left / 128);
    length.push(left > 0 ? low | 0x80 : low);
    if (left === 0) break;
  }
  return Buffer.concat([Buffer.from([0x30 | (qos << 1), ...length]), body]);
}
