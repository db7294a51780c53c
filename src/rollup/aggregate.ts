import type { AggregateState, Value } from '../core/nouns.ts';
import { Sketch } from './sketch.ts';

/**
 * Statistics of one metric over one window. Numbers count as themselves, booleans as 0 and 1; a text
 * counts only for `count`, `first` and `last`. Where a metric's kind was changed and one window holds
 * both, `count` counts all of its values and the numeric statistics are of the numeric ones.
 */

/** The statistics as people ask for them. Numeric fields are absent when the window holds texts alone. */
export interface FinishedStats {
  count: number;
  sum?: number;
  min?: number;
  max?: number;
  mean?: number;
  /** Standard deviation of the sample (n - 1); absent below two values. */
  stddev?: number;
  first: Value;
  last: Value;
  /**
   * Percentiles: pX is the value at the 0-based ascending rank floor(X / 100 * (n - 1)), without
   * interpolation, off by at most 1 % of itself and never outside `min` and `max`. Of booleans, exact.
   */
  p50?: number;
  p90?: number;
  p99?: number;
}

/** Doubles overflow at extremes; what no double can hold saturates instead of turning into NaN. */
function saturated(value: number): number {
  if (Number.isFinite(value)) return value;
  return value < 0 ? -Number.MAX_VALUE : Number.MAX_VALUE;
}

/** A total order of values, so that the tie of two values at one time has the same end in any order. */
function precedes(a: Value, b: Value): boolean {
  return typeof a === typeof b ? a < b : typeof a < typeof b;
}

/** What a value counts as; undefined for texts. */
function numberOf(value: Value): number | undefined {
  if (typeof value === 'string') return undefined;
  return Number(value);
}

/** So many values may be replaced before an aggregate is made anew, and this part of those that it has. */
const REPLACED_MIN = 16;
const REPLACED_PART = 1 / 8;

/** A growing aggregate. */
export class Accumulator {
  count = 0;
  firstTs = 0;
  lastTs = 0;
  private first: Value = 0;
  private last: Value = 0;
  /** Number of numeric values; equal to `sketch.count`. */
  private numbers = 0;
  private sum = 0;
  /** What rounding took from `sum` (Neumaier). */
  private lost = 0;
  private min = 0;
  private max = 0;
  private mean = 0;
  private m2 = 0;
  private sketch: Sketch | undefined;
  /** Values that {@link replace} took back. */
  private removed = 0;

  /** `ts` in ms since the epoch; numbers are finite. */
  add(ts: number, value: Value): void {
    if (this.count === 0) {
      this.firstTs = this.lastTs = ts;
      this.first = this.last = value;
    } else {
      this.takeLast(ts, value);
      this.takeFirst(ts, value);
    }
    this.count += 1;
    if (typeof value === 'number') this.addNumber(value);
    else if (typeof value === 'boolean') this.addNumber(value ? 1 : 0);
  }

  private takeFirst(ts: number, value: Value): void {
    if (ts < this.firstTs || (ts === this.firstTs && precedes(value, this.first))) {
      this.firstTs = ts;
      this.first = value;
    }
  }

  private takeLast(ts: number, value: Value): void {
    if (ts > this.lastTs || (ts === this.lastTs && precedes(this.last, value))) {
      this.lastTs = ts;
      this.last = value;
    }
  }

  private addNumber(value: number): void {
    if (this.sketch === undefined) {
      this.sketch = new Sketch();
      this.min = this.max = value;
    } else if (value < this.min) this.min = value;
    else if (value > this.max) this.max = value;
    this.numbers += 1;
    this.addSum(value);
    const delta = value - this.mean;
    this.mean += delta / this.numbers;
    this.m2 += delta * (value - this.mean);
    this.sketch.add(value);
  }

  /**
   * Puts `value` in the place of `old`, which was added with the same time and is the only one of that
   * time. False, without effect, where that cannot be done exactly enough: for extremes, and when much was
   * replaced already. The aggregate has to be made anew then, with what is there now.
   */
  replace(ts: number, old: Value, value: Value): boolean {
    const number = numberOf(old);
    if (number !== undefined && !this.removeNumber(number)) return false;
    const added = numberOf(value);
    if (added !== undefined) this.addNumber(added);
    if (ts === this.firstTs) this.first = value;
    if (ts === this.lastTs) this.last = value;
    return true;
  }

  private removeNumber(value: number): boolean {
    const { sketch, numbers } = this;
    const isWithin = value > this.min && value < this.max;
    if (sketch === undefined || numbers < 3 || !isWithin) return false;
    if (this.removed >= REPLACED_MIN + numbers * REPLACED_PART) return false;
    const delta = value - this.mean;
    const mean = this.mean - delta / (numbers - 1);
    const part = delta * (value - mean);
    // What is left of a difference of nearly equal numbers is rounding.
    if (!(part <= this.m2 / 2) || !sketch.remove(value)) return false;
    this.removed += 1;
    this.numbers -= 1;
    this.addSum(-value);
    this.mean = mean;
    this.m2 -= part;
    return true;
  }

  private addSum(value: number): void {
    const sum = this.sum + value;
    if (Math.abs(this.sum) >= Math.abs(value)) this.lost += this.sum - sum + value;
    else this.lost += value - sum + this.sum;
    this.sum = sum;
  }

