import { randomUUID } from 'node:crypto';
import type { EventEmitter } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';
import type { AuthenticateError, Client, ConnectPacket, PublishPacket, Subscription } from 'aedes';
import { deviceTypes } from '../config/device-types.ts';
import type { Config } from '../config/schema.ts';
import { SpillwayError } from '../core/errors.ts';
import type { GatewayCounters } from '../ops/counters.ts';
import type { CredentialVerifier, Directory, Identity } from '../tenants/contract.ts';
import { feedKeepAlive, gateOf, ProtocolBroker, subscriptionQos } from './broker.ts';
import { farewell, readConnect, refusingConnack } from './connect-packet.ts';
import { type ConnectInfo, connectInfo } from './connection-info.ts';
import type { DeviceView } from './contract.ts';
import type { ViolationReason } from './frames.ts';
import {
  Gate,
  type GateHandler,
  type GateLimits,
  type PublishPacket as GatePublish,
  type SlowedBy,
} from './gate.ts';
import type { Done, Ingest, Publish } from './ingest.ts';
import { answerOf, type ConnectRules, type Refused, reasonOf } from './overload/connect-rules.ts';
import { Farewells } from './overload/farewells.ts';
import { Handshakes } from './overload/handshakes.ts';
import type { Overload } from './overload/overload.ts';
import type { DeviceUsage } from './overload/usage.ts';
import { refuse } from './refuse.ts';
import { Session } from './session.ts';
import { SessionMemory } from './session-memory.ts';
import {
  decodeTopic,
  deviceTopic,
  publishChannel,
  type SubscribeChannel,
  shortTopic,
  subscribeChannel,
} from './topics.ts';

export interface GatewayLogger {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
}

export interface GatewayOptions {
  host: string;
  port: number;
  fastPath: boolean;
  connectionsMax: number;
  /** Connections that have not sent a whole CONNECT yet. */
  connectingMax: number;
  connectTimeoutMs: number;
  keepAliveMaxMs: number;
  gate: GateLimits;
  ingest: Ingest;
  overload: Overload;
  rules: ConnectRules;
  /** CONNECTs that are checked at a time, and those that wait. */
  handshakesMax: number;
  handshakesWaitingMax: number;
  directory: Directory;
  verifier: CredentialVerifier;
  counters: GatewayCounters;
  logger: GatewayLogger;
  /** True while sockets should not be read. */
  saturated: () => boolean;
  /** Time from the bytes of a QoS 1 publish to its PUBACK, ms. */
  observePuback: (ms: number) => void;
}

const CLIENT_ID_MAX = 128;
const RECEIPT_BACKLOG_BYTES = 64 * 1_024;
const SWEEP_MS = 1_000;
const TOLD_EVERY_MS = 1_000;
const LISTEN_BACKLOG = 1_024;
/** Aedes closes the connection of a topic with more levels without a word. */
const TOPIC_LEVELS_MAX = 100;
/** Return codes of CONNACK [MQTT-3.2.2.3]. */
const BAD_CREDENTIALS = 4;
const FAILED = 3;
const IDENTIFIER_REJECTED = Buffer.from([0x20, 2, 0, 2]);
/** Sockets beyond those that may connect and wait: they are there to be refused, politely. */
const REFUSED_MAX = 1_000;
/** How often connections are closed while the gateway drains. */
const DRAIN_STEP_MS = 50;

/** MQTT over TCP: listens, makes a gate for each socket, and answers the broker's questions. */
export class Gateway implements GateHandler {
  private readonly options: GatewayOptions;
  private readonly server: Server;
  private readonly gates = new Set<Gate>();
  /** Those that have not sent a whole CONNECT, oldest first, and some that have. */
  private readonly connecting = new Set<Gate>();
  private readonly clients = new WeakMap<Gate, Client>();
  private readonly connects = new WeakMap<Gate, ConnectInfo>();
  /** Open sessions. */
  private readonly sessions = new Map<Gate, Session>();
  /** Also of gates that have closed: their wills and farewells come later. */
  private readonly sessionOf = new WeakMap<Gate, Session>();
  /** Sessions of a device, by `<tenant>/<device>`. */
  private readonly byDevice = new Map<string, Set<Session>>();
  private readonly memory: SessionMemory;
  /** When a reason for closing a connection was last logged. */
  private readonly told = new Map<ViolationReason, number>();
  private broker!: ProtocolBroker;
  private sweep: NodeJS.Timeout | undefined;
  private directoryVersion: number;
  private stopping = false;
  private draining = false;
  private readonly handshakes: Handshakes<Gate>;
  private readonly farewells = new Farewells<Gate>((gate) => gate.destroy());
  /** What the address of a connection counts as, where it counts. */
  private readonly addressOf = new WeakMap<Gate, string>();

