import { setTimeout as sleep } from 'node:timers/promises';
import mqtt, { type Packet } from 'mqtt-packet';
import { publishBytes, RawClient } from '../helpers/raw-client.ts';
import type { TestDevice } from '../system/spillway-process.ts';

/** What visitors do, and how often they did it. */
export interface Visits {
  connects: number;
  readings: number;
  acknowledged: number;
  [what: string]: number;
}

export interface Place {
  port: number;
  random: () => number;
  visits: Visits;
  /** Devices that stay. */
  devices: readonly TestDevice[];
  addDevice(): TestDevice;
  removeDevice(device: TestDevice): void;
}

const BAD_PAYLOADS = [
  '{',
  '',
  'null',
  '{"temperature":"20"}',
  '{"temperature":1e999}',
  '{"values":{"__proto__":1}}',
  `{"temperature":20,"${'x'.repeat(300)}":1}`,
  `[${'{"temperature":1},'.repeat(200)}7]`,
];

/** Everything that comes and goes: connections, sessions, topics, devices, and what is none of them. */
const VISITS: Record<string, (place: Place) => Promise<void>> = {
  async measures(place) {
    const client = await enter(place, pick(place, place.devices));
    for (let i = 0; i < 40; i++) await publish(place, client, reading(place), pickQos(place));
    await leave(place, client);
  },
  async listens(place) {
    const device = pick(place, place.devices);
    const client = await enter(place, device);
    const own = `t/${device.tenant}/d/${device.device}`;
    const random = () => `x/${Math.floor(place.random() * 1e9)}`;
    const topics = ['me/receipts', `${own}/commands`, `${own}/receipts`, random(), '#', random()];
    for (let i = 0; i < 5; i++) {
      const subscriptions = topics.map((topic) => ({ topic, qos: 1 as const }));
      client.send({ cmd: 'subscribe', messageId: 1, subscriptions });
      await publish(place, client, pick(place, BAD_PAYLOADS), 1);
      client.send({ cmd: 'unsubscribe', messageId: 2, unsubscriptions: topics.slice(2) });
    }
    await leave(place, client);
  },
  async ofOneDay(place) {
    const device = place.addDevice();
    const client = await enter(place, device);
    for (let i = 0; i < 5; i++) await publish(place, client, reading(place), 1);
    place.removeDevice(device);
    await leave(place, client);
  },
  async wander(place) {
    const client = await enter(place, pick(place, place.devices));
    for (let i = 0; i < 10; i++) {
      const topic = `some/where/${Math.floor(place.random() * 1e9)}`;
      const { version } = client;
      client.socket.write(publishBytes(topic, Buffer.from(reading(place)), 0, 0, version));
    }
    await publish(place, client, reading(place), 1);
    await leave(place, client);
  },
  async keepSessions(place) {
    const clientId = `kept-${Math.floor(place.random() * 1e6)}`;
    const client = await enter(place, pick(place, place.devices), {
      ...{ clean: false, clientId },
      properties: { sessionExpiryInterval: Math.floor(place.random() * 20) },
    });
    const subscriptions = [{ topic: 'me/receipts', qos: 1 as const }];
    client.send({ cmd: 'subscribe', messageId: 1, subscriptions });
    for (let i = 0; i < 10; i++) await publish(place, client, '{', 1);
    client.close();
  },
  async dieWithWills(place) {
    const device = pick(place, place.devices);
    const topic = `t/${device.tenant}/d/${device.device}/state`;
    const client = await enter(place, device, {
      will: {
        ...{ topic, payload: Buffer.from('{"online":false}'), qos: 1, retain: true },
        properties: { willDelayInterval: Math.floor(place.random() * 3) },
      },
      properties: { sessionExpiryInterval: 2 },
    });
    await publish(place, client, reading(place), 1);
    client.close();
  },
  /** Topic aliases and other properties of MQTT 5, some of them not allowed. */
  async abbreviate(place) {
    const client = await enter(place, pick(place, place.devices), { protocolVersion: 5 });
    for (let i = 0; i < 20 && !client.closed; i++) {
      client.send({
        ...{ cmd: 'publish', qos: 0, retain: false, dup: false, payload: reading(place) },
        topic: i < 3 || place.random() < 0.1 ? `some/where/${i}` : '',
        properties: {
          topicAlias: 1 + Math.floor(place.random() * (i < 15 ? 3 : 18)),
          userProperties: { [`k${i}`]: 'x'.repeat(place.random() * 300) },
        },
      });
    }
    await sleep(20);
    await leave(place, client);
  },
  async garble(place) {
    const client =
      place.random() < 0.5
        ? await enter(place, pick(place, place.devices))
        : RawClient.open(place.port);
    for (let i = 0; i < 20 && !client.closed; i++) {
      const length = 1 + Math.floor(place.random() * 300);
      client.socket.write(Buffer.from(Array.from({ length }, () => place.random() * 256)));
      await sleep(5);
    }
    client.close();
  },
  async overdo(place) {
    const client = await enter(place, pick(place, place.devices));
    const large = publishBytes('me/telemetry', Buffer.alloc(200_000, 0x20), 1, 1, client.version);
    client.socket.write(large);
    client.socket.write(large.subarray(0, 1 + Math.floor(place.random() * large.length)));
    await sleep(50);
    await leave(place, client);
  },
  async lie(place) {
    const { tenant, device } = pick(place, place.devices);
    const client = RawClient.open(place.port);
    client.send(connectPacket({ tenant, device, type: '', secret: 'guessed' }));
    await Promise.race([client.ended(), sleep(1_000)]);
    client.close();
  },
  async hesitate(place) {
    const client = RawClient.open(place.port);
    const packet = mqtt.generate(connectPacket(pick(place, place.devices)));
    client.socket.write(packet.subarray(0, Math.floor(place.random() * packet.length)));
    await sleep(300);
    client.close();
  },
};

