/**
 * CONNECTs that are checked at the same time: so many, and as many new ones in each turn of the event loop
 * as keep it short (each is some 0.3 ms of work, most of it in later turns), so that thousands of devices that
 * come back at once take their turns and those that are connected don't feel it. The others wait in the order
 * in which they came, each until its own deadline.
 */
const SLICE_MS = 4;
/** A turn that takes longer halves what the next one begins. */
const TURN_MS = 8;
/** What a turn begins at least: who comes back must not wait for ever for who is busy. */
const LEAST_PER_TURN = 3;
/** Part of them while the gateway is overloaded: those that are connected come first. */
const LOADED_PART = 1 / 2;

export class Handshakes<Gate extends object> {
  private readonly activeMax: number;
  /** Fewer at a time. */
  loaded = false;
  private readonly waitingMax: number;
  private readonly now: () => number;
  private readonly active = new Set<Gate>();
  private readonly queue = new Map<Gate, () => void>();
  private scheduled: NodeJS.Immediate | undefined;
  private perTurn: number;
  /** When the last turn began with some left to wait. */
  private turnAt: number | undefined;

  constructor(options: { activeMax: number; waitingMax: number; now: () => number }) {
    this.activeMax = options.activeMax;
    this.waitingMax = options.waitingMax;
    this.now = options.now;
    this.perTurn = LEAST_PER_TURN;
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

  private get room(): boolean {
    const most = this.loaded ? Math.ceil(this.activeMax * LOADED_PART) : this.activeMax;
    return this.active.size < most;
  }

  private schedule(): void {
    if (!this.room) return;
    this.scheduled ??= setImmediate(() => {
      this.scheduled = undefined;
      this.pump();
    });
  }

  private pump(): void {
    const started = this.now();
    if (this.turnAt !== undefined) {
      const isLong = started - this.turnAt > TURN_MS;
      this.perTurn = isLong ? Math.max(LEAST_PER_TURN, this.perTurn / 2) : this.perTurn + 1;
    }
    this.turnAt = undefined;
    let begun = 0;
    for (const [gate, start] of this.queue) {
      if (!this.room) return;
      if (begun >= this.perTurn || this.now() - started > SLICE_MS) {
        this.turnAt = started;
        this.schedule();
        return;
      }
      this.queue.delete(gate);
      this.active.add(gate);
      begun++;
      start();
    }
  }
}
