import type { Cluster, Consumer, ConsumerGroupJoinEvent, PartitionAssigner } from 'kafkajs';
import { assigner } from './assigner.ts';
import { createKafka, type Placement } from './client.ts';
import { reasonOf, unavailable } from './errors.ts';
import { clientConfig, type KafkaLogger, type KafkaSettings } from './settings.ts';
import { backoffMs, pause, within } from './waiting.ts';

export interface MembershipLimits {
  /** A member without a heartbeat for so long is taken for dead, ms. */
  sessionTimeoutMs: number;
  heartbeatMs: number;
  /** How long the group waits for its members in a rebalance, ms. */
  rebalanceTimeoutMs: number;
}

export interface MembershipEvents {
  /** Partitions may be taken away; the group waits until this resolves, but not for ever. */
  onJoining(): Promise<void>;
  /**
   * What this member has from here on. `continued`: nobody else can have had what it had before, since no
   * generation of the group was missed.
   */
  onJoined(assignment: Placement[], continued: boolean): void;
  /** Nothing belongs to this member any more. */
  onLost(reason: string): void;
}

/** How often kafkajs looks whether a heartbeat is due, ms. */
const LOOK_MS = 100;

/** Errors of a commit by which the group says that the partition is another member's. */
const FENCED = ['ILLEGAL_GENERATION', 'UNKNOWN_MEMBER_ID', 'REBALANCE_IN_PROGRESS'];

/**
 * A place in a consumer group, kept by kafkajs: join, heartbeats, commits. It is a consumer all of whose
 * partitions are paused for good; records are fetched by our own `reader.ts`. So heartbeats depend on no
 * batch, however long one takes.
 *
 * States: joining → member → (rebalance) joining … ; a crash of kafkajs, or no sign of life from the group
 * within the session timeout, loses everything and begins anew with a new consumer. kafkajs never restarts
 * by itself here: its consumers are known to stop silently (tulios/kafkajs #659, #1431, #1570).
 */
export class Membership {
  private readonly settings: KafkaSettings;
  private readonly group: string;
  private readonly topics: string[];
  private readonly limits: MembershipLimits;
  private readonly events: MembershipEvents;
  private readonly logger: KafkaLogger;
  private readonly closing = new AbortController();
  private consumer: Consumer | undefined;
  private memberId: string | undefined;
  private isMember = false;
  /** Joins begun since the last one that succeeded. */
  private joins = 0;
  private signAt = performance.now();
  private readonly watchdog: NodeJS.Timeout;
  /** Grows with each new consumer that replaces a failed one. */
  private epoch = 0;
  /** New consumers after a crash or silence. */
  restarts = 0;

  constructor(
    settings: KafkaSettings,
    group: string,
    topics: string[],
    limits: MembershipLimits,
    events: MembershipEvents,
    logger: KafkaLogger,
  ) {
    this.settings = settings;
    this.group = group;
    this.topics = topics;
    this.limits = limits;
    this.events = events;
    this.logger = logger;
    void this.open(0);
    this.watchdog = setInterval(() => this.look(), limits.heartbeatMs);
  }

  /**
   * Resolves with false, without effect, when the partition belongs to another member by now. Throws a
   * retryable error while Kafka is away.
   */
  async commit(at: Placement, offset: number): Promise<boolean> {
    const { consumer } = this;
    if (consumer === undefined || !this.isMember) throw unavailable('no member of the group');
    try {
      await consumer.commitOffsets([{ ...at, offset: String(offset) }]);
      return true;
    } catch (error) {
      const type = typeOf(error);
      if (type === undefined || !FENCED.includes(type)) throw unavailable('commit', error);
      this.logger.debug({ ...at, offset, type }, 'a commit came too late');
      return false;
    }
  }

  /** Leaves the group, so that others get the partitions at once. */
  async close(): Promise<void> {
    this.closing.abort();
    clearInterval(this.watchdog);
    const { consumer } = this;
    this.consumer = undefined;
    if (consumer !== undefined) await within(consumer.disconnect(), 3_000).catch(() => {});
  }

  private async open(epoch: number): Promise<void> {
    for (let attempt = 0; epoch === this.epoch && !this.closing.signal.aborted; attempt++) {
      try {
        await this.join();
        return;
      } catch (error) {
        if (epoch !== this.epoch) return;
        this.logger.debug({ reason: reasonOf(error) }, 'could not join the group');
        this.discard();
      }
      await pause(backoffMs(attempt), this.closing.signal);
    }
  }

