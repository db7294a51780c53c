import { ASSIGNER, assign, decodeAssignment, encodeSubscription } from './assigner.ts';
import { reasonOf, typeOf, unavailable } from './errors.ts';
import { PositionCommits } from './position-commits.ts';
import type { KafkaLogger, KafkaSettings } from './settings.ts';
import { Bell, backoffMs, pause, within } from './waiting.ts';
import { type GroupBroker, type Placement, Wire } from './wire.ts';

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
  onJoined(assignment: Placement[], continued: boolean): Promise<void>;
  /** Nothing belongs to this member any more. */
  onLost(reason: string): Promise<void>;
}

/** This member's place in the group, from a join to the next one. */
interface Generation {
  id: number;
  isLeader: boolean;
  owned: ReadonlyMap<string, Placement>;
}

/** Answers by which the group says that this member is none, or not of the present generation. */
const FENCED: ReadonlySet<string | undefined> = new Set([
  'ILLEGAL_GENERATION',
  'UNKNOWN_MEMBER_ID',
  'FENCED_INSTANCE_ID',
]);
const REBALANCING = 'REBALANCE_IN_PROGRESS';

/** Part of the rebalance timeout that `onJoining` may take; what is left is for the join itself. */
const HOLD_SHARE = 0.7;
const LEAVE_PATIENCE_MS = 3_000;
const ANSWER_MARGIN_MS = 10_000;

/**
 * A place in a consumer group (Kafka's classic protocol, eager): join, heartbeats, commits. Records are
 * fetched elsewhere (`reader.ts`), so heartbeats depend on no batch, however long one takes.
 *
 *   joining ──▶ member ──heartbeat: rebalance──▶ holding (onJoining, with heartbeats) ──▶ joining …
 *      ▲           └──fenced, or no heartbeat answered within the session──▶ lost ──┐
 *      └────────────────────────────────────────────────────────────────────────────┘
 *
 * It is not left to kafkajs: its consumers tie heartbeats to fetches and are known to stop silently
 * (tulios/kafkajs #659, #1431, #1570). This loop ends only when it is closed.
 */
export class Membership {
  private readonly group: string;
  private readonly topics: string[];
  private readonly limits: MembershipLimits;
  private readonly events: MembershipEvents;
  private readonly logger: KafkaLogger;
  private readonly wire: Wire;
  private readonly commits: PositionCommits;
  private readonly closing = new AbortController();
  private readonly bell = new Bell();
  private memberId = '';
  private generation: Generation | undefined;
  private joining: Promise<void> | undefined;
  /** `onJoining` has been called, and nothing was decided since. */
  private isHolding = false;
  /** When the last heartbeat that was answered well was sent, by the monotonic clock, ms. */
  private signAt = 0;
  private isTroubled = false;
  private readonly done: Promise<void>;

  constructor(
    settings: KafkaSettings,
    group: string,
    topics: string[],
    limits: MembershipLimits,
    events: MembershipEvents,
    logger: KafkaLogger,
  ) {
    this.group = group;
    this.topics = topics;
    this.limits = limits;
    this.events = events;
    this.logger = logger;
    this.wire = new Wire(settings, logger, topics);
    this.commits = new PositionCommits((positions) => this.sendCommits(positions));
    this.done = this.run();
  }

  /** False when the group may have given this member's partitions to others without its hearing of it. */
  get isAlive(): boolean {
    return this.generation !== undefined && this.sessionLeftMs() > 0;
  }

  /**
   * Resolves with false, without effect, when the partition is not this member's any more. Throws a
   * retryable error while Kafka is away.
   */
  commit(at: Placement, offset: number): Promise<boolean> {
    return this.commits.commit(at, offset);
  }

  /** Leaves the group, so that others get the partitions at once. */
  async close(): Promise<void> {
    if (this.closing.signal.aborted) return this.done;
    this.closing.abort();
    this.bell.ring();
    // A member that leaves while it joins would have the others wait for it.
    const joining = this.joining?.catch(() => {});
    if (joining !== undefined) await within(joining, LEAVE_PATIENCE_MS);
    if (this.memberId !== '') {
      const { group: groupId, memberId } = this;
      await within(
        this.call((broker) => broker.leaveGroup({ groupId, memberId })),
        LEAVE_PATIENCE_MS,
      ).catch((error: unknown) =>
        this.logger.debug({ reason: reasonOf(error) }, 'could not leave the group'),
      );
    }
    this.generation = undefined;
    await this.wire.close();
    await this.done;
  }

