import type { Value } from '../core/nouns.ts';

/** Numbers by place, and what else there is by time. */
class Column {
  /** NaN where the reading has no number of this metric. */
  numbers: Float64Array;
  others: Map<number, Value> | undefined;

  constructor(capacity: number) {
    this.numbers = new Float64Array(capacity).fill(Number.NaN);
  }

  get(place: number, ts: number): Value | undefined {
    const number = this.numbers[place] ?? Number.NaN;
    return Number.isNaN(number) ? this.others?.get(ts) : number;
  }

  set(place: number, ts: number, value: Value): void {
    if (typeof value === 'number') {
      this.numbers[place] = value;
      this.others?.delete(ts);
      return;
    }
    this.numbers[place] = Number.NaN;
    this.others ??= new Map();
    this.others.set(ts, value);
  }

  /** Makes room at `place`; `size`: readings before that. */
  open(place: number, size: number, capacity: number): void {
    if (this.numbers.length < capacity) {
      const grown = new Float64Array(capacity);
      grown.set(this.numbers.subarray(0, size));
      this.numbers = grown;
    }
    if (place < size) this.numbers.copyWithin(place + 1, place, size);
    this.numbers[place] = Number.NaN;
  }
}

/**
 * The values of a window's readings, kept by devices that send several values for one time: what it
 * takes to merge them and to settle conflicts without asking the store. 8 bytes for each metric of a
 * reading, and at most half as much again in reserve; texts and booleans take more.
 *
 * Places are those of the window's {@link ReadingIndex}, metrics the device's slots.
 */
export class KeptValues {
  /** Values there is room for, of all readings. */
  cells = 0;
  /** The partition that most values came from. */
  private readonly home: number;
  private readonly columns: (Column | undefined)[] = [];
  private columnCount = 0;
  private size = 0;
  private capacity = 4;
  /** Where values came from another partition: by time and slot. */
  private foreign: Map<number, Map<number, number>> | undefined;

  constructor(home: number) {
    this.home = home;
  }

  /** A new reading, as yet without values. */
  insert(place: number): void {
    if (this.size === this.capacity) {
      this.capacity = this.size < 64 ? this.size * 2 : Math.ceil(this.size * 1.5);
    }
    for (const column of this.columns) column?.open(place, this.size, this.capacity);
    this.size += 1;
    this.cells = this.columnCount * this.size;
  }

  get(place: number, ts: number, slot: number): Value | undefined {
    return this.columns[slot]?.get(place, ts);
  }

  set(place: number, ts: number, slot: number, value: Value, partition: number): void {
    let column = this.columns[slot];
    if (column === undefined) {
      column = new Column(this.capacity);
      this.columns[slot] = column;
      this.columnCount += 1;
      this.cells = this.columnCount * this.size;
    }
    column.set(place, ts, value);
    this.setPartition(ts, slot, partition);
  }

  /** The partition that a value came from. */
  partitionOf(ts: number, slot: number): number {
    return this.foreign?.get(ts)?.get(slot) ?? this.home;
  }

  setPartition(ts: number, slot: number, partition: number): void {
    if (partition === this.home) {
      this.foreign?.get(ts)?.delete(slot);
      return;
    }
    this.foreign ??= new Map();
    let slots = this.foreign.get(ts);
    if (slots === undefined) {
      slots = new Map();
      this.foreign.set(ts, slots);
    }
    slots.set(slot, partition);
  }
}
