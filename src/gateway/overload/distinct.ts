const DAY_MS = 86_400_000;

/** Distinct names of a day (UTC), up to a bound; 0 is none, and nothing is kept then. */
export class Distinct {
  readonly max: number;
  private day = 0;
  private names: Set<string> | undefined;

  constructor(max: number) {
    this.max = max;
  }

  /** False when the name is new and there is no room for it. `now` in ms since the epoch. */
  admits(name: string, now: number): boolean {
    if (this.max === 0) return true;
    const day = Math.floor(now / DAY_MS);
    if (this.names === undefined || day !== this.day) {
      this.day = day;
      this.names = new Set();
    }
    if (this.names.has(name)) return true;
    if (this.names.size >= this.max) return false;
    this.names.add(name);
    return true;
  }
}
