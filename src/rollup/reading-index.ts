/**
 * The times of a window's readings, ascending, each with a hash of its values: what it takes to know a
 * repeated reading without keeping the reading. One Float64Array with pairs [ts, hash]: 16 bytes a
 * reading and at most half as much again in reserve. Readings mostly come in order, so appending is the fast path.
 */
export class ReadingIndex {
  size = 0;
  private cells = new Float64Array(4);

  /** Place of `ts` if it is there, else the complement (`~place`) of where it belongs. */
  search(ts: number): number {
    const { cells } = this;
    let high = this.size - 1;
    if (high < 0 || ts > (cells[high * 2] ?? 0)) return ~this.size;
    let low = 0;
    while (low <= high) {
      const middle = (low + high) >>> 1;
      const at = cells[middle * 2] ?? 0;
      if (at === ts) return middle;
      if (at < ts) low = middle + 1;
      else high = middle - 1;
    }
    return ~low;
  }

  tsAt(place: number): number {
    return this.cells[place * 2] ?? 0;
  }

  hashAt(place: number): number {
    return this.cells[place * 2 + 1] ?? 0;
  }

  setHash(place: number, hash: number): void {
    this.cells[place * 2 + 1] = hash;
  }

  /** `place`: where {@link search} said that `ts` belongs. */
  insert(place: number, ts: number, hash: number): void {
    const end = this.size * 2;
    if (end === this.cells.length) {
      const size = end < 64 ? end * 2 : Math.ceil((end * 1.5) / 2) * 2;
      const grown = new Float64Array(size);
      grown.set(this.cells);
      this.cells = grown;
    }
    const at = place * 2;
    if (at < end) this.cells.copyWithin(at + 2, at, end);
    this.cells[at] = ts;
    this.cells[at + 1] = hash;
    this.size += 1;
  }
}
