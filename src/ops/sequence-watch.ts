import type { LogRecord } from '../core/nouns.ts';
import type { SequenceStatus } from './counters.ts';

/**
 * Notices in passing that numbers are missing from what devices count (`seq`), for the metrics: it sees each
 * record that a rollup worker takes, in the order in which they came. What came out of order, or by the lane
 * of old readings, closes its gap; a gap counts when it has been open for GRACE_MS of the log's time.
 *
 * In memory alone, since the start, and for so many devices; `reports/sequence.ts` tells of one device what is missing
 * from what is stored.
 */
interface Gap {
  first: number;
  last: number;
  /** Gateway time of the reading behind it, ms. */
  since: number;
  counted: boolean;
}

interface Entry {
  tenant: string;
  device: string;
  next: number;
  /** Newest event time, ms. */
  ts: number;
  gaps: Gap[];
}

const GRACE_MS = 30_000;
/** Of one device; the oldest are forgotten. */
const GAPS_MAX = 16;

export class SequenceWatch {
  private readonly devicesMax: number;
  private readonly devices = new Map<string, Entry>();
  /** Those with gaps. */
  private readonly open = new Set<Entry>();
  private gaps = 0;
  private restarts = 0;
  private unwatched = 0;

  constructor(devicesMax: number) {
    this.devicesMax = devicesMax;
  }

  counts(): SequenceStatus {
    let missing = 0;
    for (const { gaps } of this.open) {
      for (const gap of gaps) if (gap.counted) missing += gap.last - gap.first + 1;
    }
    return { gaps: this.gaps, missing, restarts: this.restarts, unwatched: this.unwatched };
  }

  take(record: LogRecord): void {
    if (record.kind !== 'reading' || record.seq === undefined || record.attempt !== undefined)
      return;
    const { tenant, device, seq, ts, received } = record;
    const key = `${tenant}/${device}`;
    const entry = this.devices.get(key);
    if (entry === undefined) {
      // Where old readings begin nobody knows what came before.
      if (record.lane === undefined) this.add(key, { tenant, device, next: seq + 1, ts, gaps: [] });
      return;
    }
    if (seq >= entry.next && record.lane === undefined) {
      if (seq > entry.next) this.miss(entry, seq, received);
      entry.next = seq + 1;
    } else if (!this.fill(entry, seq) && ts > entry.ts && record.lane === undefined) {
      this.restarts += 1;
      entry.next = seq + 1;
      entry.gaps = [];
      this.open.delete(entry);
    }
    if (ts > entry.ts) entry.ts = ts;
  }

  /** `now`: the log's time, ms. */
  look(now: number): void {
    for (const { gaps } of this.open) {
      for (const gap of gaps) {
        if (gap.counted || now - gap.since < GRACE_MS) continue;
        gap.counted = true;
        this.gaps += 1;
      }
    }
  }

  forget(isGone: (device: { tenant: string; device: string }) => boolean): void {
    for (const [key, entry] of this.devices) {
      if (!isGone(entry)) continue;
      this.devices.delete(key);
      this.open.delete(entry);
    }
  }

  private add(key: string, entry: Entry): void {
    if (this.devices.size < this.devicesMax) this.devices.set(key, entry);
    else this.unwatched += 1;
  }

  private miss(entry: Entry, seq: number, since: number): void {
    entry.gaps.push({ first: entry.next, last: seq - 1, since, counted: false });
    if (entry.gaps.length > GAPS_MAX) entry.gaps.shift();
    this.open.add(entry);
  }

  /** True when a gap lacked it. */
  private fill(entry: Entry, seq: number): boolean {
    const { gaps } = entry;
    const at = gaps.findLastIndex(({ first, last }) => seq >= first && seq <= last);
    const gap = gaps[at];
    if (gap === undefined) return false;
    const parts = [
      { ...gap, last: seq - 1 },
      { ...gap, first: seq + 1 },
    ].filter(({ first, last }) => first <= last);
    gaps.splice(at, 1, ...parts);
    if (gaps.length > GAPS_MAX) gaps.shift();
    if (gaps.length === 0) this.open.delete(entry);
    return true;
  }
}
