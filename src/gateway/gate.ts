import { Duplex } from 'node:stream';
import type { ConnectionEnd, SlowedBy } from '../core/refusals.ts';
import { ControlBudget } from './control-budget.ts';
import {
  type FrameLimits,
  FrameReader,
  type FrameSink,
  PUBLISH,
  type ViolationReason,
} from './frames.ts';
import type { Answer } from './mqtt5/answer.ts';
import type { ConnectTerms } from './mqtt5/connect.ts';
import { Dialect, type DialectHost, plainPublish } from './mqtt5/dialect.ts';
import type { Turn } from './overload/admission.ts';
import type { BackfillTurn } from './overload/backfill.ts';
import { HEAD_BYTES_MAX, PublishHead } from './publish-head.ts';
import { decodeTopic } from './topics.ts';

/**
 * The gate stands between a socket and the broker. It reads frames; once the broker has accepted the
 * CONNECT it takes publishes out of the stream, hands them to the handler and answers them itself; every
 * other packet goes to the broker untouched. Here, and nowhere else, are decided: the size of a packet,
 * an unfinished frame, how many publishes of a connection wait for their acknowledgement, back-pressure.
 *
 *   connecting   the CONNECT alone may come
 *   passed       it waits for its turn, or was given to the broker; the socket is not read
 *   open         packets are handled as they come, or wait (at most one chunk, the socket is not read)
 *                while too many publishes are unacknowledged, the device doesn't read what it is
 *                sent, the broker is behind, the log asks to wait, or it is not the connection's turn
 *   finishing    nothing is read any more; what was read is answered, then the connection ends
 */
export interface GateHandler {
  /** The CONNECT has come, whole; {@link Gate.admit} or {@link Gate.refuse} follows. The packet is a copy. */
  connect(gate: Gate, packet: Buffer, bodyStart: number): void;
  /** A publish for the handler to settle or acknowledge; false: the broker shall have it. */
  publish(gate: Gate, packet: PublishPacket): boolean;
  /** Called a few times a second while bytes come in: keeps the broker's keep-alive fed. */
  alive(gate: Gate): void;
  /** From now on the socket is not read: which limit is why. */
  slowed(gate: Gate, limit: SlowedBy): void;
  /** The socket is gone: the handler destroys the gate, at once or soon. */
  lost(gate: Gate): void;
  /** A QoS 2 publish was answered for good with its PUBREC: nothing is known of its id any more. */
  release(gate: Gate, messageId: number): void;
  /** The peer broke the protocol or a limit; the gate closes itself. */
  violation(gate: Gate, reason: ViolationReason): void;
  /** True while no socket should be read. */
  readonly saturated: boolean;
}

export interface PublishPacket {
  /** Undefined: no valid topic. */
  topic: string | undefined;
  qos: 0 | 1 | 2;
  retain: boolean;
  /** 0 for QoS 0. */
  messageId: number;
  /** Valid during the call only; cut when `payloadBytes` is larger. */
  payload: Buffer;
  payloadBytes: number;
}

export interface GateLimits {
  connectBytesMax: number;
  packetBytesMax: number;
  payloadBytesMax: number;
  /** How much of a longer payload is kept. */
  keptBytesMax: number;
  /** Publishes that may wait for their acknowledgement. */
  inflightMax: number;
  /** How long one packet may take to arrive, ms. */
  packetTimeoutMs: number;
}

const CONNECT = 1;
const DISCONNECT = 14;
/** Reserved types, and those that a server sends: CONNACK, SUBACK, UNSUBACK, PINGRESP. */
const NEVER_FROM_CLIENTS: ReadonlySet<number> = new Set([0, 2, 9, 11, 13, 15]);
const PUBACK = 0x40;
const PUBREC = 0x50;
/** A quarter of the shortest keep-alive: with more, half a second of grace is not left of it. */
const ALIVE_INTERVAL_MS = 250;
/** Longer topics are no device's own and are decoded anew each time, so that no connection keeps 64 KiB. */
const KNOWN_TOPIC_BYTES_MAX = 256;
/** Largest body of any other packet: a SUBSCRIBE of thousands of filters would stall the broker. */
const CONTROL_BYTES_MAX = 4_096;
/** Bytes that the device has not read beyond which its packets wait. */
const OUTPUT_BYTES_MAX = 64 * 1_024;
const CLOSE_GRACE_MS = 1_000;
const ANSWER_GRACE_MS = 50;
const NOTHING: Buffer = Buffer.alloc(0);
/** Of the publish that is handled. */
const HEAD = new PublishHead();

