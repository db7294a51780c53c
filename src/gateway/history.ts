import { SkewEstimate } from './clock-skew.ts';
import type { BackfillView, ConnectionView, Decision, DeviceView } from './contract.ts';

/**
 * What the gateway remembers of devices, for those who ask why: their last decisions, their clock, their
 * last connection. In memory alone, for so many devices; those that were quiet make room for others.
 *
 * Noting costs some 20 ns: two numbers in a ring, or one more in the last entry.
 */

/** Decisions that are kept of a device. */
export const DECISIONS_KEPT = 100;
/** Equal decisions within this time are one entry with a count, ms. */
const MERGED_MS = 1_000;
/** Entries that are looked at for one that was quiet. */
const LOOKED_AT = 8;
/** An entry's second number is its code and, above it, its count. */
const COUNT_UNIT = 2 ** 16;
const COUNT_MAX = 2 ** 30;

type What = Decision['what'];

/** What was decided and why, by number: few in all. */
const known: { what: What; code: string }[] = [];
const numbers = new Map<string, number>();

/** The number of a decision; `code`: of a refusal or limit, empty for `accepted`. */
export function decision(what: What, code = ''): number {
  const key = `${what} ${code}`;
  const found = numbers.get(key);
  if (found !== undefined) return found;
  const number = known.length;
  known.push({ what, code });
  numbers.set(key, number);
  return number;
}

export const ACCEPTED = decision('accepted');

export class History {
  /** Another device has its place: ask {@link Histories} again. */
  evicted = false;
  /** Since somebody looked whether it was quiet. */
  used = true;
  lastConnection: ConnectionView | undefined;
  private skew: SkewEstimate | undefined;
  private backfill: BackfillView | undefined;
  private ring: Float64Array | undefined;
  private size = 0;
  private newest = 0;

  /** `ring`: of a device that made room, to be used again. */
  constructor(ring: Float64Array | undefined) {
    this.ring = ring;
  }

  /** `number`: of {@link decision}; `at`: gateway time, ms; `count`: of readings or messages. */
  note(number: number, at: number, count = 1): void {
    this.used = true;
    let { ring } = this;
    if (ring === undefined) {
      ring = new Float64Array(2 * DECISIONS_KEPT);
      this.ring = ring;
    }
    const place = this.newest * 2;
    const entry = ring[place + 1] as number;
    if (
      this.size > 0 &&
      entry % COUNT_UNIT === number &&
      at - (ring[place] as number) < MERGED_MS &&
      entry < COUNT_MAX * COUNT_UNIT
    ) {
      ring[place + 1] = entry + count * COUNT_UNIT;
      return;
    }
    if (this.size > 0) this.newest = (this.newest + 1) % DECISIONS_KEPT;
    if (this.size < DECISIONS_KEPT) this.size += 1;
    ring[this.newest * 2] = at;
    ring[this.newest * 2 + 1] = number + count * COUNT_UNIT;
  }

  /** A live reading's own time, whatever was decided about it. */
  observeClock(ts: number, received: number): void {
    this.skew ??= new SkewEstimate();
    this.skew.observe(ts, received);
  }

  /** An accepted reading that is old; times in ms. */
  noteBackfill(ts: number, at: number): void {
    this.backfill ??= { readings: 0, since: at, at, ts, oldest: ts };
    const { backfill } = this;
    backfill.readings++;
    backfill.at = at;
    backfill.ts = ts;
    if (ts < backfill.oldest) backfill.oldest = ts;
  }

  /** Newest first. */
  decisions(): Decision[] {
    const list: Decision[] = [];
    for (let back = 0; back < this.size; back += 1) {
      const index = (this.newest - back + DECISIONS_KEPT) % DECISIONS_KEPT;
      const entry = this.ring?.[index * 2 + 1] ?? 0;
      const { what, code } = known[entry % COUNT_UNIT] ?? { what: 'accepted', code: '' };
      const at = this.ring?.[index * 2] ?? 0;
      list.push({ at, what, code, count: Math.floor(entry / COUNT_UNIT) });
    }
    return list;
  }

  view(): Pick<DeviceView, 'decisions' | 'clock' | 'lastConnection' | 'backfill'> {
    return {
      decisions: this.decisions(),
      clock: this.skew?.view() ?? null,
      lastConnection: this.lastConnection ?? null,
      backfill: this.backfill ?? null,
    };
  }

  get clock() {
    return this.skew?.view();
  }

  /** Gives up its ring for another device. */
  evict(): Float64Array | undefined {
    this.evicted = true;
    return this.ring;
  }
}

export class Histories {
  private readonly devicesMax: number;
  /** By `<tenant>/<device>`; those that were looked at last at the end. */
  private readonly all = new Map<string, History>();

  constructor(options: { devicesMax: number }) {
    this.devicesMax = options.devicesMax;
  }

  get size(): number {
    return this.all.size;
  }

  /** Undefined while all places belong to devices that are busy. */
  of(name: string): History | undefined {
    const found = this.all.get(name);
    if (found !== undefined) return found;
    let ring: Float64Array | undefined;
    if (this.all.size >= this.devicesMax) {
      const quiet = this.quiet();
      if (quiet === undefined) return undefined;
      ring = this.all.get(quiet)?.evict();
      this.all.delete(quiet);
    }
    const made = new History(ring);
    this.all.set(name, made);
    return made;
  }

  find(name: string): History | undefined {
    return this.all.get(name);
  }

  entries(): Iterable<[string, History]> {
    return this.all.entries();
  }

  /** One of those looked at longest ago that was not used since; the others of them go to the end. */
  private quiet(): string | undefined {
    let left = Math.min(LOOKED_AT, this.all.size);
    for (const [name, history] of this.all) {
      if (!history.used) return name;
      history.used = false;
      this.all.delete(name);
      this.all.set(name, history);
      left -= 1;
      if (left === 0) return undefined;
    }
    return undefined;
  }
}
