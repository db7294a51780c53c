import { SpillwayError } from '../../core/errors.ts';
import type { LogBatch } from '../contract.ts';
import type { AccountKeeper } from './account-keeper.ts';
import { type Delivery, type ForwarderOptions, openDelivery } from './delivery.ts';
import { reasonOf } from './errors.ts';
import { Parcel } from './parcel.ts';
import { ensureTopics, type TopicFacts, type TopicName } from './topics.ts';
import { Bell, backoffMs, pause, within } from './waiting.ts';

export type { ForwarderOptions };

/** The forwarder's consumer group of the spool. */
export const FORWARDER_GROUP = 'forwarder';

/** Since the start. */
export interface ForwarderStats {
  /** Offset of the spool before which everything is in Kafka; undefined while that is not known. */
  forwardedOffset: number | undefined;
  records: number;
  parcels: number;
  /** Before compression, and as sent. */
  bytes: number;
  packedBytes: number;
  /** Records that became dead letters because Kafka refused them. */
  refused: number;
  retries: number;
  /** Why Kafka is away at the moment; undefined while it is there. */
  lastError: string | undefined;
}

const RECORDS_MAX = 4_000;

type Arrived = { batch: LogBatch | undefined } | { error: unknown };

/**
 * Brings the spool to Kafka, in its order. One parcel is sent while the next one is filled; the spool's
 * offset is committed after Kafka has acknowledged everything before it, so that a crash at any point
 * sends again but never skips. Records sent again bear the same `source` and `number`.
 */
export class Forwarder {
  private readonly options: ForwarderOptions;
  private readonly reading = new AbortController();
  private readonly bell = new Bell();
  private delivery: Delivery | undefined;
  private arrived: Arrived | undefined;
  private sending: Promise<void> | undefined;
  private forwarded: number | undefined;
  private committed = 0;
  private committedAt = 0;
  private isCommitFailing = false;
  private spoolPartition = 0;
  private spoolEnd = 0;
  private failure: { error: unknown } | undefined;
  private drains: { target: number; resolve: (isDrained: boolean) => void }[] = [];
  private hasEnded = false;
  private records = 0;
  private parcels = 0;
  private bytes = 0;
  private startError: string | undefined;
  private readonly done: Promise<void>;

  /** Starts in the background and tries for as long as it takes; Kafka may be away. */
  constructor(options: ForwarderOptions) {
    this.options = options;
    this.done = this.run()
      .catch((error: unknown) => {
        if (this.reading.signal.aborted) return;
        options.logger.warn({ err: error }, 'the forwarder has failed');
        options.onFailed?.(error);
      })
      .finally(() => {
        this.hasEnded = true;
        for (const { resolve } of this.drains.splice(0)) resolve(false);
      });
  }

  stats(): ForwarderStats {
    const { delivery } = this;
    return {
      forwardedOffset: this.forwarded,
      records: this.records,
      parcels: this.parcels,
      bytes: this.bytes,
      packedBytes: delivery?.shipping.packedBytes ?? 0,
      refused: delivery?.shipping.refused ?? 0,
      retries: delivery?.producer.stats.retries ?? 0,
      lastError: delivery === undefined ? this.startError : delivery.producer.stats.lastError,
    };
  }

  /**
   * Resolves when everything that is in the spool now is in Kafka, and the gateway's account of it; with
   * false when the forwarder ends before.
   */
  async drained(): Promise<boolean> {
    const bounds = await this.options.spool.bounds();
    const target = Math.max(0, ...[...bounds.values()].map(({ end }) => end));
    if (this.hasEnded) return false;
    return new Promise<boolean>((resolve) => {
      this.drains.push({ target, resolve });
      this.bell.ring();
    });
  }

  /** Ends after the parcel that is being sent, or without its answer after `patienceMs`. */
  async close(patienceMs = 5_000): Promise<void> {
    this.reading.abort();
    this.bell.ring();
    await within(this.done, patienceMs);
    await this.delivery?.producer.close();
    await this.done;
  }

  private async run(): Promise<void> {
    const { signal } = this.reading;
    const { spool } = this.options;
    const facts = await this.prepare();
    if (facts === undefined) return;
    for (const [partition, offset] of await spool.committed(FORWARDER_GROUP)) {
      this.spoolPartition = partition;
      this.forwarded = offset;
      this.committed = offset;
      this.spoolEnd = offset;
    }
    const delivery = await openDelivery(this.options, facts, {
      partition: this.spoolPartition,
      forwarded: this.committed,
      signal,
    });
    this.delivery = delivery;
    const batches = spool
      .consume(FORWARDER_GROUP, { signal, recordsMax: RECORDS_MAX, lines: true })
      [Symbol.asyncIterator]();
    this.pull(batches);
    try {
      await this.forward(batches, delivery);
    } finally {
      this.reading.abort();
      await this.sending;
      await this.commitSpool();
    }
  }

