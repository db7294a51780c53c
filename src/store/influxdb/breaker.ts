import { InfluxUnavailableError, messageOf, retryAfterMs } from './errors.ts';

export interface BackoffOptions {
  /** Waits are drawn from 0 to a bound that doubles from the first to the longest (full jitter), ms. */
  firstMs: number;
  longestMs: number;
  /** The longest `Retry-After` that is honoured, ms. */
  retryAfterMaxMs: number;
  random: () => number;
}

/** Failures in a row after which one request at a time tries whether the server is back. */
const OPEN_AFTER = 3;

/**
 * Shared by all requests of one kind, so that they back off together.
 *
 * closed     no failure since the last success: requests go at once
 * waiting    a request failed: none goes before the backoff, or the server's `Retry-After`, has passed
 * half open  after several failures in a row: when the wait is over, one request goes and the others
 *            wait for what becomes of it
 */
export class Breaker {
  private readonly options: BackoffOptions;
  private failures = 0;
  /** By the monotonic clock, ms. */
  private notBefore = 0;
  private isProbing = false;
  private lastError: unknown;
  private wake: () => void = () => {};
  private changed: Promise<void>;

  constructor(options: BackoffOptions) {
    this.options = options;
    this.changed = this.nextChange();
  }

  /** Resolves when a request may go. Throws InfluxUnavailableError when that is not before `deadline`. */
  async enter(deadline: number, signal: AbortSignal): Promise<void> {
    for (;;) {
      signal.throwIfAborted();
      const now = performance.now();
      if (this.notBefore > now) {
        if (this.notBefore > deadline) throw this.unavailable();
        await sleep(this.notBefore - now, signal);
      } else if (this.failures >= OPEN_AFTER && this.isProbing) {
        if (now > deadline) throw this.unavailable();
        await this.changeOr(deadline - now + 1, signal);
      } else {
        this.isProbing = true;
        return;
      }
    }
  }

  succeeded(): void {
    this.failures = 0;
    this.notBefore = 0;
    this.lastError = undefined;
    this.left();
  }

  /** Returns the wait that follows, ms. */
  failed(error: unknown): number {
    const { firstMs, longestMs, retryAfterMaxMs, random } = this.options;
    this.failures += 1;
    this.lastError = error;
    const bound = Math.min(longestMs, firstMs * 2 ** Math.min(this.failures - 1, 30));
    const asked = Math.min(retryAfterMs(error, Date.now()) ?? 0, retryAfterMaxMs);
    const waitMs = asked + random() * (asked > 0 ? firstMs : bound);
    this.notBefore = Math.max(this.notBefore, performance.now() + waitMs);
    this.left();
    return waitMs;
  }

  /** The request ended without saying anything about the server. */
  left(): void {
    this.isProbing = false;
    const { wake } = this;
    this.changed = this.nextChange();
    wake();
  }

  unavailable(): InfluxUnavailableError {
    return new InfluxUnavailableError(
      `InfluxDB does not take requests: ${messageOf(this.lastError)}`,
      { cause: this.lastError },
    );
  }

  private async changeOr(ms: number, signal: AbortSignal): Promise<void> {
    const waiting = new AbortController();
    const timeout = sleep(ms, AbortSignal.any([signal, waiting.signal]));
    try {
      await Promise.race([this.changed, timeout]);
    } finally {
      timeout.catch(() => undefined);
      waiting.abort();
    }
  }

  private nextChange(): Promise<void> {
    return new Promise((resolve) => {
      this.wake = resolve;
    });
  }
}

/** Rejects with the signal's reason when it aborts first. */
export function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) {
      reject(signal.reason);
      return;
    }
    const abort = (): void => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', abort);
      resolve();
    }, ms);
    signal.addEventListener('abort', abort, { once: true });
  });
}
