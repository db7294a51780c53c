/** Opens connections from a file of credentials, says so, and holds them until SIGTERM. */
import { readFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { connectPacket } from './packets.ts';

const AT_ONCE = 100;

const { port, clients } = JSON.parse(readFileSync(process.argv[2] ?? '', 'utf8')) as {
  port: number;
  clients: { username: string; password: string }[];
};
const sockets: Socket[] = [];
const queue = [...clients];

async function open(): Promise<void> {
  for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
    const { username, password } = next;
    await new Promise<void>((resolve, reject) => {
      const socket = connect({ port, host: '127.0.0.1' });
      sockets.push(socket);
      socket.once('error', reject);
      socket.write(connectPacket('c', username, password));
      socket.once('data', (connack) => {
        if (connack[3] === 0) resolve();
        else reject(new Error(`CONNACK ${connack.toString('hex')}`));
      });
    });
  }
}

await Promise.all(Array.from({ length: AT_ONCE }, open));
console.log(`${sockets.length} connections`);
// Longer than any benchmark, so that nothing is left behind if the parent is killed.
setTimeout(() => process.exit(0), 300_000);
