import type { Socket } from 'node:net';
import type { ConnectPacket } from 'aedes';
import type { ConnectionView } from './contract.ts';

/** A connection as its CONNECT described it. */
export type ConnectInfo = Pick<
  ConnectionView,
  'clientId' | 'from' | 'protocol' | 'clean' | 'keepAliveSeconds'
>;

const PROTOCOLS: Readonly<Record<number, string>> = { 3: 'MQTT 3.1', 4: 'MQTT 3.1.1', 5: 'MQTT 5' };

/** `clientId`: as the device sent it. The keep-alive is the one that applies. */
export function connectInfo(
  packet: ConnectPacket,
  clientId: string,
  socket: Partial<Pick<Socket, 'remoteAddress' | 'remotePort'>>,
): ConnectInfo {
  const { remoteAddress = '', remotePort = 0 } = socket;
  const address = remoteAddress.replace(/^::ffff:/, '');
  return {
    clientId,
    from: address.includes(':') ? `[${address}]:${remotePort}` : `${address}:${remotePort}`,
    protocol: PROTOCOLS[packet.protocolVersion ?? 4] ?? `MQTT version ${packet.protocolVersion}`,
    clean: packet.clean === true,
    keepAliveSeconds: packet.keepalive ?? 0,
  };
}
