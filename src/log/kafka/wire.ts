import type { Broker, Cluster, Kafka } from 'kafkajs';
import { captureCluster, createKafka } from './client.ts';
import { closed, typeOf, unavailable } from './errors.ts';
import type { KafkaLogger, KafkaSettings } from './settings.ts';
import { Sockets } from './sockets.ts';
import { within } from './waiting.ts';

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
  requestTimeout: number;
}

/** How much longer than the broker may wait by itself an answer may take at least, ms. */
export const ANSWER_MARGIN_MS = 2_000;

/** An encoded request in kafkajs's form. */
export function encoded(buffer: Buffer): { buf: Buffer; buffer: Buffer; size(): number } {
  return { buf: buffer, buffer, size: () => buffer.length };
}

/** What a broker of kafkajs can do beside what its types say. */
type WireBroker = Broker & {
  nodeId: number | string;
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

export interface GroupJoin {
  generationId: number;
  leaderId: string;
  memberId: string;
  /** For the leader only. */
  members: { memberId: string; memberMetadata: Buffer }[];
}

/** The requests of a group to its coordinator. Each throws an error whose {@link typeOf} is the protocol's. */
export type GroupBroker = Pick<Broker, 'offsetCommit' | 'offsetFetch'> & {
  joinGroup(request: {
    groupId: string;
    sessionTimeout: number;
    rebalanceTimeout: number;
    memberId: string;
    groupProtocols: { name: string; metadata: Buffer }[];
  }): Promise<GroupJoin>;
  syncGroup(request: {
    groupId: string;
    generationId: number;
    memberId: string;
    groupAssignment: { memberId: string; memberAssignment: Buffer }[];
  }): Promise<{ memberAssignment: Buffer }>;
  heartbeat(request: {
    groupId: string;
    groupGenerationId: number;
    memberId: string;
  }): Promise<unknown>;
  leaveGroup(request: { groupId: string; memberId: string }): Promise<unknown>;
};

export interface Placement {
  topic: string;
  partition: number;
}

/** Errors of a group's request after which another node has to be asked. */
const MOVED: ReadonlySet<string | undefined> = new Set([
  'NOT_COORDINATOR_FOR_GROUP',
  'GROUP_COORDINATOR_NOT_AVAILABLE',
]);

const CLOSE_PATIENCE_MS = 2_000;

/**
 * Metadata and connections for requests of our own; for one part at a time. A request that fails takes its
 * connection with it: a node that has not answered in time may be gone without a word. Whatever hangs in
 * kafkajs for longer than its timeouts allow is given up together with all connections. So it is when what
 * kafkajs does before our request fails: after a connection whose first question was not answered in time
 * (a broker that was stopped for a while) it takes that connection for a good one and fails for ever.
 */
export class Wire {
  private readonly kafka: Kafka;
  private readonly topics: string[];
  private readonly hangsAfterMs: number;
  private readonly sockets = new Sockets();
  private readonly underWay = new Set<Promise<unknown>>();
  private cluster: Cluster;
  /** How often it has begun anew. */
  private turn = 0;
  /** Node of each group's coordinator, as it was found last. */
  private readonly coordinators = new Map<string, string>();
  private isStale = true;
  private isClosed = false;

  constructor(settings: KafkaSettings, logger: KafkaLogger, topics: string[]) {
    const brokers = () => rotated(settings.brokers, this.turn);
    this.kafka = createKafka(settings, logger, { sockets: this.sockets, brokers });
    this.topics = topics;
    this.hangsAfterMs = 2 * (settings.connectTimeoutMs + settings.requestTimeoutMs);
    this.cluster = captureCluster(this.kafka);
  }

  /**
   * To be called before what else is here: connects where needed, and loads metadata that is old or that
   * something has shown to be wrong. Throws what {@link unavailable} makes.
   */
  async prepare(): Promise<void> {
    const wasStale = this.isStale;
    this.isStale = false;
    const { cluster } = this;
    try {
      await this.guard('its metadata could not be loaded', this.hangsAfterMs, async () => {
        if (!wasStale) return cluster.refreshMetadataIfNecessary();
        if (!cluster.isConnected()) await cluster.connect();
        await cluster.addMultipleTargetTopics(this.topics);
        return cluster.refreshMetadata();
      });
    } catch (error) {
      this.isStale = true;
      this.doubt(cluster, error);
      throw error;
    }
  }

  /** The metadata is wrong; the next {@link prepare} loads it. */
  invalidate(): void {
    this.isStale = true;
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

  send<T>(nodeId: number, exchange: Exchange<T>): Promise<T> {
    const patienceMs = Math.max(this.hangsAfterMs, 2 * exchange.requestTimeout);
    return this.guard(`node ${nodeId} did not answer`, patienceMs, (cluster) =>
      this.ask(cluster, String(nodeId), (broker) => broker.connectionPool.send(exchange)),
    );
  }

  /** A new identity for an idempotent producer. */
  initProducer(): Promise<{ id: bigint; epoch: number }> {
    return this.guard('no identity for the producer', this.hangsAfterMs, async (cluster) => {
      const [nodeId = ''] = cluster.getNodeIds();
      const { producerId, producerEpoch } = await this.ask(cluster, String(nodeId), (broker) =>
        broker.initProducerId({ transactionTimeout: 60_000 }),
      );
      return { id: BigInt(producerId), epoch: producerEpoch };
    });
  }

  /** Calls the node that keeps a group. `patienceMs`: how long the answer may take. */
  coordinator<T>(
    groupId: string,
    call: (broker: GroupBroker) => Promise<T>,
    patienceMs = this.hangsAfterMs,
  ): Promise<T> {
    return this.guard(`group ${groupId} is out of reach`, patienceMs, async (cluster) => {
      const nodeId = this.coordinators.get(groupId) ?? (await this.locate(cluster, groupId));
      try {
        return await this.ask(cluster, nodeId, (broker) => call(broker as unknown as GroupBroker));
      } catch (error) {
        const type = typeOf(error);
        if (type === undefined || MOVED.has(type)) this.coordinators.delete(groupId);
        throw error;
      }
    });
  }

  /** Earliest or latest offsets of the partitions, in any order. */
  offsets(
    placements: readonly Placement[],
    earliest: boolean,
  ): Promise<(Placement & { offset: number })[]> {
    return this.guard('its offsets are out of reach', this.hangsAfterMs, async (cluster) => {
      const byTopic = Map.groupBy(placements, ({ topic }) => topic);
      const asking = cluster.fetchTopicsOffset(
        [...byTopic].map(([topic, its]) => ({
          topic,
          partitions: its.map(({ partition }) => ({ partition })),
          fromBeginning: earliest,
        })),
      );
      const found = await asking.catch((error: unknown) => {
        this.doubt(cluster, error);
        throw error;
      });
      return found.flatMap(({ topic, partitions }) =>
        partitions.map(({ partition, offset }) => ({ topic, partition, offset: Number(offset) })),
      );
    });
  }

  /** Gives up everything that is under way, and begins with new connections, at another broker if there are some. */
  reset(): void {
    if (this.isClosed) return;
    const { cluster } = this;
    this.turn += 1;
    this.cluster = captureCluster(this.kafka);
    this.coordinators.clear();
    this.isStale = true;
    this.sockets.drop('given up');
    void cluster.disconnect().catch(() => {});
  }

  async close(): Promise<void> {
    this.isClosed = true;
    this.sockets.close();
    await within(
      Promise.allSettled([...this.underWay, this.cluster.disconnect()]),
      CLOSE_PATIENCE_MS,
    );
  }

  /** Finds the node that keeps a group. */
  private async locate(cluster: Cluster, groupId: string): Promise<string> {
    try {
      const found = (await cluster.findGroupCoordinator({ groupId })) as WireBroker;
      const nodeId = String(found.nodeId);
      this.coordinators.set(groupId, nodeId);
      return nodeId;
    } catch (error) {
      this.doubt(cluster, error);
      throw error;
    }
  }

  private async ask<T>(
    cluster: Cluster,
    nodeId: string,
    call: (broker: WireBroker) => Promise<T>,
  ): Promise<T> {
    const broker = await this.find(cluster, nodeId);
    try {
      return await call(broker);
    } catch (error) {
      // An answer with an error of the protocol is one.
      if (typeOf(error) === undefined) {
        const { host, port } = broker.connectionPool;
        cluster.removeBroker({ host, port });
        this.sockets.drop('a request failed', host, port);
      }
      throw error;
    }
  }

  private async find(cluster: Cluster, nodeId: string): Promise<WireBroker> {
    try {
      return (await cluster.findBroker({ nodeId })) as WireBroker;
    } catch (error) {
      this.doubt(cluster, error);
      throw error;
    }
  }

  /**
   * A connection that was made, but on which the first request was not answered in time, counts as a good
   * one in kafkajs, and every request on it fails from then on ("Broker not connected"). So after anything
   * that is neither an answer nor a refused connection it begins anew.
   */
  private doubt(cluster: Cluster, error: unknown): void {
    if (typeOf(error) !== undefined || isRefusal(error)) return;
    if (this.cluster === cluster) this.reset();
  }

  private async guard<T>(
    what: string,
    patienceMs: number,
    work: (cluster: Cluster) => Promise<T>,
  ): Promise<T> {
    if (this.isClosed) throw closed();
    const { cluster } = this;
    const running = work(cluster).then((value) => ({ value }));
    this.underWay.add(running);
    let outcome: { value: T } | undefined;
    try {
      outcome = await within(running, patienceMs);
    } catch (cause) {
      const type = typeOf(cause);
      if (type === undefined || MOVED.has(type)) this.isStale = true;
      throw unavailable(what, cause);
    } finally {
      this.underWay.delete(running);
    }
    if (outcome !== undefined) return outcome.value;
    if (this.cluster === cluster) this.reset();
    throw unavailable(what);
  }
}

/** There is nobody at the address, or no such node. */
function isRefusal(error: unknown): boolean {
  for (let at = error; at instanceof Error; at = at.cause) {
    if (at.name === 'KafkaJSConnectionError' || at.name === 'KafkaJSBrokerNotFound') return true;
  }
  return false;
}

function rotated(brokers: readonly string[], turn: number): string[] {
  const first = turn % Math.max(brokers.length, 1);
  return [...brokers.slice(first), ...brokers.slice(0, first)];
}
