/**
 * A load generator on raw sockets, as a process of its own: MQTT clients cost several times what
 * the gateway does, and would measure themselves. Arguments as JSON in argv[2], result as JSON on stdout.
 */
import { connect, type Socket } from 'node:net';
import { type Client, connectPacket, PublishWriter, type Version } from './packets.ts';

export interface LoadOptions {
  port: number;
  /** One for each connection. */
  clients: Client[];
  seconds: number;
  /** Publishes of a connection that wait for their PUBACK. */
  window: number;
  /** Messages a second over all connections; 0 = as fast as they are acknowledged. */
  rate: number;
  qos: 0 | 1;
  /** Event time of the first reading; each next one of a connection is `stepMs` later. 0 = the clock. */
  startTs: number;
  stepMs: number;
  /** Default: 3.1.1. */
  version?: Version;
}

export interface LoadResult {
  sent: number;
  acknowledged: number;
  seconds: number;
  p50Ms: number;
  p99Ms: number;
  cpuSeconds: number;
  /** Acknowledged in each whole second. */
  perSecond: number[];
}

const LATENCY_STEP_MS = 0.1;
const LATENCY_BUCKETS = 100_000;

class Connection {
  readonly socket: Socket;
  private readonly options: LoadOptions;
  private readonly writer: PublishWriter;
  private readonly sentAt: Float64Array;
  private readonly latencies: Uint32Array;
  private nextId = 1;
  private firstUnacked = 1;
  private ts: number;
  private rest = 0;
  ready = false;
  sent = 0;
  acknowledged = 0;
  stopped = false;
  onAck: (count: number) => void = () => {};

  constructor(options: LoadOptions, client: Client, latencies: Uint32Array, onReady: () => void) {
    this.options = options;
    this.latencies = latencies;
    this.ts = options.startTs;
    this.writer = new PublishWriter(client.topic, options.qos, options.version);
    this.sentAt = new Float64Array(65_536);
    this.socket = connect({ port: options.port, host: '127.0.0.1', noDelay: true });
    this.socket.on('error', (error) => {
      if (!this.stopped) throw error;
    });
    const { username, password } = client;
    const { version = 4 } = options;
    this.socket.write(connectPacket(username, username, password, { version }));
    this.socket.on('data', (chunk) => {
      if (this.ready) return this.onAcks(chunk);
      if (chunk[0] !== 0x20 || chunk[3] !== 0) throw new Error(`CONNACK ${chunk.toString('hex')}`);
      this.ready = true;
      onReady();
    });
  }

  /** Sends up to `count`, as the window allows; returns how many. */
  pump(count: number): number {
    const open =
      this.options.qos === 0 ? count : this.options.window - (this.sent - this.acknowledged);
    const n = Math.min(count, open);
    if (n <= 0 || this.socket.writableLength > 1_000_000) return 0;
    const { size } = this.writer;
    const bytes = Buffer.allocUnsafe(size * n);
    const now = performance.now();
    for (let i = 0, at = 0; i < n; i++, at += size) {
      const ts = this.options.startTs === 0 ? Date.now() : Math.floor(this.ts);
      this.ts += this.options.stepMs;
      this.writer.write(bytes, at, ts, this.nextId, this.sent % 10);
      if (this.options.qos === 1) {
        this.sentAt[this.nextId] = now;
        this.nextId = this.nextId === 65_535 ? 1 : this.nextId + 1;
      }
      this.sent++;
    }
    this.socket.write(bytes);
    if (this.options.qos === 0) this.acknowledged = this.sent;
    return n;
  }

  private onAcks(chunk: Buffer): void {
    // PUBACKs are four bytes each and come in order.
    const bytes = this.rest + chunk.length;
    const count = Math.floor(bytes / 4);
    this.rest = bytes % 4;
    const now = performance.now();
    for (let i = 0; i < count; i++) {
      const bucket = Math.floor((now - (this.sentAt[this.firstUnacked] ?? now)) / LATENCY_STEP_MS);
      const index = Math.min(bucket, LATENCY_BUCKETS - 1);
      this.latencies[index] = (this.latencies[index] ?? 0) + 1;
      this.firstUnacked = this.firstUnacked === 65_535 ? 1 : this.firstUnacked + 1;
    }
    this.acknowledged += count;
    this.onAck(count);
  }
}

async function main(options: LoadOptions): Promise<LoadResult> {
  const latencies = new Uint32Array(LATENCY_BUCKETS);
  const connections: Connection[] = [];
  await new Promise<void>((resolve) => {
    let ready = 0;
    for (const client of options.clients) {
      connections.push(
        new Connection(options, client, latencies, () => {
          ready++;
          if (ready === options.clients.length) resolve();
        }),
      );
    }
  });
  const started = performance.now();
  const cpu = process.cpuUsage();
  const perSecond: number[] = [];
  let lastAcked = 0;
  const total = () => connections.reduce((sum, { acknowledged }) => sum + acknowledged, 0);
  const ticker = setInterval(() => {
    perSecond.push(total() - lastAcked);
    lastAcked = total();
  }, 1_000);
  let running = true;
  if (options.rate === 0) {
    for (const connection of connections) {
      let owed = 0;
      connection.onAck = (count) => {
        owed += count;
        // Half a window at a time, so that packets share segments as they do on a busy gateway.
        if (running && owed >= options.window / 2) {
          connection.pump(owed);
          owed = 0;
        }
      };
      connection.pump(options.window);
    }
    await new Promise((resolve) => setTimeout(resolve, options.seconds * 1_000));
  } else {
    let due = 0;
    let turn = 0;
    let last = performance.now();
    while (performance.now() - started < options.seconds * 1_000) {
      await new Promise((resolve) => setTimeout(resolve, 2));
      const now = performance.now();
      due += ((now - last) / 1_000) * options.rate;
      last = now;
      let idle = 0;
      while (due >= 1 && idle < connections.length) {
        const connection = connections[turn++ % connections.length] as Connection;
        const share = Math.max(1, Math.min(8, Math.floor(due / connections.length)));
        const n = connection.pump(Math.min(share, Math.floor(due)));
        if (n === 0) idle++;
        else idle = 0;
        due -= n;
      }
      due = Math.min(due, options.rate);
    }
  }
  running = false;
  const seconds = (performance.now() - started) / 1_000;
  const acknowledged = total();
  clearInterval(ticker);
  const used = process.cpuUsage(cpu);
  // What is under way is acknowledged before the sockets close, so that both sides count the same.
  for (let wait = 0; wait < 100 && connections.some((c) => c.acknowledged < c.sent); wait++) {
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  const sent = connections.reduce((sum, c) => sum + c.sent, 0);
  for (const connection of connections) {
    connection.stopped = true;
    connection.socket.end(Buffer.from([0xe0, 0]));
  }
  return {
    sent,
    acknowledged,
    seconds,
    p50Ms: quantile(latencies, 0.5),
    p99Ms: quantile(latencies, 0.99),
    cpuSeconds: (used.user + used.system) / 1e6,
    perSecond,
  };
}

function quantile(latencies: Uint32Array, q: number): number {
  const all = latencies.reduce((sum, count) => sum + count, 0);
  let seen = 0;
  for (let i = 0; i < latencies.length; i++) {
    seen += latencies[i] ?? 0;
    if (seen >= all * q) return i * LATENCY_STEP_MS;
  }
  return 0;
}

if (process.argv[2] !== undefined && process.argv[1] === import.meta.filename) {
  console.log(JSON.stringify(await main(JSON.parse(process.argv[2]) as LoadOptions)));
}
