import type { Socket } from 'node:net';
import type { ConnectPacket } from 'aedes';
import type { ConnectionView } from './contract.ts';

/** A connection as its CONNECT described it. */
export type ConnectInfo = Pick<
  ConnectionView,
  'clientId' | 'from' | 'protocol' | 'clean' | 'keepAliveSeconds'
>;

const PROTOCOLS: Readonly<Record<number, string>> = { 3: 'MQTT 3.1', 4: 'MQTT 3.1.1', 5: 'MQTT 5' };

/** `clientId` and `version`: as the device sent them. The keep-alive is the one that applies. */
export function connectInfo(
  packet: ConnectPacket,
  { clientId, version, clean }: { clientId: string; version: number; clean: boolean },
  socket: Partial<Pick<Socket, 'remoteAddress' | 'remotePort'>>,
): ConnectInfo {
  const { remoteAddress = '', remotePort = 0 } = socket;
  const address = remoteAddress.replace(/^::ffff:/, '');
  return {
    clientId,
    from: address.includes(':') ? `[${address}]:${remotePort}` : `${address}:${remotePort}`,
    protocol: PROTOCOLS[version] ?? `MQTT version ${version}`,
    clean,
    keepAliveSeconds: packet.keepalive ?? 0,
  };
}
