/**
 * A bounded first-in, first-out ring that drops the oldest when it is full, like the flash buffer of a
 * small device. It starts small and doubles up to its limit: most devices never need the room.
 */
export class ReadingBuffer<T> {
  readonly limit: number;
  /** How many were dropped because the ring was full. */
  dropped = 0;
  #slots: (T | undefined)[] = [];
  #head = 0;
  #length = 0;

  /** @param limit entries kept; at least 1 */
  constructor(limit: number) {
    if (!Number.isInteger(limit) || limit < 1) throw new RangeError(`limit ${limit} is not >= 1`);
    this.limit = limit;
  }

  get length(): number {
    return this.#length;
  }

  /** @returns the entry that had to go, if one had to */
  push(entry: T): T | undefined {
    let lost: T | undefined;
    if (this.#length === this.limit) {
      lost = this.shift();
      this.dropped++;
    }
    if (this.#length === this.#slots.length) this.#grow();
    this.#slots[(this.#head + this.#length) % this.#slots.length] = entry;
    this.#length++;
    return lost;
  }

  peek(): T | undefined {
    return this.#length === 0 ? undefined : this.#slots[this.#head];
  }

  shift(): T | undefined {
    if (this.#length === 0) return undefined;
    const entry = this.#slots[this.#head];
    this.#slots[this.#head] = undefined;
    this.#head = (this.#head + 1) % this.#slots.length;
    this.#length--;
    return entry;
  }

  #grow(): void {
    const size = Math.min(this.limit, Math.max(4, this.#slots.length * 2));
    const slots = new Array<T | undefined>(size).fill(undefined);
    for (let i = 0; i < this.#length; i++) {
      slots[i] = this.#slots[(this.#head + i) % this.#slots.length];
    }
    this.#slots = slots;
    this.#head = 0;
  }
}
