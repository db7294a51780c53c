/** The longest time that a timer takes, ms: 24 days. */
const TIMER_MAX_MS = 2 ** 31 - 1;

/**
 * Wills of MQTT 5 that wait for their device to come back [MQTT5-3.1.3-9], by client id. As many as there may
 * be connections; one more is published at once.
 */
export class DelayedWills {
  private readonly max: number;
  private readonly waiting = new Map<string, { timer: NodeJS.Timeout; publish: () => void }>();

  constructor(options: { max: number }) {
    this.max = options.max;
  }

  get size(): number {
    return this.waiting.size;
  }

  hold(clientId: string, delayMs: number, publish: () => void): void {
    this.end(clientId);
    if (this.waiting.size >= this.max) {
      publish();
      return;
    }
    const timer = setTimeout(() => this.end(clientId), Math.min(delayMs, TIMER_MAX_MS));
    this.waiting.set(clientId, { timer, publish });
  }

  /** The device is back in time, with the same session. */
  cancel(clientId: string): void {
    clearTimeout(this.waiting.get(clientId)?.timer);
    this.waiting.delete(clientId);
  }

  /** The session is over: its will is published now. */
  end(clientId: string): void {
    const will = this.waiting.get(clientId);
    this.cancel(clientId);
    will?.publish();
  }

  /** The gateway stops, and its sessions with it. */
  endAll(): void {
    for (const clientId of [...this.waiting.keys()]) this.end(clientId);
  }
}
