import { SpillwayError } from '../../core/errors.ts';
import type { AppendRequest, LogAppender, LogStats } from '../contract.ts';
import { within } from './waiting.ts';

type Done = (error: Error | null) => void;

interface Pending {
  done: Done;
  records: number;
  bytes: number;
  /** Offset of the spool behind its records, once the spool has them. */
  endOffset: number;
}

export interface ReplicatedAppenderOptions {
  spool: LogAppender;
  /** Records and bytes that may wait for Kafka; from half on `saturated` is true. */
  pendingRecordsMax: number;
  pendingBytesMax: number;
  /** How long `close` waits for Kafka to take what was appended, ms. */
  closeTimeoutMs: number;
}

/**
 * The spool's writing end for `acknowledge: replicated`: a message is called back when Kafka has it, too.
 * {@link forwarded} is to be wired to the forwarder. While Kafka is away callbacks wait, so that devices
 * wait for their PUBACKs with their connections open; what may wait is bounded.
 *
 * Which offset a message got follows from counting: the spool has one appender, this one, it gives
 * offsets in the order of the calls, and calls back in that order.
 */
export class ReplicatedAppender implements LogAppender {
  private readonly spool: LogAppender;
  private readonly options: ReplicatedAppenderOptions;
  /** In the order of the calls; without those that the spool has refused. */
  private queue: Pending[] = [];
  private head = 0;
  private pendingRecords = 0;
  private pendingBytes = 0;
  /** Behind the last record that the spool has called back. */
  private spoolOffset: number;
  private forwardedOffset = 0;
  /** Appends that the spool has not called back. */
  private unspooled = 0;
  private isSaturated = false;
  /** Somebody has seen `saturated` and waits for relief. */
  private isHeldBack = false;
  private closing = false;
  private closed: Promise<void> | undefined;
  private readonly reliefs: (() => void)[] = [];

  /** The spool must be open and nothing on its way to it. */
  constructor(options: ReplicatedAppenderOptions) {
    this.options = options;
    this.spool = options.spool;
    this.spoolOffset = this.spool.stats().endOffset;
    this.spool.onRelief(() => this.relieve());
  }

  /** Kafka has everything in the spool before `spoolOffset`. */
  forwarded(spoolOffset: number): void {
    if (spoolOffset <= this.forwardedOffset) return;
    this.forwardedOffset = spoolOffset;
    this.settle();
  }

  get saturated(): boolean {
    const saturated = this.isSaturated || this.spool.saturated;
    if (saturated) this.isHeldBack = true;
    return saturated;
  }

  get full(): boolean {
    return this.spool.full;
  }

  onRelief(callback: () => void): void {
    this.reliefs.push(callback);
  }

  append(request: AppendRequest, done: Done): void {
    const refusal = this.refusal();
    if (refusal !== undefined) {
      setImmediate(done, refusal);
      return;
    }
    const pending: Pending = {
      done,
      records: request.records.length,
      bytes: request.records.reduce((sum, line) => sum + line.length + 1, 0),
      endOffset: Number.POSITIVE_INFINITY,
    };
    this.queue.push(pending);
    this.pendingRecords += pending.records;
    this.pendingBytes += pending.bytes;
    this.unspooled += 1;
    if (this.isOver(2)) this.isSaturated = true;
    this.spool.append(request, (error) => this.spooled(pending, error));
  }

  /** `pendingRecords` and `pendingBytes` count what waits for Kafka, too; the rest is the spool's. */
  stats(): LogStats {
    return {
      ...this.spool.stats(),
      pendingRecords: this.pendingRecords,
      pendingBytes: this.pendingBytes,
    };
  }

  /** Resolves when Kafka has everything appended so far; rejects when the spool will never have it. */
  async flush(): Promise<void> {
    const settled = new Promise<void>((resolve) => this.afterAll(() => resolve()));
    await Promise.all([this.spool.flush(), settled]);
  }

  /** Waits a while for Kafka; what it has not taken then stays in the spool and is called back with LOG_CLOSED. */
  close(): Promise<void> {
    this.closed ??= this.end();
    return this.closed;
  }

  private async end(): Promise<void> {
    this.closing = true;
    const settled = new Promise<void>((resolve) => this.afterAll(() => resolve()));
    await within(settled, this.options.closeTimeoutMs);
    await this.spool.close();
    const error = new SpillwayError('LOG_CLOSED', 'the log closes before Kafka has the message');
    for (const pending of this.queue.splice(0).slice(this.head)) this.release(pending, error);
    this.head = 0;
  }

  private refusal(): SpillwayError | undefined {
    if (this.closing) return new SpillwayError('LOG_CLOSED', 'the log is closing');
    if (this.isOver(1)) {
      return new SpillwayError('LOG_SATURATED', 'too much waits for Kafka');
    }
    return undefined;
  }

  private isOver(part: number): boolean {
    const { pendingRecordsMax, pendingBytesMax } = this.options;
    return (
      this.pendingRecords > pendingRecordsMax / part || this.pendingBytes > pendingBytesMax / part
    );
  }

  /** Calls back after everything appended so far, or at once, but later than the call. */
  private afterAll(done: Done): void {
    this.queue.push({ done, records: 0, bytes: 0, endOffset: 0 });
    setImmediate(() => this.settle());
  }

  private spooled(pending: Pending, error: Error | null): void {
    this.unspooled -= 1;
    if (error !== null) {
      const at = this.queue.indexOf(pending, this.head);
      if (at < 0) return;
      this.queue.splice(at, 1);
      this.release(pending, error);
      this.settle();
      return;
    }
    this.spoolOffset += pending.records;
    // Without records there is nothing that Kafka could have; only the order matters.
    pending.endOffset = pending.records === 0 ? 0 : this.spoolOffset;
    if (this.unspooled === 0 && this.spool.stats().endOffset !== this.spoolOffset) {
      // Going on would acknowledge what Kafka may not have.
      throw new Error('the spool has another appender; offsets of messages are not known');
    }
    this.settle();
  }

  /** Calls back what Kafka has, from the front. */
  private settle(): void {
    for (;;) {
      const pending = this.queue[this.head];
      if (pending === undefined || pending.endOffset > this.forwardedOffset) break;
      this.head += 1;
      this.release(pending, null);
    }
    if (this.head > 1_024 && this.head * 2 > this.queue.length) {
      this.queue = this.queue.slice(this.head);
      this.head = 0;
    }
    this.relieve();
  }

  private release(pending: Pending, error: Error | null): void {
    this.pendingRecords -= pending.records;
    this.pendingBytes -= pending.bytes;
    pending.done(error);
  }

  private relieve(): void {
    if (this.isSaturated && !this.isOver(4)) this.isSaturated = false;
    if (!this.isHeldBack || this.isSaturated || this.spool.saturated) return;
    this.isHeldBack = false;
    for (const callback of this.reliefs) callback();
  }
}
