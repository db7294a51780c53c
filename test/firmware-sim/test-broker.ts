import { once } from 'node:events';
import { createServer, type Socket } from 'node:net';
import type { TestContext } from 'node:test';
import { Aedes } from 'aedes';

/** A telemetry message as the broker took it. */
export interface Taken {
  device: string;
  topic: string;
  payload: string;
}

export interface TestBroker {
  url: string;
  port: number;
  /** Telemetry in the order of arrival. */
  taken: Taken[];
  states: Taken[];
  /** Sockets that are open now. */
  sockets: Set<Socket>;
  connects: number;
  /** Sockets that came, whether they were let in or not, by `performance.now`. */
  arrivals: number[];
  /** Acknowledge telemetry? Otherwise it is taken and left unanswered. */
  acknowledge: boolean;
  /** Answer CONNECT with "bad user name or password". */
  refuse: boolean;
  publish(topic: string, payload: string): void;
  /** Cuts every connection and refuses new ones until `resume`. */
  cut(): void;
  resume(): void;
  /** Resolves once `condition` holds; it is looked at after each message. Rejects after `timeoutMs`. */
  until(condition: () => boolean, timeoutMs?: number): Promise<void>;
}

/** A broker on a free port that closes with the test. */
export async function createTestBroker(t: TestContext): Promise<TestBroker> {
  const aedes = new Aedes({
    authenticate: (_client, _username, _password, done) => {
      broker.connects++;
      if (broker.refuse) done(Object.assign(new Error('no'), { returnCode: 4 }), false);
      else done(null, true);
    },
    authorizePublish: (client, packet, done) => {
      const message = {
        device: client?.id ?? '',
        topic: packet.topic,
        payload: packet.payload.toString(),
      };
      if (packet.topic.endsWith('/state')) broker.states.push(message);
      else broker.taken.push(message);
      setImmediate(look);
      if (broker.acknowledge || packet.topic.endsWith('/state')) setImmediate(done, null);
    },
  });
  await aedes.listen();
  const looks = new Set<() => void>();
  const look = (): void => {
    for (const one of looks) one();
  };
  let open = true;
  const server = createServer((socket) => {
    broker.arrivals.push(performance.now());
    if (!open) {
      socket.destroy();
      return;
    }
    broker.sockets.add(socket);
    socket.on('close', () => broker.sockets.delete(socket));
    aedes.handle(socket);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  const broker: TestBroker = {
    url: `mqtt://127.0.0.1:${port}`,
    port,
    taken: [],
    states: [],
    sockets: new Set(),
    connects: 0,
    arrivals: [],
    acknowledge: true,
    refuse: false,
    publish: (topic, payload) =>
      aedes.publish(
        { cmd: 'publish', topic, payload, qos: 1, retain: false, dup: false },
        () => {},
      ),
    cut: () => {
      open = false;
      for (const socket of broker.sockets) socket.destroy();
    },
    resume: () => {
      open = true;
    },
    until: (condition, timeoutMs = 5000) =>
      new Promise((resolve, reject) => {
        const one = (): void => {
          if (!condition()) return;
          looks.delete(one);
          clearTimeout(late);
          clearInterval(again);
          resolve();
        };
        const late = setTimeout(() => {
          looks.delete(one);
          clearInterval(again);
          reject(new Error(`not within ${timeoutMs} ms: ${condition}`));
        }, timeoutMs);
        const again = setInterval(one, 10);
        looks.add(one);
        one();
      }),
  };
  t.after(async () => {
    for (const socket of broker.sockets) socket.destroy();
    await new Promise<void>((resolve) => {
      aedes.close(() => server.close(() => resolve()));
    });
  });
  return broker;
}

/** The readings in a telemetry payload, in order; null when it is not JSON of a known form. */
export function readingsOf(
  payload: string,
): { ts: number; seq: number; values: Record<string, unknown> }[] | null {
  try {
    const value = JSON.parse(payload);
    return Array.isArray(value) ? value : [value];
  } catch {
    return null;
  }
}

/** Credentials of one tenant: `count` of `type`, named <type>-1 … */
export function credentialsOf(type: string, count: number, tenant = 'demo') {
  return Array.from({ length: count }, (_, index) => ({
    tenant,
    device: `${type}-${index + 1}`,
    type,
    secret: `secret-${index + 1}`,
  }));
}
