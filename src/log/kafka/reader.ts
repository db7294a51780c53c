import { createKafka, type Placement, Wire } from './client.ts';
import { corrupt, PROTOCOL, reasonOf } from './errors.ts';
import { type FetchedPartition, fetchRequest } from './fetch-request.ts';
import { type RawBatch, splitBatches } from './record-batch.ts';
import type { KafkaLogger, KafkaSettings } from './settings.ts';
import { Bell, backoffMs, pause } from './waiting.ts';

export interface ReaderLimits {
  /** How long a broker waits for records when there are none, ms. */
  fetchWaitMs: number;
  /** Compressed bytes of one answer, and of one partition in it. */
  fetchBytesMax: number;
  partitionBytesMax: number;
}

export interface ReaderEvents {
  /** Batches of a partition in their order; those before the position are left out. */
  onBatches(at: Placement, batches: RawBatch[]): void;
  /** False while the partition is paused. Ask {@link Reader.wake} after a change. */
  wants(at: Placement): boolean;
  /** The records from `position` on are gone; reading goes on at `first`. */
  onGap(at: Placement, position: number, first: number): void;
  /** The partition can't be read: LOG_CORRUPT. */
  onFailed(error: unknown): void;
}

interface Tracked extends Placement {
  next: number;
}

/** Error codes that other metadata will not cure. */
const OUT_OF_RANGE: number = PROTOCOL.OFFSET_OUT_OF_RANGE;

/**
 * Fetches the partitions that it is told, each from where it is told, one request at a time from each
 * node. It never stops by itself: errors lead to new metadata and another attempt, and an attempt without
 * any answer is given up by {@link Wire}.
 */
export class Reader {
  private readonly wire: Wire;
  private readonly limits: ReaderLimits;
  private readonly events: ReaderEvents;
  private readonly logger: KafkaLogger;
  private readonly closing = new AbortController();
  private readonly tracked = new Map<string, Tracked>();
  private readonly busy = new Set<number>();
  private readonly bell = new Bell();
  private ready = false;
  private failures = 0;
  private readonly done: Promise<void>;
  /** When a node has answered last, by the monotonic clock, ms. */
  lastAnswerAt = performance.now();

  constructor(
    settings: KafkaSettings,
    topics: string[],
    limits: ReaderLimits,
    events: ReaderEvents,
    logger: KafkaLogger,
  ) {
    this.wire = new Wire(createKafka(settings, logger), topics, settings);
    this.limits = limits;
    this.events = events;
    this.logger = logger;
    this.done = this.run();
  }

  /** Begins at `offset`, or again from there. */
  start(at: Placement, offset: number): void {
    this.tracked.set(keyOf(at), { ...at, next: offset });
    this.wake();
  }

  stop(at: Placement): void {
    this.tracked.delete(keyOf(at));
  }

  wake(): void {
    this.bell.ring();
  }

  async close(): Promise<void> {
    this.closing.abort();
    this.bell.ring();
    await this.wire.close();
    await this.done;
  }

  private async run(): Promise<void> {
    const { signal } = this.closing;
    while (!signal.aborted) {
      const wanted = [...this.tracked.values()].filter((one) => this.events.wants(one));
      if (wanted.length === 0) {
        await this.bell.wait();
        continue;
      }
      try {
        if (this.ready) await this.wire.refreshIfOld();
        else await this.wire.refresh();
        this.ready = true;
        this.fetchFrom(wanted);
      } catch (error) {
        this.failed(error);
      }
      if (this.ready) await this.bell.wait();
      else await pause(backoffMs(this.failures), signal);
    }
  }

  private fetchFrom(wanted: Tracked[]): void {
    const byLeader = Map.groupBy(wanted, (one) => this.wire.leader(one.topic, one.partition));
    for (const [leader, its] of byLeader) {
      if (leader === undefined) throw new Error('a partition has no leader');
      if (this.busy.has(leader)) continue;
      this.busy.add(leader);
      void this.fetch(leader, its).finally(() => {
        this.busy.delete(leader);
        this.bell.ring();
      });
    }
  }

  private async fetch(leader: number, its: Tracked[]): Promise<void> {
    const { fetchWaitMs, fetchBytesMax, partitionBytesMax } = this.limits;
    const from = its.map((one) => ({
      topic: one.topic,
      partition: one.partition,
      offset: one.next,
      bytesMax: partitionBytesMax,
    }));
    // Whoever comes first gets a batch that is larger than the limits; the next time another one does.
    for (const one of its) {
      if (this.tracked.delete(keyOf(one))) this.tracked.set(keyOf(one), one);
    }
    try {
      const limits = { waitMs: fetchWaitMs, bytesMin: 1, bytesMax: fetchBytesMax };
      const { partitions } = await this.wire.send(leader, fetchRequest(from, limits));
      this.lastAnswerAt = performance.now();
      const problems: unknown[] = [];
      for (const fetched of partitions) {
        const tracked = its.find(
          (one) => one.topic === fetched.topic && one.partition === fetched.partition,
        );
        // It may have been stopped or begun anew since it was asked for.
        if (tracked === undefined || this.tracked.get(keyOf(tracked)) !== tracked) continue;
        const problem = await this.take(tracked, fetched);
        if (problem !== undefined) problems.push(problem);
      }
      if (problems.length > 0) this.failed(problems[0]);
      else this.recovered();
    } catch (error) {
      this.failed(error);
    }
  }

  private async take(tracked: Tracked, fetched: FetchedPartition): Promise<unknown> {
    if (fetched.errorCode === OUT_OF_RANGE) return this.comeBack(tracked);
    if (fetched.errorCode !== PROTOCOL.NONE) {
      return `partition ${keyOf(tracked)} answered with code ${fetched.errorCode}`;
    }
    const batches = splitBatches(fetched.bytes);
    if (batches === undefined) {
      const why = 'it holds something else than record batches of version 2';
      this.events.onFailed(corrupt(`partition ${keyOf(tracked)}`, why));
      return undefined;
    }
    const news = batches.filter((batch) => batch.lastOffset >= tracked.next);
    const last = news.at(-1);
    if (last === undefined) return undefined;
    tracked.next = last.lastOffset + 1;
    this.events.onBatches(tracked, news);
    return undefined;
  }

  /** The position is not in the partition: retention has passed it, or the partition was cut off. */
  private async comeBack(tracked: Tracked): Promise<unknown> {
    try {
      const [first] = await this.wire.offsets([tracked], true);
      const [end] = await this.wire.offsets([tracked], false);
      const { next } = tracked;
      if (first === undefined || end === undefined) return 'no offsets';
      if (next > end.offset) {
        const why = `it ends at offset ${end.offset}, but ${next} has been read; records are lost`;
        this.events.onFailed(corrupt(`partition ${keyOf(tracked)}`, why));
      } else if (next < first.offset && this.tracked.get(keyOf(tracked)) === tracked) {
        this.events.onGap(tracked, next, first.offset);
        tracked.next = first.offset;
      }
      return undefined;
    } catch (error) {
      return error;
    }
  }

  private failed(error: unknown): void {
    if (this.closing.signal.aborted) return;
    this.ready = false;
    this.failures += 1;
    if (this.failures === 1) {
      this.logger.warn({ reason: reasonOf(error) }, 'Kafka can not be read; trying on');
    }
  }

  private recovered(): void {
    if (this.failures === 0) return;
    this.failures = 0;
    this.logger.info({}, 'Kafka can be read again');
  }
}

function keyOf({ topic, partition }: Placement): string {
  return `${topic}/${partition}`;
}
