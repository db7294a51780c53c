import assert from 'node:assert/strict';
import { connect, type Socket } from 'node:net';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import mqtt, { type Packet } from 'mqtt-packet';
import { publishBytes } from '../helpers/raw-client.ts';
import { SpillwayProcess, type TestDevice } from './spillway-process.ts';

/**
 * Slow and hostile sockets against the real program, many at a time: its memory stays bounded, a
 * well-behaved device goes on, and nothing is left of the attackers afterwards. Each attack offers several
 * times the memory that the program may take, so that a bound that is missing is seen.
 */
const HOSTILE = 60;
const CONNECTING_MAX = 300;
const CONNECT_TIMEOUT_S = 2;
/** Live memory that an attack may add, MiB, while it goes on; without bounds each would add hundreds. */
const GROWTH_MAX_MIB = 64;
/** The same of the rollup worker's batch of what the attack left in the log. */
const BACKLOG_MAX_MIB = 128;
/** The machine may be busy with other tests. */
const PUBACK_MAX_MS = 10_000;
const ATTACK_MS = 2_000;
const CHUNK = 64 * 1_024;

const READING = Buffer.from('{"temperature":20}');

class Attacker {
  readonly socket: Socket;
  closed = false;

  constructor(port: number) {
    this.socket = connect({ port, host: '127.0.0.1' });
    this.socket.on('error', () => {});
    this.socket.on('close', () => {
      this.closed = true;
    });
  }

  /** Sends a CONNECT; resolves when something comes back or the connection ends. */
  async hello(
    device: TestDevice,
    more: { clientId?: string; clean?: boolean; keepalive?: number } = {},
  ) {
    this.send({
      cmd: 'connect',
      clientId: 'hostile',
      username: `${device.tenant}/${device.device}`,
      password: Buffer.from(device.secret),
      keepalive: 60,
      clean: true,
      protocolId: 'MQTT',
      protocolVersion: 4,
      ...more,
    });
    const answer = await new Promise<Buffer | undefined>((resolve) => {
      this.socket.once('data', resolve);
      this.socket.once('close', () => resolve(undefined));
    });
    assert.equal(answer?.[3], 0, 'the CONNECT is accepted');
    this.socket.resume();
    return this;
  }

  send(packet: Packet): void {
    this.socket.write(mqtt.generate(packet));
  }

  /** Writes the chunk again and again, as fast as it is taken, until the time is over or the end. */
  async flood(chunk: () => Buffer, until: number): Promise<void> {
    while (!this.closed && performance.now() < until) {
      if (this.socket.writableLength > CHUNK) await sleep(5);
      else this.socket.write(chunk());
    }
  }

  /** As many of the packet as make a chunk. */
  static times(packet: Buffer): Buffer {
    const count = Math.max(1, Math.floor(CHUNK / packet.length));
    return Buffer.concat(Array.from({ length: count }, () => packet));
  }
}

interface Scene {
  port: number;
  devices: TestDevice[];
  open(): Attacker;
  /** An authenticated attacker for each hostile device. */
  all(more?: { keepalive?: number }): Promise<Attacker[]>;
  connections(): Promise<number>;
}

interface Attack {
  name: string;
  run(scene: Scene): Promise<void>;
}

const encode = (packet: Packet) => mqtt.generate(packet);
const floodAll = (attackers: Attacker[], chunk: (index: number) => () => Buffer) => {
  const until = performance.now() + ATTACK_MS;
  return Promise.all(attackers.map((attacker, index) => attacker.flood(chunk(index), until)));
};
const always = (packet: Buffer) => {
  const chunk = Attacker.times(packet);
  return () => () => chunk;
};

