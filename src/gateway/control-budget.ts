/**
 * Packets other than publishes cost 4 to 20 µs each in the broker, and a SUBSCRIBE of 4 KiB a millisecond,
 * so each connection has a budget for them: its bytes, and COST for each. A device that pings and
 * subscribes once a second never notices. PUBRELs and PUBACKs that are due are paid for in advance.
 */
const COST = 32;
const ACK_BYTES = 4;
const BURST = 32 * 1_024;
const PER_MS = 8;
/** How much of it has to be there again before the socket is read. */
const RESUME = 1_024;

export class ControlBudget {
  private left = BURST;
  /** By `performance.now`. */
  private countedAt = 0;
  private timer: NodeJS.Timeout | undefined;
  private readonly onThere: () => void;

  /** `onThere`: called when what was spent is there again. */
  constructor(onThere: () => void) {
    this.onThere = onThere;
  }

  get isSpent(): boolean {
    return this.left <= 0;
  }

  /** The device owes an acknowledgement: its packet costs nothing. */
  expectAck(): void {
    this.left = Math.min(BURST, this.left + COST + ACK_BYTES);
  }

  /** For a packet of so many bytes. `now`: by `performance.now`. */
  spend(bytes: number, now: number): void {
    if (now > this.countedAt) {
      this.left = Math.min(BURST, this.left + (now - this.countedAt) * PER_MS);
      this.countedAt = now;
    }
    this.left -= COST + bytes;
    if (this.left > 0 || this.timer !== undefined) return;
    this.timer = setTimeout(() => this.refill(), (RESUME - this.left) / PER_MS);
  }

  end(): void {
    clearTimeout(this.timer);
  }

  private refill(): void {
    this.timer = undefined;
    this.left = RESUME;
    this.countedAt = performance.now();
    this.onThere();
  }
}
