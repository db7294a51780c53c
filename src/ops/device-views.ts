import type { BackfillView, ConnectionView, DeviceView } from '../gateway/contract.ts';

const DECISIONS_MAX = 100;

/**
 * What several gateways know of a device, as one: a device may be connected to one of them after another. The
 * clock is that of the last reading. Undefined for none.
 */
export function mergeViews(views: readonly DeviceView[]): DeviceView | undefined {
  const [first, ...others] = views;
  if (first === undefined || others.length === 0) return first;
  const newest = <T>(all: (T | null)[], at: (one: T) => number): T | null =>
    all.reduce((a, b) => (a === null || (b !== null && at(b) > at(a)) ? b : a), null);
  return {
    connections: views.flatMap(({ connections }) => connections).sort((a, b) => b.since - a.since),
    lastConnection: newest<ConnectionView>(
      views.map(({ lastConnection }) => lastConnection),
      ({ endedAt, since }) => endedAt ?? since,
    ),
    decisions: views
      .flatMap(({ decisions }) => decisions)
      .sort((a, b) => b.at - a.at)
      .slice(0, DECISIONS_MAX),
    clock: newest(
      views.map(({ clock }) => clock),
      ({ measuredAt }) => measuredAt,
    ),
    // A gateway of the release before has none.
    backfill: backfillOf(views.flatMap(({ backfill }) => backfill ?? [])),
  };
}

function backfillOf(all: readonly BackfillView[]): BackfillView | null {
  const [first] = all;
  if (first === undefined) return null;
  const last = all.reduce((a, b) => (b.at > a.at ? b : a), first);
  return {
    readings: all.reduce((sum, { readings }) => sum + readings, 0),
    since: Math.min(...all.map(({ since }) => since)),
    at: last.at,
    ts: last.ts,
    oldest: Math.min(...all.map(({ oldest }) => oldest)),
  };
}
