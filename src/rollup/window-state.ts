import type { AggregateState } from '../core/nouns.ts';
import { Accumulator } from './aggregate.ts';
import type { KeptValues } from './kept-values.ts';
import { ReadingIndex } from './reading-index.ts';

/** What the store holds of one row, as far as it matters here. */
export class RowState {
  revision = 0;
  /** Gateway time of the last write, ms. */
  changedAt = 0;
  /** The store has the row. */
  stored = false;
  /** The row as stored, while it is not known to differ from memory. */
  compare: AggregateState | undefined;
}

/** One metric of one base window. */
export class WindowMetric {
  accumulator = new Accumulator();
  readonly row = new RowState();
  /** `accumulator.count` at the last write; -1 where that does not tell what has changed since. */
  writtenCount = 0;
  /** A value was replaced, and the accumulator could not follow: it has to be made anew from the values. */
  isStale = false;
}

export class Window {
  readonly start: number;
  readonly hour: Hour;
  index = new ReadingIndex();
  /** By the device's slot of the metric. */
  readonly metrics: (WindowMetric | undefined)[] = [];
  dirty = false;
  /** Was (re)built from raw readings: rows are compared with the stored ones and written where they differ. */
  verify: boolean;
  /** The stored rows are known; they are not right after a load. */
  rowsKnown: boolean;
  /** To be built anew from the raw readings once these are written. */
  rebuild = false;
  /** The values themselves, of devices that send several for one time. */
  kept: KeptValues | undefined;
  /** One of its metrics is stale. */
  hasStale = false;
  /** Gateway time of the last flush that found it dirty, ms. */
  flushedAt = 0;

  constructor(start: number, hour: Hour, known: boolean) {
    this.start = start;
    this.hour = hour;
    this.rowsKnown = known;
    this.verify = !known;
  }
}

/** What an hour and a day have in common. */
export class Span {
  readonly start: number;
  /** What is not in memory, by the device's slot of the metric; undefined while unknown. */
  closed: (Accumulator | undefined)[] | undefined;
  readonly rows: (RowState | undefined)[] = [];
  rowsKnown: boolean;
  verify: boolean;
  dirty: boolean;

  constructor(start: number, known: boolean) {
    this.start = start;
    this.closed = known ? [] : undefined;
    this.rowsKnown = known;
    this.verify = !known;
    this.dirty = !known;
  }

  /** A part that may be in `closed` comes into memory. The rows are read again to see what changes. */
  forgetClosed(): void {
    this.closed = undefined;
    this.recheck();
  }

  /** The rows are read again, and all of them compared: a part below compares its own with stored ones. */
  recheck(): void {
    this.rowsKnown = false;
    this.verify = true;
    this.dirty = true;
  }

  row(slot: number): RowState {
    let row = this.rows[slot];
    if (row === undefined) {
      row = new RowState();
      this.rows[slot] = row;
    }
    return row;
  }

  /** Adds to `closed` where that is known. */
  fold(slot: number, accumulator: Accumulator): void {
    if (this.closed === undefined) return;
    let sum = this.closed[slot];
    if (sum === undefined) {
      sum = new Accumulator();
      this.closed[slot] = sum;
    }
    sum.merge(accumulator);
  }
}

export class Hour extends Span {
  readonly day: Day;
  readonly windows = new Map<number, Window>();
  constructor(start: number, day: Day, known: boolean) {
    super(start, known);
    this.day = day;
  }
}

export class Day extends Span {
  readonly hours = new Map<number, Hour>();
}
