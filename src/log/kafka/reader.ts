import { corrupt, PROTOCOL, reasonOf } from './errors.ts';
import { type FetchedPartition, fetchRequest } from './fetch-request.ts';
import { type RawBatch, splitBatches } from './record-batch.ts';
import type { KafkaLogger, KafkaSettings } from './settings.ts';
import { Bell, backoffMs, pause } from './waiting.ts';
import { type Placement, Wire } from './wire.ts';

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
  /** False while the partition is paused. Call {@link Reader.wake} after a change. */
  wants(at: Placement): boolean;
  /** The records from `position` on are gone; reading goes on at `first`. */
  onGap(at: Placement, position: number, first: number): void;
  /** Nothing stands between the position and `end`, though offsets were given: compaction took it. */
  onNothingBefore?(at: Placement, end: number): void;
  /** The partition can't be read: LOG_CORRUPT. Nothing of it is read any more. */
  onFailed(error: unknown): void;
}

interface Tracked extends Placement {
  next: number;
  failures: number;
  /** Not asked for before, by the monotonic clock, ms. */
  retryAt: number;
  /** When it was wanted and has not been answered since, or had more than came; undefined: neither. */
  stuckSince: number | undefined;
}

/** Error codes that other metadata will not cure. */
const OUT_OF_RANGE: number = PROTOCOL.OFFSET_OUT_OF_RANGE;
const LOOK_MS = 5_000;