const ATTACKS: Attack[] = [
  {
    name: 'connections that say nothing',
    async run({ open, connections }) {
      const silent = Array.from({ length: 1_000 }, open);
      await until(async () => (await connections()) <= CONNECTING_MAX + 1, 'they are limited');
      await sleep(CONNECT_TIMEOUT_S * 1_000);
      await until(() => silent.every(({ closed }) => closed), 'they are cut');
    },
  },
  {
    name: 'CONNECTs that never end, a byte at a time',
    async run({ open }) {
      const slow = Array.from({ length: 1_000 }, open);
      for (const { socket } of slow) {
        socket.write(Buffer.concat([Buffer.from([0x10, 0xff, 0x3f]), Buffer.alloc(8_000)]));
      }
      const drip = setInterval(() => {
        for (const { socket } of slow) if (socket.writable) socket.write(Buffer.from([0]));
      }, 200);
      await until(() => slow.every(({ closed }) => closed), 'they are cut').finally(() =>
        clearInterval(drip),
      );
    },
  },
  {
    name: 'packets that never end, a byte at a time',
    async run({ all }) {
      const slow = await all();
      const head = publishBytes('me/telemetry', Buffer.alloc(65_000), 1, 1).subarray(0, 60_000);
      for (const { socket } of slow) socket.write(head);
      const drip = setInterval(() => {
        for (const { socket } of slow) if (socket.writable) socket.write(Buffer.from([0x30]));
      }, 200);
      await until(() => slow.every(({ closed }) => closed), 'they are cut').finally(() =>
        clearInterval(drip),
      );
    },
  },
  {
    name: 'half-closed connections, and peers that are gone without a word',
    async run({ all }) {
      const gone = await all({ keepalive: 1 });
      for (const [index, { socket }] of gone.entries()) {
        socket.write(Buffer.concat(Array(500).fill(publishBytes('me/telemetry', READING, 1, 7))));
        socket.pause();
        if (index % 2 === 0) socket.end();
      }
      await sleep(1_500);
      for (const { socket } of gone) socket.resume();
      await until(() => gone.every(({ closed }) => closed), 'they are cut');
    },
  },
  {
    name: 'subscribers that do not read',
    async run({ all }) {
      const deaf = await all();
      for (const attacker of deaf) {
        attacker.send({
          cmd: 'subscribe',
          messageId: 1,
          subscriptions: [{ topic: 'me/receipts', qos: 1 }],
        });
        attacker.socket.pause();
      }
      // Each brings a receipt of some 300 bytes.
      await floodAll(deaf, always(publishBytes('me/telemetry', Buffer.from('{'), 0, 0)));
    },
  },
  {
    name: 'QoS 2 publishes that are never released',
    async run({ all }) {
      const attackers = (await all()).slice(0, 20);
      for (const { socket } of attackers) {
        const publishes = Array.from({ length: 1_500 }, (_, i) =>
          publishBytes('me/telemetry', READING, 2, i + 1),
        );
        socket.write(Buffer.concat(publishes));
      }
      await until(() => attackers.every(({ closed }) => closed), 'they are cut');
    },
  },
  {
    name: 'giant packets',
    async run({ all, open }) {
      const strangers = Array.from({ length: 100 }, open);
      for (const [index, { socket }] of strangers.entries()) {
        const length = index % 2 === 0 ? [0xff, 0xff, 0xff, 0x7f] : [0xff, 0xff, 0xff, 0xff, 0xff];
        socket.write(Buffer.concat([Buffer.from([0x10, ...length]), Buffer.alloc(CHUNK)]));
      }
      const large = publishBytes('me/telemetry', Buffer.alloc(2 ** 20, 0x20), 1, 1);
      await floodAll(await all(), () => () => large);
      await until(() => strangers.every(({ closed }) => closed), 'they are cut');
    },
  },
  {
    name: 'pipelining without reading an answer',
    async run({ all }) {
      const attackers = await all();
      for (const { socket } of attackers) socket.pause();
      await floodAll(attackers, always(publishBytes('me/telemetry', READING, 1, 7)));
    },
  },
  {
    name: 'pipelining behind a CONNECT',
    async run({ open, devices }) {
      const end = performance.now() + ATTACK_MS;
      await Promise.all(
        devices.map(async (device) => {
          const attacker = open();
          attacker.socket.pause();
          void attacker.hello(device).catch(() => {});
          await attacker.flood(always(publishBytes('me/telemetry', READING, 1, 7))(), end);
        }),
      );
    },
  },
  {
    name: 'subscriptions without end',
    async run({ all }) {
      const attackers = await all();
      let next = 0;
      await floodAll(
        attackers,
        () => () =>
          encode({
            cmd: 'subscribe',
            messageId: 1,
            subscriptions: Array.from({ length: 500 }, () => ({
              topic: (next++).toString(36),
              qos: 1 as const,
            })),
          }),
      );
    },
  },
  {
    name: 'retained messages without end',
    async run({ all }) {
      const attackers = await all();
      let next = 0;
      await floodAll(
        attackers,
        () => () =>
          Buffer.concat(
            Array.from({ length: 20 }, () =>
              encode({
                cmd: 'publish',
                topic: `t/acme/d/x/${next++}`,
                payload: Buffer.alloc(2_000, 0x61),
                qos: 0,
                retain: true,
                dup: false,
              }),
            ),
          ),
      );
    },
  },
  {
    name: 'PINGREQs without end',
    run: async ({ all }) => void (await floodAll(await all(), always(encode({ cmd: 'pingreq' })))),
  },
  {
    name: 'PUBRELs and PUBACKs of nothing without end',
    run: async ({ all }) =>
      void (await floodAll(
        await all(),
        always(
          Buffer.concat([
            encode({ cmd: 'pubrel', messageId: 5 } as Packet),
            encode({ cmd: 'puback', messageId: 6 }),
          ]),
        ),
      )),
  },
  {
    name: 'kept sessions without end, with receipts that are never acknowledged',
    async run({ open, devices }) {
      await Promise.all(
        devices.map(async (device) => {
          for (let n = 0; n < 10; n++) {
            const attacker = await open().hello(device, { clientId: `kept-${n}`, clean: false });
            attacker.send({
              cmd: 'subscribe',
              messageId: 1,
              subscriptions: [{ topic: 'me/receipts', qos: 1 }],
            });
            const bad = publishBytes('me/telemetry', Buffer.from(`{"${'x'.repeat(200)}`), 0, 0);
            attacker.socket.write(Buffer.concat(Array(50).fill(bad)));
            await sleep(50);
            attacker.socket.destroy();
          }
        }),
      );
    },
  },
  {
    name: 'CONNECTs with wrong secrets',
    async run({ open, devices }) {
      const end = performance.now() + ATTACK_MS;
      await Promise.all(
        devices.map(async (device, index) => {
          while (performance.now() < end) {
            const attacker = open();
            await attacker.hello({ ...device, secret: `wrong-${index}` }).catch(() => {});
            attacker.socket.destroy();
          }
        }),
      );
    },
  },
];

