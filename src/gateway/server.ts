import type { EventEmitter } from 'node:events';
import { createServer, type Server } from 'node:net';
import type { AuthenticateError, Client, ConnectPacket, PublishPacket, Subscription } from 'aedes';
import { deviceTypes } from '../config/device-types.ts';
import type { Config } from '../config/schema.ts';
import { SpillwayError } from '../core/errors.ts';
import type { SlowedBy } from '../core/refusals.ts';
import { feedKeepAlive, forgetIncoming, gateOf, ProtocolBroker } from './broker.ts';
import type { DeviceView } from './contract.ts';
import { DelayedWills } from './delayed-wills.ts';
import { type Settle, takeOnce } from './exactly-once.ts';
import type { ViolationReason } from './frames.ts';
import type { Gate, GateHandler, PublishPacket as GatePublish } from './gate.ts';
import type { Done, Publish } from './ingest.ts';
import { type Answer, answerOf } from './mqtt5/answer.ts';
import { Farewells } from './overload/farewells.ts';
import type { Overload } from './overload/overload.ts';
import type { DeviceUsage } from './overload/usage.ts';
import {
  authenticateError,
  CLIENT_ID_MAX,
  countRefused,
  Reception,
  type ReceptionOptions,
} from './reception.ts';
import { refuse } from './refuse.ts';
import type { Session } from './session.ts';
import { SessionMemory } from './session-memory.ts';
import { Sessions } from './sessions.ts';
import { isDeep, publishChannel, subscribeChannel } from './topics.ts';

export interface GatewayOptions extends ReceptionOptions {
  host: string;
  port: number;
  fastPath: boolean;
  connectTimeoutMs: number;
  /** True while sockets should not be read. */
  saturated: () => boolean;
  /** Time from the bytes of a QoS 1 publish to its PUBACK, ms. */
  observePuback: (ms: number) => void;
}

const SWEEP_MS = 1_000;
const TOLD_EVERY_MS = 1_000;
const LISTEN_BACKLOG = 1_024;
/** How often connections are closed while the gateway drains. */
const DRAIN_STEP_MS = 50;

/** MQTT over TCP: listens, hands publishes to the ingest, and answers the broker's questions. */
export class Gateway implements GateHandler {
  private readonly options: GatewayOptions;
  private readonly server: Server;
  private readonly sessions = new Sessions();
  private readonly reception: Reception;
  private readonly clients = new WeakMap<Gate, Client>();
  private readonly memory: SessionMemory;
  /** When a reason for closing a connection was last logged. */
  private readonly told = new Map<ViolationReason, number>();
  private broker!: ProtocolBroker;
  private sweep: NodeJS.Timeout | undefined;
  private directoryVersion: number;
  private stopping = false;
  private readonly wills: DelayedWills<Session>;
  private readonly farewells = new Farewells<Gate>((gate) => gate.destroy());

  private constructor(options: GatewayOptions) {
    this.options = options;
    this.directoryVersion = options.directory.version();
    // Twice as many devices as can be connected: those that come back are remembered.
    this.memory = new SessionMemory({ devicesMax: 2 * options.connectionsMax });
    this.wills = new DelayedWills({ max: options.connectionsMax });
    this.reception = new Reception(options, {
      sessions: this.sessions,
      memory: this.memory,
      handler: this,
      admit: (gate) => {
        this.clients.set(gate, this.broker.handle(gate));
        gate.admit();
      },
    });
    this.server = createServer({ noDelay: true, allowHalfOpen: true }, (socket) =>
      this.reception.arrive(socket),
    );
  }

  /** Throws LISTEN_FAILED. */
  static async listen(options: GatewayOptions): Promise<Gateway> {
    const gateway = new Gateway(options);
    gateway.broker = await ProtocolBroker.open(gateway.brokerOptions());
    gateway.broker.on('clientReady', (client) => gateway.onReady(client));
    gateway.broker.on('subscribe', (_subscriptions, client) =>
      gateway.sessions.of(gateOf(client))?.releaseReceipts(),
    );
    gateway.broker.on('keepaliveTimeout', (client) => {
      gateOf(client).endedBy ??= 'KEEP_ALIVE';
    });
    gateway.broker.on('clientError', () => {});
    gateway.broker.on('connectionError', () => {});
    (gateway.broker as EventEmitter).on('error', (error: Error) =>
      options.logger.warn({ err: error }, 'the broker reports an error'),
    );
    await gateway.bind().catch((error: unknown) => {
      gateway.broker.close();
      throw error;
    });
    gateway.server.on('error', (error) =>
      options.logger.warn({ err: error }, 'a connection could not be accepted'),
    );
    gateway.sweep = setInterval(() => gateway.onSweep(), SWEEP_MS);
    return gateway;
  }

