import type { Refusal, Values } from '../../core/nouns.ts';
import { UNREADABLE } from '../../core/refusals.ts';
import type { Examine } from '../../gateway/contract.ts';
import type { StoredDeadLetter, StoreReader } from '../../store/contract.ts';
import { formatLetterId, isTaken, type Selection } from './letter.ts';
import { selectLetters } from './select.ts';

/** What a replay would do, without doing it. */
export interface Trial {
  /** Letters looked at. */
  letters: number;
  /** Letters of which a replay would take at least one reading. */
  taken: number;
  /** Letters that would be refused again, whole; by the code of their first reading. */
  refused: Record<string, number>;
  /** Letters that can't be looked at again, by reason. */
  unreadable: Record<string, number>;
  /** Letters that so many replays did not take that a further one would leave them alone. */
  givenUp: number;
  /** Readings that would be stored. */
  readings: number;
  /** The first ones, in detail. */
  details: TriedLetter[];
}

export interface TriedLetter {
  id: string;
  device: string;
  code: string;
  outcome: 'taken' | 'refused' | 'unreadable' | 'givenUp';
  /** What it means that it is unreadable. */
  reason?: string;
  readings: TriedReading[];
}

export type TriedReading = { device: string; type: string; typeVersion?: string } & (
  | { ts: string; values: Values }
  | { refusal: Refusal }
);

/** Of a letter of many readings, so many are shown. */
const READINGS_SHOWN = 20;

export async function tryLetters(options: {
  store: Pick<StoreReader, 'deadLetters'>;
  selection: Selection;
  examine: Examine;
  attemptsMax: number;
  detailsMax: number;
  signal: AbortSignal;
}): Promise<Trial> {
  const { store, selection, examine, attemptsMax, detailsMax, signal } = options;
  const trial: Trial = {
    ...{ letters: 0, taken: 0, refused: {}, unreadable: {}, givenUp: 0, readings: 0 },
    details: [],
  };
  for await (const page of selectLetters(store, selection)) {
    signal.throwIfAborted();
    for (const letter of page) {
      const tried = tryLetter(letter, examine, attemptsMax, trial);
      if (trial.details.length < detailsMax) trial.details.push(tried);
    }
  }
  return trial;
}

function tryLetter(
  letter: StoredDeadLetter,
  examine: Examine,
  attemptsMax: number,
  trial: Trial,
): TriedLetter {
  const { device, code } = letter;
  const base = { id: formatLetterId(letter), device, code, readings: [] };
  trial.letters += 1;
  if ((letter.attempt ?? 0) >= attemptsMax) {
    trial.givenUp += 1;
    return { ...base, outcome: 'givenUp' };
  }
  const examination = examine(letter);
  if ('unreadable' in examination) {
    const { unreadable } = examination;
    trial.unreadable[unreadable] = (trial.unreadable[unreadable] ?? 0) + 1;
    return { ...base, outcome: 'unreadable', reason: UNREADABLE[unreadable] };
  }
  const { items } = examination;
  const taken = items.filter(isTaken).length;
  trial.readings += taken;
  if (taken > 0) trial.taken += 1;
  const [first] = items;
  if (taken === 0 && first !== undefined && !isTaken(first)) {
    const { code: again } = first.refusal;
    trial.refused[again] = (trial.refused[again] ?? 0) + 1;
  }
  const readings = items.slice(0, READINGS_SHOWN).map((item): TriedReading => {
    const { device, type, typeVersion } = item;
    const of = { device, type, ...(typeVersion !== undefined && { typeVersion }) };
    return isTaken(item)
      ? { ...of, ts: new Date(item.ts).toISOString(), values: item.values }
      : { ...of, refusal: item.refusal };
  });
  return { ...base, outcome: taken > 0 ? 'taken' : 'refused', readings };
}
