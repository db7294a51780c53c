/**
 * What a device that asks for the time is told: the first three of the four timestamps of a simple NTP
 * exchange (RFC 5905, section 8); the fourth is when the answer reaches it.
 *
 *     T1  originate  the device's clock when it asked, sent back as it came
 *     T2  receive    the gateway's clock when the request came
 *     T3  transmit   the gateway's clock when the answer went
 *     T4             the device's clock when the answer came
 *
 *     offset = ((T2 - T1) + (T3 - T4)) / 2      to be added to the device's clock
 *     delay  = (T4 - T1) - (T3 - T2)
 */

const REQUEST_BYTES_MAX = 256;
const ORIGINATE_CHARS_MAX = 64;
/** Requests of one connection that are answered at once, and how many more each second. */
const BURST = 5;
const PER_SECOND = 1;

type Originate = number | string | null;

/** `receive`, `transmit`: ms since the epoch. */
export function timeAnswer(request: Buffer, receive: number, transmit: number): string {
  return JSON.stringify({ originate: originateOf(request), receive, transmit });
}

/** A number or text, or the one under `originate`; null where there is neither. */
function originateOf(request: Buffer): Originate {
  if (request.length > REQUEST_BYTES_MAX) return null;
  try {
    const sent: unknown = JSON.parse(request.toString('utf8'));
    const isObject = typeof sent === 'object' && sent !== null && 'originate' in sent;
    const originate = isObject ? sent.originate : sent;
    if (typeof originate === 'number') return originate;
    const isShort = typeof originate === 'string' && originate.length <= ORIGINATE_CHARS_MAX;
    return isShort ? originate : null;
  } catch {
    return null;
  }
}

/** How many requests of a connection may be answered. */
export class TimeBudget {
  private left = BURST;
  private at: number;

  /** Gateway time, ms. */
  constructor(now: number) {
    this.at = now;
  }

  /** False: this one is one too many. */
  spend(now: number): boolean {
    const earned = (Math.max(0, now - this.at) / 1_000) * PER_SECOND;
    this.left = Math.min(BURST, this.left + earned);
    this.at = now;
    if (this.left < 1) return false;
    this.left -= 1;
    return true;
  }
}