/** Gates with acknowledgements to write: they go out together at the end of the turn. */
let unflushed: Gate[] = [];

function flushAll(): void {
  const gates = unflushed;
  unflushed = [];
  for (const gate of gates) gate.flushAcks();
}

export class Gate extends Duplex implements FrameSink, DialectHost {
  readonly socket: Duplex;
  private readonly handler: GateHandler;
  private readonly inflightMax: number;
  private readonly packetTimeoutMs: number;
  private readonly frames: FrameReader;
  private state: 'connecting' | 'passed' | 'open' | 'finishing' = 'connecting';
  private connectPacket: Buffer | undefined;
  /** Where the device speaks MQTT 5; the broker speaks 3.1.1. */
  dialect: Dialect | undefined;
  private accepted = false;
  /** The connection's way through admission, from the time when it is known whose it is. */
  turn: Turn | undefined;
  /** Its way through the budget of old readings, from the same time on. */
  backfill: BackfillTurn | undefined;
  private inflight = 0;
  private held = false;
  private ended = false;
  /** Why the connection ended, as far as it is known. */
  endedBy: ConnectionEnd | undefined;
  private brokerBehind = false;
  private acks: number[] = [];
  private lastAlive = 0;
  private readonly control = new ControlBudget(() => this.resumeReading());
  private endTimer: NodeJS.Timeout | undefined;
  /** Since when the packet is on its way that has come in part; 0: there is none. */
  private unfinishedAt = 0;
  /** When the connection was accepted, by `performance.now`. */
  readonly acceptedAt = performance.now();
  /** When the bytes came that are being handled, by `performance.now`. */
  receivedAt = 0;
  /** The topic of the last publish, to spare decoding the same bytes again. */
  private topicBytes: Buffer = Buffer.alloc(0);
  private topic: string | undefined;

  constructor(socket: Duplex, handler: GateHandler, limits: GateLimits) {
    super({ allowHalfOpen: false });
    this.socket = socket;
    this.handler = handler;
    this.inflightMax = limits.inflightMax;
    this.packetTimeoutMs = limits.packetTimeoutMs;
    this.frames = new FrameReader(this.frameLimits(limits), this);
    socket.on('data', (chunk: Buffer) => this.onData(chunk));
    socket.on('end', () => this.onEnd());
    socket.on('error', () => this.lose());
    socket.on('close', () => this.lose());
    socket.on('drain', () => this.resumeReading());
  }

  /** The socket is gone; the handler says when the connection ends. */
  private lose(): void {
    if (this.destroyed) return;
    this.endedBy ??= 'CONNECTION_LOST';
    this.handler.lost(this);
  }

  /** Ends the connection; `reason` counts unless there is one already. */
  cut(reason: ConnectionEnd): void {
    this.endedBy ??= reason;
    this.destroy();
  }

  /** The device speaks MQTT 5, on these terms. */
  translate(terms: ConnectTerms): void {
    this.dialect = new Dialect(terms, this);
    this.connectPacket = terms.connect;
  }

  /** Gives the CONNECT to the broker, which must listen by now. */
  admit(): void {
    if (this.connectPacket !== undefined && !this.destroyed) this.push(this.connectPacket);
    this.connectPacket = undefined;
  }

  /** Answers the CONNECT with these bytes, and ends. */
  refuse(connack: Buffer): void {
    if (!this.socket.destroyed) this.socket.write(connack);
    this.destroy();
  }

