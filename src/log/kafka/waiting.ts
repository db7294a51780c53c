/** Waits between attempts: doubling from `firstMs` to `longestMs`, with full jitter in the upper half. */
export interface Backoff {
  firstMs: number;
  longestMs: number;
}

export const BACKOFF: Backoff = { firstMs: 100, longestMs: 2_000 };

export function backoffMs(attempt: number, { firstMs, longestMs }: Backoff = BACKOFF): number {
  const whole = Math.min(longestMs, firstMs * 2 ** Math.min(attempt, 20));
  return whole / 2 + (Math.random() * whole) / 2;
}

/** Resolves after `ms` or when `signal` aborts, whichever is first; never rejects. */
export function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) {
      resolve();
      return;
    }
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    signal.addEventListener('abort', end, { once: true });
  });
}

/** Resolves with `work`, or with undefined after `ms`. Rejects as `work` does; a late rejection is dropped. */
export async function within<T>(work: Promise<T>, ms: number): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<undefined>((resolve) => {
    timer = setTimeout(resolve, ms, undefined);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
    work.catch(() => {});
  }
}

/** One waiter that can be woken from elsewhere. A wake while nobody waits is kept for the next wait. */
export class Bell {
  private rung = false;
  private wake: (() => void) | undefined;

  ring(): void {
    this.rung = true;
    this.wake?.();
  }

  /** Resolves at the next ring or after `ms`. */
  async wait(ms?: number): Promise<void> {
    if (!this.rung) {
      await new Promise<void>((resolve) => {
        const timer = ms === undefined ? undefined : setTimeout(resolve, Math.max(ms, 0));
        this.wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
      this.wake = undefined;
    }
    this.rung = false;
  }
}
