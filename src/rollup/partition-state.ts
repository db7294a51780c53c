import type { ReadingRecord } from '../core/nouns.ts';
import type { StoredDeadLetter, StoredReading } from '../store/contract.ts';
import type { Applied } from './device-windows.ts';
import { LedgerTally } from './ledger-tally.ts';
import { LetterChanges } from './letter-changes.ts';
import { Repeats } from './repeats.ts';

/** A reading on its way to the store, with what a dead letter of it would say. */
export type TakenReading = StoredReading & Pick<ReadingRecord, 'attempt'>;

/** One partition's progress, and what is to be written of it. */
export class PartitionState {
  readonly partition: number;
  /** Next offset to apply. */
  next: number;
  /** Position in the store. */
  committed: number;
  /** When the last batch taken was appended, gateway time, ms; undefined before the first. */
  appendedAt: number | undefined;
  readonly tally = new LedgerTally();
  /** Last number taken of each source, where the log has sources. */
  readonly sources: Map<string, number>;
  /** Raw readings that are not in the store yet, in order. The worker writes them before they get many. */
  raw: TakenReading[] = [];
  /** What each of `raw` counts as. */
  rawApplied: Applied[] = [];
  deadLetters: StoredDeadLetter[] = [];
  readonly letterChanges = new LetterChanges();
  readonly repeats: Repeats;
  /** Another worker has it, or nobody: nothing of it may be written any more. */
  isLost = false;
  /** It was lost when everything of it was in the store, and may come back as it was. */
  isParked = false;

  /** `notes`: what a worker before has noted of its {@link Repeats}. */
  constructor(
    partition: number,
    next: number,
    sources: ReadonlyMap<string, number> = new Map(),
    notes: readonly string[] = [],
  ) {
    this.partition = partition;
    this.next = next;
    this.committed = next;
    this.sources = new Map(sources);
    this.repeats = new Repeats(notes);
  }

  /** Everything that was taken is in the store, with its position. */
  get isWritten(): boolean {
    const { next, committed, raw, deadLetters, letterChanges } = this;
    return (
      next === committed && raw.length === 0 && deadLetters.length === 0 && letterChanges.size === 0
    );
  }
}
