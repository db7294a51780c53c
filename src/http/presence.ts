import type { DeviceType } from '../core/nouns.ts';
import { type Presence, type PresenceStatus, patienceOf } from '../ops/deadman.ts';
import type { DataContext } from './context.ts';

/** Whether a device is heard of as often as it should. */
export interface ShownPresence {
  /** Null when nothing can be said. */
  status: PresenceStatus | null;
  /** Since when it is; for `offline`, when it had been silent for too long. */
  since: string | null;
  /**
   * Gateway time of its last message; of its newest reading where this process does not watch it, or has not heard
   * of it since the start.
   */
  heard: string | null;
}

/**
 * As this process watches the device; else as its newest reading says, `latest` (gateway time, ms).
 */
export function presenceOf(
  { config, clock }: Pick<DataContext, 'config' | 'clock'>,
  watched: Presence | undefined,
  type: DeviceType | undefined,
  latest: number | undefined,
): ShownPresence {
  if (watched !== undefined) return shown(watched);
  const { enabled, periods, minimum: minimumMs, unknownPeriod: unknownPeriodMs } = config.deadman;
  if (!enabled || latest === undefined) return { status: null, since: null, heard: null };
  const heard = Math.min(latest, clock.now());
  const patience = { periods, minimumMs, unknownPeriodMs };
  const deadline = heard + patienceOf(patience, type?.periodMs ?? 0);
  if (deadline > clock.now()) return shown({ status: 'online', since: null, heard });
  return shown({ status: 'offline', since: deadline, heard });
}

function shown({ status, since, heard }: Omit<Presence, 'since'> & { since: number | null }) {
  const iso = (ms: number): string => new Date(ms).toISOString();
  return { status, since: since === null ? null : iso(since), heard: iso(heard) };
}
