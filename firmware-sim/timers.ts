/** A wait that can be cancelled; only `TimerHeap` writes its fields. */
export interface Timer {
  at: number;
  order: number;
  /** Place in the heap; -1 when it has run or was cancelled. */
  place: number;
  readonly run: () => void;
}

/** What a heap needs of the world; ms. Tests pass their own. */
export interface TimerHost {
  now(): number;
  wake(delayMs: number, run: () => void): unknown;
  cancel(handle: unknown): void;
}

const systemHost: TimerHost = {
  now: () => performance.now(),
  wake: (delayMs, run) => setTimeout(run, delayMs),
  cancel: (handle) => clearTimeout(handle as NodeJS.Timeout),
};

/** setTimeout fires at once when its delay doesn't fit into 31 bits. */
const WAKE_MAX_MS = 2_147_483_647;

/**
 * Timers of a whole fleet behind one system timer: a binary heap by due time, ties in the order of
 * scheduling. Thousands of devices cost an array slot each instead of a Node timer each.
 */
export class TimerHeap {
  readonly #host: TimerHost;
  readonly #heap: Timer[] = [];
  #order = 0;
  #wake: unknown;
  #wakeAt = Number.POSITIVE_INFINITY;
  #running = false;

  constructor(host: TimerHost = systemHost) {
    this.#host = host;
  }

  get size(): number {
    return this.#heap.length;
  }

  /** ms on the monotonic clock that `at` uses. */
  now(): number {
    return this.#host.now();
  }

  after(delayMs: number, run: () => void): Timer {
    return this.at(this.#host.now() + Math.max(0, delayMs), run);
  }

  at(when: number, run: () => void): Timer {
    const timer: Timer = { at: when, order: this.#order++, place: this.#heap.length, run };
    this.#heap.push(timer);
    this.#up(timer);
    this.#arm();
    return timer;
  }

  /** Cancelling a timer that has run already does nothing. */
  cancel(timer: Timer | undefined): void {
    if (timer === undefined || timer.place < 0) return;
    this.#remove(timer);
    this.#arm();
  }

  /** Forgets every timer. */
  clear(): void {
    for (const timer of this.#heap) timer.place = -1;
    this.#heap.length = 0;
    this.#arm();
  }

  #runDue(): void {
    this.#wake = undefined;
    this.#wakeAt = Number.POSITIVE_INFINITY;
    const now = this.#host.now();
    this.#running = true;
    try {
      // `now` is read once: what is scheduled from here for "now" waits for the sockets' turn.
      for (let top = this.#heap[0]; top !== undefined && top.at <= now; top = this.#heap[0]) {
        this.#remove(top);
        top.run();
      }
    } finally {
      this.#running = false;
      this.#arm();
    }
  }

  #arm(): void {
    if (this.#running) return;
    const next = this.#heap[0]?.at ?? Number.POSITIVE_INFINITY;
    // A system timer that fires too early costs less than setting it anew for every cancelled timer.
    if (next >= this.#wakeAt && this.#heap.length > 0) return;
    if (next === this.#wakeAt) return;
    if (this.#wake !== undefined) this.#host.cancel(this.#wake);
    this.#wake = undefined;
    this.#wakeAt = next;
    if (next === Number.POSITIVE_INFINITY) return;
    const delay = Math.min(WAKE_MAX_MS, Math.max(0, next - this.#host.now()));
    this.#wake = this.#host.wake(delay, () => this.#runDue());
  }

  #remove(timer: Timer): void {
    const place = timer.place;
    const last = this.#heap.pop();
    timer.place = -1;
    if (last === undefined || last === timer) return;
    this.#heap[place] = last;
    last.place = place;
    this.#up(last);
    this.#down(last);
  }

  #up(timer: Timer): void {
    while (timer.place > 0) {
      const parent = this.#heap[(timer.place - 1) >> 1];
      if (parent === undefined || !before(timer, parent)) return;
      this.#swap(timer, parent);
    }
  }

  #down(timer: Timer): void {
    for (;;) {
      const left = this.#heap[timer.place * 2 + 1];
      if (left === undefined) return;
      const right = this.#heap[timer.place * 2 + 2];
      const least = right !== undefined && before(right, left) ? right : left;
      if (!before(least, timer)) return;
      this.#swap(least, timer);
    }
  }

  #swap(a: Timer, b: Timer): void {
    const place = a.place;
    this.#heap[b.place] = a;
    this.#heap[place] = b;
    a.place = b.place;
    b.place = place;
  }
}

function before(a: Timer, b: Timer): boolean {
  return a.at < b.at || (a.at === b.at && a.order < b.order);
}
