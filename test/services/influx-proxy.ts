import { once } from 'node:events';
import {
  Agent,
  createServer,
  type IncomingHttpHeaders,
  type IncomingMessage,
  request,
  type Server,
  type ServerResponse,
} from 'node:http';
import type { AddressInfo } from 'node:net';
import { gunzipSync } from 'node:zlib';

export interface SeenRequest {
  /** Counts from 0 since {@link InfluxProxy.obey}. */
  index: number;
  method: string;
  path: string;
  isWrite: boolean;
  /** Lines of a write, decompressed. */
  lines: string[];
}

/** What becomes of a request. */
export type Action =
  | 'forward'
  /** The connection is closed before the server sees anything. */
  | 'refuse'
  /** The server answers, but the connection is closed instead of passing it on. */
  | 'lose'
  | { status: number; headers?: Record<string, string>; body?: string }
  /** The server sees it when the promise resolves. */
  | { forwardAfter: Promise<unknown> }
  /** The answer comes when the promise resolves. */
  | { answerAfter: Promise<unknown> }
  /** The answer comes in so many pieces, with as much time between them. */
  | { pieces: number; everyMs: number };

interface Answer {
  status: number;
  headers: IncomingHttpHeaders;
  body: Buffer;
}

/** Stands in front of a real InfluxDB and does to requests what it is told. */
export class InfluxProxy {
  readonly url: string;
  /** Since the last {@link obey}. */
  readonly seen: SeenRequest[] = [];
  private readonly server: Server;
  private readonly target: URL;
  private readonly agent = new Agent({ keepAlive: true });
  private rule: (request: SeenRequest) => Action = () => 'forward';

  private constructor(server: Server, target: URL) {
    this.server = server;
    this.target = target;
    this.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    server.on('request', (incoming, answer) => {
      this.handle(incoming, answer).catch(() => answer.destroy());
    });
  }

  static async start(target: string): Promise<InfluxProxy> {
    const server = createServer();
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return new InfluxProxy(server, new URL(target));
  }

  obey(rule: (request: SeenRequest) => Action): void {
    this.rule = rule;
    this.seen.length = 0;
  }

  /** Ends what clients are waiting for. */
  dropConnections(): void {
    this.server.closeAllConnections();
  }

  async close(): Promise<void> {
    this.server.close();
    this.server.closeAllConnections();
    this.agent.destroy();
  }

  private async handle(incoming: IncomingMessage, outgoing: ServerResponse): Promise<void> {
    const body = await bytesOf(incoming);
    const { method = '', url: path = '', headers } = incoming;
    const isWrite = path.startsWith('/api/v2/write');
    const text = isWrite ? (headers['content-encoding'] === 'gzip' ? gunzipSync(body) : body) : '';
    const lines = isWrite ? text.toString().split('\n') : [];
    const seen = { index: this.seen.length, method, path, isWrite, lines };
    this.seen.push(seen);
    const action = this.rule(seen);
    if (action === 'refuse') {
      outgoing.destroy();
      return;
    }
    if (typeof action === 'object' && 'status' in action) {
      outgoing.writeHead(action.status, action.headers).end(action.body);
      return;
    }
    if (typeof action === 'object' && 'forwardAfter' in action) await action.forwardAfter;
    const answer = await this.forward(incoming, body);
    if (action === 'lose') {
      outgoing.destroy();
      return;
    }
    if (typeof action === 'object' && 'answerAfter' in action) await action.answerAfter;
    delete answer.headers['transfer-encoding'];
    outgoing.writeHead(answer.status, answer.headers);
    if (typeof action === 'object' && 'pieces' in action) {
      const bytes = Math.ceil(answer.body.length / action.pieces);
      for (let at = 0; at < answer.body.length; at += bytes) {
        outgoing.write(answer.body.subarray(at, at + bytes));
        await new Promise((resolve) => setTimeout(resolve, action.everyMs));
      }
      outgoing.end();
    } else outgoing.end(answer.body);
  }

  private async forward(incoming: IncomingMessage, body: Buffer): Promise<Answer> {
    const { hostname, port } = this.target;
    const { method, url: path, headers } = incoming;
    const onward = request({ hostname, port, method, path, headers, agent: this.agent });
    onward.end(body);
    const [answer] = (await once(onward, 'response')) as [IncomingMessage];
    return {
      status: answer.statusCode ?? 500,
      headers: answer.headers,
      body: await bytesOf(answer),
    };
  }
}

async function bytesOf(stream: IncomingMessage): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  for await (const piece of stream) pieces.push(piece as Uint8Array);
  return Buffer.concat(pieces);
}
