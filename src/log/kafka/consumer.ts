import type { ReceivedCount } from '../../core/nouns.ts';
import type {
  Account,
  ConsumeOptions,
  LogBatch,
  LogConsumer,
  ReceivedFilter,
} from '../contract.ts';
import { Consumption, type ConsumptionLimits } from './consumption.ts';
import { closed } from './errors.ts';
import { GroupOffsets } from './group-offsets.ts';
import { ReceivedAccount } from './received-account.ts';
import { partitionOf } from './routing.ts';
import type { KafkaLogger, KafkaSettings } from './settings.ts';
import { LOG_TOPICS, partitionNumber, topicPartition } from './topics.ts';

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
  private accounts: ReceivedAccount | undefined;
  /** 0: not known yet. */
  private readingsPartitions = 0;
  private isClosed = false;

  constructor(options: KafkaLogConsumerOptions) {
    this.options = options;
    this.offsets = new GroupOffsets(options.settings, options.logger);
  }

  async *consume(group: string, options: ConsumeOptions): AsyncIterable<LogBatch> {
    if (options.signal.aborted) return;
    if (this.isClosed) throw closed();
    const { settings, limits, logger } = this.options;
    const consumption = new Consumption(
      settings,
      this.groupId(group),
      options,
      limits,
      this.offsets,
      logger,
    );
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
    const committed = await this.offsets.committed(this.groupId(group));
    if (offset > (committed.get(partition) ?? -1)) {
      await this.offsets.commit(this.groupId(group), partition, offset);
    }
  }

  committed(group: string): Promise<Map<number, number>> {
    return this.offsets.committed(this.groupId(group));
  }

  async bounds(): Promise<Map<number, { first: number; end: number }>> {
    const bounds = await this.offsets.bounds();
    const readings = [...bounds.keys()].filter((one) => topicPartition(one)?.topic === 'readings');
    this.readingsPartitions = readings.length;
    return bounds;
  }

  isBackfill(partition: number): boolean {
    return topicPartition(partition)?.topic === 'backfill';
  }

  partitionOf(tenant: string, device: string): number | undefined {
    if (this.readingsPartitions === 0) return undefined;
    const partition = partitionOf(`${tenant}/${device}`, this.readingsPartitions);
    return partitionNumber('readings', partition);
  }

  partitionsOf(tenant: string, device: string): number[] {
    const partition = this.partitionOf(tenant, device);
    if (partition === undefined) return [];
    return LOG_TOPICS.map((topic) => partitionNumber(topic, partition));
  }

  /** From what the gateways have written by now. */
  received(filter: ReceivedFilter): Promise<ReceivedCount[]> {
    return this.accountOf().received(filter);
  }

  account(filter: ReceivedFilter): Promise<Account> {
    return this.accountOf().account(filter);
  }

  async close(): Promise<void> {
    this.isClosed = true;
    const all = [...this.running.values()].flatMap((siblings) => [...siblings]);
    await Promise.all(all.map((one) => one.close()));
    await this.accounts?.close();
    await this.offsets.close();
  }

  /** Kafka's name of a group: clusters are shared. */
  private groupId(group: string): string {
    return `${this.options.settings.topicPrefix}.${group}`;
  }

  /** Read when somebody asks for the first time, and kept up to date from there. */
  private accountOf(): ReceivedAccount {
    if (this.isClosed) throw closed();
    this.accounts ??= new ReceivedAccount(this.options.settings, this.options.logger);
    return this.accounts;
  }
}
