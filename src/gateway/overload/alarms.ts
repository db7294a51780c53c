/**
 * Many wake-up times with one timer, to SLOT_MS; nothing runs while nobody sleeps. Of the same thing only
 * one alarm should be set at a time: alarms can't be taken back.
 */
const SLOT_MS = 5;
/** Who would sleep longer wakes and looks again, so that the map stays small. */
const SLEEP_MAX_MS = 30_000;

export class Alarms<T> {
  private readonly slots = new Map<number, T[]>();
  private readonly onWake: (sleepers: readonly T[]) => void;
  private readonly now: () => number;
  private timer: NodeJS.Timeout | undefined;
  /** The last slot that was looked at. */
  private slot: number;

  constructor(now: () => number, onWake: (sleepers: readonly T[]) => void) {
    this.now = now;
    this.onWake = onWake;
    this.slot = Math.floor(now() / SLOT_MS);
  }

  set(sleeper: T, waitMs: number): void {
    const until = this.now() + Math.min(Math.max(waitMs, 1), SLEEP_MAX_MS);
    const slot = Math.max(Math.ceil(until / SLOT_MS), this.slot + 1);
    const sleepers = this.slots.get(slot);
    if (sleepers === undefined) this.slots.set(slot, [sleeper]);
    else sleepers.push(sleeper);
    this.timer ??= setInterval(() => this.look(), SLOT_MS);
  }

  /** Wakes who is due; called by the timer. */
  look(): void {
    const slot = Math.floor(this.now() / SLOT_MS);
    const due: T[] = [];
    if (slot - this.slot > this.slots.size) {
      for (const [at, sleepers] of this.slots) if (at <= slot) due.push(...this.take(at, sleepers));
    } else {
      for (let at = this.slot + 1; at <= slot; at++) {
        const sleepers = this.slots.get(at);
        if (sleepers !== undefined) due.push(...this.take(at, sleepers));
      }
    }
    this.slot = slot;
    if (this.slots.size === 0) this.stop();
    if (due.length > 0) this.onWake(due);
  }

  stop(): void {
    clearInterval(this.timer);
    this.timer = undefined;
  }

  private take(slot: number, sleepers: T[]): T[] {
    this.slots.delete(slot);
    return sleepers;
  }
}
