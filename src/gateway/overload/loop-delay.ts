/** How late a timer fires is how late everything is. */
const INTERVAL_MS = 20;

/**
 * The delay of the event loop. (`perf_hooks.monitorEventLoopDelay` forgets the delay under way when it is
 * reset, which is the one that matters.)
 */
export class LoopDelay {
  private timer: NodeJS.Timeout | undefined;
  private due = 0;
  private worst = 0;

  start(): void {
    this.due = performance.now() + INTERVAL_MS;
    this.timer = setInterval(() => {
      const now = performance.now();
      this.worst = Math.max(this.worst, now - this.due);
      this.due = now + INTERVAL_MS;
    }, INTERVAL_MS);
    this.timer.unref();
  }

  /** The longest delay since the last call, also of the one under way, ms. */
  read(): number {
    const worst = Math.max(this.worst, performance.now() - this.due, 0);
    this.worst = 0;
    return worst;
  }

  stop(): void {
    clearInterval(this.timer);
  }
}
