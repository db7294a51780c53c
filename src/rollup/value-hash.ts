import type { Value } from '../core/nouns.ts';

/**
 * A 32-bit hash of a reading's values. It is the sum of one hash for each metric, so it depends on no
 * order of metrics and can be extended when a metric is added to a reading.
 */
const double = new Float64Array(1);
const halves = new Uint32Array(double.buffer);

/** FNV-1a over UTF-16 units. */
export function hashText(text: string): number {
  let hash = 0x811c9dc5;
  for (let index = 0; index < text.length; index += 1) {
    hash = Math.imul(hash ^ text.charCodeAt(index), 0x01000193);
  }
  return hash >>> 0;
}

/** Part of one metric in the hash; `nameHash` is {@link hashText} of its name. */
export function hashMetric(nameHash: number, value: Value): number {
  let hash = nameHash;
  if (typeof value === 'number') {
    // -0 and 0 are one value.
    double[0] = value + 0;
    hash = Math.imul(hash ^ (halves[0] ?? 0), 0x9e3779b1);
    hash = Math.imul(hash ^ (hash >>> 15) ^ (halves[1] ?? 0), 0x85ebca6b);
  } else if (typeof value === 'boolean') {
    hash = Math.imul(hash ^ (value ? 0x51ed270b : 0x2545f491), 0x85ebca6b);
  } else {
    hash = Math.imul(hash ^ hashText(value), 0xc2b2ae35);
  }
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}

/** The hash of a reading of which one metric changed; undefined for a metric that was not there. */
export function rehash(
  hash: number,
  nameHash: number,
  old: Value | undefined,
  value: Value,
): number {
  const without = old === undefined ? hash : hash - hashMetric(nameHash, old);
  return (without + hashMetric(nameHash, value)) >>> 0;
}

/** Hash of all values of a reading, 0 to 2^32 - 1. */
export function hashValues(values: Readonly<Record<string, Value>>): number {
  let sum = 0;
  for (const name in values) {
    const value = values[name];
    if (value !== undefined) sum = (sum + hashMetric(hashText(name), value)) >>> 0;
  }
  return sum;
}
