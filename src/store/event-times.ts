import type { RowTimes } from './contract.ts';

/** Of the rows, the event times alone. */
export function eventTimes(rows: ReadonlyMap<string, RowTimes>): Map<string, number> {
  return new Map([...rows].map(([device, { ts }]) => [device, ts]));
}