  /** Undefined when the forwarder is closed meanwhile. */
  private async prepare(): Promise<Map<TopicName, TopicFacts> | undefined> {
    const { settings, topics, logger } = this.options;
    for (let attempt = 0; !this.reading.signal.aborted; attempt++) {
      try {
        return await ensureTopics(settings, topics, logger);
      } catch (error) {
        if (this.startError === undefined) {
          logger.warn({ reason: reasonOf(error) }, 'Kafka is not ready; trying on');
        }
        this.startError = reasonOf(error);
      }
      await pause(backoffMs(attempt), this.reading.signal);
    }
    return undefined;
  }

  private async forward(batches: AsyncIterator<LogBatch>, delivery: Delivery): Promise<void> {
    const { parcelBytesMax, lingerMs } = this.options;
    const { account, router } = delivery;
    let parcel = new Parcel(router);
    while (!this.reading.signal.aborted) {
      if (this.failure !== undefined) throw this.failure.error;
      if (this.arrived !== undefined && parcel.bytes < parcelBytesMax) {
        if ('error' in this.arrived) throw this.arrived.error;
        if (this.arrived.batch === undefined) return;
        this.load(parcel, this.arrived.batch);
        this.pull(batches);
        continue;
      }
      let wakeMs = Number.POSITIVE_INFINITY;
      if (this.sending === undefined) {
        const waitedMs = performance.now() - parcel.since;
        if (parcel.records > 0) {
          if (parcel.bytes >= parcelBytesMax || waitedMs >= lingerMs) {
            this.start(this.ship(parcel, delivery));
            parcel = new Parcel(router);
            continue;
          }
          wakeMs = lingerMs - waitedMs;
        }
        const forwarded = this.forwarded ?? 0;
        if (this.settleDrains(forwarded, account)) account.urge();
        const accountMs = account.dueMs() ?? Number.POSITIVE_INFINITY;
        if (accountMs <= 0) {
          this.start(account.write(this.spoolPartition, forwarded));
          continue;
        }
        wakeMs = Math.min(wakeMs, accountMs);
        if (this.commitDueMs() <= 0) await this.commitSpool();
        wakeMs = Math.min(wakeMs, this.commitDueMs());
      }
      await this.bell.wait(wakeMs === Number.POSITIVE_INFINITY ? undefined : wakeMs);
      if (parcel.records === 0) parcel.since = performance.now();
    }
  }

  /** Asks the spool for the next batch; there is at most one that is not loaded. */
  private pull(batches: AsyncIterator<LogBatch>): void {
    this.arrived = undefined;
    const settle = (arrived: Arrived) => {
      this.arrived = arrived;
      this.bell.ring();
    };
    batches.next().then(
      (result) => settle({ batch: result.done === true ? undefined : result.value }),
      (error: unknown) => settle({ error }),
    );
  }

  private load(parcel: Parcel, batch: LogBatch): void {
    const lines = batch.lines ?? batch.records.map((record) => JSON.stringify(record));
    if (this.forwarded !== undefined && batch.firstOffset > this.spoolEnd) {
      const skipped = batch.firstOffset - this.spoolEnd;
      this.options.logger.warn({ skipped }, 'the spool dropped records that were not forwarded');
    }
    this.spoolPartition = batch.partition;
    this.spoolEnd = batch.nextOffset;
    for (let i = 0; i < lines.length; i++) parcel.add(lines[i] as string, batch.firstOffset + i);
  }

  private start(work: Promise<void>): void {
    this.sending = work
      .catch((error: unknown) => {
        this.failure = { error };
      })
      .finally(() => {
        this.sending = undefined;
        this.bell.ring();
      });
  }

  private async ship(parcel: Parcel, { shipping, account }: Delivery): Promise<void> {
    await shipping.ship(parcel);
    this.forwarded = parcel.endOffset;
    account.came(parcel.oldest);
    this.records += parcel.records;
    this.bytes += parcel.bytes;
    this.parcels += 1;
    this.options.onForwarded?.(parcel.endOffset);
  }

  private commitDueMs(): number {
    if (this.forwarded === undefined || this.forwarded === this.committed) {
      return Number.POSITIVE_INFINITY;
    }
    return this.committedAt + this.options.commitIntervalMs - performance.now();
  }

  /** A full disk is no reason to stop: the offset is tried again later, and a crash sends more again. */
  private async commitSpool(): Promise<void> {
    const { forwarded } = this;
    if (forwarded === undefined || forwarded === this.committed) return;
    this.committedAt = performance.now();
    try {
      await this.options.spool.commit(FORWARDER_GROUP, this.spoolPartition, forwarded);
      this.committed = forwarded;
      this.isCommitFailing = false;
    } catch (error) {
      if (!(error instanceof SpillwayError && error.retryable)) throw error;
      if (!this.isCommitFailing) {
        this.options.logger.warn(
          { reason: reasonOf(error) },
          'the spool keeps no offset; trying on',
        );
      }
      this.isCommitFailing = true;
    }
  }

  /** True when somebody waits for the account of what has been forwarded. */
  private settleDrains(forwarded: number, account: AccountKeeper): boolean {
    let isWaiting = false;
    this.drains = this.drains.filter(({ target, resolve }) => {
      if (target > forwarded) return true;
      if (target > account.written) {
        isWaiting = true;
        return true;
      }
      resolve(true);
      return false;
    });
    return isWaiting;
  }
}
