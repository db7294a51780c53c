import { randomUUID } from 'node:crypto';
import type { Socket } from 'node:net';
import type { AuthenticateError, Client, ConnectPacket } from 'aedes';
import type { ConnectionEnd, LimitCode } from '../core/refusals.ts';
import type { GatewayCounters } from '../ops/counters.ts';
import type { CredentialVerifier, Directory } from '../tenants/contract.ts';
import { gateOf } from './broker.ts';
import { type ConnectSummary, readConnect, refusingConnack } from './connect-packet.ts';
import { type ConnectInfo, connectInfo } from './connection-info.ts';
import { deliver } from './deliveries.ts';
import { Gate, type GateHandler, type GateLimits } from './gate.ts';
import type { Ingest, Publish } from './ingest.ts';
import { connack, readConnect5 } from './mqtt5/connect.ts';
import { type Dialect, TOPIC_ALIAS_MAX } from './mqtt5/dialect.ts';
import { answerOf, type ConnectRules, type Refused, reasonOf } from './overload/connect-rules.ts';
import { Handshakes } from './overload/handshakes.ts';
import type { Overload } from './overload/overload.ts';
import { refuse } from './refuse.ts';
import { Session } from './session.ts';
import type { SessionMemory } from './session-memory.ts';
import type { Sessions } from './sessions.ts';
import { decodeTopic, publishChannel, type SubscribeChannel } from './topics.ts';

export const CLIENT_ID_MAX = 128;
/** Return codes of CONNACK [MQTT-3.2.2.3]. */
const BAD_CREDENTIALS = 4;
const FAILED = 3;
const IDENTIFIER_REJECTED = Buffer.from([0x20, 2, 0, 2]);
/** Sockets beyond those that may connect and wait: they are there to be refused, politely. */
const REFUSED_MAX = 1_000;
const TOLD_EVERY_MS = 10_000;

export interface GatewayLogger {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
}

export interface ReceptionOptions {
  connectionsMax: number;
  /** Connections that have not sent a whole CONNECT yet. */
  connectingMax: number;
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
}

export interface ReceptionParts {
  sessions: Sessions;
  memory: SessionMemory;
  /** Of every gate. */
  handler: GateHandler;
  /** Gives the gate to the broker. */
  admit(gate: Gate): void;
}

/**
 * A connection's way from the socket to its proven identity: who is let in, in whose turn, and how those that
 * are not are told. Each check comes as early as what it needs is known.
 */
export class Reception {
  /** All that are open. */
  readonly gates = new Set<Gate>();
  private readonly options: ReceptionOptions;
  private readonly sessions: Sessions;
  private readonly memory: SessionMemory;
  private readonly handler: GateHandler;
  private readonly admit: (gate: Gate) => void;
  /** Those that have not sent a whole CONNECT, oldest first, and some that have. */
  private readonly connecting = new Set<Gate>();
  private readonly connects = new WeakMap<Gate, ConnectInfo>();
  private readonly handshakes: Handshakes<Gate>;
  /** What the address of a connection counts as, where it counts. */
  private readonly addressOf = new WeakMap<Gate, string>();
  /** When a refusal was last logged, by its code. */
  private readonly told = new Map<string, number>();
  private isClosed = false;

  constructor(options: ReceptionOptions, { sessions, memory, handler, admit }: ReceptionParts) {
    this.options = options;
    this.sessions = sessions;
    this.memory = memory;
    this.handler = handler;
    this.admit = admit;
    this.handshakes = new Handshakes({
      activeMax: options.handshakesMax,
      waitingMax: options.handshakesWaitingMax,
      now: () => performance.now(),
    });
    options.overload.onLevel((level) => {
      this.handshakes.loaded = level !== 'normal';
    });
  }

  /** Connections that are accepted or being checked, and CONNECTs that wait for their turn. */
  get load(): { open: number; waiting: number } {
    const { underWay, waiting } = this.handshakes;
    return { open: this.sessions.size + underWay, waiting };
  }

  /** Nobody is let in any more; who has not sent a CONNECT is closed. */
  close(): void {
    this.isClosed = true;
    for (const gate of this.connecting) gate.destroy();
  }

  /** Nobody is let in any more, and no CONNECT that waits gets its turn. */
  stop(): void {
    this.isClosed = true;
    this.handshakes.stop();
  }

  /** The connection is accepted: another one may have its turn. Returns what its CONNECT said. */
  accepted(gate: Gate): ConnectInfo | undefined {
    this.handshakes.done(gate);
    return this.connects.get(gate);
  }

