import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { setImmediate as turn } from 'node:timers/promises';
import { deviceTypes } from '../../src/config/device-types.ts';
import { configSchema } from '../../src/config/schema.ts';
import type { Clock } from '../../src/core/clock.ts';
import type { LogRecord } from '../../src/core/nouns.ts';
import { Histories } from '../../src/gateway/history.ts';
import { Ingest } from '../../src/gateway/ingest.ts';
import { Session } from '../../src/gateway/session.ts';
import type { AppendRequest, LogAppender } from '../../src/log/contract.ts';
import { gatewayCounters } from '../../src/ops/counters.ts';
import type { DeviceEntry, Directory } from '../../src/tenants/contract.ts';
import type { Engines } from './engines.ts';
import { type DeviceSpec, type Message, TENANT, TYPES } from './fleet.ts';
import type { Arrival, Shed } from './naive.ts';

export const PAYLOAD_BYTES_MAX = 8_192;
const LIMITS = {
  payloadBytesMax: PAYLOAD_BYTES_MAX,
  readingsPerMessageMax: 1_000,
  metricsPerReadingMax: 256,
  textMax: 256,
  deadLetterPayloadBytesMax: 16_384,
};
/** What a test waits for before it gives up, ms. */
const PATIENCE_MS = 60_000;

/** One append: a message's, or that of counted drops. */
interface Attempt {
  message: Message | undefined;
  received: number;
  records: number;
  sheds: Shed[];
  state: 'waiting' | 'durable' | 'refused' | 'lost';
}

/** What a device has sent and keeps until it is acknowledged. */
interface Sent {
  message: Message;
  attempt: Attempt | undefined;
  /** The acknowledgement goes missing on its way. */
  isUnheard: boolean;
}

class Devices implements Directory {
  private readonly entries: DeviceEntry[];

  constructor(devices: readonly DeviceSpec[]) {
    this.entries = devices.map(({ name, type, via }) => ({
      ...{ tenant: TENANT, device: name, type, secretHash: '', createdAt: 0 },
      ...(via !== undefined && { via }),
    }));
  }

  device(tenant: string, device: string): DeviceEntry | undefined {
    return this.entries.find((one) => one.tenant === tenant && one.device === device);
  }

  devices(): DeviceEntry[] {
    return this.entries;
  }

  verifyToken(): undefined {}

  version(): number {
    return 1;
  }

  close(): void {}
}

/**
 * The gateway's path from a publish to the log, and the devices before it: they send again what was not
 * acknowledged, in order, and never what they sent at QoS 0. Knows what the log must hold.
 */
export class ModelGateway {
  /** All appends in order. */
  private readonly attempts: Attempt[] = [];
  private firstWaiting = 0;
  private durableRecords = 0;
  /** By session, oldest first. */
  private readonly kept = new Map<string, Sent[]>();
  /** QoS 0 messages that were dropped, by device. */
  readonly dropped = new Map<string, number>();
  /** Counts of drops may have been lost with a gateway. */
  lostCounts = false;
  resent = 0;
  kills = 0;
  fulls = 0;
  private readonly engines: Engines;
  private readonly clock: Clock;
  private readonly directory: Devices;
  private readonly specs: readonly DeviceSpec[];
  private appender: LogAppender | undefined;
  private ingest: Ingest | undefined;
  private sessions = new Map<string, Session>();
  private current: Message | undefined;
  private last: Attempt | undefined;
  private life = { isOver: false };
  private onChange: () => void = () => {};

  constructor(engines: Engines, clock: Clock, devices: readonly DeviceSpec[]) {
    this.engines = engines;
    this.clock = clock;
    this.specs = devices;
    this.directory = new Devices(devices);
  }

  async open(): Promise<void> {
    this.life = { isOver: false };
    this.appender = await this.engines.openAppender({
      onFull: (full) => {
        if (full) this.fulls += 1;
        this.onChange();
      },
    });
    this.ingest = new Ingest({
      appender: this.watched(this.appender),
      directory: this.directory,
      types: deviceTypes(configSchema.parse({ types: TYPES })),
      counters: gatewayCounters(),
      clock: this.clock,
      histories: new Histories({ devicesMax: 2 }),
      limits: LIMITS,
      backfillAfterMs: this.engines.backfillAfterMs ?? Number.POSITIVE_INFINITY,
    });
    this.sessions = new Map();
  }

