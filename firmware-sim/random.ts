/** A source of numbers in [0, 1). */
export type Random = () => number;

/** FNV-1a, 32 bits: turns names into seeds. */
export function hashText(text: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) {
    hash ^= text.charCodeAt(i);
    hash = Math.imul(hash, 0x01000193);
  }
  return hash >>> 0;
}

/**
 * sfc32 (Chris Doty-Humphrey's "small fast counter"), seeded from a number and a name, so that every
 * device and every metric has a stream of its own: adding a metric changes no other one's values.
 */
export function createRandom(seed: number, name = ''): Random {
  let a = seed >>> 0;
  let b = hashText(name);
  let c = 0x9e3779b9;
  let counter = 1;
  const next = (): number => {
    const t = (((a + b) | 0) + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = (c << 21) | (c >>> 11);
    c = (c + t) | 0;
    return (t >>> 0) / 4294967296;
  };
  // The first outputs still look like the seed.
  for (let i = 0; i < 12; i++) next();
  return next;
}

/** A standard normal variate (Box-Muller; the second one is thrown away to keep no state). */
export function gaussian(random: Random): number {
  const u = 1 - random();
  return Math.sqrt(-2 * Math.log(u)) * Math.cos(2 * Math.PI * random());
}

/** An exponential waiting time with the given mean, in the mean's unit. */
export function exponential(random: Random, mean: number): number {
  return -mean * Math.log(1 - random());
}

/** One of `items`, each as often as its weight says; at least one weight is above 0. */
export function pickWeighted<T>(
  items: readonly T[],
  weightOf: (item: T) => number,
  random: Random,
): T {
  let point = random() * items.reduce((sum, item) => sum + weightOf(item), 0);
  let chosen: T | undefined;
  for (const item of items) {
    if (weightOf(item) === 0) continue;
    chosen = item;
    point -= weightOf(item);
    if (point < 0) break;
  }
  if (chosen === undefined) throw new RangeError('no weight is above 0');
  return chosen;
}

/** Fisher-Yates in place. */
export function shuffle<T>(items: T[], random: Random): T[] {
  for (let i = items.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    const a = items[i] as T;
    items[i] = items[j] as T;
    items[j] = a;
  }
  return items;
}