  private bind(): Promise<void> {
    const { host, port } = this.options;
    return new Promise((resolve, reject) => {
      const fail = (cause: Error) => {
        const message = `can't listen for MQTT on ${host}:${port}: ${cause.message}`;
        reject(new SpillwayError('LISTEN_FAILED', message, { cause }));
      };
      this.server.once('error', fail);
      this.server.listen({ host, port, backlog: LISTEN_BACKLOG }, () => {
        this.server.off('error', fail);
        resolve();
      });
    });
  }

  get port(): number {
    const address = this.server.address();
    return typeof address === 'object' && address !== null ? address.port : 0;
  }

  /** Connections that are accepted or being checked, and CONNECTs that wait for their turn. */
  get load(): { open: number; waiting: number } {
    return this.reception.load;
  }

  get saturated(): boolean {
    return this.stopping || this.options.saturated();
  }

  /** The log has room again. */
  relieve(): void {
    for (const gate of this.reception.gates) if (gate.waiting) gate.resumeReading();
  }

  /** Readings are checked against these device types from now on. */
  setTypes(types: Config['types']): void {
    this.options.ingest.setTypes(deviceTypes({ types }));
  }

  /** How loaded the gateway is, and what it does about it. */
  get overload(): Overload {
    return this.options.overload;
  }

  /** Sends a command to a connected device; false when it is not connected or does not listen. */
  sendCommand(tenant: string, device: string, payload: string): boolean {
    let sent = false;
    for (const session of this.sessions.ofDevice(`${tenant}/${device}`)) {
      sent = session.connection.send('commands', payload) || sent;
    }
    return sent;
  }

  /** Tells a device by a receipt what slows it down; nothing was lost by it. */
  tell(device: DeviceUsage, code: string, message: string, expected: string): void {
    const receipt = { code, message, expected, severity: 'notice', received: Date.now() };
    for (const session of this.sessions.ofDevice(device.key)) {
      session.connection.notice(`${code}: ${message} (${expected})`);
      if (session.sendReceipt(JSON.stringify(receipt))) this.options.counters.receiptsSent++;
    }
  }

  /**
   * Takes no more connections, and ends those that are open a few at a time, each when what was read of it
   * is answered; the others go on publishing meanwhile. So their clients don't come to the other gateways
   * all at once. `withinMs`: all are closed by then, however many they are.
   */
  async drain(options: { closesPerSecond: number; withinMs: number }): Promise<void> {
    this.server.close();
    this.reception.close();
    const open = [...this.sessions].map(([gate]) => gate);
    const perMs = Math.max(options.closesPerSecond / 1_000, open.length / options.withinMs);
    const started = performance.now();
    for (let closed = 0; open.length > 0; ) {
      for (; open.length > 0 && closed <= (performance.now() - started) * perMs; closed++)
        open.pop()?.finish();
      if (open.length > 0) await new Promise((resolve) => setTimeout(resolve, DRAIN_STEP_MS));
    }
  }

  /** Takes no more connections and reads no more packets; what was read is still acknowledged. */
  async stopReading(): Promise<void> {
    this.stopping = true;
    clearInterval(this.sweep);
    this.server.close();
    this.reception.stop();
    for (const gate of this.reception.gates) gate.socket.pause();
    this.wills.endAll();
  }

  /** Ends all connections, after {@link stopReading} and after the log has committed everything. */
  async close(): Promise<void> {
    this.farewells.flush();
    for (const gate of this.reception.gates) {
      gate.flushAcks();
      gate.endedBy ??= 'STOPPING';
    }
    await new Promise<void>((resolve) => this.broker.close(resolve));
    for (const gate of this.reception.gates) gate.cut('STOPPING');
    // The farewells of the last ones come with the next turn.
    await new Promise((resolve) => setImmediate(resolve));
    this.options.overload.stop();
    this.options.ingest.close();
  }