  private async run(): Promise<void> {
    const { signal } = this.closing;
    for (let attempt = 0; !signal.aborted; ) {
      try {
        if (this.generation !== undefined) await this.hold();
        if (signal.aborted) return;
        this.joining = this.join();
        await this.joining;
        this.joining = undefined;
        attempt = 0;
        this.isTroubled = false;
        await this.stay();
      } catch (error) {
        this.joining = undefined;
        if (signal.aborted) return;
        const isRebalance = typeOf(error) === REBALANCING;
        if (!isRebalance) await this.fallen(error);
        await pause(isRebalance ? 0 : backoffMs(attempt++), signal);
      }
    }
  }

  /** A join has failed. What this member had is its own until the group can have given it away. */
  private async fallen(error: unknown): Promise<void> {
    const type = typeOf(error);
    if (type === 'UNKNOWN_MEMBER_ID') this.memberId = '';
    const { sessionTimeoutMs, rebalanceTimeoutMs } = this.limits;
    const patienceMs = sessionTimeoutMs + rebalanceTimeoutMs;
    if (FENCED.has(type) || performance.now() - this.signAt > patienceMs) {
      await this.lose(reasonOf(error));
    }
    if (!this.isTroubled && !FENCED.has(type)) {
      this.isTroubled = true;
      this.logger.warn(
        { group: this.group, reason: reasonOf(error) },
        'the group can not be joined; trying on',
      );
    }
  }

  /** Gives the owner time to finish with what may be taken away. Other members wait for this one. */
  private async hold(): Promise<void> {
    if (this.isHolding) return;
    this.isHolding = true;
    const until = performance.now() + this.limits.rebalanceTimeoutMs * HOLD_SHARE;
    let isReady = false;
    void this.events.onJoining().finally(() => {
      isReady = true;
      this.bell.ring();
    });
    let beatAt = performance.now() + this.limits.heartbeatMs;
    while (!isReady && !this.closing.signal.aborted && this.generation !== undefined) {
      const now = performance.now();
      if (now >= until) {
        this.logger.warn({ group: this.group }, 'a rebalance did not wait for this member');
        return;
      }
      if (now >= beatAt) {
        if ((await this.beat()) === 'fenced') return;
        beatAt = performance.now() + this.limits.heartbeatMs;
      }
      await this.bell.wait(Math.min(beatAt, until) - performance.now());
    }
  }

  private async join(): Promise<void> {
    const { group: groupId, topics } = this;
    const { sessionTimeoutMs, rebalanceTimeoutMs } = this.limits;
    const answerMs = rebalanceTimeoutMs + sessionTimeoutMs + ANSWER_MARGIN_MS;
    const joined = await this.call(
      (broker) =>
        broker.joinGroup({
          groupId,
          sessionTimeout: sessionTimeoutMs,
          rebalanceTimeout: rebalanceTimeoutMs,
          memberId: this.memberId,
          groupProtocols: [{ name: ASSIGNER, metadata: this.subscription() }],
        }),
      answerMs,
    );
    const { memberId, generationId } = joined;
    const isSame = memberId === this.memberId;
    this.memberId = memberId;
    const isLeader = joined.leaderId === memberId;
    if (isLeader) this.wire.invalidate();
    await this.wire.prepare();
    const groupAssignment = isLeader ? assign(joined.members, this.counts()) : [];
    const sentAt = performance.now();
    const { memberAssignment } = await this.call(
      (broker) => broker.syncGroup({ groupId, generationId, memberId, groupAssignment }),
      answerMs,
    );
    const assignment = decodeAssignment(memberAssignment, topics);
    const continued = isSame && this.generation?.id === generationId - 1;
    this.signAt = sentAt;
    const owned = new Map(assignment.map((at) => [keyOf(at), at]));
    this.generation = { id: generationId, isLeader, owned };
    this.isHolding = false;
    await this.events.onJoined(assignment, continued);
  }

  private subscription(): Buffer {
    const { generation, topics } = this;
    const owned = [...(generation?.owned.values() ?? [])];
    const numbers = new Set(owned.map(({ partition }) => partition));
    return encodeSubscription({ topics, owned: [...numbers], generation: generation?.id ?? -1 });
  }

