import { SpillwayError } from '../core/errors.ts';

/**
 * A DDSketch (Masson, Rim, Lee: "DDSketch: A Fast and Fully-Mergeable Quantile Sketch with
 * Relative-Error Guarantees", VLDB 2019) with a relative accuracy of 1 %.
 *
 * Bin `k` counts the magnitudes in (γ^(k-1), γ^k], γ = 1.01 / 0.99. Positive and negative numbers have
 * bins of their own; zero and magnitudes below the smallest normal double count as zero. A side holds
 * at most {@link BINS_MAX} bins, which span a factor of 6 * 10^17; beyond that the smallest magnitudes
 * of the side share its lowest bin. Which values share it depends on the largest magnitude alone,
 * never on the order of adding and merging.
 *
 * Encoding, version 1, the same bytes for the same contents:
 *
 *     byte   version = 1
 *     varint count of zeros
 *     side   positive
 *     side   negative (keys of magnitudes)
 *
 *     side = varint number of bins n; if n > 0: zigzag varint key of the lowest bin, then counts of
 *            bins in ascending order as varints, where 0 is followed by the varint length of the run of
 *            zeros. The first and the last bin are never empty.
 */
const VERSION = 1;
const ACCURACY = 0.01;
const GAMMA = (1 + ACCURACY) / (1 - ACCURACY);
const LN_GAMMA = Math.log(GAMMA);
const KEYS_PER_LN = 1 / LN_GAMMA;
const SMALLEST = 2.2250738585072014e-308;
/** Keys of all normal doubles lie within. */
const KEY_MAX = 36_000;

/** Most bins of one side. */
export const BINS_MAX = 2_048;

class Bins {
  /** Key of `counts[0]`; both ends of `counts` are above 0. */
  lowest = 0;
  counts: number[] = [];
  total = 0;

  add(key: number, weight: number): void {
    this.total += weight;
    const index = key - this.lowest;
    const known = this.counts[index];
    if (known === undefined) this.grow(key, weight);
    else this.counts[index] = known + weight;
  }

  /** Takes back what {@link add} added; false, without effect, where the bin holds what others' bins gave up. */
  remove(key: number): boolean {
    const index = key - this.lowest;
    const count = this.counts[index] ?? 0;
    if (count === 0 || this.counts.length >= BINS_MAX) return false;
    this.counts[index] = count - 1;
    this.total -= 1;
    while (this.counts.at(-1) === 0) this.counts.pop();
    let empty = 0;
    while (this.counts[empty] === 0) empty += 1;
    if (empty > 0) {
      this.counts.splice(0, empty);
      this.lowest += empty;
    }
    return true;
  }

  private grow(key: number, weight: number): void {
    const size = this.counts.length;
    if (size === 0) {
      this.lowest = key;
      this.counts.push(weight);
      return;
    }
    const highest = this.lowest + size - 1;
    if (key > highest) {
      this.raiseTo(key - BINS_MAX + 1);
      for (let gap = this.lowest + this.counts.length; gap < key; gap += 1) this.counts.push(0);
      this.counts.push(weight);
      return;
    }
    const target = Math.max(key, highest - BINS_MAX + 1);
    const missing = this.lowest - target;
    if (missing > 0) {
      this.counts = new Array<number>(missing).fill(0).concat(this.counts);
      this.lowest = target;
    }
    this.counts[0] = (this.counts[0] ?? 0) + weight;
  }

  /** Puts everything below `floor` into the bin `floor`. */
  private raiseTo(floor: number): void {
    const below = floor - this.lowest;
    if (below <= 0) return;
    let moved = 0;
    const until = Math.min(below, this.counts.length);
    for (let index = 0; index < until; index += 1) moved += this.counts[index] ?? 0;
    this.counts = this.counts.slice(below);
    this.lowest = floor;
    this.counts[0] = (this.counts[0] ?? 0) + moved;
  }

  merge(other: Bins): void {
    // From the highest down, so that the range is settled by the first.
    for (let index = other.counts.length - 1; index >= 0; index -= 1) {
      const count = other.counts[index] ?? 0;
      if (count > 0) this.add(other.lowest + index, count);
    }
  }

  copy(): Bins {
    const bins = new Bins();
    bins.lowest = this.lowest;
    bins.counts = this.counts.slice();
    bins.total = this.total;
    return bins;
  }

  /** Magnitude at a 0-based ascending rank. */
  magnitudeAt(rank: number): number {
    let seen = 0;
    for (let index = 0; index < this.counts.length; index += 1) {
      seen += this.counts[index] ?? 0;
      if (seen > rank) return magnitudeOf(this.lowest + index);
    }
    return magnitudeOf(this.lowest + this.counts.length - 1);
  }
}

function keyOf(magnitude: number): number {
  return Math.ceil(Math.log(magnitude) * KEYS_PER_LN);
}

function magnitudeOf(key: number): number {
  return (2 * Math.exp(key * LN_GAMMA)) / (GAMMA + 1);
}

/** Most bytes that a count or key takes. */
const VARINT_BYTES = 8;
const scratch = new Uint8Array(2 + VARINT_BYTES * (BINS_MAX + 4) * 2);

function writeVarint(at: number, value: number): number {
  let rest = value;
  let next = at;
  while (rest >= 0x80) {
    scratch[next] = (rest % 0x80) + 0x80;
    rest = Math.floor(rest / 0x80);
    next += 1;
  }
  scratch[next] = rest;
  return next + 1;
}

