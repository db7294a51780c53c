import type { DuplicateKind } from '../core/refusals.ts';

/** A note's length at most; stores far away bound their texts. */
const NOTE_CHARS_MAX = 16_000;
const LETTERS = { I: 'IDENTICAL', M: 'MERGED', C: 'CONFLICT' } as const;
const LETTER_OF: Readonly<Record<DuplicateKind, keyof typeof LETTERS>> = {
  IDENTICAL: 'I',
  MERGED: 'M',
  CONFLICT: 'C',
};

/** Records in a row that repeat a time, and are of one kind. */
interface Run {
  kind: DuplicateKind;
  first: number;
  count: number;
}

/**
 * What the repeated readings of one partition count as, between its position in the store and where it
 * stands.
 *
 * A merge or a conflict changes a row, and after a crash the row no longer shows what it was before: the
 * same record would be called identical when it comes again. So what these records count as is noted in the
 * store before any of them changes a row there, and is what they count as when they come again. Identical
 * ones too, as the value that they repeat may have been replaced since.
 *
 * A note is a list of runs, `<kind><gap>[+<more>]`: the kind's first letter, records since the run before (of
 * the first: since the beginning of the partition), and how many more of the kind follow at once.
 */
export class Repeats {
  private runs: Run[] = [];
  /** From the notes of a life before, by offset; those that come again still. */
  private readonly known: Map<number, DuplicateKind>;
  private isDue = false;

  constructor(notes: readonly string[] = []) {
    this.known = new Map(notes.flatMap(decode));
  }

  /** What a repeated reading counts as; `found` is what memory makes of it now. */
  take(offset: number, found: DuplicateKind): DuplicateKind {
    const kind = this.known.get(offset) ?? found;
    this.known.delete(offset);
    const last = this.runs.at(-1);
    if (last?.kind === kind && last.first + last.count === offset) last.count += 1;
    else this.runs.push({ kind, first: offset, count: 1 });
    if (found !== 'IDENTICAL') this.isDue = true;
    return kind;
  }

  /** Something is on its way to the store that must not get there before the notes. */
  get areDue(): boolean {
    return this.isDue;
  }

  noted(): void {
    this.isDue = false;
  }

  /** The position in the store has reached everything that was taken. */
  committed(): void {
    this.runs = [];
    this.isDue = false;
  }

  /** Each can be read without the others. `next`: the next offset to take. */
  notes(next: number): string[] {
    const later = [...this.known].filter(([offset]) => offset >= next).sort(([a], [b]) => a - b);
    const runs = [...this.runs, ...later.map(([first, kind]) => ({ kind, first, count: 1 }))];
    const notes: string[] = [];
    let text = '';
    let end = 0;
    for (const { kind, first, count } of runs.sort((a, b) => a.first - b.first)) {
      if (text.length > NOTE_CHARS_MAX) {
        notes.push(text);
        text = '';
        end = 0;
      }
      text += `${LETTER_OF[kind]}${first - end}${count > 1 ? `+${count - 1}` : ''}`;
      end = first + count;
    }
    return text === '' ? notes : [...notes, text];
  }
}

function decode(note: string): [number, DuplicateKind][] {
  const kinds: [number, DuplicateKind][] = [];
  let at = 0;
  for (const [, letter, gap, more = 0] of note.matchAll(/([IMC])(\d+)(?:\+(\d+))?/g)) {
    const kind = LETTERS[letter as keyof typeof LETTERS];
    at += Number(gap);
    for (let left = 1 + Number(more); left > 0; left -= 1) {
      kinds.push([at, kind]);
      at += 1;
    }
  }
  return kinds;
}
