const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;

/**
 * The hour before which counts of an account may be dropped, ms; -Infinity where they are kept for ever.
 * The gateways' account and the ledger are dropped apart from each other, so both go a day later than
 * audits look.
 */
export function accountCutoff(now: number, keepMs: number | undefined): number {
  if (keepMs === undefined || keepMs === 0) return Number.NEGATIVE_INFINITY;
  return Math.floor((now - keepMs - DAY_MS) / HOUR_MS) * HOUR_MS;
}
