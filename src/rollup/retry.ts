import { SpillwayError } from '../core/errors.ts';

/** Thrown in place of another attempt, when what it would write is not the caller's any more. */
export class Abandoned extends Error {}

export interface RetryOptions {
  /** Waits double from the first to the longest; each is drawn from its upper half (jitter). */
  firstMs: number;
  longestMs: number;
  /** While it is aborted, at most `attemptsAfterAbort` further attempts are made. */
  signal: AbortSignal;
  attemptsAfterAbort: number;
  /** Once it is aborted no further attempt is made, and {@link Abandoned} is thrown. */
  abandon?: AbortSignal;
  /** Told of each failure before the wait. */
  onRetry: (error: unknown, attempt: number, waitMs: number) => void;
  random?: () => number;
}

function isTakenOver(error: unknown): boolean {
  return error instanceof SpillwayError && error.code === 'STORE_TAKEN_OVER';
}

/** False for errors that the same call will meet again; unknown errors get the benefit of the doubt. */
export function isRetryable(error: unknown): boolean {
  return !(error instanceof SpillwayError) || error.retryable;
}

/**
 * Calls until it succeeds; throws what is not retryable, {@link Abandoned}, and anything once stopping
 * takes too long.
 */
export async function retrying<T>(call: () => Promise<T>, options: RetryOptions): Promise<T> {
  const { signal, abandon, random = Math.random } = options;
  let afterAbort = 0;
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await call();
    } catch (error) {
      // The store may know the new owner of what was lost; the caller knows of the loss.
      const isKnownLoss = abandon?.aborted === true && isTakenOver(error);
      if (!isKnownLoss && !isRetryable(error)) throw error;
      if (abandon?.aborted) throw new Abandoned('what is written was lost', { cause: error });
      if (signal.aborted) {
        afterAbort += 1;
        if (afterAbort > options.attemptsAfterAbort) throw error;
      }
      const longest = Math.min(options.longestMs, options.firstMs * 2 ** Math.min(attempt - 1, 30));
      const waitMs = longest * (0.5 + random() / 2);
      options.onRetry(error, attempt, waitMs);
      const wakes = [signal, abandon].filter((one) => one?.aborted === false);
      await pause(waitMs, wakes);
      if (abandon?.aborted) throw new Abandoned('what is written was lost', { cause: error });
    }
  }
}

/** Resolves after `ms`, or as soon as one of `signals` aborts. */
export function pause(ms: number, signals: readonly (AbortSignal | undefined)[]): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      for (const signal of signals) signal?.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    for (const signal of signals) {
      if (signal?.aborted) done();
      else signal?.addEventListener('abort', done, { once: true });
    }
  });
}
