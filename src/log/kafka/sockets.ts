import net from 'node:net';
import tls from 'node:tls';
import type { ISocketFactory } from 'kafkajs';

const KEEP_ALIVE_MS = 60_000;

/**
 * The sockets of one client. kafkajs ends a connection only after every answer has come, never destroys
 * one, and leaves one behind when two requests connect at the same time; so they are owned here.
 */
export class Sockets {
  private readonly open = new Map<net.Socket, string>();
  private isClosed = false;

  /** Given to kafkajs. */
  readonly factory: ISocketFactory = ({ host, port, ssl, onConnect }) => {
    if (this.isClosed) throw new Error('the client is closed');
    const socket = ssl
      ? tls.connect({ host, port, ...(net.isIP(host) ? {} : { servername: host }), ...ssl })
      : net.connect({ host, port });
    socket.once(ssl ? 'secureConnect' : 'connect', onConnect);
    socket.setNoDelay(true);
    socket.setKeepAlive(true, KEEP_ALIVE_MS);
    this.open.set(socket, `${host}:${port}`);
    socket.once('close', () => this.open.delete(socket));
    return socket;
  };

  /** Ends the connections to one node, or all, with what waits for an answer on them. */
  drop(why: string, host?: string, port?: number): void {
    const only = host === undefined ? undefined : `${host}:${port}`;
    for (const [socket, address] of this.open) {
      if (only === undefined || address === only) socket.destroy(new Error(why));
    }
  }

  close(): void {
    this.isClosed = true;
    this.drop('the client is closed');
  }
}