/**
 * Fetches the partitions that it is told, each from where it is told, one request at a time from each
 * node. It never stops by itself: a partition that can't be fetched is tried again, with new metadata and
 * with growing pauses, while the others go on; an attempt without any answer is given up by {@link Wire}.
 * A watchdog begins anew with new connections when a partition that is wanted makes no progress.
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
  private readonly stuckAfterMs: number;
  private readonly watchdog: NodeJS.Timeout;
  /** Failed attempts to get metadata. */
  private failures = 0;
  private isTroubled = false;
  /** Grows when the watchdog begins anew: what was under way before is forgotten. */
  private epoch = 0;
  private readonly done: Promise<void>;

  constructor(
    settings: KafkaSettings,
    topics: string[],
    limits: ReaderLimits,
    events: ReaderEvents,
    logger: KafkaLogger,
  ) {
    this.wire = new Wire(settings, logger, topics);
    this.limits = limits;
    this.events = events;
    this.logger = logger;
    this.stuckAfterMs = 3 * (settings.connectTimeoutMs + settings.requestTimeoutMs);
    this.watchdog = setInterval(() => this.look(), Math.min(LOOK_MS, this.stuckAfterMs));
    this.done = this.run();
  }

  /** Begins at `offset`, or again from there. */
  start({ topic, partition }: Placement, offset: number): void {
    const begun = {
      topic,
      partition,
      next: offset,
      failures: 0,
      retryAt: 0,
      stuckSince: undefined,
    };
    this.tracked.set(keyOf(begun), begun);
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
    clearInterval(this.watchdog);
    this.bell.ring();
    await this.wire.close();
    await this.done;
  }

  private async run(): Promise<void> {
    const { signal } = this.closing;
    while (!signal.aborted) {
      const now = performance.now();
      let wakeAt = Number.POSITIVE_INFINITY;
      const wanted: Tracked[] = [];
      for (const one of this.tracked.values()) {
        if (!this.events.wants(one)) one.stuckSince = undefined;
        else if (one.retryAt > now) wakeAt = Math.min(wakeAt, one.retryAt);
        else wanted.push(one);
      }
      if (wanted.length > 0) {
        try {
          await this.wire.prepare();
          this.failures = 0;
          this.fetchFrom(wanted);
        } catch (error) {
          this.trouble(error);
          await pause(backoffMs(this.failures++), signal);
          continue;
        }
      }
      await this.bell.wait(wakeAt === Number.POSITIVE_INFINITY ? undefined : wakeAt - now);
    }
  }

  private fetchFrom(wanted: Tracked[]): void {
    const now = performance.now();
    const byLeader = Map.groupBy(wanted, (one) => this.wire.leader(one.topic, one.partition));
    for (const [leader, its] of byLeader) {
      for (const one of its) one.stuckSince ??= now;
      if (leader === undefined) {
        for (const one of its) this.failed(one, 'the partition has no leader');
        this.bell.ring();
        continue;
      }
      if (this.busy.has(leader)) continue;
      this.busy.add(leader);
      const { epoch } = this;
      void this.fetch(leader, its).finally(() => {
        if (this.epoch !== epoch) return;
        this.busy.delete(leader);
        this.bell.ring();
      });
    }
  }

  private async fetch(leader: number, its: Tracked[]): Promise<void> {
    const { fetchWaitMs, fetchBytesMax, partitionBytesMax } = this.limits;
    const { epoch } = this;
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
      if (this.epoch !== epoch) return;
      const isEmpty = partitions.every(({ bytes }) => bytes.length === 0);
      const answered = new Set<Tracked>();
      for (const fetched of partitions) {
        const tracked = its.find(
          (one) => one.topic === fetched.topic && one.partition === fetched.partition,
        );
        // It may have been stopped or begun anew since it was asked for.
        if (tracked === undefined || this.tracked.get(keyOf(tracked)) !== tracked) continue;
        answered.add(tracked);
        const problem = await this.take(tracked, fetched, isEmpty);
        if (problem === undefined) tracked.failures = 0;
        else this.failed(tracked, problem);
      }
      for (const one of its)
        if (!answered.has(one)) this.failed(one, 'an answer lacks a partition');
      this.recovered();
    } catch (error) {
      if (this.epoch === epoch) for (const one of its) this.failed(one, error);
    }
  }

  /** Returns why the partition has to be asked for again. */
  private async take(
    tracked: Tracked,
    fetched: FetchedPartition,
    isEmpty: boolean,
  ): Promise<unknown> {
    if (fetched.errorCode === OUT_OF_RANGE) return this.comeBack(tracked);
    if (fetched.errorCode !== PROTOCOL.NONE) {
      return `partition ${keyOf(tracked)} answered with code ${fetched.errorCode}`;
    }
    // Of their own memory: what waits must not keep whole answers alive.
    const batches = splitBatches(Buffer.from(fetched.bytes));
    if (batches === undefined) {
      const why = 'it holds something else than record batches of version 2';
      this.giveUp(tracked, corrupt(`partition ${keyOf(tracked)}`, why));
      return undefined;
    }
    const news = batches.filter((batch) => batch.lastOffset >= tracked.next);
    const last = news.at(-1);
    if (last !== undefined) {
      tracked.next = last.lastOffset + 1;
      tracked.stuckSince = undefined;
      this.events.onBatches(tracked, news);
    } else if (fetched.highWatermark <= tracked.next) {
      tracked.stuckSince = undefined;
    } else if (isEmpty && this.events.onNothingBefore !== undefined) {
      tracked.stuckSince = undefined;
      this.events.onNothingBefore(tracked, fetched.highWatermark);
    }
    return undefined;
  }

  /** The position is not in the partition: retention has passed it, or the partition was cut off. */
  private async comeBack(tracked: Tracked): Promise<unknown> {
    try {
      const [first] = await this.wire.offsets([tracked], true);
      const [end] = await this.wire.offsets([tracked], false);
      const { next } = tracked;
      if (this.tracked.get(keyOf(tracked)) !== tracked) return undefined;
      if (first === undefined || end === undefined) return 'no offsets';
      if (next > end.offset) {
        const why = `it ends at offset ${end.offset}, but ${next} has been read; records are lost`;
        this.giveUp(tracked, corrupt(`partition ${keyOf(tracked)}`, why));
      } else if (next < first.offset) {
        this.events.onGap(tracked, next, first.offset);
        tracked.next = first.offset;
        tracked.stuckSince = undefined;
      }
      return undefined;
    } catch (error) {
      return error;
    }
  }

  private giveUp(tracked: Tracked, error: unknown): void {
    this.stop(tracked);
    this.events.onFailed(error);
  }

  private failed(tracked: Tracked, error: unknown): void {
    if (this.tracked.get(keyOf(tracked)) !== tracked) return;
    tracked.retryAt = performance.now() + backoffMs(tracked.failures++);
    this.wire.invalidate();
    this.trouble(error);
  }

  private trouble(error: unknown): void {
    if (this.closing.signal.aborted || this.isTroubled) return;
    this.isTroubled = true;
    this.logger.warn({ reason: reasonOf(error) }, 'Kafka can not be read; trying on');
  }

  private recovered(): void {
    if (!this.isTroubled) return;
    for (const one of this.tracked.values()) if (one.failures > 0) return;
    this.isTroubled = false;
    this.logger.info({}, 'Kafka can be read again');
  }

  /** What is known to fail is tried again anyway. */
  private look(): void {
    if (this.failures > 0) return;
    const before = performance.now() - this.stuckAfterMs;
    const stuck = [...this.tracked.values()].filter(
      ({ failures, stuckSince = before }) => failures === 0 && stuckSince < before,
    );
    if (stuck.length === 0) return;
    this.logger.warn(
      { partitions: stuck.map(keyOf) },
      'partitions make no progress; reading begins anew with new connections',
    );
    this.epoch += 1;
    this.busy.clear();
    for (const one of stuck) one.stuckSince = undefined;
    this.wire.reset();
    this.bell.ring();
  }
}

function keyOf({ topic, partition }: Placement): string {
  return `${topic}/${partition}`;
}