/** Visits one after another, in an order that `random` gives, until `signal` aborts. */
export async function visit(place: Place, signal: AbortSignal): Promise<void> {
  const all = Object.entries(VISITS);
  while (!signal.aborted) {
    const [name, once] = pick(place, all);
    place.visits[name] = (place.visits[name] ?? 0) + 1;
    try {
      await once(place);
    } catch (error) {
      // A visitor that another one with its name has replaced, for example.
      const what = `${name} failed: ${(error as Error).message}`;
      place.visits[what] = (place.visits[what] ?? 0) + 1;
    }
    await sleep(place.random() * 20);
  }
}

function connectPacket(device: TestDevice, more: object = {}): Packet {
  return {
    cmd: 'connect',
    clientId: 'visitor',
    username: `${device.tenant}/${device.device}`,
    password: Buffer.from(device.secret),
    keepalive: 60,
    clean: true,
    protocolId: 'MQTT',
    protocolVersion: 4,
    ...more,
  };
}

/** In one of both versions, where the visit doesn't say which. */
async function enter(
  place: Place,
  device: TestDevice,
  more: { protocolVersion?: 4 | 5; [what: string]: unknown } = {},
): Promise<RawClient> {
  const { protocolVersion = place.random() < 0.5 ? 4 : 5 } = more;
  const client = RawClient.open(place.port, protocolVersion);
  const connack = client.next(({ cmd }) => cmd === 'connack');
  const clientId = `visitor-${Math.floor(place.random() * 1e9)}`;
  client.send(connectPacket(device, { clientId, ...more, protocolVersion }));
  await connack;
  place.visits.connects++;
  return client;
}

/** One more message, and its acknowledgement. */
async function publish(
  place: Place,
  client: RawClient,
  payload: string,
  qos: 0 | 1 | 2,
): Promise<void> {
  place.visits.readings++;
  await client.publish('me/telemetry', payload, qos);
  place.visits.acknowledged++;
  if (qos !== 2) return;
  const pubrec = client.packets.findLast(({ cmd }) => cmd === 'pubrec');
  if (place.random() < 0.9) client.send({ cmd: 'pubrel', messageId: pubrec?.messageId ?? 0 });
}

/** Politely, without a word, or with half a packet. */
async function leave(place: Place, client: RawClient): Promise<void> {
  const how = place.random();
  if (how < 0.4) client.send({ cmd: 'disconnect' });
  else if (how < 0.6) client.socket.end();
  else if (how < 0.8)
    client.socket.write(
      publishBytes('me/telemetry', Buffer.alloc(99), 1, 1, client.version).subarray(0, 50),
    );
  await Promise.race([client.ended(), sleep(20)]);
  client.close();
}

function reading({ random }: Place): string {
  const temperature = Math.round(random() * 400) / 10;
  return random() < 0.2
    ? JSON.stringify([{ temperature }, { temperature: temperature + 1 }])
    : JSON.stringify({ temperature, mode: random() < 0.5 ? 'auto' : 'off' });
}

function pickQos({ random }: Place): 0 | 1 | 2 {
  const point = random();
  return point < 0.2 ? 0 : point < 0.8 ? 1 : 2;
}

function pick<T>({ random }: Place, items: readonly T[]): T {
  return items[Math.floor(random() * items.length)] as T;
}
