import { setTimeout as sleep } from 'node:timers/promises';
import type { ReceivedCount } from '../../core/nouns.ts';
import type {
  Account,
  ConsumeOptions,
  LogBatch,
  LogConsumer,
  ReceivedFilter,
} from '../contract.ts';
import { CompactedTable } from './compacted-table.ts';
import { Consumption, type ConsumptionLimits } from './consumption.ts';
import { closed, unavailable } from './errors.ts';
import { GroupOffsets } from './group-offsets.ts';
import { parseTallyLine, parseTallyValue, type TallyMark } from './received-tally.ts';
import type { KafkaLogger, KafkaSettings } from './settings.ts';
import { fullName } from './topics.ts';

/** How often, and after what time, an account is looked at again whose lines are being written. */
const CHANGING_ATTEMPTS = 50;
const CHANGING_PAUSE_MS = 100;

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
  private accounts: CompactedTable<number | TallyMark> | undefined;
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

  bounds(): Promise<Map<number, { first: number; end: number }>> {
    return this.offsets.bounds();
  }

  /** From what the gateways have written by now, at most their `tallyIntervalMs` old. */
  async received(filter: ReceivedFilter): Promise<ReceivedCount[]> {
    const table = this.table();
    await table.caughtUp();
    return sums(table.entries(), filter);
  }

  async account(filter: ReceivedFilter): Promise<Account> {
    const table = this.table();
    for (let attempt = 0; ; attempt++) {
      await table.caughtUp();
      const upTo = new Map<string, number>();
      let waiting = 0;
      let isChanging = false;
      for (const [key, value] of table.entries()) {
        if (typeof value === 'number') continue;
        if (value.upTo === null) isChanging = true;
        else upTo.set(key, value.upTo);
        waiting += value.waiting;
      }
      if (!isChanging) return { counts: sums(table.entries(), filter), upTo, waiting };
      if (attempt >= CHANGING_ATTEMPTS) {
        throw unavailable('a gateway has not finished writing its account');
      }
      await sleep(CHANGING_PAUSE_MS);
    }
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
  private table(): CompactedTable<number | TallyMark> {
    if (this.isClosed) throw unavailable('closed');
    const { settings, logger } = this.options;
    this.accounts ??= new CompactedTable<number | TallyMark>({
      settings,
      logger,
      topic: fullName(settings.topicPrefix, 'received'),
      decode: parseTallyValue,
    });
    return this.accounts;
  }
}

/** Sums over all gateways. */
function sums(
  entries: Iterable<[string, number | TallyMark]>,
  { tenant, from = 0, to = Number.MAX_SAFE_INTEGER }: ReceivedFilter,
): ReceivedCount[] {
  const found = new Map<string, ReceivedCount>();
  for (const [key, value] of entries) {
    const one = typeof value === 'number' ? parseTallyLine(key, value) : undefined;
    if (one === undefined || (tenant !== undefined && one.tenant !== tenant)) continue;
    if (one.hour < from || one.hour >= to) continue;
    const name = key.slice(key.indexOf('/'));
    const sum = found.get(name);
    if (sum === undefined) found.set(name, one);
    else sum.count += one.count;
  }
  return [...found.values()];
}
