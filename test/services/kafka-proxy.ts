import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { freePort } from './listening-process.ts';

/** What becomes of an answer: it goes on (changed in place, maybe), or it never arrives. */
export type Fate = 'pass' | 'swallow';

/** API keys of the protocol. */
export const PRODUCE = 0;
export const FETCH = 1;

/**
 * Stands between clients and one broker, which has to advertise the proxy's port. It knows where a
 * request and an answer begin, and can lose or change answers, or fall silent altogether.
 */
export class KafkaProxy {
  readonly port: number;
  /** Asked for each answer. `body` begins behind the correlation id. */
  onAnswer: (apiKey: number, body: Buffer) => Fate = () => 'pass';
  private readonly server: Server;
  private readonly pairs = new Set<{ client: Socket; broker: Socket; silent: boolean }>();
  private brokerPort = 0;

  private constructor(port: number, server: Server) {
    this.port = port;
    this.server = server;
    server.on('connection', (client) => this.join(client));
  }

  static async open(): Promise<KafkaProxy> {
    const port = await freePort();
    const server = createServer().listen(port, '127.0.0.1');
    await once(server, 'listening');
    return new KafkaProxy(port, server);
  }

  /** Where the broker really listens. */
  lead(brokerPort: number): void {
    this.brokerPort = brokerPort;
  }

  /** Ends all connections. */
  cut(): void {
    for (const { client, broker } of this.pairs) {
      client.destroy();
      broker.destroy();
    }
  }

  /** The connections that there are stay, but nothing comes through any more; new ones work. */
  silence(): void {
    for (const pair of this.pairs) pair.silent = true;
  }

  async close(): Promise<void> {
    this.cut();
    this.server.close();
    await once(this.server, 'close');
  }

  private join(client: Socket): void {
    const broker = connect(this.brokerPort, '127.0.0.1');
    const pair = { client, broker, silent: false };
    this.pairs.add(pair);
    const asked = new Map<number, number>();
    const requests = new Frames((frame) => {
      asked.set(frame.readInt32BE(8), frame.readInt16BE(4));
      if (!pair.silent) broker.write(frame);
    });
    const answers = new Frames((frame) => {
      const correlation = frame.readInt32BE(4);
      const apiKey = asked.get(correlation) ?? -1;
      asked.delete(correlation);
      if (pair.silent || this.onAnswer(apiKey, frame.subarray(8)) === 'swallow') return;
      client.write(frame);
    });
    client.on('data', (chunk) => requests.take(chunk));
    broker.on('data', (chunk) => answers.take(chunk));
    const end = () => {
      this.pairs.delete(pair);
      client.destroy();
      broker.destroy();
    };
    for (const socket of [client, broker]) {
      socket.on('error', () => {});
      socket.once('close', end);
    }
  }
}

/** Cuts a stream into what its lengths say. */
class Frames {
  private rest: Buffer = Buffer.alloc(0);
  private readonly onFrame: (frame: Buffer) => void;

  constructor(onFrame: (frame: Buffer) => void) {
    this.onFrame = onFrame;
  }

  take(chunk: Buffer): void {
    this.rest = Buffer.concat([this.rest, chunk]);
    while (this.rest.length >= 4) {
      const end = 4 + this.rest.readInt32BE(0);
      if (this.rest.length < end) return;
      const frame = Buffer.from(this.rest.subarray(0, end));
      this.rest = this.rest.subarray(end);
      this.onFrame(frame);
    }
  }
}

/** Puts an error code into the first partition of an answer to Produce (version 7). */
export function failProduce(body: Buffer, code: number): void {
  const topicLength = body.readInt16BE(4);
  const partition = 4 + 2 + topicLength + 4;
  body.writeInt16BE(code, partition + 4);
}
