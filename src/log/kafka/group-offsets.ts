import type { Broker } from 'kafkajs';
import { unavailable } from './errors.ts';
import type { KafkaLogger, KafkaSettings } from './settings.ts';
import { fullName, LOG_TOPICS, partitionNumber, topicPartition } from './topics.ts';
import { type Placement, Wire } from './wire.ts';

interface OffsetsAnswer {
  responses: { topic: string; partitions: { partition: number; offset: string }[] }[];
}

/** Where the log's partitions begin and end, and what groups have committed; by the contract's numbers. */
export class GroupOffsets {
  private readonly wire: Wire;
  private readonly prefix: string;

  constructor(settings: KafkaSettings, logger: KafkaLogger) {
    this.prefix = settings.topicPrefix;
    const topics = LOG_TOPICS.map((topic) => fullName(this.prefix, topic));
    this.wire = new Wire(settings, logger, topics);
  }

  /** Throws a retryable error while Kafka is away. */
  async bounds(): Promise<Map<number, { first: number; end: number }>> {
    return this.run(async () => {
      const all = this.placements();
      const [firsts, ends] = await Promise.all([
        this.wire.offsets(all, true),
        this.wire.offsets(all, false),
      ]);
      const bounds = new Map<number, { first: number; end: number }>();
      for (const one of firsts) bounds.set(this.numberOf(one), { first: one.offset, end: 0 });
      for (const one of ends) {
        const known = bounds.get(this.numberOf(one));
        if (known !== undefined) known.end = one.offset;
      }
      return bounds;
    });
  }

  /** Throws a retryable error while Kafka is away. */
  async committed(group: string): Promise<Map<number, number>> {
    return this.run(async () => {
      const byTopic = Map.groupBy(this.placements(), ({ topic }) => topic);
      const topics = [...byTopic].map(([topic, its]) => ({ topic, partitions: its }));
      const { responses } = await this.wire.coordinator(
        group,
        (broker) =>
          broker.offsetFetch({ groupId: group, topics } as unknown as Parameters<
            Broker['offsetFetch']
          >[0]) as Promise<unknown> as Promise<OffsetsAnswer>,
      );
      return new Map(
        responses.flatMap(({ topic, partitions }) =>
          partitions
            .filter(({ offset }) => Number(offset) >= 0)
            .map(({ partition, offset }): [number, number] => [
              this.numberOf({ topic, partition }),
              Number(offset),
            ]),
        ),
      );
    });
  }

  /**
   * Commits without being a member, which Kafka allows while the group has none. Returns false when it
   * has some.
   */
  async commit(group: string, number: number, offset: number): Promise<boolean> {
    const { topic, partition } = this.placementOf(number);
    return this.run(() =>
      this.wire.coordinator(group, async (broker) => {
        try {
          await broker.offsetCommit({
            groupId: group,
            groupGenerationId: -1,
            memberId: '',
            topics: [{ topic, partitions: [{ partition, offset: String(offset) }] }],
          });
          return true;
        } catch (error) {
          if ((error as { type?: string }).type === 'UNKNOWN_MEMBER_ID') return false;
          throw error;
        }
      }),
    );
  }

  placementOf(number: number): Placement {
    const at = topicPartition(number);
    if (at === undefined) throw unavailable(`the log has no partition ${number}`);
    return { topic: fullName(this.prefix, at.topic), partition: at.partition };
  }

  numberOf({ topic, partition }: Placement): number {
    const short = LOG_TOPICS.find((one) => fullName(this.prefix, one) === topic);
    return short === undefined ? -1 : partitionNumber(short, partition);
  }

  async close(): Promise<void> {
    await this.wire.close();
  }

  private placements(): Placement[] {
    return LOG_TOPICS.flatMap((short) => {
      const topic = fullName(this.prefix, short);
      const count = this.wire.partitions(topic);
      return Array.from({ length: count }, (_, partition) => ({ topic, partition }));
    });
  }

  private async run<T>(work: () => Promise<T>): Promise<T> {
    await this.wire.prepare();
    return work();
  }
}
