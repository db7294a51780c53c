import kafkajs from 'kafkajs';
import type { Placement } from './wire.ts';

/** Name of the way in which partitions are shared; members with another one can't be in the same group. */
export const ASSIGNER = 'spillway';
const VERSION = 0;
const { MemberMetadata, MemberAssignment } = kafkajs.AssignerProtocol;

/** What a member says of itself when it joins. */
export interface Subscription {
  topics: string[];
  /** Partition numbers that it has, and since which generation of the group. */
  owned: number[];
  generation: number;
}

export function encodeSubscription({ topics, owned, generation }: Subscription): Buffer {
  const userData = Buffer.from(JSON.stringify({ owned, generation }));
  return MemberMetadata.encode({ version: VERSION, topics, userData });
}

function decodeSubscription(bytes: Buffer): Subscription {
  const { topics = [], userData } = MemberMetadata.decode(bytes) ?? {};
  try {
    const { owned, generation } = JSON.parse(String(userData)) as Partial<Subscription>;
    if (Array.isArray(owned) && typeof generation === 'number')
      return { topics, owned, generation };
  } catch {
    // Of a release that says nothing: it has nothing to keep.
  }
  return { topics, owned: [], generation: -1 };
}

/**
 * Shares partitions among the members of a group. Partitions with the same number of all topics go
 * together; members keep what they have as far as shares stay equal. A member gets nothing of a topic that
 * it doesn't know: one of an earlier release.
 */
export function assign(
  members: readonly { memberId: string; memberMetadata: Buffer }[],
  counts: ReadonlyMap<string, number>,
): { memberId: string; memberAssignment: Buffer }[] {
  const subscriptions = members.map(({ memberId, memberMetadata }) => ({
    memberId,
    ...decodeSubscription(memberMetadata),
  }));
  const owners = share(subscriptions, Math.max(0, ...counts.values()));
  return subscriptions.map(({ memberId, topics }) => {
    const assignment: Record<string, number[]> = {};
    for (const [topic, count] of counts) {
      if (!topics.includes(topic)) continue;
      const its = owners.flatMap((owner, i) => (owner === memberId && i < count ? [i] : []));
      if (its.length > 0) assignment[topic] = its;
    }
    const memberAssignment = MemberAssignment.encode({
      version: VERSION,
      assignment,
      userData: Buffer.alloc(0),
    });
    return { memberId, memberAssignment };
  });
}

/** Of the topics that are known here. */
export function decodeAssignment(bytes: Buffer, topics: readonly string[]): Placement[] {
  const assignment = MemberAssignment.decode(bytes)?.assignment ?? {};
  return topics.flatMap((topic) =>
    (assignment[topic] ?? []).map((partition) => ({ topic, partition })),
  );
}

type Claims = Omit<Subscription, 'topics'> & { memberId: string };

/** The member for each of `count` partitions; shares differ by one at most, and few partitions move. */
export function share(members: readonly Claims[], count: number): string[] {
  const owners: (string | undefined)[] = new Array(count);
  const has = new Map(members.map(({ memberId }) => [memberId, 0]));
  const least = Math.floor(count / members.length);
  let withMore = count - least * members.length;
  const take = (memberId: string, partition: number): boolean => {
    const its = has.get(memberId) ?? 0;
    if (its > least || (its === least && withMore === 0)) return false;
    if (its === least) withMore -= 1;
    has.set(memberId, its + 1);
    owners[partition] = memberId;
    return true;
  };
  // Of two that claim the same, the later generation is right. Whoever has most may keep one more.
  const claims = members.toSorted(
    (a, b) =>
      b.generation - a.generation ||
      b.owned.length - a.owned.length ||
      (a.memberId < b.memberId ? -1 : 1),
  );
  for (const { memberId, owned } of claims) {
    for (const partition of owned) {
      if (partition < count && owners[partition] === undefined) take(memberId, partition);
    }
  }
  const names = claims.map(({ memberId }) => memberId);
  return Array.from({ length: count }, (_, partition) => {
    const kept = owners[partition];
    if (kept !== undefined) return kept;
    const found = names
      .toSorted((a, b) => (has.get(a) ?? 0) - (has.get(b) ?? 0))
      .find((name) => take(name, partition));
    if (found === undefined) throw new Error('no member takes a partition');
    return found;
  });
}
