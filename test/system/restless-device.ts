import { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import mqtt, { type MqttClient } from 'mqtt';
import { seeded } from '../helpers/seeded.ts';
import type { Measured } from './naive.ts';
import type { TestDevice } from './spillway-process.ts';

const WINDOW = 6;
const STEP_MS_MAX = 9_000;
const RECONNECT_MS = 40;

interface Message {
  payload: string;
  /** Parts that have to become dead letters. */
  bad: number;
}

/**
 * A device that publishes with QoS 1 whatever happens to its gateway: it reconnects and sends again what
 * was not acknowledged. Readings have unique times that grow by 1 ms to 9 s or `stepMsMax`; some messages are arrays
 * (some of them backwards), some are held back for a while, some come twice, some are bad.
 */
export class RestlessDevice {
  readonly identity: TestDevice;
  /** Every good reading that was ever published, in order of time. */
  readonly readings: Measured[] = [];
  sent = 0;
  acknowledged = 0;
  /** Parts of messages that have to become dead letters, and readings sent again on purpose. */
  bad = 0;
  repeated = 0;
  connects = 0;
  private readonly client: MqttClient;
  private readonly random: () => number;
  private readonly topic: string;
  private readonly window: number;
  private readonly stepMsMax: number;
  private readonly held: { due: number; message: Message }[] = [];
  private readonly recent: string[] = [];
  private ts: number;
  private seq = 0;
  private ending = false;
  private closed = false;

  /**
   * `port` says where the gateway listens now; undefined: nowhere. `window` is how many messages may wait
   * for their acknowledgement.
   */
  constructor(options: {
    identity: TestDevice;
    port: () => number | undefined;
    seed: number;
    from: number;
    window?: number;
    stepMsMax?: number;
  }) {
    const { tenant, device, secret } = options.identity;
    this.identity = options.identity;
    this.window = options.window ?? WINDOW;
    this.stepMsMax = options.stepMsMax ?? STEP_MS_MAX;
    this.random = seeded(options.seed);
    this.ts = options.from;
    this.topic = `t/${tenant}/d/${device}/telemetry`;
    this.client = new mqtt.MqttClient(() => connect(options.port()), {
      username: `${tenant}/${device}`,
      password: secret,
      clientId: `${tenant}/${device}`,
      protocolVersion: 4,
      reconnectPeriod: RECONNECT_MS,
      reconnectOnConnackError: true,
      connectTimeout: 5_000,
      keepalive: 60,
    });
    this.client.on('error', () => {});
    this.client.on('connect', () => {
      this.connects += 1;
    });
  }

  get unacknowledged(): number {
    return this.sent - this.acknowledged;
  }

  /** Publishes until `stop` is called; a message every `everyMs` while no more than a few wait for their acknowledgement. */
  async run(everyMs: number): Promise<void> {
    while (!this.ending) {
      if (this.unacknowledged < this.window) this.publish(this.next());
      await sleep(everyMs * (0.5 + this.random()));
    }
    for (const { message } of this.held.splice(0)) this.publish(message);
  }

  stop(): void {
    this.ending = true;
  }

  /** Waits until everything is acknowledged. */
  async acknowledgedAll(timeoutMs: number): Promise<void> {
    const until = performance.now() + timeoutMs;
    while (this.unacknowledged > 0) {
      if (performance.now() > until) {
        const { tenant, device } = this.identity;
        throw new Error(`${tenant}/${device}: ${this.unacknowledged} messages unacknowledged`);
      }
      await sleep(10);
    }
  }

  end(): void {
    this.ending = true;
    this.closed = true;
    this.client.end(true);
  }

  private publish(message: Message): void {
    this.sent += 1;
    this.bad += message.bad;
    this.send(message.payload);
  }

  /** The client repeats what was under way when a connection broke; what it had only queued it gives back. */
  private send(payload: string): void {
    this.client.publish(this.topic, payload, { qos: 1 }, (error) => {
      if (error === undefined || error === null) this.acknowledged += 1;
      else if (!this.closed) setTimeout(() => this.send(payload), RECONNECT_MS).unref();
    });
  }

  private next(): Message {
    const due = this.held[0];
    if (due !== undefined && due.due <= performance.now()) {
      this.held.shift();
      return due.message;
    }
    const dice = this.random();
    const again = this.recent[Math.floor(this.random() * this.recent.length)];
    if (dice < 0.06 && again !== undefined) {
      const parts: unknown = JSON.parse(again);
      this.repeated += Array.isArray(parts) ? parts.length : 1;
      return { payload: again, bad: 0 };
    }
    if (dice < 0.1) return this.badMessage();
    const message = this.goodMessage();
    if (dice < 0.14) {
      this.held.push({ due: performance.now() + 300 + 4_000 * this.random(), message });
      return this.next();
    }
    return message;
  }

  private goodMessage(): Message {
    const single = this.random() < 0.5;
    const count = single ? 1 : 1 + Math.floor(this.random() * 8);
    const list = Array.from({ length: count }, () => this.reading());
    if (this.random() < 0.2) list.reverse();
    const payload = JSON.stringify(single ? list[0] : list);
    this.recent.push(payload);
    if (this.recent.length > 50) this.recent.shift();
    return { payload, bad: 0 };
  }

  private badMessage(): Message {
    const dice = this.random();
    if (dice < 0.3) return { payload: '{"temperature": 21.5', bad: 1 };
    if (dice < 0.6) {
      return { payload: JSON.stringify({ ts: this.ts, values: { temperature: 400 } }), bad: 1 };
    }
    const list = [
      this.reading(),
      { ts: this.ts, values: { temperature: 'warm' } },
      this.reading(),
      { ts: this.ts, values: { unheard_of: 1, temperature: 1 } },
    ];
    return { payload: JSON.stringify(list), bad: 2 };
  }

  private reading(): Measured & { seq: number } {
    this.ts += 1 + Math.floor(this.random() * this.stepMsMax);
    this.seq += 1;
    const values: Measured['values'] = {
      temperature: (Math.floor(this.random() * 8_000) - 3_000) / 100,
    };
    if (this.random() < 0.5) values.pulses = Math.floor(this.random() * 1_000);
    if (this.random() < 0.3) values.open = this.random() < 0.5;
    if (this.random() < 0.2) values.mode = this.random() < 0.5 ? 'auto' : 'off';
    this.readings.push({ ts: this.ts, values });
    return { ts: this.ts, seq: this.seq, values };
  }
}

function connect(port: number | undefined): Socket {
  const socket = new Socket();
  if (port === undefined) setImmediate(() => socket.destroy(new Error('nothing listens')));
  else socket.setNoDelay(true).connect(port, '127.0.0.1');
  return socket;
}
