import kafkajs from 'kafkajs';
import type { Placement } from './wire.ts';

/** Name of the way in which partitions are shared; members with another one can't be in the same group. */
export const ASSIGNER = 'spillway';
const VERSION = 0;
const { MemberMetadata, MemberAssignment } = kafkajs.AssignerProtocol;

/** What a member says of itself when it joins. */
export function encodeSubscription(topics: string[]): Buffer {
  return MemberMetadata.encode({ version: VERSION, topics, userData: Buffer.alloc(0) });
}

/**
 * Shares partitions among the members of a group. Partitions with the same number of all topics go
 * together, and members that come and go move few of the others' partitions (rendezvous hashing with equal
 * shares). A member gets nothing of a topic that it doesn't know: one of an earlier release.
 */
export function assign(
  members: readonly { memberId: string; memberMetadata: Buffer }[],
  counts: ReadonlyMap<string, number>,
): { memberId: string; memberAssignment: Buffer }[] {
  const owners = share(
    members.map(({ memberId }) => memberId),
    Math.max(0, ...counts.values()),
  );
  return members.map(({ memberId, memberMetadata }) => {
    const topics = new Set(MemberMetadata.decode(memberMetadata)?.topics);
    const assignment: Record<string, number[]> = {};
    for (const [topic, count] of counts) {
      if (!topics.has(topic)) continue;
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

/** The member for each of `count` partitions; shares differ by one at most. */
export function share(members: readonly string[], count: number): string[] {
  const most = Math.ceil(count / members.length);
  const withMost = count - (most - 1) * members.length;
  const load = new Map(members.map((member) => [member, 0]));
  let atMost = 0;
  return Array.from({ length: count }, (_, partition) => {
    const ranked = [...members].sort(
      (a, b) => weight(b, partition) - weight(a, partition) || (a < b ? -1 : 1),
    );
    const owner = ranked.find((member) => {
      const has = load.get(member) ?? 0;
      return has < most - 1 || (has === most - 1 && atMost < withMost);
    });
    if (owner === undefined) throw new Error('no member takes a partition');
    const has = (load.get(owner) ?? 0) + 1;
    load.set(owner, has);
    if (has === most) atMost += 1;
    return owner;
  });
}

/** FNV-1a, mixed once more so that neighbouring partitions differ. */
function weight(member: string, partition: number): number {
  let hash = 0x811c9dc5;
  for (const unit of `${partition}/${member}`) {
    hash = Math.imul(hash ^ unit.charCodeAt(0), 0x01000193);
  }
  hash ^= hash >>> 15;
  return Math.imul(hash, 0x2c1b3c6d) >>> 0;
}