  /** Messages that the log has, in its order. */
  arrivals(): Arrival[] {
    return this.attempts.flatMap(({ state, message, received }) =>
      state === 'durable' && message !== undefined ? [{ message, received }] : [],
    );
  }

  sheds(): Shed[] {
    return this.attempts.flatMap(({ state, sheds }) => (state === 'durable' ? sheds : []));
  }

  get isFull(): boolean {
    return this.appender?.full ?? false;
  }

  private watched(appender: LogAppender): LogAppender {
    return {
      append: (request, done) => {
        const { life } = this;
        const attempt = this.attempt(request);
        appender.append(request, (error) => {
          if (life.isOver) return;
          this.settle(attempt, error === null ? 'durable' : 'refused');
          done(error);
        });
      },
      get saturated() {
        return appender.saturated;
      },
      get full() {
        return appender.full;
      },
      onRelief: (callback) => appender.onRelief(callback),
      stats: () => appender.stats(),
      flush: () => appender.flush(),
      close: () => appender.close(),
    };
  }

  private attempt({ records }: AppendRequest): Attempt {
    const message = this.current;
    const attempt: Attempt = {
      ...{ message, received: this.clock.now(), records: records.length },
      sheds: message === undefined ? records.map(shedOf) : [],
      state: 'waiting',
    };
    this.attempts.push(attempt);
    this.last = attempt;
    return attempt;
  }

  private settle(attempt: Attempt, state: 'durable' | 'refused'): void {
    attempt.state = state;
    if (state === 'durable') this.durableRecords += attempt.records;
    this.onChange();
  }

  /** Sends what was not acknowledged before, then these. */
  publish(messages: readonly Message[], acknowledged: boolean): void {
    for (const session of this.kept.keys()) this.sendAgain(session);
    for (const message of messages) {
      const sent: Sent = { message, attempt: undefined, isUnheard: !acknowledged };
      if (message.qos === 1) {
        const list = this.kept.get(message.session) ?? [];
        this.kept.set(message.session, list);
        list.push(sent);
      }
      // A socket that is not read: what is behind comes when the log has room.
      if (message.qos === 1 && this.isFull) continue;
      this.send(sent);
    }
  }

  private sendAgain(session: string): void {
    const list = this.kept.get(session) ?? [];
    if (this.isFull || list.some(({ attempt }) => attempt?.state === 'waiting')) return;
    const rest = list.filter(({ attempt, isUnheard }) => isUnheard || attempt?.state !== 'durable');
    this.kept.set(session, rest);
    for (const sent of rest) {
      if (sent.attempt !== undefined) this.resent += 1;
      sent.isUnheard = false;
      this.send(sent);
    }
  }

  private send(sent: Sent): void {
    const { message } = sent;
    const { session: device, qos, payload, channel } = message;
    const own = `t/${TENANT}/d/${device}`;
    const topic = channel === 'foreign' ? `t/${TENANT}/d/other/telemetry` : `${own}/${channel}`;
    this.current = message;
    this.last = undefined;
    this.ingest?.publish(
      this.session(device),
      {
        ...{ topic, qos, retain: false, payload, payloadBytes: payload.length },
        channel: channel === 'foreign' ? undefined : channel,
      },
      () => {},
    );
    this.current = undefined;
    sent.attempt = this.last;
    if (this.last !== undefined) return;
    assert.equal(qos, 0, 'only QoS 0 may be dropped');
    this.dropped.set(device, (this.dropped.get(device) ?? 0) + 1);
  }

  private session(device: string): Session {
    let session = this.sessions.get(device);
    const spec = this.specs.find(({ name }) => name === device);
    if (session === undefined && this.ingest !== undefined && spec !== undefined) {
      const identity = { tenant: TENANT, device, type: spec.type };
      session = new Session({
        ...{ identity, clientId: device, own: this.ingest.target(identity), secretHash: '' },
        connection: { send: () => true, notice: () => {}, end: () => {} },
      });
      this.sessions.set(device, session);
    }
    if (session === undefined) throw new Error(`no session of ${device}`);
    return session;
  }

