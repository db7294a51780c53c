import type { Random } from './random.ts';

/** How a device waits between attempts to connect; all times in ms. */
export interface BackoffPolicy {
  /** Ceiling of the first wait. */
  base: number;
  /** Ceiling of every wait. */
  cap: number;
  /** A connection that lived this long starts the count again. */
  resetAfter: number;
}

/**
 * Exponential backoff with full jitter: uniform in [0, min(cap, base * 2^attempt)).
 * Full jitter, and not a fixed part plus jitter, because thousands of devices that lost the same gateway
 * in the same instant must not come back in the same instant.
 *
 * @param attempt failed attempts since the last lasting connection, from 0
 * @returns ms to wait
 */
export function backoffDelay(attempt: number, policy: BackoffPolicy, random: Random): number {
  const ceiling = Math.min(policy.cap, policy.base * 2 ** Math.min(Math.max(attempt, 0), 52));
  return random() * ceiling;
}

/**
 * The attempt number after a connection ended.
 * A gateway that accepts a connection and drops it at once is as unwell as one that refuses it, so only a
 * connection that lasted resets the count.
 *
 * @param livedMs how long the connection was up; 0 when it never was
 */
export function attemptAfter(attempt: number, livedMs: number, policy: BackoffPolicy): number {
  return livedMs >= policy.resetAfter ? 0 : attempt + 1;
}