  /** A connection was accepted by the system. */
  arrive(socket: Socket): void {
    const { counters, rules, connectionsMax, handshakesWaitingMax } = this.options;
    const address = rules.addressKey(socket.remoteAddress);
    const refused = address === undefined ? undefined : rules.arrives(address);
    const most = connectionsMax + handshakesWaitingMax + REFUSED_MAX;
    if (this.isClosed || refused !== undefined || this.gates.size >= most) {
      countRefused(
        this.options.counters,
        refused ?? (this.gates.size >= most ? 'CONNECTIONS_MAX' : 'STOPPING'),
      );
      // Nothing is read of it and nothing said: the cheapest end there is.
      socket.resetAndDestroy();
      return;
    }
    const gate = new Gate(socket, this.handler, this.options.gate);
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

  /** Its CONNECT has come. */
  connect(gate: Gate, packet: Buffer, bodyStart: number): void {
    this.connecting.delete(gate);
    const summary = readConnect(packet.subarray(bodyStart));
    const version = summary?.version ?? 4;
    const refused = this.refusal() ?? this.options.rules.claimed(summary?.username);
    if (refused !== undefined) {
      this.refuseConnect(gate, summary, refused);
      return;
    }
    if (version === 5) {
      const { fault } = summary ?? {};
      const terms =
        fault === undefined ? readConnect5(packet, this.serverTerms) : { reason: fault };
      if ('reason' in terms) {
        countRefused(this.options.counters, 'CONNECT_INVALID');
        gate.refuse(connack(terms.reason, false));
        return;
      }
      gate.translate(terms);
    }
    const waits = this.handshakes.offer(gate, () => {
      this.admit(gate);
    });
    if (!waits) {
      const expected = `at most ${this.options.handshakesWaitingMax} that wait`;
      this.refuseConnect(gate, summary, { code: 'CONNECTS_WAITING', expected });
    }
  }

  private get keepAliveMaxSeconds(): number {
    return Math.min(65_535, Math.floor(this.options.keepAliveMaxMs / 1_000));
  }

  private get serverTerms() {
    const { inflightMax, packetBytesMax } = this.options.gate;
    return {
      receiveMaximum: Math.min(inflightMax, 65_535),
      packetBytesMax,
      keepAliveMaxSeconds: this.keepAliveMaxSeconds,
      topicAliasMax: TOPIC_ALIAS_MAX,
    };
  }

  /** Why nobody at all is let in now. */
  private refusal(): Refused | undefined {
    const { overload, connectionsMax } = this.options;
    if (this.isClosed) return { code: 'STOPPING', expected: 'another gateway' };
    if (overload.level === 'refuse') {
      const retryAfterMs = overload.refuseDwellMs;
      return { code: 'OVERLOADED', expected: 'a wait', retryAfterMs };
    }
    if (this.load.open < connectionsMax) return undefined;
    return { code: 'CONNECTIONS_MAX', expected: `at most ${connectionsMax} connections` };
  }

  private refuseConnect(
    gate: Gate,
    { version, packetBytesMax }: Partial<ConnectSummary> = {},
    refused: Refused,
  ): void {
    this.noteRefused(refused);
    gate.refuse(connackOf(version, refused, packetBytesMax));
  }

  private noteRefused({ code, expected, device }: Refused): void {
    countRefused(this.options.counters, code);
    if (device !== undefined) this.options.overload.refused(device, code, expected);
    this.tell(code, { device: device?.key, expected });
  }

  /** All are counted; of each kind one in a while is logged, so that a flood of them is none of lines. */
  private tell(code: string, fields: object): void {
    const now = performance.now();
    if (now - (this.told.get(code) ?? Number.NEGATIVE_INFINITY) < TOLD_EVERY_MS) return;
    this.told.set(code, now);
    this.options.logger.warn({ code, ...fields }, 'a connection was refused');
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
      countRefused(this.options.counters, 'CONNECTING_MAX');
      gate.destroy();
    }
  }

