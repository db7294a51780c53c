import { setImmediate as turn } from 'node:timers/promises';
import type { ConsumeOptions, LogBatch } from '../contract.ts';
import { decodeBatches } from './decode.ts';
import { corrupt, reasonOf } from './errors.ts';
import type { GroupOffsets } from './group-offsets.ts';
import { Membership, type MembershipLimits } from './membership.ts';
import { Reader, type ReaderLimits } from './reader.ts';
import type { RawBatch } from './record-batch.ts';
import type { KafkaLogger, KafkaSettings } from './settings.ts';
import { fullName, LOG_TOPICS } from './topics.ts';
import { Bell, backoffMs, pause } from './waiting.ts';
import type { Placement } from './wire.ts';

export interface ConsumptionLimits extends MembershipLimits, ReaderLimits {
  /** Compressed bytes that may wait for the caller; beyond this nothing is fetched. */
  bufferBytesMax: number;
}

/** A partition of ours. */
interface Held extends Placement {
  number: number;
  /** Where it begins is known, so the caller may have got something of it. */
  hasBegun: boolean;
  /** Offset of the next record that the caller gets. */
  next: number;
  raws: RawBatch[];
  rawBytes: number;
  ready: LogBatch[];
}

const RECORDS_MAX = 4_000;
/** How often a caller that waits looks whether this is a member by now, or a lane has its turn, ms. */
const LOOK_MS = 100;
const LANE_LOOK_MS = 20;
/** Part of the buffer that old readings may fill: they wait for longer, and live ones must not for them. */
const BACKFILL_SHARE = 0.25;
const BACKFILL_RECORDS_MAX = 1_000;

/**
 * One `consume` call: a member of the group (or nobody, who reads alone), a reader for its partitions, and
 * a bounded buffer between the reader and the caller. Partitions whose part of the buffer is full are not fetched.
 */
export class Consumption {
  private readonly options: ConsumeOptions;
  private readonly limits: ConsumptionLimits;
  private readonly offsets: GroupOffsets;
  private readonly group: string;
  private readonly logger: KafkaLogger;
  private readonly backfillTopic: string;
  /** Undefined for who reads alone. */
  private readonly membership: Membership | undefined;
  private readonly reader: Reader;
  /** In the order in which they get their turns. */
  private readonly held = new Map<number, Held>();
  private readonly begun = new Set<number>();
  /** What the group has committed of the partitions that are held. */
  private readonly committed = new Map<number, number>();
  private readonly bell = new Bell();
  private readonly ending = new AbortController();
  private bufferBytes = 0;
  /** Of these, in the lane of old readings. */
  private backfillBytes = 0;
  private isHeldBack = false;
  private failure: { error: unknown } | undefined;

  constructor(
    settings: KafkaSettings,
    group: string,
    options: ConsumeOptions,
    limits: ConsumptionLimits,
    offsets: GroupOffsets,
    logger: KafkaLogger,
  ) {
    this.options = options;
    this.limits = limits;
    this.offsets = offsets;
    this.group = group;
    this.logger = logger;
    this.backfillTopic = fullName(settings.topicPrefix, 'backfill');
    const topics = LOG_TOPICS.map((topic) => fullName(settings.topicPrefix, topic));
    this.reader = new Reader(
      settings,
      topics,
      limits,
      {
        wants: (at) => this.wants(at),
        onBatches: (at, batches) => this.buffer(at, batches),
        onGap: (at, position, first) =>
          logger.warn({ ...at, position, first }, 'Kafka no longer has records that were not read'),
        onFailed: (error) => this.fail(error),
      },
      logger,
    );
    this.membership =
      options.alone === true
        ? undefined
        : new Membership(
            settings,
            group,
            topics,
            limits,
            {
              onJoining: () => this.giveUp(),
              onJoined: (assignment, continued) => this.assign(assignment, continued),
              onLost: () => this.assign([], false),
            },
            logger,
          );
    if (this.membership === undefined) {
      void this.assignAll().catch((error: unknown) => this.fail(error));
    }
  }