  /** Until the group rebalances, or has done so without this member. */
  private async stay(): Promise<void> {
    const counts = JSON.stringify([...this.counts()]);
    let waitMs = this.limits.heartbeatMs;
    for (;;) {
      await this.bell.wait(Math.min(waitMs, Math.max(this.sessionLeftMs(), 0)));
      if (this.closing.signal.aborted || this.generation === undefined) return;
      const outcome = await this.beat();
      if (outcome === 'rebalance' || outcome === 'fenced') return;
      waitMs = outcome === 'well' ? this.limits.heartbeatMs : this.limits.heartbeatMs / 4;
      if (this.sessionLeftMs() <= 0) {
        await this.lose('no heartbeat was answered within the session');
        return;
      }
      if (outcome !== 'well' || !this.generation?.isLeader) continue;
      // Somebody has given a topic more partitions.
      if (JSON.stringify([...this.counts()]) !== counts) return;
    }
  }

  private async beat(): Promise<'well' | 'rebalance' | 'fenced' | 'unanswered'> {
    const { generation, memberId, group: groupId } = this;
    if (generation === undefined) return 'fenced';
    const sentAt = performance.now();
    try {
      const answer = await within(
        this.call((broker) =>
          broker
            .heartbeat({ groupId, memberId, groupGenerationId: generation.id })
            .then(() => true),
        ),
        Math.max(this.sessionLeftMs(), 1),
      );
      if (answer !== true) return 'unanswered';
      this.signAt = sentAt;
      return 'well';
    } catch (error) {
      const type = typeOf(error);
      if (type === REBALANCING) {
        this.signAt = sentAt;
        return 'rebalance';
      }
      if (!FENCED.has(type)) {
        this.logger.debug({ reason: reasonOf(error) }, 'a heartbeat failed');
        return 'unanswered';
      }
      if (type === 'UNKNOWN_MEMBER_ID') this.memberId = '';
      await this.lose(reasonOf(error));
      return 'fenced';
    }
  }

  /** Commits of the present generation; those of partitions that are not owned are not sent. */
  private async sendCommits(positions: ReadonlyMap<string, Placement & { offset: number }>) {
    if (this.joining !== undefined) await this.joining.catch(() => {});
    const { generation, memberId, group: groupId } = this;
    if (generation === undefined) throw unavailable('no member of the group');
    const ours = [...positions].filter(([key]) => generation.owned.has(key));
    const byTopic = Map.groupBy(ours, ([, { topic }]) => topic);
    const topics = [...byTopic].map(([topic, its]) => ({
      topic,
      partitions: its.map(([, { partition, offset }]) => ({ partition, offset: String(offset) })),
    }));
    try {
      if (topics.length > 0) {
        await this.call((broker) =>
          broker.offsetCommit({ groupId, memberId, groupGenerationId: generation.id, topics }),
        );
      }
      return new Set(ours.map(([key]) => key));
    } catch (error) {
      const type = typeOf(error);
      if (!FENCED.has(type) && type !== REBALANCING) throw error;
      this.logger.debug({ type }, 'a commit came too late');
      return new Set<string>();
    }
  }

  private async lose(reason: string): Promise<void> {
    if (this.generation === undefined) return;
    this.generation = undefined;
    this.isHolding = false;
    this.logger.warn({ group: this.group, reason }, 'lost its place in the group; joining anew');
    await this.events.onLost(reason);
  }

  private async call<T>(
    call: (broker: GroupBroker) => Promise<T>,
    patienceMs?: number,
  ): Promise<T> {
    try {
      await this.wire.prepare();
    } catch (error) {
      // What is wrong with a topic doesn't concern the group.
      if (typeOf(error) === undefined) throw error;
    }
    return this.wire.coordinator(this.group, call, patienceMs);
  }

  private counts(): Map<string, number> {
    return new Map(this.topics.map((topic) => [topic, this.wire.partitions(topic)]));
  }

  private sessionLeftMs(): number {
    return this.signAt + this.limits.sessionTimeoutMs - performance.now();
  }
}

function keyOf({ topic, partition }: Placement): string {
  return `${topic}/${partition}`;
}
