import kafkajs, { type Broker, type Cluster, type Kafka } from 'kafkajs';
import RequestQueue from 'kafkajs/src/network/requestQueue/index.js';
import { closed, unavailable } from './errors.ts';
import { clientConfig, type KafkaLogger, type KafkaSettings } from './settings.ts';
import { within } from './waiting.ts';

/**
 * What is used of kafkajs 2.2.4 (pinned; nothing has been released since 2023): connections with TLS and
 * SASL, metadata, group membership and the admin calls. Records are encoded and decoded here
 * (`record-batch.ts`): measured with seven headers on a record, kafkajs takes 24 µs of CPU to produce one.
 *
 * Three places reach behind its interface, all in this file:
 * - the cluster object, which it hands to assigners of partitions only;
 * - `connectionPool.send` and `initProducerId` of a broker, which its types leave out;
 * - the queue of a connection, which otherwise arms a timer of 1 ms for ever, also while nothing waits
 *   (tulios/kafkajs#1751: about 5 % of a core, and a warning of a negative timeout).
 */
RequestQueue.prototype.scheduleCheckPendingRequests = function (this: RequestQueue): void {
  if (this.throttleCheckTimeoutId !== null || this.pending.length === 0) return;
  const throttledMs = this.throttledUntil - Date.now();
  this.throttleCheckTimeoutId = setTimeout(
    () => {
      this.throttleCheckTimeoutId = null;
      this.checkPendingRequests();
    },
    Math.max(throttledMs, 10),
  );
};

export function createKafka(settings: KafkaSettings, logger: KafkaLogger): Kafka {
  return new kafkajs.Kafka(clientConfig(settings, logger));
}

/** A request of ours and how to read its answer, in the form that connections of kafkajs take. */
export interface Exchange<T> {
  request: {
    apiKey: number;
    apiVersion: number;
    apiName: string;
    encode(): Promise<{ buf: Buffer; buffer: Buffer; size(): number }>;
  };
  response: {
    decode(payload: Buffer): Promise<T & { clientSideThrottleTime: number }>;
    parse(decoded: T): Promise<T>;
  };
  /** Raises the client's request timeout, ms. */
  requestTimeout?: number;
}

type WireBroker = Broker & {
  connectionPool: {
    host: string;
    port: number;
    send<T>(exchange: Exchange<T>): Promise<T>;
  };
  initProducerId(request: { transactionTimeout: number }): Promise<{
    producerId: string;
    producerEpoch: number;
  }>;
};

/** The answer's length is known when it has come; an encoded request in kafkajs's form. */
export function encoded(buffer: Buffer): { buf: Buffer; buffer: Buffer; size(): number } {
  return { buf: buffer, buffer, size: () => buffer.length };
}

/**
 * The cluster object behind a consumer of kafkajs, which it hands to assigners of partitions. Ours by
 * that: connections and metadata of their own, not shared with any other part.
 */
export function captureCluster(kafka: Kafka): Cluster {
  let captured: Cluster | undefined;
  kafka.consumer({
    groupId: 'unused',
    allowAutoTopicCreation: false,
    metadataMaxAge: 60_000,
    partitionAssigners: [
      ({ cluster }) => {
        captured = cluster;
        return {
          name: 'unused',
          version: 0,
          assign: async () => [],
          protocol: () => ({ name: 'unused', metadata: Buffer.alloc(0) }),
        };
      },
    ],
  });
  if (captured === undefined) throw new Error('kafkajs did not hand over its cluster');
  return captured;
}

const CLOSE_PATIENCE_MS = 2_000;

export interface Placement {
  topic: string;
  partition: number;
}

/**
 * Metadata and connections for requests of our own; for one part at a time. Whatever hangs in kafkajs for
 * longer than its timeouts allow is given up together with its connections.
 */
export class Wire {
  private readonly kafka: Kafka;
  private readonly topics: string[];
  private readonly hangsAfterMs: number;
  private readonly underWay = new Set<Promise<unknown>>();
  private cluster: Cluster;
  private isClosed = false;

  constructor(kafka: Kafka, topics: string[], settings: KafkaSettings) {
    this.kafka = kafka;
    this.topics = topics;
    this.hangsAfterMs = 2 * (settings.connectTimeoutMs + settings.requestTimeoutMs);
    this.cluster = captureCluster(kafka);
  }