  /** Adds what `other` has; `other` stays as it is. */
  merge(other: Accumulator): void {
    if (other.count === 0) return;
    if (this.count === 0) {
      this.firstTs = other.firstTs;
      this.lastTs = other.lastTs;
      this.first = other.first;
      this.last = other.last;
    } else {
      this.takeFirst(other.firstTs, other.first);
      this.takeLast(other.lastTs, other.last);
    }
    this.count += other.count;
    if (other.sketch !== undefined) this.mergeNumbers(other, other.sketch);
  }

  private mergeNumbers(other: Accumulator, sketch: Sketch): void {
    if (this.sketch === undefined) {
      this.sketch = new Sketch();
      this.min = other.min;
      this.max = other.max;
    } else {
      this.min = Math.min(this.min, other.min);
      this.max = Math.max(this.max, other.max);
    }
    this.sketch.merge(sketch);
    const numbers = this.numbers + other.numbers;
    // Chan, Golub, LeVeque: the parallel form of Welford's recurrence.
    const delta = other.mean - this.mean;
    this.m2 += other.m2 + delta * delta * ((this.numbers * other.numbers) / numbers);
    this.mean += delta * (other.numbers / numbers);
    this.numbers = numbers;
    this.addSum(other.sum);
    this.addSum(other.lost);
  }

  /** The aggregate so far; later changes do not show in it. */
  state(): AggregateState {
    const state: AggregateState = {
      count: this.count,
      sum: 0,
      min: this.min,
      max: this.max,
      mean: 0,
      m2: 0,
      firstTs: this.firstTs,
      first: this.first,
      lastTs: this.lastTs,
      last: this.last,
    };
    if (this.sketch === undefined) return state;
    const sum = Number.isFinite(this.sum) ? this.sum + this.lost : this.sum;
    const mean = Number.isFinite(sum) ? sum / this.numbers : saturated(this.mean);
    state.sum = saturated(sum);
    state.mean = Math.min(this.max, Math.max(this.min, mean));
    state.m2 = saturated(Math.max(0, this.m2));
    state.sketch = this.sketch.encode();
    return state;
  }

  /** Throws STORE_CORRUPT when the sketch is none. */
  static from(state: AggregateState): Accumulator {
    const accumulator = new Accumulator();
    accumulator.count = state.count;
    accumulator.firstTs = state.firstTs;
    accumulator.lastTs = state.lastTs;
    accumulator.first = state.first;
    accumulator.last = state.last;
    if (state.sketch === undefined) return accumulator;
    accumulator.sketch = Sketch.decode(state.sketch);
    accumulator.numbers = accumulator.sketch.count;
    accumulator.sum = state.sum;
    accumulator.min = state.min;
    accumulator.max = state.max;
    accumulator.mean = state.mean;
    accumulator.m2 = state.m2;
    return accumulator;
  }
}

/**
 * The aggregate of two disjoint sets of values. Commutative and associative up to the rounding of
 * doubles. Throws STORE_CORRUPT when a sketch is none.
 */
export function mergeStates(a: AggregateState, b: AggregateState): AggregateState {
  const merged = Accumulator.from(a);
  merged.merge(Accumulator.from(b));
  return merged.state();
}

/** The aggregate of values in any order; `ts` in ms since the epoch. `count` is 0 without values. */
export function stateOf(values: readonly { ts: number; value: Value }[]): AggregateState {
  const accumulator = new Accumulator();
  for (const { ts, value } of values) accumulator.add(ts, value);
  return accumulator.state();
}

/** The statistics of an aggregate that holds at least one value. Throws STORE_CORRUPT when its sketch is none. */
export function finish(state: AggregateState): FinishedStats {
  const finished: FinishedStats = { count: state.count, first: state.first, last: state.last };
  if (state.sketch === undefined) return finished;
  const sketch = Sketch.decode(state.sketch);
  const numbers = sketch.count;
  if (numbers === 0) return finished;
  finished.sum = state.sum;
  finished.min = state.min;
  finished.max = state.max;
  finished.mean = state.mean;
  if (numbers > 1) finished.stddev = Math.sqrt(state.m2 / (numbers - 1));
  const isBoolean = typeof state.first === 'boolean' && typeof state.last === 'boolean';
  const whole = isBoolean && state.min >= 0 && state.max <= 1;
  const percentile = (permille: number): number => {
    const value = Math.min(state.max, Math.max(state.min, sketch.quantile(permille)));
    return whole ? Math.round(value) : value;
  };
  finished.p50 = percentile(500);
  finished.p90 = percentile(900);
  finished.p99 = percentile(990);
  return finished;
}

/**
 * True when two aggregates say the same: everything exact but `sum`, `mean` and `m2`, which may differ
 * by the rounding of another order of adding.
 */
export function sameState(a: AggregateState, b: AggregateState): boolean {
  return (
    a.count === b.count &&
    a.min === b.min &&
    a.max === b.max &&
    a.firstTs === b.firstTs &&
    a.first === b.first &&
    a.lastTs === b.lastTs &&
    a.last === b.last &&
    close(a.sum, b.sum, Math.max(Math.abs(a.min), Math.abs(a.max)) * a.count) &&
    sameBytes(a.sketch, b.sketch)
  );
}

function close(a: number, b: number, scale: number): boolean {
  return Math.abs(a - b) <= 1e-12 * scale;
}

function sameBytes(a: Uint8Array | undefined, b: Uint8Array | undefined): boolean {
  if (a === undefined || b === undefined) return a === b;
  return Buffer.compare(a, b) === 0;
}
