/**
 * CONNECTs that are checked at the same time: so many, and for a slice of each turn of the event loop, so
 * that a thousand devices that come back at once take their turns and those that are connected don't feel
 * it. The others wait in the order in which they came, each until its own deadline.
 */
const SLICE_MS = 4;

export class Handshakes<Gate extends object> {
  private readonly activeMax: number;
  private readonly waitingMax: number;
  private readonly now: () => number;
  private readonly active = new Set<Gate>();
  private readonly queue = new Map<Gate, () => void>();
  private scheduled: NodeJS.Immediate | undefined;

  constructor(options: { activeMax: number; waitingMax: number; now: () => number }) {
    this.activeMax = options.activeMax;
    this.waitingMax = options.waitingMax;
    this.now = options.now;
  }

  get waiting(): number {
    return this.queue.size;
  }

  get underWay(): number {
    return this.active.size;
  }

  /** `start` is called when it is the connection's turn; false: too many wait. {@link done} must follow. */
  offer(gate: Gate, start: () => void): boolean {
    if (this.queue.size >= this.waitingMax) return false;
    this.queue.set(gate, start);
    this.schedule();
    return true;
  }

  /** The connection is accepted, refused or gone. */
  done(gate: Gate): void {
    this.queue.delete(gate);
    if (this.active.delete(gate) && this.queue.size > 0) this.schedule();
  }

  stop(): void {
    clearImmediate(this.scheduled);
    this.queue.clear();
  }

  private schedule(): void {
    if (this.active.size >= this.activeMax) return;
    this.scheduled ??= setImmediate(() => {
      this.scheduled = undefined;
      this.pump();
    });
  }

  private pump(): void {
    const started = this.now();
    for (const [gate, start] of this.queue) {
      if (this.active.size >= this.activeMax) return;
      if (this.now() - started > SLICE_MS) {
        this.schedule();
        return;
      }
      this.queue.delete(gate);
      this.active.add(gate);
      start();
    }
  }
}