  /** Resolves with undefined at the end. Throws LOG_CORRUPT and what the caller's callbacks throw. */
  async next(): Promise<LogBatch | undefined> {
    const { signal } = this.options;
    const wake = () => this.bell.ring();
    signal.addEventListener('abort', wake);
    try {
      while (!signal.aborted && !this.ending.signal.aborted) {
        if (this.failure !== undefined) throw this.failure.error;
        const batch = this.isHeldBack ? undefined : await this.take();
        if (batch !== undefined) return batch;
        await this.bell.wait(this.lookAfterMs());
      }
      return undefined;
    } finally {
      signal.removeEventListener('abort', wake);
    }
  }

  private lookAfterMs(): number | undefined {
    if (!this.isAlive) return LOOK_MS;
    for (const { number, raws, ready } of this.held.values()) {
      if (raws.length + ready.length > 0 && this.holdsBack(number)) return LANE_LOOK_MS;
    }
    return undefined;
  }

  private holdsBack(number: number): boolean {
    return this.options.holdsBack?.(number) === true;
  }

  /** True when the partition is this member's. */
  holds(number: number): boolean {
    return this.held.has(number);
  }

  private get isAlive(): boolean {
    return this.membership?.isAlive ?? true;
  }

  /** Of a partition that it holds. Who reads alone commits nothing. */
  async commit(number: number, offset: number): Promise<void> {
    if (this.membership === undefined) return;
    if (offset <= (this.committed.get(number) ?? -1)) return;
    const done = await this.membership.commit(this.offsets.placementOf(number), offset);
    if (done) this.committed.set(number, offset);
  }

  async close(): Promise<void> {
    this.ending.abort();
    this.bell.ring();
    await Promise.all([this.membership?.close(), this.reader.close()]);
  }

  private wants(at: Placement): boolean {
    const held = this.held.get(this.offsets.numberOf(at));
    const { bufferBytesMax, partitionBytesMax } = this.limits;
    if (held === undefined || held.rawBytes >= partitionBytesMax) return false;
    if (held.topic !== this.backfillTopic) return this.bufferBytes < bufferBytesMax;
    return this.backfillBytes < bufferBytesMax * BACKFILL_SHARE;
  }

  private buffer(at: Placement, batches: RawBatch[]): void {
    const held = this.held.get(this.offsets.numberOf(at));
    if (held === undefined) return;
    for (const raw of batches) {
      held.raws.push(raw);
      held.rawBytes += raw.bytes.length;
      this.count(held, raw.bytes.length);
    }
    this.bell.ring();
  }

  /** Bytes that came into the buffer, or left it. */
  private count(held: Held, bytes: number): void {
    this.bufferBytes += bytes;
    if (held.topic === this.backfillTopic) this.backfillBytes += bytes;
  }

  /** The next batch of the partition whose turn it is. */
  private async take(): Promise<LogBatch | undefined> {
    // Whoever was stopped for longer than its session learns of it a moment later.
    if (!this.isAlive) return undefined;
    for (const held of [...this.held.values()]) {
      if (this.holdsBack(held.number)) continue;
      if (held.ready.length === 0 && held.raws.length > 0) await this.unpack(held);
      // Unpacking may have waited, and the partition may be another's by now.
      if (this.isHeldBack || this.held.get(held.number) !== held) return undefined;
      const batch = held.ready.shift();
      if (batch === undefined) continue;
      this.held.delete(held.number);
      this.held.set(held.number, held);
      held.next = batch.nextOffset;
      return batch;
    }
    return undefined;
  }

  private async unpack(held: Held): Promise<void> {
    const { recordsMax: most = RECORDS_MAX } = this.options;
    const isLane = held.topic === this.backfillTopic;
    const recordsMax = isLane ? Math.min(most, BACKFILL_RECORDS_MAX) : most;
    let records = 0;
    let count = 0;
    let bytes = 0;
    for (const raw of held.raws) {
      if (count > 0 && records + raw.count > recordsMax) break;
      records += raw.count;
      bytes += raw.bytes.length;
      count += 1;
    }
    const raws = held.raws.splice(0, count);
    held.rawBytes -= bytes;
    this.count(held, -bytes);
    this.reader.wake();
    const decoded = await decodeBatches(held.number, raws, held.next, this.options.lines === true);
    if (decoded.unreadable > 0) {
      this.logger.warn(
        { topic: held.topic, partition: held.partition, records: decoded.unreadable },
        'a topic holds records that are not ours; they are left out',
      );
    }
    held.ready.push(...decoded.batches);
  }

