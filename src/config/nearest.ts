/**
 * The candidate with the fewest edits to `text`; the first of equals; undefined when none comes
 * within `editsMax`.
 */
export function nearest(
  text: string,
  candidates: Iterable<string>,
  editsMax = Number.MAX_SAFE_INTEGER,
): string | undefined {
  let best: string | undefined;
  let least = editsMax + 1;
  for (const candidate of candidates) {
    const distance = edits(text, candidate);
    if (distance < least) {
      best = candidate;
      least = distance;
    }
  }
  return best;
}

/** Longer texts are no typing mistakes, and the table below grows with the product of lengths. */
const LENGTH_MAX = 128;

/** Optimal string alignment: insertions, deletions, substitutions and swaps of neighbours; case is free. */
function edits(left: string, right: string): number {
  const a = left.slice(0, LENGTH_MAX).toLowerCase();
  const b = right.slice(0, LENGTH_MAX).toLowerCase();
  let before: number[] = [];
  let above = Array.from({ length: b.length + 1 }, (_, column) => column);
  for (let row = 1; row <= a.length; row++) {
    const current = [row];
    for (let column = 1; column <= b.length; column++) {
      const same = a[row - 1] === b[column - 1];
      let cost = Math.min(
        (above[column] ?? 0) + 1,
        (current[column - 1] ?? 0) + 1,
        (above[column - 1] ?? 0) + (same ? 0 : 1),
      );
      const swapped = a[row - 1] === b[column - 2] && a[row - 2] === b[column - 1];
      if (row > 1 && column > 1 && swapped) cost = Math.min(cost, (before[column - 2] ?? 0) + 1);
      current.push(cost);
    }
    before = above;
    above = current;
  }
  return above[b.length] ?? 0;
}
