import type { RowTimes } from './contract.ts';

/** Of the rows, the event times alone. */
export function eventTimes(rows: ReadonlyMap<string, RowTimes>): Map<string, number> {
  return new Map([...rows].map(([device, { ts }]) => [device, ts]));
}

/** Puts a device's row in `newest` where it has none yet with the same or a later event time. */
export function keepNewest(newest: Map<string, RowTimes>, device: string, row: RowTimes): void {
  const known = newest.get(device);
  if (known === undefined || known.ts < row.ts) newest.set(device, row);
}
