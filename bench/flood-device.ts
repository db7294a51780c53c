import { connect, type Socket } from 'node:net';
import { Latencies } from './latencies.ts';
import { type Client, connectPacket, PublishWriter, subscribePacket } from './packets.ts';

/**
 * A device of a flood, on a raw socket: it publishes at its rate whatever the gateway does, keeps what it
 * can't send in a buffer of its own, and comes back when its connection is lost. At QoS 0 it pings now and
 * then, and publishes no more than `window` beyond the last answer: this machine's socket buffers hold a
 * hundred times what those of a device do, and the flood would go on for long after its end.
 */
export interface GroupOptions {
  name: string;
  clients: Client[];
  qos: 0 | 1;
  /** Messages a second over all clients; 0: as fast as they are acknowledged (QoS 1). */
  rate: number;
  /** Publishes of a connection that wait for their PUBACK; at QoS 0, that the gateway has not read. */
  window: number;
  /** Messages that a device keeps while it can't send; later ones are lost at the device. */
  buffer: number;
  /** Messages of a device that go out together; default 1. Saves the load's CPU, not the gateway's. */
  batch?: number;
  /** Each has a session that outlives its connection, and subscribes to its commands. */
  keepsSession?: boolean;
  /** All connections of the group break at once after so many seconds, and all devices are back at once. */
  breakAfter?: number;
}

/** The wait before the n-th attempt to come back is random, up to base × 2^n, at most max; ms. */
export interface Backoff {
  baseMs: number;
  maxMs: number;
}

/** What the devices of a group have done. */
export class GroupTally {
  offered = 0;
  sent = 0;
  acknowledged = 0;
  /** Connections that are accepted now. */
  connected = 0;
  /** Connections that were lost. */
  lost = 0;
  /** Attempts to connect that did not succeed. */
  refused = 0;
  /** Connections that found the session of the one before. */
  resumed = 0;
  /** When all were connected for the last time, ms since the epoch. */
  completeAt = 0;
  readonly latencies = new Latencies();
}

const CONNACK = 2;
const PUBACK = 4;
const PINGRESP = 13;
const PINGREQ = Buffer.from([0xc0, 0]);
/** Parts of a window after each of which a device of QoS 0 asks whether the gateway has read so far. */
const PINGS = 4;
const ID_MAX = 65_535;

export class FloodDevice {
  private readonly port: number;
  private readonly options: GroupOptions;
  private readonly client: Client;
  private readonly tally: GroupTally;
  private readonly backoff: Backoff;
  private readonly writer: PublishWriter;
  private readonly perMs: number;
  /** Of the publishes under way, in their order: when they were sent, and their event times. */
  private readonly sentAt: Float64Array;
  private readonly sentTs: Float64Array;
  /** Event times of all readings that were acknowledged. */
  readonly acknowledged: number[] = [];
  private socket: Socket | undefined;
  private open = false;
  private stopped = false;
  private attempts = 0;
  private timer: NodeJS.Timeout | undefined;
  private due = 0;
  private sent = 0;
  private settled = 0;
  private nextId = 1;
  private lastTs = 0;
  private rest: Buffer = Buffer.alloc(0);
  /** How much was sent at each ping that is not answered. */
  private pinged: number[] = [];
  private readonly pingEvery: number;

  constructor(
    port: number,
    options: GroupOptions,
    client: Client,
    tally: GroupTally,
    backoff: Backoff,
  ) {
    this.port = port;
    this.options = options;
    this.client = client;
    this.tally = tally;
    this.backoff = backoff;
    this.writer = new PublishWriter(client.topic, options.qos);
    this.perMs = options.rate / options.clients.length / 1_000;
    // Not all devices publish in the same moment.
    this.due = Math.random();
    this.pingEvery = options.window / PINGS;
    this.sentAt = new Float64Array(options.window);
    this.sentTs = new Float64Array(options.window);
  }

  get unanswered(): number {
    if (!this.open) return 0;
    return this.options.qos === 0 ? this.pinged.length : this.sent - this.settled;
  }

  connect(): void {
    const { username, password } = this.client;
    const cleanSession = this.options.keepsSession !== true;
    const socket = connect({ port: this.port, host: '127.0.0.1', noDelay: true });
    this.socket = socket;
    socket.write(connectPacket(username, username, password, { cleanSession }));
    socket.on('data', (chunk) => this.read(chunk));
    // What follows is 'close'.
    socket.on('error', () => {});
    socket.on('close', () => this.closed(socket));
  }

