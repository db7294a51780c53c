import { SpillwayError } from '../core/errors.ts';

export interface RetryOptions {
  /** Waits double from the first to the longest; each is drawn from its upper half (jitter). */
  firstMs: number;
  longestMs: number;
  /** While it is aborted, at most `attemptsAfterAbort` further attempts are made. */
  signal: AbortSignal;
  attemptsAfterAbort: number;
  /** Told of each failure before the wait. */
  onRetry: (error: unknown, attempt: number, waitMs: number) => void;
  random?: () => number;
}

/** False for errors that the same call will meet again; unknown errors get the benefit of the doubt. */
export function isRetryable(error: unknown): boolean {
  return !(error instanceof SpillwayError) || error.retryable;
}

/** Calls until it succeeds; throws what is not retryable, and anything once stopping takes too long. */
export async function retrying<T>(call: () => Promise<T>, options: RetryOptions): Promise<T> {
  const { signal, random = Math.random } = options;
  let afterAbort = 0;
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await call();
    } catch (error) {
      if (!isRetryable(error)) throw error;
      if (signal.aborted) {
        afterAbort += 1;
        if (afterAbort > options.attemptsAfterAbort) throw error;
      }
      const longest = Math.min(options.longestMs, options.firstMs * 2 ** Math.min(attempt - 1, 30));
      const waitMs = longest * (0.5 + random() / 2);
      options.onRetry(error, attempt, waitMs);
      await pause(waitMs, signal.aborted ? undefined : signal);
    }
  }
}

/** Resolves after `ms`, or at once when `signal` aborts. */
export function pause(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) {
      resolve();
      return;
    }
    const done = () => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal?.addEventListener('abort', done, { once: true });
  });
}