  private constructor(options: GatewayOptions) {
    this.options = options;
    this.directoryVersion = options.directory.version();
    // Twice as many devices as can be connected: those that come back are remembered.
    this.memory = new SessionMemory({ devicesMax: 2 * options.connectionsMax });
    this.handshakes = new Handshakes({
      activeMax: options.handshakesMax,
      waitingMax: options.handshakesWaitingMax,
      now: () => performance.now(),
    });
    this.server = createServer({ noDelay: true, allowHalfOpen: true }, (socket) =>
      this.onSocket(socket),
    );
  }

  /** Throws LISTEN_FAILED. */
  static async listen(options: GatewayOptions): Promise<Gateway> {
    const gateway = new Gateway(options);
    gateway.broker = await ProtocolBroker.open(gateway.brokerOptions());
    gateway.broker.on('clientReady', (client) => gateway.onReady(client));
    gateway.broker.on('subscribe', (_subscriptions, client) =>
      gateway.sessionOf.get(gateOf(client))?.releaseReceipts(),
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
    options.overload.onLevel((level) => {
      gateway.handshakes.loaded = level !== 'normal';
    });
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
    const { underWay, waiting } = this.handshakes;
    return { open: this.sessions.size + underWay, waiting };
  }

  get saturated(): boolean {
    return this.stopping || this.options.saturated();
  }

  /** The log has room again. */
  relieve(): void {
    for (const gate of this.gates) if (gate.waiting) gate.resumeReading();
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
    for (const session of this.byDevice.get(`${tenant}/${device}`) ?? []) {
      sent = session.connection.send('commands', payload) || sent;
    }
    return sent;
  }

  /** Tells a device by a receipt what slows it down; nothing was lost by it. */
  tell(device: DeviceUsage, code: string, message: string, expected: string): void {
    const receipt = { code, message, expected, severity: 'notice', received: Date.now() };
    for (const session of this.byDevice.get(device.key) ?? [])
      if (session.sendReceipt(JSON.stringify(receipt))) this.options.counters.receiptsSent++;
  }

  /**
   * Takes no more connections, and ends those that are open a few at a time, each when what was read of it
   * is answered; the others go on publishing meanwhile. So their clients don't come to the other gateways
   * all at once. `withinMs`: all are closed by then, however many they are.
   */
  async drain(options: { closesPerSecond: number; withinMs: number }): Promise<void> {
    this.draining = true;
    this.server.close();
    for (const gate of this.connecting) gate.destroy();
    const open = [...this.sessions.keys()];
    const perMs = Math.max(options.closesPerSecond / 1_000, open.length / options.withinMs);
    const started = performance.now();
    for (let closed = 0; open.length > 0; ) {
      for (; open.length > 0 && closed <= (performance.now() - started) * perMs; closed++)
        this.finish(open.pop());
      if (open.length > 0) await new Promise((resolve) => setTimeout(resolve, DRAIN_STEP_MS));
    }
  }

  private finish(gate: Gate | undefined): void {
    // Only MQTT 3.1.1 is spoken yet, which knows no farewell.
    gate?.finish(farewell(4, 'stopping'));
  }

  /** Takes no more connections and reads no more packets; what was read is still acknowledged. */
  async stopReading(): Promise<void> {
    this.stopping = true;
    clearInterval(this.sweep);
    this.server.close();
    this.handshakes.stop();
    for (const gate of this.gates) gate.socket.pause();
  }

  /** Ends all connections, after {@link stopReading} and after the log has committed everything. */
  async close(): Promise<void> {
    this.farewells.flush();
    for (const gate of this.gates) {
      gate.flushAcks();
      gate.endedBy ??= 'STOPPING';
    }
    await new Promise<void>((resolve) => this.broker.close(resolve));
    for (const gate of this.gates) gate.cut('STOPPING');
    // The farewells of the last ones come with the next turn.
    await new Promise((resolve) => setImmediate(resolve));
    this.options.overload.stop();
    this.options.ingest.close();
  }

  publish(gate: Gate, packet: GatePublish): boolean {
    const session = this.sessionOf.get(gate);
    if (session === undefined) {
      gate.destroy();
      return true;
    }
    const { topic, qos, retain, messageId, payload, payloadBytes } = packet;
    const cut = payload.length < payloadBytes;
    const valid = topic !== undefined && !topic.startsWith('$');
    if (valid && !cut && (qos === 2 || !this.options.fastPath) && !isDeep(topic)) return false;
    const { receivedAt } = gate;
    const done = (error: Error | null) => {
      if (qos === 1) this.options.observePuback(performance.now() - receivedAt);
      // Never lied to: without a commit there is no acknowledgement, and the device sends again.
      if (error === null) gate.acknowledge(qos, messageId);
      else gate.cut('NOT_COMMITTED');
    };
    const shown = topic ?? '(invalid)';
    if (!valid) {
      const publish: Publish = {
        topic: shown,
        channel: undefined,
        payload,
        payloadBytes,
        qos,
        retain,
      };
      this.options.ingest.reject(
        session,
        publish,
        refuse('TOPIC_INVALID', { actual: shown }),
        done,
      );
      return true;
    }
    const { tenant, device } = session.identity;
    const channel = publishChannel(topic, tenant, device);
    this.options.ingest.publish(
      session,
      { topic, channel, payload, payloadBytes, qos, retain },
      done,
    );
    return true;
  }

  alive(gate: Gate): void {
    const client = this.clients.get(gate);
    if (client !== undefined) feedKeepAlive(client);
  }

  violation(gate: Gate, reason: ViolationReason): void {
    this.countRefused(reason);
    // All are counted; a flood of them must not become one of lines.
    const last = this.told.get(reason) ?? Number.NEGATIVE_INFINITY;
    const now = performance.now();
    if (now - last < TOLD_EVERY_MS) return;
    this.told.set(reason, now);
    const session = this.sessionOf.get(gate);
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
      ) => this.preConnect(client, packet, done),
      authenticate: (
        client: Client,
        username: string | undefined,
        password: Buffer | undefined,
        done: (error: AuthenticateError | null, success: boolean | null) => void,
      ) => {
        this.authenticate(client, username, password).then(
          (refused) => done(refused ?? null, refused === undefined),
          () => done(authenticateError(FAILED), false),
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

  private onSocket(socket: Socket): void {
    const { counters, rules, connectionsMax, handshakesWaitingMax } = this.options;
    const address = rules.addressKey(socket.remoteAddress);
    const refused = address === undefined ? undefined : rules.arrives(address);
    const most = connectionsMax + handshakesWaitingMax + REFUSED_MAX;
    if (this.stopping || this.draining || refused !== undefined || this.gates.size >= most) {
      this.countRefused(refused ?? (this.gates.size >= most ? 'CONNECTIONS_MAX' : 'STOPPING'));
      // Nothing is read of it and nothing said: the cheapest end there is.
      socket.resetAndDestroy();
      return;
    }
    const gate = new Gate(socket, this, this.options.gate);
    if (address !== undefined) this.addressOf.set(gate, address);
    this.gates.add(gate);
    this.connecting.add(gate);
    this.cutUnfinished();
    counters.connections++;
    counters.connectionsTotal++;
    gate.once('close', () => {
      this.gates.delete(gate);
      this.connecting.delete(gate);
      this.handshakes.done(gate);
      counters.connections--;
    });
  }

  connect(gate: Gate, body: Buffer): void {
    this.connecting.delete(gate);
    const summary = readConnect(body);
    const version = summary?.version ?? 4;
    const refused = this.refusal() ?? this.options.rules.claimed(summary?.username);
    if (refused !== undefined) {
      this.refuseConnect(gate, version, refused);
      return;
    }
    if (version === 5) {
      this.countRefused('PROTOCOL_VERSION');
      gate.refuse(refusingConnack(version, 'version', 'MQTT 3.1.1 is spoken here'));
      return;
    }
    const waits = this.handshakes.offer(gate, () => {
      this.clients.set(gate, this.broker.handle(gate));
      gate.admit();
    });
    if (!waits) {
      const expected = `at most ${this.options.handshakesWaitingMax} that wait`;
      this.refuseConnect(gate, version, { code: 'CONNECTS_WAITING', expected });
    }
  }

  /** Why nobody at all is let in now. */
  private refusal(): Refused | undefined {
    const { overload, connectionsMax } = this.options;
    if (this.draining) return { code: 'STOPPING', expected: 'another gateway' };
    if (overload.level === 'refuse') {
      const retryAfterMs = overload.refuseDwellMs;
      return { code: 'OVERLOADED', expected: 'a wait', retryAfterMs };
    }
    if (this.load.open < connectionsMax) return undefined;
    return { code: 'CONNECTIONS_MAX', expected: `at most ${connectionsMax} connections` };
  }

  private refuseConnect(gate: Gate, version: number, refused: Refused): void {
    this.noteRefused(refused);
    const { retryAfterMs } = refused;
    gate.refuse(refusingConnack(version, answerOf(refused), reasonOf(refused), retryAfterMs));
  }

  private noteRefused({ code, expected, device }: Refused): void {
    this.countRefused(code);
    if (device !== undefined) this.options.overload.refused(device, code, expected);
  }

  /**
   * Connections that send nothing, or a CONNECT that never ends, would take all places for the whole
   * connectTimeout. Who means it sends the CONNECT at once, so the oldest without one are closed.
   */
  private cutUnfinished(): void {
    for (const gate of this.connecting) {
      if (this.connecting.size <= this.options.connectingMax) return;
      this.connecting.delete(gate);
      if (!gate.connecting) continue;
      this.countRefused('CONNECTING_MAX');
      gate.destroy();
    }
  }

  private preConnect(
    client: Client,
    packet: ConnectPacket,
    done: (error: Error | null, success: boolean) => void,
  ): void {
    const { clientId, username } = packet;
    // [MQTT-3.1.3-8] an empty id needs a clean session
    if (clientId.length > CLIENT_ID_MAX || (clientId === '' && !packet.clean)) {
      gateOf(client).socket.write(IDENTIFIER_REJECTED);
      this.countRefused('IDENTIFIER_REJECTED');
      done(new Error('identifier rejected'), false);
      return;
    }
    // Ids are namespaced by the name that is authenticated next, so that no device can take over another's.
    packet.clientId = `${username ?? ''}/${clientId === '' ? randomUUID() : clientId}`;
    const keepAliveMax = Math.min(65_535, Math.floor(this.options.keepAliveMaxMs / 1_000));
    packet.keepalive = Math.min(packet.keepalive || keepAliveMax, keepAliveMax);
    const gate = gateOf(client);
    this.connects.set(gate, connectInfo(packet, clientId, gate.socket as Socket));
    this.keepWill(client, packet);
    done(null, true);
  }

  /** A will may only go to the device's own state topic; another is dropped, and the device told. */
  private keepWill(client: Client, packet: ConnectPacket): void {
    const { will } = packet;
    if (will === undefined) return;
    const [tenant = '', device = ''] = (packet.username ?? '').split('/');
    const topic = decodeTopic(Buffer.from(will.topic, 'utf8'));
    if (topic !== undefined && publishChannel(topic, tenant, device) === 'state') return;
    const refused: Publish = {
      topic: will.topic,
      channel: undefined,
      payload: Buffer.from(will.payload),
      payloadBytes: will.payload.length,
      qos: 0,
      retain: false,
    };
    delete packet.will;
    client.once('connected', () => {
      const session = this.sessionOf.get(gateOf(client));
      if (session === undefined) return;
      this.options.ingest.reject(
        session,
        refused,
        refuse('WILL_NOT_ALLOWED', { actual: refused.topic }),
        () => {},
      );
    });
  }

  /** Resolves to what CONNACK shall say, undefined when the client is who it claims to be. */
  private async authenticate(
    client: Client,
    username: string | undefined,
    password: Buffer | undefined,
  ): Promise<AuthenticateError | undefined> {
    const gate = gateOf(client);
    const proven = await this.options.verifier.verify({ username, password });
    // It gave up while it was verified: nobody would ever take its session away again.
    if (gate.destroyed) return authenticateError(FAILED);
    const entry = proven && this.options.directory.device(proven.tenant, proven.device);
    // The secret may have changed while it was verified.
    if (proven === undefined || entry?.secretHash !== proven.secretHash) {
      this.countRefused('BAD_CREDENTIALS');
      this.options.rules.failed(this.addressOf.get(gate));
      return authenticateError(BAD_CREDENTIALS);
    }
    const { secretHash, ...identity } = proven;
    const refused = this.options.rules.proven(identity, this.isTakeover(identity, client.id));
    if (refused !== undefined) {
      this.noteRefused(refused);
      return authenticateError(FAILED);
    }
    const connection = {
      send: (channel: SubscribeChannel, payload: string) =>
        send(client, identity, channel, payload),
      end: (reason: string) => gate.cut(reason),
    };
    const own = this.options.ingest.target(identity);
    const { overload } = this.options;
    const usage = overload.book.open(identity.tenant, identity.device);
    gate.turn = overload.admission.turn(usage, () => gate.resumeReading());
    gate.backfill = overload.backfill.turn(usage, () => gate.resumeReading());
    const session = new Session({
      identity,
      clientId: client.id,
      connection,
      own,
      secretHash,
      usage,
      admission: { turn: gate.turn, backfill: gate.backfill },
    });
    this.sessionOf.set(gate, session);
    this.sessions.set(gate, session);
    gate.once('close', () => {
      this.sessions.delete(gate);
      overload.book.close(usage);
    });
    return undefined;
  }

  private isTakeover({ tenant, device }: Identity, clientId: string): boolean {
    for (const other of this.byDevice.get(`${tenant}/${device}`) ?? [])
      if (other.clientId === clientId) return true;
    return false;
  }

  private onReady(client: Client): void {
    const gate = gateOf(client);
    const session = this.sessionOf.get(gate);
    // Aedes says so of a client too that closed while its CONNACK was written.
    if (session === undefined || gate.destroyed) return;
    const key = `${session.identity.tenant}/${session.identity.device}`;
    const known = this.byDevice.get(key);
    for (const other of known ?? []) {
      // [MQTT-3.1.4-2] Aedes overlooks one of several that come at once.
      if (other.clientId === session.clientId) other.connection.end('TAKEN_OVER');
    }
    if (known === undefined) this.byDevice.set(key, new Set([session]));
    else known.add(session);
    const { clientId } = session;
    let since: number | undefined;
    gate.once('close', () => {
      const left = this.byDevice.get(key);
      left?.delete(session);
      if (left?.size === 0) this.byDevice.delete(key);
      const reason = gate.endedBy ?? 'CLOSED_BY_GATEWAY';
      this.options.ingest.ended(session, reason);
      this.options.ingest.event(session, 'disconnected', { clientId, reason, since });
    });
    const info = this.connects.get(gate);
    if (info !== undefined) this.options.ingest.connected(session, info);
    since = session.opened?.since;
    this.options.ingest.event(session, 'connected', { clientId, since });
    this.handshakes.done(gate);
    gate.open();
  }

  lost(gate: Gate): void {
    this.farewells.add(gate);
  }

  slowed(gate: Gate, limit: SlowedBy): void {
    const session = this.sessionOf.get(gate);
    if (session !== undefined) this.options.ingest.slowed(session, limit);
  }

  /** What this gateway knows of a device since it started. */
  view(tenant: string, device: string): DeviceView {
    const name = `${tenant}/${device}`;
    const sessions = [...(this.byDevice.get(name) ?? [])];
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
    const session = gate === undefined ? undefined : this.sessionOf.get(gate);
    if (client === null || gate === undefined || session === undefined) {
      setImmediate(done, new Error('no session'));
      return;
    }
    const isWill = packet.cmd !== 'publish';
    const settle = (error: Error | null) => {
      if (!isWill) gate.settle();
      done(error);
    };
    const ingest = (done: Done) => {
      const payload = Buffer.from(packet.payload);
      const { tenant, device } = session.identity;
      const publish: Publish = {
        topic: packet.topic,
        channel: publishChannel(packet.topic, tenant, device),
        payload,
        payloadBytes: payload.length,
        qos: packet.qos,
        retain: packet.retain,
        will: isWill,
      };
      this.options.ingest.publish(session, publish, done);
    };
    if (packet.qos === 2 && !isWill) this.once(client, packet.messageId ?? 0, ingest, settle);
    else ingest(settle);
  }

  /**
   * The hook runs before Aedes itself recognises a repeated QoS 2 publish, and knows nothing of those
   * that still wait for their commit [MQTT-4.3.3-2].
   */
  private once(
    client: Client,
    messageId: number,
    ingest: (done: Done) => void,
    settle: Done,
  ): void {
    const { incoming, arriving } = this.memory.of(client);
    if (incoming.has(messageId)) {
      setImmediate(settle, null);
      return;
    }
    const waiting = arriving.get(messageId);
    if (waiting !== undefined) {
      waiting.push(settle);
      return;
    }
    const repeats: Done[] = [];
    arriving.set(messageId, repeats);
    ingest((error) => {
      arriving.delete(messageId);
      settle(error);
      for (const repeat of repeats) repeat(error);
    });
  }

  private allowSubscription(client: Client, subscription: Subscription): boolean {
    const session = this.sessionOf.get(gateOf(client));
    if (session === undefined) return false;
    const { tenant, device } = session.identity;
    return subscribeChannel(subscription.topic, tenant, device) !== undefined;
  }

  /** Keeps waiting connections alive, and ends the slow and those whose device or secret is gone. */
  private onSweep(): void {
    const now = performance.now();
    for (const gate of this.gates) {
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
    for (const [gate, session] of this.sessions) {
      const { tenant, device } = session.identity;
      session.targets.clear();
      if (this.options.directory.device(tenant, device)?.secretHash === session.secretHash)
        continue;
      this.options.logger.info(
        { tenant, device },
        'a connection ends because its device or secret was removed',
      );
      gate.cut('REVOKED');
    }
    this.directoryVersion = version;
  }

  private countRefused(reason: string): void {
    const { refusedConnections } = this.options.counters;
    refusedConnections.set(reason, (refusedConnections.get(reason) ?? 0) + 1);
  }
}

function isDeep(topic: string): boolean {
  return topic.split('/', TOPIC_LEVELS_MAX + 1).length > TOPIC_LEVELS_MAX;
}

function authenticateError(returnCode: number): AuthenticateError {
  return Object.assign(new Error('not authenticated'), { returnCode });
}

/** Sends to the names under which the device listens; false when to none, or when it doesn't read. */
function send(
  client: Client,
  identity: { tenant: string; device: string },
  channel: SubscribeChannel,
  payload: string,
): boolean {
  if (client.closed || gateOf(client).outputBytes > RECEIPT_BACKLOG_BYTES) return false;
  for (const topic of [
    deviceTopic(identity.tenant, identity.device, channel),
    shortTopic(channel),
  ]) {
    const granted = subscriptionQos(client, topic);
    if (granted === undefined) continue;
    const qos = granted === 0 ? 0 : 1;
    if (qos === 1) gateOf(client).expectAck();
    const publish = () =>
      client.publish({ cmd: 'publish', topic, payload, qos, retain: false, dup: false }, () => {});
    // Aedes first notes a QoS 1 message of a persistent session, and drops it as an old one when a
    // QoS 0 message has overtaken it meanwhile.
    if (qos === 0 && !client.clean) setImmediate(publish);
    else publish();
    return true;
  }
  return false;
}
