import { SpillwayError } from '../core/errors.ts';
import { formatDuration } from '../core/units.ts';

/** Windows lie on multiples of their length since the epoch, so hours and days are those of UTC. */
export const HOUR_MS = 3_600_000;
export const DAY_MS = 86_400_000;

/** Start of the window that holds `ts`; both in ms since the epoch, also before 1970. */
export function windowStart(ts: number, windowMs: number): number {
  return Math.floor(ts / windowMs) * windowMs;
}

/** Throws CONFIG_INVALID unless base windows of this length fill an hour exactly. */
export function checkBaseWindow(baseMs: number): void {
  if (Number.isInteger(baseMs) && baseMs > 0 && HOUR_MS % baseMs === 0) return;
  throw new SpillwayError(
    'CONFIG_INVALID',
    `rollup.baseWindow is ${formatDuration(baseMs)}; it must divide one hour, such as 10s, 1m or 15m.`,
  );
}
