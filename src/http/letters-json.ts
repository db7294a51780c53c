import { formatLetterId } from '../ops/letters/letter.ts';
import type { ReplayStatus } from '../ops/letters/replay.ts';
import type { DeadLetterGroup, StoredDeadLetter } from '../store/contract.ts';

/** Dead letters, their groups and their replays as the API and the command line show them. */

export interface LetterJson extends Omit<StoredDeadLetter, 'received' | 'replayed'> {
  id: string;
  received: string;
  receivedMs: number;
  replayed?: string;
}

export function letterJson({ received, replayed, ...letter }: StoredDeadLetter): LetterJson {
  return {
    id: formatLetterId({ ...letter, received }),
    received: new Date(received).toISOString(),
    receivedMs: received,
    ...letter,
    ...(replayed !== undefined && { replayed: new Date(replayed).toISOString() }),
  };
}

/** The names that were asked for, and: */
export interface GroupJson {
  device?: string;
  code?: string;
  type?: string;
  version?: string;
  count: number;
  open: number;
  oldest: string;
  newest: string;
}

/** Groups with the same names become one; the largest comes first. */
export function groupsOf(groups: readonly DeadLetterGroup[], by: ReadonlySet<string>): GroupJson[] {
  const sums = new Map<string, Pick<DeadLetterGroup, 'count' | 'open' | 'oldest' | 'newest'>>();
  for (const { device, code, type, typeVersion: version, ...sum } of groups) {
    const names = Object.entries({ device, code, type, version }).filter(([name]) => by.has(name));
    const key = JSON.stringify(Object.fromEntries(names));
    const known = sums.get(key);
    if (known === undefined) sums.set(key, sum);
    else {
      known.count += sum.count;
      known.open += sum.open;
      known.oldest = Math.min(known.oldest, sum.oldest);
      known.newest = Math.max(known.newest, sum.newest);
    }
  }
  return [...sums]
    .map(([key, { count, open, oldest, newest }]) => ({
      ...(JSON.parse(key) as Partial<GroupJson>),
      ...{ count, open },
      oldest: new Date(oldest).toISOString(),
      newest: new Date(newest).toISOString(),
    }))
    .sort((a, b) => b.count - a.count);
}

export interface ReplayJson extends Omit<ReplayStatus, 'startedAt' | 'endedAt'> {
  startedAt: string;
  endedAt: string | null;
}

export function replayJson({ startedAt, endedAt, ...status }: ReplayStatus): ReplayJson {
  return {
    ...status,
    startedAt: new Date(startedAt).toISOString(),
    endedAt: endedAt === null ? null : new Date(endedAt).toISOString(),
  };
}