  /** The broker has accepted the CONNECT. */
  open(): void {
    if (this.state === 'finishing') return;
    this.accepted = true;
    this.state = 'open';
    this.resumeReading();
  }

  /** True before a CONNECT has come. */
  get connecting(): boolean {
    return this.state === 'connecting';
  }

  /** The device owes an acknowledgement: its packet costs nothing. */
  expectAck(): void {
    this.control.expectAck();
  }

  /** Closes the connection when a packet, or the accepted CONNECT, takes too long. */
  checkPace(now: number, connectTimeoutMs: number): void {
    if (this.destroyed) return;
    if (this.state !== 'open') {
      if (now - this.acceptedAt > connectTimeoutMs) this.violation('CONNECT_TOO_SLOW');
    } else if (this.held || this.unfinishedAt === 0) return;
    else if (now - this.unfinishedAt > this.packetTimeoutMs) this.violation('PACKET_TOO_SLOW');
  }

  /** Reads nothing any more, and ends when everything that was read is answered. */
  finish(): void {
    this.endedBy ??= 'STOPPING';
    this.state = 'finishing';
    this.held = true;
    this.socket.pause();
    this.turn?.leave();
    this.backfill?.leave();
    if (this.inflight === 0) this.endSoon();
  }

  /** The broker writes its answer to what was settled just now some turns of the event loop later. */
  private endSoon(): void {
    clearTimeout(this.endTimer);
    this.endTimer = setTimeout(() => this.destroy(), ANSWER_GRACE_MS);
  }

  /** A publish that was handed over or passed on is settled, without an answer from here. */
  settle(): void {
    this.inflight--;
    this.turn?.release();
    if (this.state === 'finishing') {
      if (this.inflight === 0) this.endSoon();
    } else if (this.held && this.inflight <= this.inflightMax / 2) this.resumeReading();
  }

  /** A publish that was handed over is durable: its PUBACK or PUBREC goes out with the others of this turn. */
  acknowledge(qos: 0 | 1 | 2, messageId: number, answer?: Answer): void {
    if (qos !== 0) {
      if (this.acks.length === 0) {
        if (unflushed.length === 0) queueMicrotask(flushAll);
        unflushed.push(this);
      }
      const first = qos === 1 ? PUBACK : PUBREC;
      const said = this.dialect?.reasoned(first, messageId, answer);
      if (said !== undefined) this.acks.push(...said);
      else this.acks.push(first, 2, messageId >> 8, messageId & 0xff);
    }
    this.settle();
  }

  flushAcks(): void {
    if (this.acks.length === 0) return;
    const bytes = Buffer.from(this.acks);
    this.acks = [];
    this.send(bytes);
  }

  /** Bytes that the device has not read, or does not want yet. */
  get outputBytes(): number {
    return this.socket.writableLength + (this.dialect?.heldBytes ?? 0);
  }

  /** True while the device does not read what it is sent. */
  get unread(): boolean {
    return this.socket.writableLength > OUTPUT_BYTES_MAX;
  }

  /** Gives a packet to the broker. */
  inject(packet: Buffer): void {
    if (!this.destroyed && !this.push(packet)) this.brokerBehind = true;
  }

  send(bytes: Buffer): void {
    if (!this.socket.destroyed && this.socket.writable) this.socket.write(bytes);
  }

  release(messageId: number): void {
    this.handler.release(this, messageId);
  }

  leave(): void {
    this.endedBy = 'DISCONNECT_WITH_WILL';
    this.handler.lost(this);
  }

  /** Publishes that wait for their acknowledgement. */
  get unacknowledged(): number {
    return this.inflight;
  }

  /** True while the socket is not read. */
  get waiting(): boolean {
    return this.held;
  }

  /** Looks again whether the socket can be read. */
  resumeReading(): void {
    if (!this.held || this.destroyed || this.state === 'finishing') return;
    const handled = this.frames.feed(NOTHING);
    this.turn?.end();
    this.held = !handled || this.blocked();
    if (this.held) return;
    this.unfinishedAt = this.frames.unfinished ? performance.now() : 0;
    if (this.ended) this.push(null);
    else this.socket.resume();
  }