  /** The broker has read the CONNECT. */
  preConnect(
    client: Client,
    packet: ConnectPacket,
    done: (error: Error | null, success: boolean) => void,
  ): void {
    const { clientId, username } = packet;
    // [MQTT-3.1.3-8] an empty id needs a clean session
    if (clientId.length > CLIENT_ID_MAX || (clientId === '' && !packet.clean)) {
      gateOf(client).write(IDENTIFIER_REJECTED);
      countRefused(this.options.counters, 'IDENTIFIER_REJECTED');
      done(new Error('identifier rejected'), false);
      return;
    }
    // Ids are namespaced by the name that is authenticated next, so that no device can take over another's.
    packet.clientId = `${username ?? ''}/${clientId === '' ? randomUUID() : clientId}`;
    const keepAliveMax = this.keepAliveMaxSeconds;
    packet.keepalive = Math.min(packet.keepalive || keepAliveMax, keepAliveMax);
    const gate = gateOf(client);
    const version = gate.dialect === undefined ? (packet.protocolVersion ?? 4) : 5;
    const clean = gate.dialect?.terms.cleanStart ?? packet.clean === true;
    this.connects.set(
      gate,
      connectInfo(packet, { clientId, version, clean }, gate.socket as Socket),
    );
    this.keepWill(client, packet);
    done(null, true);
  }

  /** A will may only go to the device's own state topic; another is dropped, and the device told. */
  private keepWill(client: Client, packet: ConnectPacket): void {
    const { will } = packet;
    if (will === undefined) return;
    const [tenant, device] = nameOf(packet.username);
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
      const session = this.sessions.of(gateOf(client));
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
  async authenticate(
    client: Client,
    username: string | undefined,
    password: Buffer | undefined,
  ): Promise<AuthenticateError | undefined> {
    const gate = gateOf(client);
    const proven = await this.options.verifier.verify({ username, password });
    // It gave up while it was verified: nobody would ever take its session away again.
    if (gate.destroyed) return authenticateError();
    const entry = proven && this.options.directory.device(proven.tenant, proven.device);
    // The secret may have changed while it was verified.
    if (proven === undefined || entry?.secretHash !== proven.secretHash) {
      countRefused(this.options.counters, 'BAD_CREDENTIALS');
      // Only names that are known here: what else stands in that place may be a secret.
      const known = this.options.directory.device(...nameOf(username)) !== undefined;
      const address = this.addressOf.get(gate);
      this.tell('BAD_CREDENTIALS', { address, ...(known && { device: username }) });
      this.options.rules.failed(this.addressOf.get(gate));
      return authenticateError(BAD_CREDENTIALS);
    }
    const { secretHash, ...identity } = proven;
    const refused = this.options.rules.proven(
      identity,
      this.sessions.isTakeover(identity, client.id),
    );
    if (refused !== undefined) {
      this.noteRefused(refused);
      const { dialect } = gate;
      if (dialect !== undefined)
        dialect.refusal = connackOf(5, refused, dialect.terms.packetBytesMax);
      return authenticateError();
    }
    const connection = {
      send: (channel: SubscribeChannel, payload: string) =>
        deliver(client, identity, channel, payload),
      notice: (text: string) => gate.dialect?.notice(text),
      end: (reason: ConnectionEnd) => gate.cut(reason),
    };
    if (gate.dialect !== undefined) this.keepAsAsked(client, gate.dialect);
    if (!client.clean) {
      const { dialect } = gate;
      gate.once('close', () =>
        this.memory.leave(client, dialect?.sessionExpiryMs ?? Number.POSITIVE_INFINITY),
      );
    }
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
    this.sessions.add(gate, session);
    gate.once('close', () => overload.book.close(usage));
    return undefined;
  }

  /** A session of MQTT 5 begins anew when it is asked to, or when the one before ends with its connection. */
  private keepAsAsked(client: Client, dialect: Dialect): void {
    const holder = this.memory.holder(client.id) as Client | undefined;
    const endsNow = holder !== undefined && gateOf(holder).dialect?.sessionExpiryMs === 0;
    // One that ends with its connection ends when that is taken over [MQTT5 3.1.4].
    if (dialect.terms.cleanStart || endsNow) this.memory.forget(client.id);
    else dialect.sessionPresent = this.memory.has(client.id);
  }
}

function connackOf(version = 4, refused: Refused, packetBytesMax?: number): Buffer {
  return refusingConnack(version, answerOf(refused), reasonOf(refused), {
    ...(refused.retryAfterMs !== undefined && { retryAfterMs: refused.retryAfterMs }),
    ...(packetBytesMax !== undefined && { packetBytesMax }),
  });
}

/** Counts a connection that was refused, or closed for what its peer did. */
export function countRefused(
  { refusedConnections }: GatewayCounters,
  reason: ConnectionEnd | LimitCode,
): void {
  refusedConnections.set(reason, (refusedConnections.get(reason) ?? 0) + 1);
}

function nameOf(username = ''): [tenant: string, device: string] {
  const [tenant = '', device = ''] = username.split('/', 2);
  return [tenant, device];
}

export function authenticateError(returnCode = FAILED): AuthenticateError {
  return Object.assign(new Error('not authenticated'), { returnCode });
}
