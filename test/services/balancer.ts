import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { connect, createServer, type Server, type Socket } from 'node:net';

/**
 * A TCP load balancer as simple as they come: connections go to the backends in turn, and one whose backend
 * does not take it goes to the next.
 */
export class Balancer {
  readonly port: number;
  /** Connections that each backend has taken, in the order of the backends. */
  readonly taken: number[];
  private readonly server: Server;
  private readonly backends: readonly (() => number | undefined)[];
  private readonly sockets = new Set<Socket>();
  private next = 0;

  private constructor(server: Server, backends: readonly (() => number | undefined)[]) {
    this.server = server;
    this.port = (server.address() as AddressInfo).port;
    this.backends = backends;
    this.taken = backends.map(() => 0);
    server.on('connection', (client) => {
      this.own(client);
      this.pass(client, backends.length);
    });
  }

  /** Each backend says on which port of this machine it listens; undefined: nowhere. */
  static async start(backends: readonly (() => number | undefined)[]): Promise<Balancer> {
    const server = createServer({ noDelay: true, pauseOnConnect: true });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return new Balancer(server, backends);
  }

  async close(): Promise<void> {
    this.server.close();
    for (const socket of this.sockets) socket.destroy();
    await once(this.server, 'close');
  }

  private pass(client: Socket, triesLeft: number): void {
    const at = this.next++ % this.backends.length;
    const port = this.backends[at]?.();
    if (triesLeft === 0 || client.destroyed) {
      client.destroy();
    } else if (port === undefined) {
      this.pass(client, triesLeft - 1);
    } else {
      const server = this.own(connect({ port, host: '127.0.0.1', noDelay: true }));
      const refused = () => this.pass(client, triesLeft - 1);
      server.once('error', refused);
      server.once('connect', () => {
        server.off('error', refused);
        this.taken[at] = (this.taken[at] ?? 0) + 1;
        client.pipe(server).pipe(client);
        client.once('close', () => server.destroy());
        server.once('close', () => client.destroy());
        client.resume();
      });
    }
  }

  private own(socket: Socket): Socket {
    this.sockets.add(socket);
    // What ends a connection is seen by its `close`.
    socket.on('error', () => {});
    socket.once('close', () => this.sockets.delete(socket));
    return socket;
  }
}