  private async giveUp(): Promise<void> {
    this.isHeldBack = true;
    // A batch that is on its way to the caller comes before the call.
    await turn();
    const begun = [...this.held.values()].filter(({ hasBegun }) => hasBegun);
    try {
      if (begun.length > 0) await this.options.onRevoking?.(begun.map(({ number }) => number));
    } catch (error) {
      this.fail(error);
    }
  }

  private async assignAll(): Promise<void> {
    const bounds = await this.persist(() => this.offsets.bounds());
    await this.assign(
      [...bounds.keys()].map((number) => this.offsets.placementOf(number)),
      true,
    );
  }

  private async assign(assignment: Placement[], continued: boolean): Promise<void> {
    const wanted = new Map(assignment.map((at) => [this.offsets.numberOf(at), at]));
    const lost = [...this.held.values()].filter(({ number }) => !continued || !wanted.has(number));
    for (const held of lost) {
      this.held.delete(held.number);
      this.count(held, -held.rawBytes);
      this.reader.stop(held);
    }
    // As in `giveUp`: a batch of them that comes after the call would not be dropped.
    await turn();
    try {
      if (lost.length > 0) this.options.onRevoked?.(lost.map(({ number }) => number));
    } catch (error) {
      this.fail(error);
    }
    const gained: Held[] = [];
    for (const [number, at] of wanted) {
      if (this.held.has(number)) continue;
      const held = { ...at, number, hasBegun: false, next: 0, raws: [], rawBytes: 0, ready: [] };
      this.held.set(number, held);
      gained.push(held);
    }
    this.isHeldBack = false;
    if (this.membership !== undefined) {
      this.logger.info(
        {
          group: this.group,
          partitions: wanted.size,
          gained: gained.length,
          lost: lost.length,
        },
        'partitions of the group were assigned',
      );
    }
    if (gained.length > 0) void this.begin(gained).catch((error: unknown) => this.fail(error));
    this.bell.ring();
  }

  /** Finds out where new partitions begin, and begins. */
  private async begin(gained: Held[]): Promise<void> {
    const numbers = gained.map(({ number }) => number);
    const told = await this.options.onAssigned?.(numbers);
    const [bounds, committed] = await this.persist(() =>
      Promise.all([
        this.offsets.bounds(),
        this.membership === undefined ? new Map() : this.offsets.committed(this.group),
      ]),
    );
    for (const held of gained) {
      if (this.held.get(held.number) !== held) continue;
      const { first = 0, end = 0 } = bounds.get(held.number) ?? {};
      const isFirstTime = !this.begun.has(held.number);
      const from = isFirstTime ? this.options.from?.get(held.number) : undefined;
      const position = told?.get(held.number) ?? from ?? committed.get(held.number) ?? first;
      if (position > end) {
        throw corrupt(
          `partition ${held.number}`,
          `it ends at offset ${end}, but ${position} has been processed; it is not the log that was`,
        );
      }
      this.begun.add(held.number);
      this.committed.set(held.number, committed.get(held.number) ?? -1);
      held.next = Math.max(position, first);
      held.hasBegun = true;
      this.reader.start(held, held.next);
    }
  }

  private async persist<T>(call: () => Promise<T>): Promise<T> {
    for (let attempt = 0; ; attempt++) {
      try {
        return await call();
      } catch (error) {
        if (this.ending.signal.aborted) throw error;
        this.logger.debug({ reason: reasonOf(error) }, 'positions could not be read');
      }
      await pause(backoffMs(attempt), this.ending.signal);
    }
  }

  private fail(error: unknown): void {
    if (this.ending.signal.aborted) return;
    this.failure ??= { error };
    this.bell.ring();
  }
}