  ready(type: number): boolean {
    if (this.blocked()) return false;
    return type !== PUBLISH || this.turn === undefined || this.turn.ready();
  }

  frame(bytes: Buffer, start: number, body: number, end: number, bodyLength: number): void {
    const type = (bytes[start] as number) >> 4;
    this.unfinishedAt = 0;
    if (type === PUBLISH) {
      this.publish(bytes, start, body, end, bodyLength);
      return;
    }
    if (this.state === 'connecting') {
      this.state = 'passed';
      this.connectPacket = Buffer.from(bytes.subarray(start, end));
      this.handler.connect(this, this.connectPacket, body - start);
      return;
    }
    this.control.spend(end - start, this.receivedAt);
    // A copy: the broker may keep it, and a slice would keep the whole chunk alive.
    const packet = Buffer.from(bytes.subarray(start, end));
    // [MQTT-3.14.4-2] nothing follows
    if (type === DISCONNECT) this.frames.stop();
    const passed = this.dialect === undefined ? packet : this.dialect.fromDevice(packet);
    if (passed === undefined) return;
    if (type === DISCONNECT) this.endedBy ??= 'DISCONNECT';
    this.inject(passed);
  }

  violation(reason: ViolationReason): void {
    this.handler.violation(this, reason);
    this.cut(reason);
  }

  override _read(): void {
    if (!this.brokerBehind) return;
    this.brokerBehind = false;
    // Not within the broker's own read.
    if (this.held) setImmediate(() => this.resumeReading());
  }

  override _write(
    chunk: Buffer,
    _encoding: string,
    callback: (error?: Error | null) => void,
  ): void {
    this.flushAcks();
    const bytes = this.dialect?.toDevice(chunk) ?? chunk;
    if (bytes.length === 0 || this.socket.destroyed || this.socket.write(bytes)) callback();
    else this.socket.once('drain', () => callback());
  }

  /** The broker writes a packet in pieces within cork and uncork: they go out as one. */
  override _writev(
    chunks: { chunk: Buffer; encoding: string }[],
    callback: (error?: Error | null) => void,
  ): void {
    const bytes = chunks.map(({ chunk, encoding }) =>
      typeof chunk === 'string' ? Buffer.from(chunk, encoding as BufferEncoding) : chunk,
    );
    this._write(Buffer.concat(bytes), 'buffer', callback);
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    this.flushAcks();
    this.frames.stop();
    this.control.end();
    this.turn?.leave();
    this.backfill?.leave();
    if (!this.socket.destroyed) {
      const farewell = this.accepted
        ? this.dialect?.farewell(this.endedBy ?? 'CLOSED_BY_GATEWAY')
        : undefined;
      if (farewell !== undefined) this.send(farewell);
      // What was written goes out first; a peer that doesn't read is cut.
      if ((error === null || farewell !== undefined) && this.socket.writable) {
        const cut = setTimeout(() => this.socket.destroy(), CLOSE_GRACE_MS);
        this.socket.once('close', () => clearTimeout(cut));
        this.socket.end(() => this.socket.destroy());
      } else this.socket.destroy();
    }
    callback(error);
  }

  private frameLimits(limits: GateLimits): FrameLimits {
    const bufferedMax = limits.payloadBytesMax + HEAD_BYTES_MAX;
    return {
      bufferedMax,
      keptMax: Math.min(limits.keptBytesMax + HEAD_BYTES_MAX, bufferedMax),
      bodyMax: (type) => {
        // [MQTT-3.1.0-1] the first packet is a CONNECT
        if (this.state === 'connecting') return type === CONNECT ? limits.connectBytesMax : -1;
        if (type === PUBLISH) return limits.packetBytesMax;
        return NEVER_FROM_CLIENTS.has(type) ? -1 : CONTROL_BYTES_MAX;
      },
    };
  }

