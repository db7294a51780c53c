import type { Origin } from '../contract.ts';

/** The field that every raw row has once: `<partition> <offset> <received>[ <seq>]` of its creator. */
export const ORIGIN_FIELD = '@origin';
/**
 * Only in rows that were merged: JSON `[[field key, partition, offset], …]`, the fields that came from
 * another record than the creator. A metric with fields of several kinds has the value of the latest.
 */
export const MERGED_FIELD = '@merged';

export interface Creator extends Origin {
  received: number;
  seq?: number;
}

export function formatCreator({ partition, offset, received, seq }: Creator): string {
  return seq === undefined
    ? `"${partition} ${offset} ${received}"`
    : `"${partition} ${offset} ${received} ${seq}"`;
}

export function parseCreator(text: string): Creator {
  const [partition, offset, received, seq] = text.split(' ');
  const creator: Creator = {
    partition: Number(partition),
    offset: Number(offset),
    received: Number(received),
  };
  if (seq !== undefined) creator.seq = Number(seq);
  return creator;
}

/** Field key → where its value came from. */
export type Sources = Map<string, Origin>;

export function formatMerged(sources: Iterable<readonly [string, Origin]>): string {
  const entries = [...sources].map(([key, { partition, offset }]) => [key, partition, offset]);
  return JSON.stringify(entries);
}

export function parseMerged(text: string): Sources {
  const entries = JSON.parse(text) as [string, number, number][];
  return new Map(entries.map(([key, partition, offset]) => [key, { partition, offset }]));
}

/**
 * A device stays in one partition, so offsets decide. Should it have moved, the higher partition wins:
 * any fixed order does, as long as the result does not depend on the order of arrival.
 */
export function isLater(a: Origin, b: Origin): boolean {
  return a.partition === b.partition ? a.offset > b.offset : a.partition > b.partition;
}
