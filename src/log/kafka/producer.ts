import type { WrittenCodec } from './codecs.ts';
import { CODECS } from './codecs.ts';
import { closed, PROTOCOL, reasonOf } from './errors.ts';
import { type PartitionAnswer, produceRequest } from './produce-request.ts';
import { encodeBatch } from './record-batch.ts';
import type { KafkaLogger, KafkaSettings } from './settings.ts';
import { backoffMs, pause } from './waiting.ts';
import { Wire } from './wire.ts';

/** Records for one partition, compressed; at most one of them for each partition in a call of `send`. */
export interface Shipment {
  topic: string;
  partition: number;
  codec: WrittenCodec;
  records: Buffer;
  count: number;
}

/** What became of a shipment: in the log from `baseOffset` on, or refused for good with Kafka's code. */
export type Outcome = { baseOffset: number } | { refusedWith: number };

/** Codes after which the same batch would be refused again and again. */
const REFUSALS: ReadonlySet<number> = new Set([
  PROTOCOL.MESSAGE_TOO_LARGE,
  PROTOCOL.RECORD_LIST_TOO_LARGE,
  PROTOCOL.INVALID_RECORD,
]);

/** Codes after which the broker wants a new identity of us. */
const IDENTITY_LOST: ReadonlySet<number> = new Set([
  PROTOCOL.OUT_OF_ORDER_SEQUENCE_NUMBER,
  PROTOCOL.INVALID_PRODUCER_EPOCH,
  PROTOCOL.UNKNOWN_PRODUCER_ID,
  PROTOCOL.PRODUCER_FENCED,
]);

const SEQUENCE_MODULUS = 2 ** 31;

interface Stamped {
  shipment: Shipment;
  bytes: Buffer;
  outcome?: Outcome;
}

export interface ProducerStats {
  attempts: number;
  retries: number;
  /** Why the last attempt failed; undefined since one has succeeded. */
  lastError: string | undefined;
}

/**
 * Writes to Kafka with `acks=all`, idempotently, one call at a time. Every partition's batch has a number
 * in the order of sending (KIP-98); an attempt whose answer is lost is repeated byte for byte, so the
 * broker recognises it, wherever the first one is still on its way. kafkajs has the same mode, but rolls
 * numbers back while other sends are under way and lost an acknowledged record by that; here there is
 * never a second send, and a number is used up only by an answer.
 *
 * Only a new identity forgets the numbers: after a restart of this process, or when a broker has lost
 * them. Records that were sent before and are sent again then stand twice in the log, which readers see
 * by the headers `source` and `number`.
 */
export class Producer {
  private readonly wire: Wire;
  private readonly logger: KafkaLogger;
  private readonly timeoutMs: number;
  private readonly closing = new AbortController();
  private identity: { id: bigint; epoch: number } | undefined;
  private readonly sequences = new Map<string, number>();
  private sending = false;
  private failedSince = 0;
  readonly stats: ProducerStats = { attempts: 0, retries: 0, lastError: undefined };

  /** `timeoutMs`: how long brokers wait for all replicas. */
  constructor(settings: KafkaSettings, topics: string[], timeoutMs: number, logger: KafkaLogger) {
    this.wire = new Wire(settings, logger, topics);
    this.timeoutMs = timeoutMs;
    this.logger = logger;
  }

  /** How many partitions a topic has; tries for as long as it takes. Rejects with LOG_CLOSED. */
  async partitions(topic: string): Promise<number> {
    for (let attempt = 0; ; attempt++) {
      if (this.closing.signal.aborted) throw closed();
      try {
        await this.wire.prepare();
        return this.wire.partitions(topic);
      } catch (error) {
        this.failed(reasonOf(error));
      }
      await pause(backoffMs(attempt), this.closing.signal);
    }
  }

  /**
   * Resolves when Kafka has decided on every shipment, in their order; tries for as long as it takes.
   * Rejects with LOG_CLOSED. Not to be called again before.
   */
  async send(shipments: readonly Shipment[]): Promise<Outcome[]> {
    if (this.sending) throw new Error('a send is under way');
    this.sending = true;
    try {
      return await this.persist(shipments);
    } finally {
      this.sending = false;
    }
  }

