/** What may come at once after a pause. */
const BURST_MS = 50;

/** A rate in units of cost that all tenants share; without one everything is allowed. */
export class Pace {
  private readonly now: () => number;
  private perMs: number | undefined;
  private left = 0;
  private at = 0;

  constructor(now: () => number) {
    this.now = now;
  }

  /** Cost per ms; undefined: no pace. */
  get rate(): number | undefined {
    return this.perMs;
  }

  set rate(perMs: number | undefined) {
    if (this.perMs === undefined) {
      this.left = 0;
      this.at = this.now();
    }
    this.perMs = perMs;
  }

  allows(): boolean {
    if (this.perMs === undefined) return true;
    const now = this.now();
    this.left = Math.min(this.perMs * BURST_MS, this.left + (now - this.at) * this.perMs);
    this.at = now;
    return this.left > 0;
  }

  take(cost: number): void {
    if (this.perMs !== undefined) this.left -= cost;
  }
}