  /** Connects where needed and loads metadata. Throws what {@link unavailable} makes. */
  async refresh(): Promise<void> {
    await this.guard('its metadata could not be loaded', async (cluster) => {
      if (!cluster.isConnected()) await cluster.connect();
      await cluster.addMultipleTargetTopics(this.topics);
      await cluster.refreshMetadata();
    });
  }

  async refreshIfOld(): Promise<void> {
    await this.guard('its metadata could not be loaded', (cluster) =>
      cluster.refreshMetadataIfNecessary(),
    );
  }

  /** How many partitions a topic has; 0 while it is not known. */
  partitions(topic: string): number {
    return this.cluster.findTopicPartitionMetadata(topic).length;
  }

  /** The node that leads a partition; undefined while none is known. */
  leader(topic: string, partition: number): number | undefined {
    const found = this.cluster
      .findTopicPartitionMetadata(topic)
      .find((one) => one.partitionId === partition);
    return found === undefined || found.leader < 0 ? undefined : found.leader;
  }

  /**
   * Sends to one node. After an error its connection is not used again: a node that has not answered in
   * time may be gone without a word.
   */
  send<T>(nodeId: number, exchange: Exchange<T>): Promise<T> {
    return this.guard(`node ${nodeId} did not answer`, async (cluster) => {
      const broker = (await cluster.findBroker({ nodeId: String(nodeId) })) as WireBroker;
      try {
        return await broker.connectionPool.send(exchange);
      } catch (error) {
        cluster.removeBroker(broker.connectionPool);
        void broker.disconnect().catch(() => {});
        throw error;
      }
    });
  }

  /** A new identity for an idempotent producer. */
  initProducer(): Promise<{ id: bigint; epoch: number }> {
    return this.guard('no identity for the producer', async (cluster) => {
      const [nodeId] = cluster.getNodeIds();
      const broker = (await cluster.findBroker({ nodeId: String(nodeId) })) as WireBroker;
      const { producerId, producerEpoch } = await broker.initProducerId({
        transactionTimeout: 60_000,
      });
      return { id: BigInt(producerId), epoch: producerEpoch };
    });
  }

  /** The node that keeps a group's offsets. */
  coordinator<T>(groupId: string, call: (broker: Broker) => Promise<T>): Promise<T> {
    return this.guard(`the offsets of group ${groupId} are out of reach`, async (cluster) =>
      call(await cluster.findGroupCoordinator({ groupId })),
    );
  }

  /** Earliest or latest offsets of the partitions, in any order. */
  offsets(
    placements: readonly Placement[],
    earliest: boolean,
  ): Promise<(Placement & { offset: number })[]> {
    return this.guard('its offsets are out of reach', async (cluster) => {
      const byTopic = Map.groupBy(placements, ({ topic }) => topic);
      const found = await cluster.fetchTopicsOffset(
        [...byTopic].map(([topic, its]) => ({
          topic,
          partitions: its.map(({ partition }) => ({ partition })),
          fromBeginning: earliest,
        })),
      );
      return found.flatMap(({ topic, partitions }) =>
        partitions.map(({ partition, offset }) => ({ topic, partition, offset: Number(offset) })),
      );
    });
  }

  async close(): Promise<void> {
    this.isClosed = true;
    await this.disconnect();
    // What was under way may have opened a connection meanwhile.
    await within(Promise.allSettled(this.underWay), CLOSE_PATIENCE_MS);
    await this.disconnect();
  }

  private async disconnect(): Promise<void> {
    const { cluster } = this;
    await within(
      cluster.disconnect().catch(() => {}),
      CLOSE_PATIENCE_MS,
    );
  }

  private async guard<T>(what: string, work: (cluster: Cluster) => Promise<T>): Promise<T> {
    if (this.isClosed) throw closed();
    const { cluster } = this;
    const running = work(cluster).then((value) => ({ value }));
    this.underWay.add(running);
    let outcome: { value: T } | undefined;
    try {
      outcome = await within(running, this.hangsAfterMs);
    } catch (cause) {
      throw unavailable(what, cause);
    } finally {
      this.underWay.delete(running);
    }
    if (outcome !== undefined) return outcome.value;
    if (this.cluster === cluster) this.cluster = captureCluster(this.kafka);
    void cluster.disconnect().catch(() => {});
    throw unavailable(what);
  }
}