  private onData(chunk: Buffer): void {
    this.receivedAt = performance.now();
    if (this.state === 'open' && this.receivedAt - this.lastAlive > ALIVE_INTERVAL_MS) {
      this.lastAlive = this.receivedAt;
      this.handler.alive(this);
    }
    const handled = this.frames.feed(chunk);
    this.turn?.end();
    if (this.unfinishedAt === 0 && this.frames.unfinished) this.unfinishedAt = this.receivedAt;
    if (!this.held && (!handled || this.blocked())) {
      this.held = true;
      this.socket.pause();
      const limit = this.slowedBy();
      if (limit !== undefined) this.handler.slowed(this, limit);
    }
  }

  /** True while nothing at all may be handled, whatever it is and whoever's turn it is. */
  private blocked(): boolean {
    if (this.state !== 'open') return this.state !== 'connecting';
    return (
      this.inflight >= this.inflightMax ||
      this.control.isSpent ||
      this.brokerIsBehind ||
      this.handler.saturated ||
      this.backfill?.isHeld === true ||
      this.unread
    );
  }

  private get brokerIsBehind(): boolean {
    return this.brokerBehind || this.dialect?.isFull === true;
  }

  private slowedBy(): SlowedBy | undefined {
    if (this.state !== 'open') return undefined;
    if (this.handler.saturated) return 'LOG_SATURATED';
    if (this.unread) return 'OUTPUT_UNREAD';
    if (this.brokerIsBehind) return 'BROKER_BEHIND';
    if (this.control.isSpent) return 'CONTROL_RATE';
    // Else it waits for its turn, and admission or the budget of old readings says why.
    return this.inflight >= this.inflightMax ? 'INFLIGHT_MAX' : undefined;
  }

  private onEnd(): void {
    this.ended = true;
    this.endedBy ??= 'CLOSED_BY_DEVICE';
    // Before the CONNECT nobody listens who would end it.
    if (this.state === 'connecting') this.destroy();
    else if (!this.held) this.push(null);
  }

  private publish(
    bytes: Buffer,
    start: number,
    body: number,
    end: number,
    bodyLength: number,
  ): void {
    const violation = HEAD.read(bytes, start, body, end, this.dialect !== undefined);
    if (violation !== undefined) {
      this.violation(violation);
      return;
    }
    // Before anything else reads into it.
    const { qos, retain, messageId, topicStart, topicEnd, alias, payloadStart, propertiesBytes } =
      HEAD;
    let topic =
      alias > 0 && topicEnd === topicStart ? '' : this.readTopic(bytes, topicStart, topicEnd);
    if (alias > 0) {
      topic = this.dialect?.topicOf(alias, topic, topicEnd - topicStart);
      if (this.destroyed) return;
    }
    const payload = bytes.subarray(payloadStart, end);
    const payloadBytes = bodyLength - (payloadStart - body);
    this.inflight++;
    // Its PUBREL.
    if (qos === 2) this.expectAck();
    // Properties count as well: they could be what is sent.
    this.turn?.use(payloadBytes + propertiesBytes);
    const packet = { topic, qos, retain, messageId, payload, payloadBytes };
    if (this.handler.publish(this, packet)) return;
    if (this.dialect === undefined) this.inject(Buffer.from(bytes.subarray(start, end)));
    else this.inject(plainPublish(bytes[start] as number, topic ?? '', messageId, payload));
  }

  private readTopic(bytes: Buffer, start: number, end: number): string | undefined {
    const known = this.topicBytes;
    if (
      this.topic !== undefined &&
      known.length === end - start &&
      known.compare(bytes, start, end) === 0
    ) {
      return this.topic;
    }
    const topic = decodeTopic(bytes.subarray(start, end));
    if (end - start > KNOWN_TOPIC_BYTES_MAX) return topic;
    this.topic = topic;
    this.topicBytes = Buffer.from(bytes.subarray(start, end));
    return topic;
  }
}