async function until(done: () => boolean | Promise<boolean>, what: string): Promise<void> {
  const end = performance.now() + 40_000;
  while (!(await done())) {
    assert.ok(performance.now() < end, `not in time: ${what}`);
    await sleep(50);
  }
}

/** A device that publishes one reading after another and notes how long its PUBACKs take. */
class GoodDevice {
  readonly attacker: Attacker;
  worstMs = 0;
  acknowledged = 0;
  private stopped = false;
  private readonly done: Promise<void>;

  constructor(attacker: Attacker) {
    this.attacker = attacker;
    this.done = this.run();
  }

  async stop(): Promise<void> {
    this.stopped = true;
    await this.done;
  }

  private async run(): Promise<void> {
    while (!this.stopped) {
      const sent = performance.now();
      this.attacker.socket.write(publishBytes('me/telemetry', READING, 1, 1));
      await new Promise<void>((resolve) => {
        this.attacker.socket.once('data', () => resolve());
        this.attacker.socket.once('close', () => resolve());
      });
      this.worstMs = Math.max(this.worstMs, performance.now() - sent);
      if (this.attacker.closed) return;
      this.acknowledged++;
      await sleep(20);
    }
  }
}

async function startProgram(t: TestContext) {
  const program = new SpillwayProcess(
    t,
    {
      logging: { format: 'json', level: 'info' },
      gateway: {
        mqtt: { port: 0 },
        connectTimeout: `${CONNECT_TIMEOUT_S}s`,
        connectingMax: CONNECTING_MAX,
        packetTimeout: '2s',
      },
      types: { meter: { metrics: { temperature: { kind: 'float', required: true } } } },
    },
    { heapProbe: true },
  );
  const names = Array.from({ length: HOSTILE }, (_, i) => `hostile-${i}`);
  const devices = program.addDevices('acme', 'meter', names);
  const [good] = program.addDevices('acme', 'meter', ['good']);
  assert.ok(good);
  await program.start();
  return { program, devices, good };
}

test('slow and hostile sockets: memory stays bounded, and others go on', {
  timeout: 300_000,
}, async (t) => {
  const { program, devices, good } = await startProgram(t);
  const port = program.mqttPort ?? 0;
  const opened = new Set<Attacker>();
  const open = () => {
    const attacker = new Attacker(port);
    opened.add(attacker);
    return attacker;
  };
  t.after(() => {
    for (const { socket } of opened) socket.destroy();
  });
  const connections = async () => {
    const text = await (await fetch(`${program.httpUrl}/metrics`)).text();
    return Number(/^spillway_connections (\d+)/m.exec(text)?.[1]);
  };
  const scene: Scene = {
    port,
    devices,
    open,
    connections,
    all: (more) => Promise.all(devices.map((device) => open().hello(device, more))),
  };
  const before = await program.liveHeap();
  t.diagnostic(`before: ${before.liveMiB.toFixed(0)} MiB live`);
  for (const attack of ATTACKS) {
    await t.test(attack.name, async (t) => {
      opened.clear();
      const device = new GoodDevice(await open().hello(good));
      opened.clear();
      let over = false;
      let [most, rollup, resident] = [0, 0, 0];
      const watch = (async () => {
        while (!over) {
          const { liveMiB, rssMiB, threads } = await program.liveHeap();
          const behind = threads.rollup ?? 0;
          most = Math.max(most, liveMiB - behind);
          rollup = Math.max(rollup, behind);
          resident = Math.max(resident, rssMiB);
          await sleep(300);
        }
      })();
      await attack.run(scene).finally(() => {
        over = true;
      });
      await watch;
      for (const { socket } of opened) socket.destroy();
      await device.stop();
      t.diagnostic(
        `at most ${most.toFixed(0)} MiB live, ${rollup.toFixed(0)} in the rollup worker, ${resident.toFixed(0)} resident; ` +
          `${device.acknowledged} PUBACKs in ${device.worstMs.toFixed(0)} ms at most`,
      );
      assert.ok(!device.attacker.closed, 'the good device is still connected');
      assert.ok(device.acknowledged > 1, `${device.acknowledged} acknowledged`);
      assert.ok(device.worstMs < PUBACK_MAX_MS, `a PUBACK took ${device.worstMs} ms`);
      const growth = most - (before.liveMiB - (before.threads.rollup ?? 0));
      assert.ok(growth < GROWTH_MAX_MIB, `${growth} MiB more were live`);
      assert.ok(rollup < BACKLOG_MAX_MIB, `${rollup} MiB were live in the rollup worker`);
      device.attacker.socket.destroy();
      await until(async () => (await connections()) === 0, 'nothing is left of them');
    });
  }
  await program.stop();
});