  private async join(): Promise<void> {
    const { sessionTimeoutMs, heartbeatMs, rebalanceTimeoutMs } = this.limits;
    let cluster: Cluster | undefined;
    const capturing: PartitionAssigner = (config) => {
      cluster = config.cluster;
      return assigner(config);
    };
    const consumer = createKafka(this.settings, this.logger).consumer({
      groupId: this.group,
      allowAutoTopicCreation: false,
      sessionTimeout: sessionTimeoutMs,
      heartbeatInterval: heartbeatMs,
      rebalanceTimeout: rebalanceTimeoutMs,
      maxWaitTimeInMs: LOOK_MS,
      metadataMaxAge: 60_000,
      partitionAssigners: [capturing],
      retry: {
        ...clientConfig(this.settings, this.logger).retry,
        restartOnFailure: async () => false,
      },
    });
    this.consumer = consumer;
    this.signAt = performance.now();
    if (cluster !== undefined) this.holdJoins(cluster, consumer);
    consumer.on('consumer.group_join', (event) => this.joined(consumer, event));
    consumer.on('consumer.heartbeat', () => {
      if (this.consumer === consumer) this.signAt = performance.now();
    });
    consumer.on('consumer.crash', ({ payload }) => {
      if (this.consumer === consumer) this.restart(reasonOf(payload.error));
    });
    await consumer.connect();
    await consumer.subscribe({ topics: this.topics, fromBeginning: true });
    await consumer.run({
      autoCommit: false,
      eachBatchAutoResolve: false,
      eachBatch: async () => {},
    });
  }

  /**
   * kafkajs joins again as soon as it hears of a rebalance. The first step of a join is to look for the
   * coordinator, so that is where it is made to wait for what `onJoining` has to do.
   */
  private holdJoins(cluster: Cluster, consumer: Consumer): void {
    const find = cluster.findGroupCoordinator.bind(cluster);
    cluster.findGroupCoordinator = async (group) => {
      if (this.consumer === consumer) {
        this.joins += 1;
        this.signAt = performance.now();
        if (this.joins === 1 && this.isMember) {
          const { sessionTimeoutMs, rebalanceTimeoutMs } = this.limits;
          const holdMs = Math.min(sessionTimeoutMs, rebalanceTimeoutMs) / 2;
          await within(this.events.onJoining(), holdMs);
          this.signAt = performance.now();
        }
      }
      return find(group);
    };
  }

  private joined(consumer: Consumer, { payload }: ConsumerGroupJoinEvent): void {
    if (this.consumer !== consumer) return;
    consumer.pause(this.topics.map((topic) => ({ topic })));
    const continued = this.isMember && this.joins === 1 && payload.memberId === this.memberId;
    this.memberId = payload.memberId;
    this.isMember = true;
    this.joins = 0;
    this.signAt = performance.now();
    const assignment = Object.entries(payload.memberAssignment).flatMap(([topic, partitions]) =>
      partitions.map((partition) => ({ topic, partition })),
    );
    this.events.onJoined(assignment, continued);
  }

  /** Looks for signs of life. A join may take as long as the slowest member. */
  private look(): void {
    if (this.consumer === undefined) return;
    const { sessionTimeoutMs, rebalanceTimeoutMs } = this.limits;
    const patienceMs = this.joins > 0 ? rebalanceTimeoutMs + sessionTimeoutMs : sessionTimeoutMs;
    if (performance.now() - this.signAt > patienceMs) this.restart('no sign of life');
  }

  private restart(reason: string): void {
    this.restarts += 1;
    this.logger.warn({ group: this.group, reason }, 'lost its place in the group; joining anew');
    this.discard();
    if (this.closing.signal.aborted) return;
    this.epoch += 1;
    void this.open(this.epoch);
  }

  private discard(): void {
    const { consumer } = this;
    this.consumer = undefined;
    this.memberId = undefined;
    this.joins = 0;
    const wasMember = this.isMember;
    this.isMember = false;
    if (consumer !== undefined) void within(consumer.disconnect(), 3_000).catch(() => {});
    if (wasMember) this.events.onLost('no longer a member of the group');
  }
}

/** The name of the protocol's error in an error of kafkajs, which may stand behind its retries. */
function typeOf(error: unknown): string | undefined {
  for (let at = error; at instanceof Error; at = at.cause) {
    if ('type' in at && typeof at.type === 'string') return at.type;
  }
  return undefined;
}
