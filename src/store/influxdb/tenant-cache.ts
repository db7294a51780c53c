/** Tenants that are remembered; the one used longest ago makes room for the next. */
const TENANTS_MAX = 100;
/** An answer may be as old as this share of what it cost: asking takes at most a sixth of the time. */
const AGE_PER_COST = 5;
const AGE_MAX_MS = 30_000;
/** What could only be kept for less than this is not kept. */
const AGE_MIN_MS = 500;

interface Entry<Value> {
  value: Promise<Value>;
  /** By the monotonic clock, ms; Infinity while the answer is awaited. */
  validUntil: number;
  version: number;
}

/**
 * Answers by tenant to a question that is dear on a large store: asked once at a time, and kept for a while
 * that grows with its cost, so that a small store is always asked afresh.
 */
export class TenantCache<Value> {
  private readonly ask: (tenant: string) => Promise<Value>;
  private readonly entries = new Map<string, Entry<Value>>();
  private version = 0;

  constructor(ask: (tenant: string) => Promise<Value>) {
    this.ask = ask;
  }

  /** The answer belongs to the cache and must not be changed. */
  async get(tenant: string): Promise<Value> {
    const known = this.entries.get(tenant);
    if (
      known !== undefined &&
      known.version === this.version &&
      performance.now() < known.validUntil
    ) {
      return known.value;
    }
    const began = performance.now();
    const entry: Entry<Value> = {
      value: this.ask(tenant),
      validUntil: Number.POSITIVE_INFINITY,
      version: this.version,
    };
    this.entries.delete(tenant);
    this.entries.set(tenant, entry);
    for (const oldest of this.entries.keys()) {
      if (this.entries.size <= TENANTS_MAX) break;
      this.entries.delete(oldest);
    }
    try {
      const value = await entry.value;
      const ended = performance.now();
      const age = Math.min(AGE_MAX_MS, (ended - began) * AGE_PER_COST);
      entry.validUntil = age < AGE_MIN_MS ? 0 : ended + age;
      return value;
    } catch (error) {
      entry.validUntil = 0;
      throw error;
    }
  }

  /** After own writes answers are out of date. */
  invalidate(): void {
    this.version += 1;
  }
}
