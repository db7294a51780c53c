/**
 * A TCP load balancer, as a process of its own. argv[2]: a file with the options as JSON. A line of JSON on
 * stdout for each second.
 *
 * A new connection goes to the backend that has the fewest. Each is asked once a second for `/readyz`, and a
 * message is published to it at QoS 1, as one that checks the service and not the process would; what is not
 * answered within TIMEOUT_MS has failed. Who fails FALL times on end is out, and its connections are closed;
 * who passes RISE times is in again. When one has far fewer connections than its part, a few of those of the
 * others are closed each second, so that their clients come to it.
 */
import { readFileSync } from 'node:fs';
import { get } from 'node:http';
import { connect, createServer, type Socket } from 'node:net';
import { type Client, connectPacket, PublishWriter } from './packets.ts';

export interface BalancerOptions {
  port: number;
  backends: { port: number; httpPort: number; probe: Client }[];
}

export interface BalancerSecond {
  /** ms since the epoch. */
  at: number;
  backends: {
    isIn: boolean;
    connections: number;
    /** How often it was taken out, ever. */
    removals: number;
    /** What failed last. */
    failed: string;
  }[];
}

const CHECK_MS = 1_000;
const TIMEOUT_MS = 2_000;
const FALL = 2;
const RISE = 2;
/** Part of the connections of one with too many that is closed in a second. */
const MOVED_PART = 0.03;
const CONNACK_BYTES = 4;

class Backend {
  readonly connections = new Set<Socket>();
  isIn = false;
  removals = 0;
  failed = '';
  readonly port: number;
  private readonly httpPort: number;
  private readonly client: Client;
  private probe: Socket | undefined;
  private probed = 0;
  private answered = 0;
  private passes = 0;
  private failures = 0;

  constructor({ port, httpPort, probe }: BalancerOptions['backends'][number]) {
    this.port = port;
    this.httpPort = httpPort;
    this.client = probe;
  }

  async check(): Promise<void> {
    const [isReady, isTaken] = await Promise.all([this.isReady(), this.takesMessages()]);
    if (isReady && isTaken) {
      this.passes++;
      this.failures = 0;
      if (this.passes >= RISE) this.isIn = true;
      return;
    }
    this.failed = isReady ? 'publish' : 'readyz';
    this.passes = 0;
    this.failures++;
    if (this.failures < FALL || !this.isIn) return;
    this.isIn = false;
    this.removals++;
    for (const socket of this.connections) socket.destroy();
  }

  private isReady(): Promise<boolean> {
    return new Promise((resolve) => {
      const options = { host: '127.0.0.1', port: this.httpPort, path: '/readyz' };
      const request = get({ ...options, timeout: TIMEOUT_MS, agent: false }, (response) => {
        response.resume();
        resolve(response.statusCode === 200);
      });
      request.once('timeout', () => request.destroy());
      request.once('error', () => resolve(false));
      request.once('close', () => resolve(false));
    });
  }

  private async takesMessages(): Promise<boolean> {
    const socket = this.probe ?? this.openProbe();
    const writer = new PublishWriter(this.client.topic, 1);
    const bytes = Buffer.allocUnsafe(writer.size);
    const wanted = ++this.probed;
    writer.write(bytes, 0, Date.now(), wanted, 0);
    socket.write(bytes);
    const deadline = Date.now() + TIMEOUT_MS;
    while (this.answered < wanted && this.probe === socket && Date.now() < deadline)
      await new Promise((resolve) => setTimeout(resolve, 20));
    if (this.probe === socket && this.answered >= wanted) return true;
    socket.destroy();
    return false;
  }

  private openProbe(): Socket {
    const { username, password } = this.client;
    const socket = connect({ port: this.port, host: '127.0.0.1', noDelay: true });
    this.probe = socket;
    this.probed = 0;
    this.answered = 0;
    let bytes = 0;
    socket.on('data', (chunk) => {
      // A CONNACK, then PUBACKs, of 4 bytes each.
      bytes += chunk.length;
      if (this.probe === socket) this.answered = Math.floor(bytes / CONNACK_BYTES) - 1;
    });
    socket.on('error', () => socket.destroy());
    socket.once('close', () => {
      if (this.probe === socket) this.probe = undefined;
    });
    socket.write(connectPacket(username, username, password));
    return socket;
  }
}

const options = JSON.parse(readFileSync(process.argv[2] ?? '', 'utf8')) as BalancerOptions;
const backends = options.backends.map((backend) => new Backend(backend));

createServer({ noDelay: true }, (client) => {
  const able = backends.filter(({ isIn }) => isIn);
  const [first, ...others] = able;
  client.on('error', () => client.destroy());
  if (first === undefined) {
    client.resetAndDestroy();
    return;
  }
  const backend = others.reduce(
    (least, one) => (one.connections.size < least.connections.size ? one : least),
    first,
  );
  const server = connect({ port: backend.port, host: '127.0.0.1', noDelay: true });
  backend.connections.add(client);
  server.on('error', () => server.destroy());
  client.pipe(server);
  server.pipe(client);
  client.once('close', () => {
    backend.connections.delete(client);
    server.destroy();
  });
  server.once('close', () => client.destroy());
}).listen({ host: '127.0.0.1', port: options.port, backlog: 4_096 });

for (const backend of backends) {
  void (async () => {
    for (;;) {
      const began = Date.now();
      await backend.check();
      await new Promise((resolve) =>
        setTimeout(resolve, Math.max(0, began + CHECK_MS - Date.now())),
      );
    }
  })();
}
setInterval(() => {
  moveSome();
  const second: BalancerSecond = {
    at: Date.now(),
    backends: backends.map(({ isIn, connections, removals, failed }) => ({
      ...{ isIn, removals, failed },
      connections: connections.size,
    })),
  };
  console.log(JSON.stringify(second));
}, 1_000);

/** From those that have more than their part to one that has far less. */
function moveSome(): void {
  const able = backends.filter(({ isIn }) => isIn);
  const mean = able.reduce((sum, { connections }) => sum + connections.size, 0) / able.length;
  if (!able.some(({ connections }) => connections.size < mean * 0.95)) return;
  for (const { connections } of able) {
    const excess = Math.min(connections.size - mean, connections.size * MOVED_PART);
    for (const socket of [...connections].slice(0, Math.max(0, Math.ceil(excess))))
      socket.destroy();
  }
}