function writeBins(at: number, bins: Bins | undefined): number {
  const size = bins?.counts.length ?? 0;
  let next = writeVarint(at, size);
  if (bins === undefined || size === 0) return next;
  next = writeVarint(next, bins.lowest >= 0 ? bins.lowest * 2 : -bins.lowest * 2 - 1);
  for (let index = 0; index < size; index += 1) {
    const count = bins.counts[index] ?? 0;
    next = writeVarint(next, count);
    if (count > 0) continue;
    let run = 1;
    while (bins.counts[index + run] === 0) run += 1;
    next = writeVarint(next, run);
    index += run - 1;
  }
  return next;
}

class SketchReader {
  private at = 1;
  private readonly bytes: Uint8Array;
  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
  }

  varint(): number {
    let value = 0;
    let scale = 1;
    for (;;) {
      const byte = this.bytes[this.at];
      if (byte === undefined) throw corrupt('it is cut short');
      this.at += 1;
      value += (byte & 0x7f) * scale;
      if (!Number.isSafeInteger(value)) throw corrupt('a number is too large');
      if (byte < 0x80) return value;
      scale *= 0x80;
    }
  }

  bins(): Bins | undefined {
    const size = this.varint();
    if (size === 0) return undefined;
    if (size > BINS_MAX) throw corrupt(`${size} bins are more than ${BINS_MAX}`);
    const zigzag = this.varint();
    const bins = new Bins();
    bins.lowest = zigzag % 2 === 0 ? zigzag / 2 : -(zigzag + 1) / 2;
    if (Math.abs(bins.lowest) > KEY_MAX) throw corrupt('a key lies out of range');
    while (bins.counts.length < size) {
      const count = this.varint();
      bins.counts.push(count);
      bins.total += count;
      if (count > 0) continue;
      const run = this.varint();
      if (run === 0 || bins.counts.length - 1 + run >= size)
        throw corrupt('a run of zeros is wrong');
      for (let index = 1; index < run; index += 1) bins.counts.push(0);
    }
    if (bins.counts[0] === 0 || bins.counts.at(-1) === 0) throw corrupt('an end bin is empty');
    if (!Number.isSafeInteger(bins.total)) throw corrupt('a number is too large');
    return bins;
  }

  end(): void {
    if (this.at !== this.bytes.length) throw corrupt('bytes follow its end');
  }
}

function corrupt(why: string): SpillwayError {
  return new SpillwayError('STORE_CORRUPT', `A stored percentile sketch is unreadable: ${why}.`);
}

/** Quantiles of numbers within 1 %; see the top of this file. */
export class Sketch {
  private zeros = 0;
  private positive: Bins | undefined;
  private negative: Bins | undefined;

  /** Numbers added so far. */
  get count(): number {
    return this.zeros + (this.positive?.total ?? 0) + (this.negative?.total ?? 0);
  }

  /** `value` is finite. */
  add(value: number): void {
    if (value >= SMALLEST) {
      this.positive ??= new Bins();
      this.positive.add(keyOf(value), 1);
    } else if (value <= -SMALLEST) {
      this.negative ??= new Bins();
      this.negative.add(keyOf(-value), 1);
    } else {
      this.zeros += 1;
    }
  }

  /** Takes back a value that was added; false, without effect, when that can't be done exactly. */
  remove(value: number): boolean {
    if (value >= SMALLEST) return this.positive?.remove(keyOf(value)) ?? false;
    if (value <= -SMALLEST) return this.negative?.remove(keyOf(-value)) ?? false;
    if (this.zeros === 0) return false;
    this.zeros -= 1;
    return true;
  }

  merge(other: Sketch): void {
    this.zeros += other.zeros;
    if (other.positive !== undefined) {
      if (this.positive === undefined) this.positive = other.positive.copy();
      else this.positive.merge(other.positive);
    }
    if (other.negative !== undefined) {
      if (this.negative === undefined) this.negative = other.negative.copy();
      else this.negative.merge(other.negative);
    }
  }

  /**
   * The number at the 0-based ascending rank floor(permille * (count - 1) / 1000), off by at most 1 %
   * of itself; NaN while there is none. The median is `quantile(500)`.
   */
  quantile(permille: number): number {
    const count = this.count;
    if (count === 0) return Number.NaN;
    const rank = Math.floor((permille * (count - 1)) / 1000);
    const negatives = this.negative?.total ?? 0;
    if (this.negative !== undefined && rank < negatives) {
      return -this.negative.magnitudeAt(negatives - 1 - rank);
    }
    if (this.positive === undefined || rank < negatives + this.zeros) return 0;
    return this.positive.magnitudeAt(rank - negatives - this.zeros);
  }

  encode(): Uint8Array {
    scratch[0] = VERSION;
    let end = writeVarint(1, this.zeros);
    end = writeBins(end, this.positive);
    end = writeBins(end, this.negative);
    return scratch.slice(0, end);
  }

  /** Throws STORE_CORRUPT for anything that {@link encode} cannot have made, STORE_VERSION for a later version. */
  static decode(bytes: Uint8Array): Sketch {
    const version = bytes[0];
    if (version === undefined) throw corrupt('it is empty');
    if (version !== VERSION) {
      throw new SpillwayError(
        'STORE_VERSION',
        `A stored sketch has the unknown version ${version}.`,
      );
    }
    const reader = new SketchReader(bytes);
    const sketch = new Sketch();
    sketch.zeros = reader.varint();
    sketch.positive = reader.bins();
    sketch.negative = reader.bins();
    reader.end();
    return sketch;
  }
}
