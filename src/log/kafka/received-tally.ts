import type { Clock } from '../../core/clock.ts';
import type { ReceivedCount } from '../../core/nouns.ts';
import { compress, type WrittenCodec } from './codecs.ts';
import type { Producer } from './producer.ts';
import { RecordWriter } from './record-batch.ts';
import { partitionOf } from './routing.ts';
import type { KafkaLogger } from './settings.ts';

/**
 * A gateway's own account in a shared, compacted topic: one key for each line of it, with the whole count
 * so far, so that a line may be written again at any time.
 *
 *   key    <source>/<tenant>/<device>/<hour, ms>/<outcome>/<code>
 *   value  {"count":123}
 *   key    <source>
 *   value  {"upTo":4711,"waiting":0}: the lines count the records with numbers below `upTo`, all of which
 *          are in Kafka; {"upTo":null,…} while lines are being written that do not fit into one batch.
 */
const LINES_PER_BATCH = 2_000;
const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;

type Line = readonly [key: string, value: { count: number } | TallyMark | null];

export function tallyLine(gateway: string, one: ReceivedCount): string {
  return `${gateway}/${one.tenant}/${one.device}/${one.hour}/${one.outcome}/${one.code}`;
}

/** How far a gateway's lines reach. */
export interface TallyMark {
  /** Null: they are being changed. */
  upTo: number | null;
  /** Records of the spool from there on. */
  waiting: number;
}

/** A value of the topic: a line's count or a mark. Throws SyntaxError. */
export function parseTallyValue(value: string): number | TallyMark {
  const { count, upTo, waiting } = JSON.parse(value) as Record<string, unknown>;
  if (typeof count === 'number') return count;
  if (typeof upTo !== 'number' && upTo !== null) throw new SyntaxError('neither count nor upTo');
  return { upTo, waiting: typeof waiting === 'number' ? waiting : 0 };
}

/** Undefined for a key that is no line of an account. */
export function parseTallyLine(key: string, count: number): ReceivedCount | undefined {
  const [, tenant, device, hour, outcome, code] = key.split('/');
  if (tenant === undefined || device === undefined || code === undefined) return undefined;
  return {
    tenant,
    device,
    hour: Number(hour),
    outcome: outcome as ReceivedCount['outcome'],
    code,
    count,
  };
}

/** What the forwarder needs of the spool. */
export interface TallySource {
  /** Counts of the records before an offset, which is the end of a commit. */
  receivedBefore(filter: { from: number; to?: number }, offset: number): Promise<ReceivedCount[]>;
}

/** Writes the lines that have changed since the last time. */
export class TallyWriter {
  private readonly spool: TallySource;
  private readonly gateway: string;
  private readonly topic: string;
  private readonly partitions: number;
  private readonly codec: WrittenCodec;
  private readonly logger: KafkaLogger;
  private readonly keepMs: number;
  private readonly clock: Clock;
  private removeDue = Number.NEGATIVE_INFINITY;
  /** Counts as they stand in Kafka, of the hours from {@link from} on. */
  private readonly written = new Map<string, number>();
  /** Lines of earlier hours are complete, unless a record says otherwise. */
  private from = Number.POSITIVE_INFINITY;

  constructor(options: {
    spool: TallySource;
    gateway: string;
    topic: string;
    partitions: number;
    codec: WrittenCodec;
    logger: KafkaLogger;
    /** How long the spool keeps its account, ms; 0: for ever. */
    keepMs: number;
    clock: Clock;
  }) {
    this.spool = options.spool;
    this.gateway = options.gateway;
    this.topic = options.topic;
    this.partitions = options.partitions;
    this.codec = options.codec;
    this.logger = options.logger;
    this.keepMs = options.keepMs;
    this.clock = options.clock;
  }

  /**
   * The account of the records before `upTo`, all of which are in Kafka. `oldest`: least gateway time of
   * those that came since the last call (at the first one: of those that are not counted), ms. `waiting`:
   * records of the spool from `upTo` on. Resolves with the number of lines.
   */
  async write(
    producer: Producer,
    { oldest, upTo, waiting }: { oldest: number; upTo: number; waiting: number },
  ): Promise<number> {
    const from = Math.min(this.from, Math.floor(oldest / HOUR_MS) * HOUR_MS);
    const changed = (await this.spool.receivedBefore({ from }, upTo))
      .map((one) => ({ key: tallyLine(this.gateway, one), hour: one.hour, count: one.count }))
      .filter(({ key, count }) => this.written.get(key) !== count);
    const lines: Line[] = changed.map(({ key, count }) => [key, { count }]);
    const fitsOne = this.partitions === 1 && lines.length < LINES_PER_BATCH;
    if (!fitsOne) await this.send(producer, [[this.gateway, { upTo: null, waiting }]]);
    while (lines.length >= LINES_PER_BATCH) {
      await this.send(producer, lines.splice(0, LINES_PER_BATCH));
    }
    await this.send(producer, [...lines, [this.gateway, { upTo, waiting }]]);
    for (const { key, count } of changed) this.written.set(key, count);
    this.forget(changed.map(({ hour }) => hour));
    await this.removeOld(producer, upTo);
    return changed.length;
  }

  /**
   * Once a day, removes the lines that the spool is about to drop; audits look at none of them any more. A
   * gateway that was away for longer than that leaves some for ever.
   */
  private async removeOld(producer: Producer, upTo: number): Promise<void> {
    const now = this.clock.now();
    if (this.keepMs === 0 || now < this.removeDue) return;
    this.removeDue = now + DAY_MS;
    const to = Math.floor((now - this.keepMs - DAY_MS / 2) / HOUR_MS) * HOUR_MS;
    if (to <= 0) return;
    const old = await this.spool.receivedBefore({ from: 0, to }, upTo);
    const lines = old.map((one): Line => [tallyLine(this.gateway, one), null]);
    while (lines.length > 0) await this.send(producer, lines.splice(0, LINES_PER_BATCH));
  }

  private async send(producer: Producer, lines: readonly Line[]): Promise<void> {
    const writers = new Map<number, RecordWriter>();
    for (const [key, value] of lines) {
      const partition = partitionOf(key, this.partitions);
      const writer = writers.get(partition) ?? new RecordWriter(4_096);
      writers.set(partition, writer);
      writer.add(Buffer.from(key), value === null ? null : JSON.stringify(value));
    }
    const outcomes = await producer.send(
      [...writers].map(([partition, writer]) => ({
        topic: this.topic,
        partition,
        codec: this.codec,
        records: compress(writer.records, this.codec),
        count: writer.count,
      })),
    );
    const refused = outcomes.find((outcome) => 'refusedWith' in outcome);
    if (refused === undefined) return;
    this.logger.warn(
      { topic: this.topic, kafkaCode: refused.refusedWith },
      'Kafka refused a part of the account; audits will show a difference',
    );
  }

  /** Keeps the lines of the last two hours that changed; what changes before is read again. */
  private forget(hours: number[]): void {
    const newest = hours.reduce((max, hour) => Math.max(max, hour), 0);
    if (newest === 0) return;
    const from = newest - HOUR_MS;
    this.from = this.from === Number.POSITIVE_INFINITY ? from : Math.max(this.from, from);
    for (const key of this.written.keys()) {
      if (Number(key.split('/')[3]) < this.from) this.written.delete(key);
    }
  }
}