  /** Until nothing waits for its commit, or the log is full. */
  async committed(): Promise<void> {
    await this.until(() => this.isFull || !this.isWaiting());
  }

  private isWaiting(): boolean {
    while (this.firstWaiting < this.attempts.length) {
      if (this.attempts[this.firstWaiting]?.state === 'waiting') return true;
      this.firstWaiting += 1;
    }
    return false;
  }

  private async until(condition: () => boolean): Promise<void> {
    const late = performance.now() + PATIENCE_MS;
    while (!condition()) {
      if (performance.now() > late) throw new Error('the log does not settle');
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, 1_000);
        this.onChange = () => {
          clearTimeout(timer);
          resolve();
        };
      });
      this.onChange = () => {};
    }
  }

  /** Large messages that nobody can read, until the log has no room; then some that may be dropped. */
  async fill(): Promise<void> {
    const [spec] = this.specs;
    if (spec === undefined) return;
    const session = spec.name;
    for (let i = 0; i < 100 && !this.isFull; i += 1) {
      const noise = createHash('shake256', { outputLength: 6_000 }).update(String(i));
      const payload = Buffer.from(noise.digest('base64'));
      const flaw = 'JSON_INVALID' as const;
      this.publish([{ session, qos: 1, channel: 'telemetry', payload, items: [], flaw }], true);
      await this.committed();
    }
    const payload = Buffer.from('{}');
    this.publish([{ session, qos: 0, channel: 'state', payload, items: [] }], true);
  }

  /** Dies and comes back. `abandon`: its files are taken as they are, with nothing under way. */
  async kill(how: { hurries: boolean } | { abandon: () => Promise<void> }): Promise<void> {
    this.kills += 1;
    if ('abandon' in how || !how.hurries) await this.committed();
    else await turn();
    // Refusals of what waited when it died are known by then.
    await turn();
    this.life.isOver = true;
    if (this.dropped.size > 0) this.lostCounts = true;
    if ('abandon' in how) await how.abandon();
    else await this.engines.killAppender();
    this.ingest?.close();
    await this.learn();
    await this.open();
  }

  /** Which of the messages that were under way the log has: whole ones, and none without those before it. */
  private async learn(): Promise<void> {
    const end = await this.engines.durable();
    for (const attempt of this.attempts) {
      if (attempt.state !== 'waiting') continue;
      if (this.durableRecords < end) this.settle(attempt, 'durable');
      else attempt.state = 'lost';
    }
    assert.equal(this.durableRecords, end, 'the log holds a part of a message, or has lost one');
  }

  /** Ends as a program that is stopped, and starts again. */
  async restart(): Promise<void> {
    await this.close();
    await this.open();
  }

  async close(): Promise<void> {
    if (this.appender === undefined) return;
    // Until what waits is in the log there may be no room for counts of drops.
    if (!this.isFull) await this.appender.flush();
    else if (this.dropped.size > 0) this.lostCounts = true;
    this.ingest?.close();
    await this.appender.close();
    await turn();
    this.appender = undefined;
    assert.equal(await this.engines.durable(), this.durableRecords, 'records of the log');
  }

  /** Sends until everything is acknowledged. `room` makes some in a log that is full. */
  async drain(room: () => Promise<void>): Promise<void> {
    for (let i = 0; i < 1_000; i += 1) {
      this.publish([], true);
      await this.committed();
      if (this.isFull) {
        await room();
        await this.until(() => !this.isFull);
      }
      const open = [...this.kept.values()].flat();
      if (open.every(({ attempt, isUnheard }) => attempt?.state === 'durable' && !isUnheard))
        return;
    }
    throw new Error('messages are not taken, however often they are sent');
  }
}

function shedOf(line: string): Shed {
  const record = JSON.parse(line) as LogRecord;
  assert.equal(record.kind, 'shed', `nobody sent ${line}`);
  const { device, code, count, received } = record as Extract<LogRecord, { kind: 'shed' }>;
  return { device, code, count, received };
}
