import type { StoredReading, StoreReader } from '../store/contract.ts';

/**
 * What is missing of a device by its own counter (`seq`), from what is stored: so it is the same after any crash,
 * and a reading that comes late, or is replayed, closes its gap. Readings are looked at in the order of
 * their event times.
 *
 *     seq      7  8  9     12  11  13      0  1        ts ──▶
 *                     └gap 10┘             └ restart
 *
 * A counter that goes back to what a gap lacks fills it (the clock was set back); one that goes back to
 * anything else begins anew, and what it may have lacked before that is not known.
 */
export interface SequenceGap {
  /** The first and last number that are missing, and how many these are. */
  first: number;
  last: number;
  missing: number;
  /** Event times of the readings before and behind it, ms. */
  after: number;
  before: number;
}

export interface Sequence {
  /** Readings with a number. */
  readings: number;
  missing: number;
  /** How often the counter began anew. */
  restarts: number;
  /** The newest, oldest first. */
  gaps: SequenceGap[];
  /** Gaps in all. */
  gapCount: number;
  /** Numbers of the first and last reading by event time. */
  firstSeq: number;
  lastSeq: number;
  /** False: there are more readings than are looked at, the rest of the range was not. */
  complete: boolean;
}

const PAGE_ROWS = 10_000;
const ROWS_MAX = 200_000;
/** Gaps that a reading may still fill. */
const OPEN_GAPS = 64;
const GAPS_MAX = 100;

class Walk {
  readings = 0;
  restarts = 0;
  missing = 0;
  gapCount = 0;
  gaps: SequenceGap[] = [];
  firstSeq: number | undefined;
  private last: number | undefined;
  private lastTs = 0;
  /** Gaps before this one in `gaps` are of an earlier run of the counter. */
  private openFrom = 0;

  get lastSeq(): number {
    return this.last ?? 0;
  }

  take(seq: number, ts: number): void {
    const { last } = this;
    this.readings += 1;
    this.firstSeq ??= seq;
    if (last === undefined || seq === last + 1) this.moveTo(seq, ts);
    else if (seq > last) {
      this.add({
        first: last + 1,
        last: seq - 1,
        missing: seq - last - 1,
        after: this.lastTs,
        before: ts,
      });
      this.moveTo(seq, ts);
    } else if (seq < last && !this.fill(seq)) {
      this.restarts += 1;
      this.openFrom = this.gaps.length;
      this.moveTo(seq, ts);
    }
  }

  private moveTo(seq: number, ts: number): void {
    this.last = seq;
    this.lastTs = ts;
  }

  private add(gap: SequenceGap): void {
    this.gaps.push(gap);
    this.gapCount += 1;
    this.missing += gap.missing;
    if (this.gaps.length <= 2 * GAPS_MAX) return;
    this.gaps = this.gaps.slice(GAPS_MAX);
    this.openFrom = Math.max(0, this.openFrom - GAPS_MAX);
  }

  private fill(seq: number): boolean {
    const until = Math.max(this.openFrom, this.gaps.length - OPEN_GAPS);
    for (let at = this.gaps.length - 1; at >= until; at -= 1) {
      const gap = this.gaps[at];
      if (gap === undefined || seq < gap.first || seq > gap.last) continue;
      const parts = [
        { ...gap, last: seq - 1, missing: seq - gap.first },
        { ...gap, first: seq + 1, missing: gap.last - seq },
      ].filter(({ missing }) => missing > 0);
      this.gaps.splice(at, 1, ...parts);
      this.gapCount += parts.length - 1;
      this.missing -= 1;
      return true;
    }
    return false;
  }
}

/** Undefined where no reading of the range has a number. Times in ms, `to` exclusive. */
export async function sequenceOf(
  store: Pick<StoreReader, 'readings'>,
  range: { tenant: string; device: string; from: number; to: number },
): Promise<Sequence | undefined> {
  const { tenant, device, to } = range;
  const walk = new Walk();
  let { from } = range;
  let rows = 0;
  let complete = true;
  for (;;) {
    const query = { tenant, devices: [device], from, to, limit: PAGE_ROWS };
    const page: StoredReading[] = await store.readings(query);
    for (const { seq, ts } of page) if (seq !== undefined) walk.take(seq, ts);
    rows += page.length;
    const last = page.at(-1);
    if (last === undefined || page.length < PAGE_ROWS) break;
    if (rows >= ROWS_MAX) {
      complete = false;
      break;
    }
    from = last.ts + 1;
  }
  const { firstSeq, lastSeq, readings, missing, restarts, gapCount } = walk;
  if (firstSeq === undefined) return undefined;
  const gaps = walk.gaps.slice(-GAPS_MAX);
  return { readings, missing, restarts, gaps, gapCount, firstSeq, lastSeq, complete };
}