  publish(gate: Gate, packet: GatePublish): boolean {
    const session = this.sessions.of(gate);
    if (session === undefined) {
      gate.destroy();
      return true;
    }
    const { topic, qos, retain, messageId, payload, payloadBytes } = packet;
    const cut = payload.length < payloadBytes;
    const valid = topic !== undefined && !topic.startsWith('$');
    if (valid && !cut && (qos === 2 || !this.options.fastPath) && !isDeep(topic)) return false;
    const publish: Publish = {
      topic: topic ?? '(invalid)',
      channel: undefined,
      payload,
      payloadBytes,
      qos,
      retain,
    };
    const { receivedAt } = gate;
    let answer: Answer | undefined;
    // It must not hold the publish until the commit, whose payload holds a chunk of the socket.
    const done = (error: Error | null) => {
      if (qos === 1) this.options.observePuback(performance.now() - receivedAt);
      // Never lied to: without a commit there is no acknowledgement, and the device sends again.
      if (error === null) gate.acknowledge(qos, messageId, answer);
      else gate.cut('NOT_COMMITTED');
    };
    if (valid) {
      const { tenant, device } = session.identity;
      publish.channel = publishChannel(topic, tenant, device);
      this.options.ingest.publish(session, publish, done);
    } else {
      const refusal = refuse('TOPIC_INVALID', { actual: publish.topic });
      this.options.ingest.reject(session, publish, refusal, done);
    }
    if (gate.dialect !== undefined) answer = answerOf(publish);
    return true;
  }

  connect(gate: Gate, packet: Buffer, bodyStart: number): void {
    this.reception.connect(gate, packet, bodyStart);
  }

  alive(gate: Gate): void {
    const client = this.clients.get(gate);
    if (client !== undefined) feedKeepAlive(client);
  }

  release(gate: Gate, messageId: number): void {
    const client = this.clients.get(gate);
    if (client === undefined) return;
    this.memory.release(client, messageId);
    forgetIncoming(client, messageId);
  }

  violation(gate: Gate, reason: ViolationReason): void {
    countRefused(this.options.counters, reason);
    // All are counted; a flood of them must not become one of lines.
    const last = this.told.get(reason) ?? Number.NEGATIVE_INFINITY;
    const now = performance.now();
    if (now - last < TOLD_EVERY_MS) return;
    this.told.set(reason, now);
    const session = this.sessions.of(gate);
    this.options.logger.warn(
      { reason, tenant: session?.identity.tenant, device: session?.identity.device },
      'a connection was closed because it broke the protocol or a limit',
    );
  }

  private brokerOptions() {
    return {
      concurrency: 1_024,
      persistence: this.memory,
      connectTimeout: this.options.connectTimeoutMs,
      drainTimeout: 5_000,
      maxClientsIdLength: CLIENT_ID_MAX * 4,
      heartbeatInterval: 3_600_000,
      preConnect: (
        client: Client,
        packet: ConnectPacket,
        done: (error: Error | null, success: boolean) => void,
      ) => this.reception.preConnect(client, packet, done),
      authenticate: (
        client: Client,
        username: string | undefined,
        password: Buffer | undefined,
        done: (error: AuthenticateError | null, success: boolean | null) => void,
      ) => {
        this.reception.authenticate(client, username, password).then(
          (refused) => done(refused ?? null, refused === undefined),
          () => done(authenticateError(), false),
        );
      },
      authorizePublish: (
        client: Client | null,
        packet: PublishPacket,
        done: (error?: Error | null) => void,
      ) => this.authorizePublish(client, packet, done),
      authorizeSubscribe: (
        client: Client,
        subscription: Subscription,
        done: (error: Error | null, subscription?: Subscription | null) => void,
      ) =>
        setImmediate(
          done,
          null,
          this.allowSubscription(client, subscription) ? subscription : null,
        ),
      // Only what this gateway itself sends to the one client gets here.
      authorizeForward: <T>(_client: Client, packet: T) => packet,
    };
  }

  private onReady(client: Client): void {
    const gate = gateOf(client);
    const session = this.sessions.of(gate);
    // Aedes says so of a client too that closed while its CONNACK was written.
    if (session === undefined || gate.destroyed) return;
    this.sessions.accept(gate, session);
    const { clientId } = session;
    let since: number | undefined;
    gate.once('close', () => {
      const reason = gate.endedBy ?? 'CLOSED_BY_GATEWAY';
      this.options.ingest.ended(session, reason);
      this.options.ingest.event(session, 'disconnected', { clientId, reason, since });
    });
    const info = this.reception.accepted(gate);
    if (info !== undefined) this.options.ingest.connected(session, info);
    if (session.opened?.clean === false) this.wills.cancel(clientId);
    else this.wills.end(clientId);
    since = session.opened?.since;
    this.options.ingest.event(session, 'connected', { clientId, since });
    gate.open();
  }

