import type { ReceivedCount } from '../../core/nouns.ts';
import type { ConsumeOptions, LogBatch, LogConsumer } from '../contract.ts';
import { CompactedTable } from './compacted-table.ts';
import { Consumption, type ConsumptionLimits } from './consumption.ts';
import { closed, unavailable } from './errors.ts';
import { GroupOffsets } from './group-offsets.ts';
import { parseTallyLine } from './received-tally.ts';
import type { KafkaLogger, KafkaSettings } from './settings.ts';
import { fullName } from './topics.ts';

export interface KafkaLogConsumerOptions {
  settings: KafkaSettings;
  limits: ConsumptionLimits;
  logger: KafkaLogger;
}

/**
 * Reads the log that gateways have forwarded to Kafka. Partitions are shared among the `consume` calls of
 * a group, in this process and others. The topics must exist.
 */
export class KafkaLogConsumer implements LogConsumer {
  private readonly options: KafkaLogConsumerOptions;
  private readonly offsets: GroupOffsets;
  private readonly running = new Map<string, Set<Consumption>>();
  private accounts: CompactedTable<number> | undefined;
  private isClosed = false;

  constructor(options: KafkaLogConsumerOptions) {
    this.options = options;
    this.offsets = new GroupOffsets(options.settings, options.logger);
  }

  async *consume(group: string, options: ConsumeOptions): AsyncIterable<LogBatch> {
    if (options.signal.aborted) return;
    if (this.isClosed) throw closed();
    const { settings, limits, logger } = this.options;
    const consumption = new Consumption(settings, group, options, limits, this.offsets, logger);
    const siblings = this.running.get(group) ?? new Set();
    this.running.set(group, siblings.add(consumption));
    try {
      for (;;) {
        const batch = await consumption.next();
        if (batch === undefined) return;
        yield batch;
      }
    } finally {
      siblings.delete(consumption);
      await consumption.close();
    }
  }

  /**
   * As the member that has the partition, where a `consume` call of this object does; else as nobody, which
   * has no effect while the group has members: the partition's owner commits then. Throws a retryable
   * error while Kafka is away.
   */
  async commit(group: string, partition: number, offset: number): Promise<void> {
    const owner = [...(this.running.get(group) ?? [])].find((one) => one.holds(partition));
    if (owner !== undefined) return owner.commit(partition, offset);
    const committed = await this.offsets.committed(group);
    if (offset > (committed.get(partition) ?? -1)) {
      await this.offsets.commit(group, partition, offset);
    }
  }

  committed(group: string): Promise<Map<number, number>> {
    return this.offsets.committed(group);
  }

  bounds(): Promise<Map<number, { first: number; end: number }>> {
    return this.offsets.bounds();
  }

  /** From what the gateways have written by now, at most their `tallyIntervalMs` old. */
  async received(filter: {
    tenant?: string;
    from?: number;
    to?: number;
  }): Promise<ReceivedCount[]> {
    const sums = new Map<string, ReceivedCount>();
    const table = this.table();
    await table.caughtUp();
    for (const [key, count] of table.entries()) {
      const one = parseTallyLine(key, count);
      if (one === undefined) continue;
      if (filter.tenant !== undefined && one.tenant !== filter.tenant) continue;
      if (one.hour < (filter.from ?? 0)) continue;
      if (one.hour >= (filter.to ?? Number.MAX_SAFE_INTEGER)) continue;
      const name = key.slice(key.indexOf('/'));
      const sum = sums.get(name);
      if (sum === undefined) sums.set(name, one);
      else sum.count += count;
    }
    return [...sums.values()];
  }

  async close(): Promise<void> {
    this.isClosed = true;
    const all = [...this.running.values()].flatMap((siblings) => [...siblings]);
    await Promise.all(all.map((one) => one.close()));
    await this.accounts?.close();
    await this.offsets.close();
  }

  /** Read when somebody asks for the first time, and kept up to date from there. */
  private table(): CompactedTable<number> {
    if (this.isClosed) throw unavailable('closed');
    const { settings, logger } = this.options;
    this.accounts ??= new CompactedTable<number>({
      settings,
      logger,
      topic: fullName(settings.topicPrefix, 'received'),
      decode: (value) => {
        const { count } = JSON.parse(value) as { count?: unknown };
        if (typeof count !== 'number') throw new SyntaxError('no count');
        return count;
      },
    });
    return this.accounts;
  }
}
