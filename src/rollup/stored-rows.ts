import type { RollupRow } from '../core/nouns.ts';
import { Accumulator } from './aggregate.ts';
import type { DeviceWindows } from './device-windows.ts';
import type { Day, Hour, RowState } from './window-state.ts';

/** From the base rows of an hour: its windows' rows, and what is not in memory where that is unknown. */
export function learnWindows(
  device: DeviceWindows,
  hour: Hour | undefined,
  rows: RollupRow[],
): void {
  if (hour === undefined) return;
  const isUnknown = hour.closed === undefined;
  hour.closed ??= [];
  for (const row of rows) {
    const slot = device.slot(row.metric).index;
    const window = hour.windows.get(row.start);
    if (window !== undefined) {
      if (!window.rowsKnown) learn(device.metric(window, slot).row, row);
    } else if (isUnknown && !device.isComplete(row.start)) {
      // Where memory is complete, a stored row was left by a crash and its records come again.
      hour.fold(slot, Accumulator.from(row.state));
    }
  }
  for (const window of hour.windows.values()) window.rowsKnown = true;
}

/** The same one level up: from the hour rows of a day. */
export function learnHours(device: DeviceWindows, day: Day, rows: RollupRow[]): void {
  const isUnknown = day.closed === undefined;
  day.closed ??= [];
  for (const row of rows) {
    const slot = device.slot(row.metric).index;
    const hour = day.hours.get(row.start);
    if (hour !== undefined) {
      if (!hour.rowsKnown) learn(hour.row(slot), row);
    } else if (isUnknown && !device.isComplete(row.start)) {
      day.fold(slot, Accumulator.from(row.state));
    }
  }
  for (const hour of day.hours.values()) hour.rowsKnown = true;
}

export function learnDay(device: DeviceWindows, day: Day, rows: RollupRow[]): void {
  if (!day.rowsKnown) {
    for (const row of rows) learn(day.row(device.slot(row.metric).index), row);
  }
  day.rowsKnown = true;
}

function learn(state: RowState, row: RollupRow): void {
  state.revision = row.revision;
  state.changedAt = row.changedAt;
  state.stored = true;
  state.compare = row.state;
}