  /** Lets `ms` pass. */
  tick(ms: number): void {
    if (this.perMs === 0) return;
    const due = this.perMs * ms;
    this.tally.offered += due;
    this.due = Math.min(this.due + due, this.options.buffer);
    if (this.due >= (this.options.batch ?? 1)) this.due -= this.publish(Math.floor(this.due));
  }

  /** The network breaks, and is there again at once. */
  break(): void {
    this.attempts = 0;
    const { socket } = this;
    if (socket === undefined) return;
    this.closed(socket, true);
    socket.resetAndDestroy();
  }

  /** Publishes no more; what is under way may still be acknowledged. */
  stop(): void {
    this.stopped = true;
    clearTimeout(this.timer);
  }

  leave(): void {
    this.stop();
    this.socket?.end(Buffer.from([0xe0, 0]));
  }

  private publish(count: number): number {
    const { socket, options, writer } = this;
    if (!this.open || this.stopped || socket === undefined) return 0;
    const n = Math.min(count, options.window - (this.sent - this.settled));
    if (n <= 0) return 0;
    const bytes = Buffer.allocUnsafe(writer.size * n);
    const clock = Date.now();
    const now = performance.now();
    for (let i = 0; i < n; i++) {
      this.lastTs = Math.max(this.lastTs + 1, clock);
      writer.write(bytes, i * writer.size, this.lastTs, this.nextId, this.sent % 10);
      if (options.qos === 1) {
        const slot = this.sent % options.window;
        this.sentAt[slot] = now;
        this.sentTs[slot] = this.lastTs;
        this.nextId = this.nextId === ID_MAX ? 1 : this.nextId + 1;
      }
      this.sent++;
    }
    this.tally.sent += n;
    socket.write(bytes);
    if (options.qos === 0 && this.sent - (this.pinged.at(-1) ?? this.settled) >= this.pingEvery) {
      socket.write(PINGREQ);
      this.pinged.push(this.sent);
    }
    return n;
  }

  private read(chunk: Buffer): void {
    const bytes = this.rest.length === 0 ? chunk : Buffer.concat([this.rest, chunk]);
    let at = 0;
    let acks = 0;
    while (at + 2 <= bytes.length) {
      const type = (bytes[at] ?? 0) >> 4;
      const length = (bytes[at + 1] ?? 0) + 2;
      if (length > 129) throw new Error(`a packet of type ${type} that no device asked for`);
      if (at + length > bytes.length) break;
      if (type === PUBACK) acks++;
      else if (type === PINGRESP) this.settled = this.pinged.shift() ?? this.settled;
      else if (type === CONNACK && bytes[at + 3] === 0) this.accepted(bytes[at + 2] === 1);
      at += length;
    }
    this.rest = bytes.subarray(at);
    if (acks > 0) this.acknowledge(acks);
  }

  private accepted(hasSession: boolean): void {
    const { tally, options, client } = this;
    this.open = true;
    this.attempts = 0;
    tally.connected++;
    if (tally.connected === options.clients.length) tally.completeAt = Date.now();
    if (hasSession) tally.resumed++;
    else if (options.keepsSession === true)
      this.socket?.write(subscribePacket(client.topic.replace(/telemetry$/, 'commands')));
    if (this.perMs === 0) this.publish(options.window);
  }

  /** PUBACKs come in the order of the publishes. */
  private acknowledge(count: number): void {
    const { window } = this.options;
    const now = performance.now();
    for (let i = 0; i < count; i++) {
      const slot = this.settled % window;
      this.tally.latencies.add(now - (this.sentAt[slot] ?? now));
      this.acknowledged.push(this.sentTs[slot] ?? 0);
      this.settled++;
    }
    this.tally.acknowledged += count;
    const free = window - (this.sent - this.settled);
    // Half a window at a time, so that packets share segments as they do on a busy gateway.
    if (this.perMs === 0 && free >= window / 2) this.publish(free);
  }

  private closed(socket: Socket, atOnce = false): void {
    if (socket !== this.socket) return;
    this.socket = undefined;
    if (this.open) {
      this.tally.connected--;
      if (!this.stopped) this.tally.lost++;
    } else this.tally.refused++;
    this.open = false;
    this.rest = Buffer.alloc(0);
    // What was not answered may be there or not; it is not published again.
    this.settled = this.sent;
    this.pinged = [];
    if (this.stopped) return;
    if (atOnce) {
      this.connect();
      return;
    }
    const { baseMs, maxMs } = this.backoff;
    const wait = Math.random() * Math.min(maxMs, baseMs * 2 ** this.attempts);
    this.attempts++;
    this.timer = setTimeout(() => this.connect(), wait);
  }
}
