/** How the message rate of a fleet changes over the run; times in ms since its start. */
export type RateProfile =
  | { profile: 'steady'; factor: number }
  | { profile: 'step'; factor: number; at: number; for?: number | undefined }
  | { profile: 'ramp'; factor: number; at: number; over: number }
  | { profile: 'sine'; factor: number; every: number };

/** Slower than this, a device would not look at the profile again for hours. */
export const RATE_FACTOR_MIN = 0.01;

/**
 * What the usual rate is multiplied by, `elapsedMs` after the start.
 * `steady`: always `factor`. `step`: `factor` from `at`, for `for` (for good without it). `ramp`: from 1 to
 * `factor` between `at` and `at + over`, then stays. `sine`: from 1 to `factor` and back in each `every`.
 */
export function rateFactor(profile: RateProfile, elapsedMs: number): number {
  return Math.max(RATE_FACTOR_MIN, factorAt(profile, elapsedMs));
}

function factorAt(profile: RateProfile, t: number): number {
  switch (profile.profile) {
    case 'steady':
      return profile.factor;
    case 'step': {
      const end = profile.at + (profile.for ?? Number.POSITIVE_INFINITY);
      return t >= profile.at && t < end ? profile.factor : 1;
    }
    case 'ramp': {
      const share = Math.min(1, Math.max(0, (t - profile.at) / profile.over));
      return 1 + (profile.factor - 1) * share;
    }
    case 'sine':
      return 1 + ((profile.factor - 1) * (1 - Math.cos((2 * Math.PI * t) / profile.every))) / 2;
  }
}
