import { once } from 'node:events';
import type { IConnackPacket, IConnectPacket, ISubackPacket, Packet } from 'mqtt-packet';
import type { Gate } from '../../src/gateway/gate.ts';
import type { Session } from '../../src/gateway/session.ts';
import type { SessionMemory } from '../../src/gateway/session-memory.ts';
import type { GatewayFixture } from '../helpers/gateway.ts';
import { PROTOCOL_VERSION, RawClient } from '../helpers/raw-client.ts';

/** A CONNECT for a device. */
export function connectPacket(
  username: string,
  secret: string,
  more: Partial<IConnectPacket> = {},
): IConnectPacket {
  const version = more.protocolVersion ?? PROTOCOL_VERSION;
  return {
    cmd: 'connect',
    clientId: 'raw',
    username,
    password: Buffer.from(secret),
    keepalive: 60,
    clean: true,
    protocolId: 'MQTT',
    protocolVersion: PROTOCOL_VERSION,
    // A session that is kept, as 3.1.1 keeps it.
    ...(version === 5 &&
      more.clean === false && { properties: { sessionExpiryInterval: 2 ** 32 - 1 } }),
    ...more,
  };
}

export interface Connected {
  client: RawClient;
  connack: IConnackPacket;
}

/** Sends a CONNECT and waits for its CONNACK. */
export async function connect(
  fixture: GatewayFixture,
  username: string,
  secret: string,
  more: Partial<IConnectPacket> = {},
): Promise<Connected> {
  const version = more.protocolVersion === 5 ? 5 : PROTOCOL_VERSION;
  const client = RawClient.open(fixture.gateway.port, version);
  const connack = client.next(({ cmd }) => cmd === 'connack');
  client.send(connectPacket(username, secret, more));
  return { client, connack: (await connack) as IConnackPacket };
}

/** Adds a device of tenant acme and connects it. */
export async function newDevice(
  fixture: GatewayFixture,
  device: string,
  more: Partial<IConnectPacket> & { type?: string } = {},
): Promise<{ client: RawClient; secret: string; username: string }> {
  const { type = 'thermostat', ...connection } = more;
  const { secret } = fixture.registry.addDevice({ tenant: 'acme', device, type });
  const username = `acme/${device}`;
  const { client } = await connect(fixture, username, secret, connection);
  return { client, secret, username };
}

/** Subscribes and returns what was granted; refused ones are 0x80 in both versions. */
export async function subscribe(
  client: RawClient,
  topics: string[],
  qos: 0 | 1 | 2 = 1,
): Promise<number[]> {
  const suback = client.next(({ cmd }) => cmd === 'suback');
  client.send({
    cmd: 'subscribe',
    messageId: 1,
    subscriptions: topics.map((topic) => ({ topic, qos })),
  });
  const { granted } = (await suback) as ISubackPacket;
  return (granted as number[]).map((code) => Math.min(code, 0x80));
}

/** Resolves when `count` packets of a kind have come; rejects after 5 s. */
export async function received(
  client: RawClient,
  cmd: Packet['cmd'],
  count: number,
): Promise<Packet[]> {
  const of = () => client.packets.filter((packet) => packet.cmd === cmd);
  const late = AbortSignal.timeout(5_000);
  while (of().length < count) {
    if (late.aborted) throw new Error(`${of().length} of ${count} ${cmd} came`);
    await Promise.race([
      once(client.socket, 'data', { signal: late }).catch(() => {}),
      once(client.socket, 'close', { signal: late }).catch(() => {}),
    ]);
    if (client.closed && of().length < count) throw new Error(`closed after ${of().length} ${cmd}`);
  }
  return of();
}

/** What the gateway keeps to itself. */
export function inside(fixture: GatewayFixture): {
  gates: Set<Gate>;
  sessions: Map<Gate, Session>;
  byDevice: Map<string, Set<Session>>;
  memory: SessionMemory;
} {
  const gateway = fixture.gateway as unknown as {
    reception: { gates: Set<Gate> };
    sessions: { open: Map<Gate, Session>; accepted: Map<string, Set<Session>> };
    memory: SessionMemory;
  };
  return {
    gates: gateway.reception.gates,
    sessions: gateway.sessions.open,
    byDevice: gateway.sessions.accepted,
    memory: gateway.memory,
  };
}

/** Waits for something that is no event; rejects after 5 s. */
export async function until(done: () => boolean, what = 'it did not happen'): Promise<void> {
  const end = Date.now() + 5_000;
  while (!done()) {
    if (Date.now() > end) throw new Error(what);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
