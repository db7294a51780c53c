import type { ReceivedCount } from '../../core/nouns.ts';
import type { LogConsumer } from '../contract.ts';
import { compress, type WrittenCodec } from './codecs.ts';
import type { Producer } from './producer.ts';
import { RecordWriter } from './record-batch.ts';
import { partitionOf } from './routing.ts';

/**
 * A gateway's own account in a shared, compacted topic: one key for each line of it, with the whole count
 * so far, so that a line may be written again at any time.
 *
 *   key    <gateway>/<tenant>/<device>/<hour, ms>/<outcome>/<code>
 *   value  {"count":123}
 */
const LINES_PER_BATCH = 2_000;
const HOUR_MS = 3_600_000;

export function tallyLine(gateway: string, one: ReceivedCount): string {
  return `${gateway}/${one.tenant}/${one.device}/${one.hour}/${one.outcome}/${one.code}`;
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

/** Writes the lines that have changed since the last time. */
export class TallyWriter {
  private readonly spool: Pick<LogConsumer, 'received'>;
  private readonly gateway: string;
  private readonly topic: string;
  private readonly partitions: number;
  private readonly codec: WrittenCodec;
  /** Counts as they stand in Kafka, of the hours from {@link from} on. */
  private readonly written = new Map<string, number>();
  /** Lines of earlier hours are complete; at the start all lines are written. */
  private from = 0;

  constructor(options: {
    spool: Pick<LogConsumer, 'received'>;
    gateway: string;
    topic: string;
    partitions: number;
    codec: WrittenCodec;
  }) {
    this.spool = options.spool;
    this.gateway = options.gateway;
    this.topic = options.topic;
    this.partitions = options.partitions;
    this.codec = options.codec;
  }

  /** `oldest`: least gateway time of the records since the last call, ms. */
  async write(producer: Producer, oldest: number): Promise<void> {
    const from = Math.min(this.from, Math.floor(oldest / HOUR_MS) * HOUR_MS);
    const changed = (await this.spool.received({ from }))
      .map((one) => ({ key: tallyLine(this.gateway, one), one }))
      .filter(({ key, one }) => this.written.get(key) !== one.count);
    for (let i = 0; i < changed.length; i += LINES_PER_BATCH) {
      await this.send(producer, changed.slice(i, i + LINES_PER_BATCH));
    }
    for (const { key, one } of changed) this.written.set(key, one.count);
    this.forget(changed.map(({ one }) => one.hour));
  }

  private async send(
    producer: Producer,
    lines: { key: string; one: ReceivedCount }[],
  ): Promise<void> {
    const writers = new Map<number, RecordWriter>();
    for (const { key, one } of lines) {
      const partition = partitionOf(key, this.partitions);
      const writer = writers.get(partition) ?? new RecordWriter(4_096);
      writers.set(partition, writer);
      writer.add(Buffer.from(key), `{"count":${one.count}}`);
    }
    await producer.send(
      [...writers].map(([partition, writer]) => ({
        topic: this.topic,
        partition,
        codec: this.codec,
        records: compress(writer.records, this.codec),
        count: writer.count,
      })),
    );
  }

  /** Keeps the lines of the last two hours that changed; what changes before is read again. */
  private forget(hours: number[]): void {
    const newest = hours.reduce((max, hour) => Math.max(max, hour), 0);
    if (newest === 0) return;
    this.from = Math.max(this.from, newest - HOUR_MS);
    for (const key of this.written.keys()) {
      if (Number(key.split('/')[3]) < this.from) this.written.delete(key);
    }
  }
}
