/**
 * Connections that were lost, and whose end is some 0.1 ms of work each: so many in a turn of the event loop,
 * so that thousands that break in one moment don't stop those that are left. Who waits for its end holds what
 * it had for some turns longer; its device may be back before, and takes it over.
 */
const PER_TURN = 32;

export class Farewells<Gate extends object> {
  private readonly end: (gate: Gate) => void;
  private readonly waiting = new Set<Gate>();
  private scheduled: NodeJS.Immediate | undefined;
  /** Ended in this turn. */
  private ended = 0;

  constructor(end: (gate: Gate) => void) {
    this.end = end;
  }

  get size(): number {
    return this.waiting.size;
  }

  /** Ends it now, or in one of the next turns. */
  add(gate: Gate): void {
    this.schedule();
    if (this.ended < PER_TURN && this.waiting.size === 0) {
      this.ended++;
      this.end(gate);
    } else this.waiting.add(gate);
  }

  /** Ends all that wait. */
  flush(): void {
    clearImmediate(this.scheduled);
    this.scheduled = undefined;
    for (const gate of this.waiting) this.end(gate);
    this.waiting.clear();
  }

  private schedule(): void {
    this.scheduled ??= setImmediate(() => {
      this.scheduled = undefined;
      this.ended = 0;
      for (const gate of this.waiting) {
        if (this.ended >= PER_TURN) break;
        this.waiting.delete(gate);
        this.ended++;
        this.end(gate);
      }
      if (this.waiting.size > 0) this.schedule();
    });
  }
}
