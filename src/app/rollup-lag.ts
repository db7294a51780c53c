import { NO_LAG, type RollupLag } from '../gateway/overload/lag-pace.ts';
import type { LogStats } from '../log/contract.ts';
import type { Backlog } from './backlog.ts';

/** How often it is noted where the log ends, ms, and how many notes are kept; beyond it every other one goes. */
const NOTE_MS = 500;
const NOTES_MAX = 1_000;
/** From this part on the CPU is what the worker lacks, on a mean over about so long, ms. */
const BUSY = 0.5;
const MEAN_MS = 3_000;
/** A worker that says nothing for so long is stuck, not behind, ms. */
const SILENT_MS = 30_000;
/** What a flush weighs beside the one after it, when it is asked what a record costs. */
const MEMORY = 0.8;

/**
 * How far the rollup worker of this process is behind, as seen from the other end of the log, so that it is known
 * while the worker doesn't get to saying anything. It is the larger of two:
 *
 *   - how old the oldest record is that is not processed; what was in the log at the start counts from then on, since
 *     that is how long this process has had it
 *   - the CPU that the worker needs for all of them, by what records have cost lately: a flood of which the worker has
 *     seen little is not old yet
 */
export class LagWatch {
  private readonly stats: () => LogStats;
  private readonly backlog: Backlog;
  private readonly now: () => number;
  /** Where the log ended at a time, ms; oldest first. */
  private notes: { at: number; end: number }[];
  private demand = 0;
  private heardAt: number;
  /** Of the last flushes. */
  private readonly recent = { usedMs: 0, records: 0 };
  /** CPU time of the worker's thread at the last one, ms. */
  private usedMs = 0;
  /** The last one; undefined before the first, from which on it is known where the worker began. */
  private flush: RollupLag['flush'];

  /** `now`: monotonic, ms. */
  constructor(stats: () => LogStats, backlog: Backlog, now: () => number) {
    this.stats = stats;
    this.backlog = backlog;
    this.now = now;
    this.heardAt = now();
    const { endOffset: end } = stats();
    this.notes = [{ at: now(), end }];
  }

  /** The backlog was told of a flush, until which the worker's thread had so much CPU time. */
  flushed(usedMs: number): void {
    const { flush, recent } = this;
    // A thread that was started anew begins at 0.
    const used = Math.max(0, usedMs - this.usedMs);
    this.usedMs = usedMs;
    this.flush = { arrived: this.stats().endOffset, processed: this.backlog.position };
    const records = flush === undefined ? 0 : this.flush.processed - flush.processed;
    if (records <= 0) return;
    recent.usedMs = recent.usedMs * MEMORY + used;
    recent.records = recent.records * MEMORY + records;
  }

  /** Part of the time since the last call for which the worker's thread ran or waited for the CPU. */
  heard(demand: number): void {
    const now = this.now();
    this.demand += (demand - this.demand) * -Math.expm1((this.heardAt - now) / MEAN_MS);
    this.heardAt = now;
  }

  look(): RollupLag {
    const now = this.now();
    this.note(now);
    const isBusy = this.demand >= BUSY && now - this.heardAt < SILENT_MS;
    const ms = Math.max(this.ageMs(now), this.workMs());
    return this.flush === undefined ? NO_LAG : { ms: isBusy ? ms : 0, flush: this.flush };
  }

  private note(now: number): void {
    const { endOffset: end } = this.stats();
    const last = this.notes.at(-1);
    if (last !== undefined && (end === last.end || now - last.at < NOTE_MS)) return;
    this.notes.push({ at: now, end });
    if (this.notes.length > NOTES_MAX) this.notes = this.notes.filter((_, at) => at % 2 === 0);
  }

  /** Forgets what is noted of before. */
  private ageMs(now: number): number {
    const { position } = this.backlog;
    const first = this.notes.findIndex(({ end }) => end > position);
    if (first < 0) return 0;
    this.notes.splice(0, first);
    return now - (this.notes[0]?.at ?? now);
  }

  private workMs(): number {
    const { usedMs, records } = this.recent;
    if (records === 0) return 0;
    return ((this.stats().endOffset - this.backlog.position) * usedMs) / records;
  }
}