  private async persist(shipments: readonly Shipment[]): Promise<Outcome[]> {
    let stamped: Stamped[] | undefined;
    for (let attempt = 0; ; attempt++) {
      if (this.closing.signal.aborted) throw closed();
      try {
        await this.wire.prepare();
        if (this.identity === undefined) {
          this.identity = await this.initIdentity();
          // Numbers begin anew: what is not decided yet is stamped again.
          stamped = stamped?.map((one) => (one.outcome ? one : this.stamp(one.shipment)));
        }
        stamped ??= shipments.map((shipment) => this.stamp(shipment));
        const open = stamped.filter((one) => one.outcome === undefined);
        const failure = await this.attempt(open);
        if (failure === undefined) {
          this.recovered();
          return stamped.map((one) => one.outcome as Outcome);
        }
        this.failed(failure);
      } catch (error) {
        this.wire.invalidate();
        this.failed(reasonOf(error));
      }
      await pause(backoffMs(attempt), this.closing.signal);
    }
  }

  /** Sends what is open once. Returns why something is still open. */
  private async attempt(open: readonly Stamped[]): Promise<string | undefined> {
    this.stats.attempts += 1;
    const byLeader = Map.groupBy(open, ({ shipment }) =>
      this.wire.leader(shipment.topic, shipment.partition),
    );
    let failure: string | undefined;
    const sends = [...byLeader].map(async ([leader, its]) => {
      if (leader === undefined) throw new Error('a partition has no leader');
      const batches = its.map(({ shipment, bytes }) => ({ ...shipment, bytes }));
      const { answers } = await this.wire.send(leader, produceRequest(batches, this.timeoutMs));
      for (const one of its) {
        const answer = answers.find(
          ({ topic, partition }) =>
            topic === one.shipment.topic && partition === one.shipment.partition,
        );
        failure ??= this.settle(one, answer);
      }
    });
    for (const result of await Promise.allSettled(sends)) {
      if (result.status === 'rejected') failure ??= reasonOf(result.reason);
    }
    if (failure !== undefined) this.wire.invalidate();
    return failure;
  }

  /** Returns why the shipment has to be sent again. */
  private settle(one: Stamped, answer: PartitionAnswer | undefined): string | undefined {
    if (answer === undefined) return 'an answer lacks a partition';
    const { errorCode } = answer;
    if (errorCode === PROTOCOL.NONE || errorCode === PROTOCOL.DUPLICATE_SEQUENCE_NUMBER) {
      one.outcome = { baseOffset: answer.baseOffset };
      const key = keyOf(one.shipment);
      const next = (this.sequences.get(key) ?? 0) + one.shipment.count;
      this.sequences.set(key, next % SEQUENCE_MODULUS);
      return undefined;
    }
    if (REFUSALS.has(errorCode)) {
      one.outcome = { refusedWith: errorCode };
      return undefined;
    }
    if (IDENTITY_LOST.has(errorCode)) this.identity = undefined;
    return `partition ${keyOf(one.shipment)} answered with code ${errorCode}`;
  }

  private stamp(shipment: Shipment): Stamped {
    const identity = this.identity ?? { id: -1n, epoch: -1 };
    const bytes = encodeBatch(
      shipment.records,
      shipment.count,
      CODECS[shipment.codec],
      Date.now(),
      {
        producerId: identity.id,
        producerEpoch: identity.epoch,
        baseSequence: this.sequences.get(keyOf(shipment)) ?? 0,
      },
    );
    return { shipment, bytes };
  }

  private async initIdentity(): Promise<{ id: bigint; epoch: number }> {
    const identity = await this.wire.initProducer();
    this.sequences.clear();
    return identity;
  }

  private failed(reason: string): void {
    this.stats.retries += 1;
    if (this.stats.lastError === undefined) {
      this.failedSince = performance.now();
      this.logger.warn({ reason }, 'Kafka does not take records; trying on');
    }
    this.stats.lastError = reason;
  }

  private recovered(): void {
    if (this.stats.lastError === undefined) return;
    this.stats.lastError = undefined;
    const ms = Math.round(performance.now() - this.failedSince);
    this.logger.info({ afterMs: ms }, 'Kafka takes records again');
  }

  /** Ends a send that is under way without a decision. */
  async close(): Promise<void> {
    this.closing.abort();
    await this.wire.close();
  }
}

function keyOf({ topic, partition }: { topic: string; partition: number }): string {
  return `${topic}/${partition}`;
}
