import type { StoredDeadLetter, StoreReader } from '../../store/contract.ts';
import { formatLetterId, type LetterId, type Selection } from './letter.ts';

/** Reads the letters of a selection, oldest first, a page at a time. */

export const PAGE = 200;

type Reader = Pick<StoreReader, 'deadLetters'>;

export async function* selectLetters(
  store: Reader,
  { letters, ...query }: Selection,
): AsyncGenerator<StoredDeadLetter[]> {
  if (letters !== undefined) {
    yield* namedLetters(store, letters, query);
    return;
  }
  const { limit = Number.POSITIVE_INFINITY } = query;
  let after: StoredDeadLetter | undefined;
  for (let left = limit; left > 0; ) {
    const size = Math.min(PAGE, left);
    const page = await store.deadLetters({
      ...query,
      ...{ oldestFirst: true, limit: size },
      ...(after && { after }),
    });
    if (page.length > 0) yield page;
    if (page.length < size) return;
    after = page.at(-1);
    left -= page.length;
  }
}

async function* namedLetters(
  store: Reader,
  letters: readonly LetterId[],
  query: Omit<Selection, 'letters'>,
): AsyncGenerator<StoredDeadLetter[]> {
  const byTime = new Map<number, Set<string>>();
  for (const id of letters) {
    const ids = byTime.get(id.received) ?? new Set<string>();
    byTime.set(id.received, ids.add(formatLetterId(id)));
  }
  const { limit: _, ...filter } = query;
  let page: StoredDeadLetter[] = [];
  for (const [at, ids] of [...byTime].sort(([a], [b]) => a - b)) {
    if (at < query.from || at >= query.to) continue;
    const found = await store.deadLetters({ ...filter, oldestFirst: true, from: at, to: at + 1 });
    page.push(...found.filter((letter) => ids.has(formatLetterId(letter))));
    if (page.length < PAGE) continue;
    yield page;
    page = [];
  }
  if (page.length > 0) yield page;
}

/** One letter by its id; undefined when there is none, or it was purged. */
export async function findLetter(
  store: Reader,
  tenant: string,
  id: LetterId,
): Promise<StoredDeadLetter | undefined> {
  const range = { from: id.received, to: id.received + 1 };
  for await (const [letter] of selectLetters(store, { tenant, ...range, letters: [id] })) {
    return letter;
  }
  return undefined;
}
