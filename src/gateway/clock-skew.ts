import type { ClockSkew } from './contract.ts';

/**
 * How far a device's clock is from the gateway's, from the times of its readings.
 *
 * A reading's time less its arrival is the skew less what the reading waited for, on the device and on the
 * way. Waiting only makes it less, so the largest of some readings is the closest: each block of readings
 * gives its largest, and the median over the last blocks is the estimate, which one reading with a wild time
 * can't move. Blocks that differ much are no clock that is off, but buffered readings that are sent now, or
 * a clock that jumps: the estimate is not settled then.
 */
const BLOCK_READINGS = 16;
const BLOCK_MS = 60_000;
const BLOCKS = 9;
/** Blocks below which nothing is settled. */
const SETTLED_BLOCKS = 3;
const SPREAD_MS = 1_000;
const SPREAD_SHARE = 0.05;

export class SkewEstimate {
  private readonly largest: number[] = [];
  private next = 0;
  private readings = 0;
  private blockReadings = 0;
  private blockBegan = 0;
  private blockLargest = 0;
  private measuredAt = 0;

  /** `ts`: as the device says; `received`: gateway time; ms. */
  observe(ts: number, received: number): void {
    const delta = ts - received;
    if (this.blockReadings === 0) {
      this.blockBegan = received;
      this.blockLargest = delta;
    } else if (delta > this.blockLargest) this.blockLargest = delta;
    this.readings += 1;
    this.blockReadings += 1;
    this.measuredAt = received;
    if (this.blockReadings >= BLOCK_READINGS || received - this.blockBegan >= BLOCK_MS)
      this.close();
  }

  private close(): void {
    this.largest[this.next] = this.blockLargest;
    this.next = (this.next + 1) % BLOCKS;
    this.blockReadings = 0;
  }

  /** Undefined before the first reading with a time of its own. */
  view(): ClockSkew | undefined {
    if (this.readings === 0) return undefined;
    const blocks = this.largest.length === 0 ? [this.blockLargest] : [...this.largest];
    blocks.sort((a, b) => a - b);
    const skewMs = blocks[blocks.length >> 1] ?? 0;
    const spreadMs = (blocks.at(-1) ?? 0) - (blocks[0] ?? 0);
    const isNarrow = spreadMs <= Math.max(SPREAD_MS, Math.abs(skewMs) * SPREAD_SHARE);
    const settled = this.largest.length >= SETTLED_BLOCKS && isNarrow;
    return { skewMs, spreadMs, settled, readings: this.readings, measuredAt: this.measuredAt };
  }
}