  lost(gate: Gate): void {
    this.farewells.add(gate);
  }

  slowed(gate: Gate, limit: SlowedBy): void {
    const session = this.sessions.of(gate);
    if (session !== undefined) this.options.ingest.slowed(session, limit);
  }

  /** What this gateway knows of a device since it started. */
  view(tenant: string, device: string): DeviceView {
    const name = `${tenant}/${device}`;
    const sessions = [...this.sessions.ofDevice(name)];
    return {
      connections: sessions.flatMap(({ opened }) => opened ?? []).reverse(),
      lastConnection: null,
      decisions: [],
      clock: null,
      backfill: null,
      ...this.options.ingest.remembered(name),
    };
  }

  /** QoS 2, wills, and everything while the fast path is off. */
  private authorizePublish(
    client: Client | null,
    packet: PublishPacket,
    done: (error?: Error | null) => void,
  ): void {
    const gate = client === null ? undefined : gateOf(client);
    const session = gate === undefined ? undefined : this.sessions.of(gate);
    if (client === null || gate === undefined || session === undefined) {
      setImmediate(done, new Error('no session'));
      return;
    }
    const isWill = packet.cmd !== 'publish';
    const { tenant, device } = session.identity;
    const payload = Buffer.from(packet.payload);
    const publish: Publish = {
      topic: packet.topic,
      channel: publishChannel(packet.topic, tenant, device),
      payload,
      payloadBytes: payload.length,
      qos: packet.qos,
      retain: packet.retain,
      will: isWill,
    };
    const ingest = (done: Done) => this.options.ingest.publish(session, publish, done);
    if (isWill) {
      const delayMs = this.willDelayMs(gate, session);
      if (delayMs === 0) ingest(done);
      else {
        if (delayMs !== undefined) this.wills.hold(session, delayMs, () => ingest(() => {}));
        setImmediate(done, null);
      }
      return;
    }
    const { dialect } = gate;
    const { messageId = 0 } = packet;
    const settle: Settle = (error, answer) => {
      if (answer !== undefined && packet.qos > 0) dialect?.answer(messageId, answer);
      gate.settle();
      done(error);
    };
    const take = (settle: Settle) => ingest((error) => settle(error, answerOf(publish)));
    if (packet.qos === 2) takeOnce(this.memory.of(client), messageId, take, settle);
    else take(settle);
  }

  /** How long a will waits for its device, ms; undefined: it is back, with the same session. */
  private willDelayMs(gate: Gate, session: Session): number | undefined {
    const delayMs = gate.dialect?.willDelayMs ?? 0;
    if (delayMs === 0 || this.stopping || gate.endedBy === 'REVOKED') return 0;
    const successor = this.sessions.successor(session);
    if (successor === undefined) return delayMs;
    return successor.opened?.clean === false ? undefined : 0;
  }

  private allowSubscription(client: Client, subscription: Subscription): boolean {
    const session = this.sessions.of(gateOf(client));
    if (session === undefined) return false;
    const { tenant, device } = session.identity;
    return subscribeChannel(subscription.topic, tenant, device) !== undefined;
  }

  /** Keeps waiting connections alive, and ends the slow and those whose device or secret is gone. */
  private onSweep(): void {
    const now = performance.now();
    for (const gate of this.reception.gates) {
      // Who waits for us lives on; who doesn't read what we send is subject to its keep-alive.
      if (gate.waiting && !gate.unread) this.alive(gate);
      gate.checkPace(now, this.options.connectTimeoutMs);
    }
    try {
      this.endRevoked();
    } catch (error) {
      this.options.logger.warn({ err: error }, 'the directory can not be read');
    }
  }

  private endRevoked(): void {
    const version = this.options.directory.version();
    if (version === this.directoryVersion) return;
    const isRevoked = ({ identity: { tenant, device }, secretHash }: Session) =>
      this.options.directory.device(tenant, device)?.secretHash !== secretHash;
    // Nobody who comes back later has left them.
    this.wills.endOf(isRevoked);
    for (const [gate, session] of this.sessions) {
      session.targets.clear();
      if (!isRevoked(session)) continue;
      const { tenant, device } = session.identity;
      this.options.logger.info(
        { tenant, device },
        'a connection ends because its device or secret was removed',
      );
      gate.cut('REVOKED');
    }
    this.directoryVersion = version;
  }
}
