import type { LogStats } from '../log/contract.ts';
import {
  type ForwardingStatus,
  type GatewayCounters,
  type LiveStatus,
  NO_STATUS,
  type RollupStatus,
} from './counters.ts';

/** Weight of the newest interval in the rates; about three seconds of memory at two looks a second. */
const SMOOTHING = 0.3;

/** What decays comes to 0 at last. */
const thousandths = (rate: number): number => Math.round(rate * 1_000) / 1_000;

/** Puts together what the threads tell of themselves, and makes rates of counts. */
export class LiveView {
  private readonly counters: GatewayCounters;
  private readonly startedAt: number;
  private readonly version: string;
  private readonly roles: readonly string[];
  private ready = false;
  private reason = 'starting';
  private lastAt = performance.now();
  private lastMessages = 0;
  private lastReadings = 0;
  private messagesPerSecond = 0;
  private readingsPerSecond = 0;
  private rollupStatus = NO_STATUS;

  constructor(options: {
    counters: GatewayCounters;
    startedAt: number;
    version: string;
    roles: readonly string[];
  }) {
    this.counters = options.counters;
    this.startedAt = options.startedAt;
    this.version = options.version;
    this.roles = options.roles;
  }

  setReady(ready: boolean, reason: string): void {
    this.ready = ready;
    this.reason = reason;
  }

  get rollup(): RollupStatus {
    return this.rollupStatus;
  }

  setRollup(status: RollupStatus): void {
    this.rollupStatus = status;
  }

  status(log: LogStats, forwarding?: ForwardingStatus): LiveStatus {
    this.measure();
    const { connections, deadLetters, shed } = this.counters;
    return {
      startedAt: this.startedAt,
      version: this.version,
      roles: this.roles,
      ready: this.ready,
      readyReason: this.reason,
      connections,
      messagesPerSecond: thousandths(this.messagesPerSecond),
      readingsPerSecond: thousandths(this.readingsPerSecond),
      log,
      rollup: this.rollupStatus,
      ...(forwarding !== undefined && { forwarding }),
      backfill: this.counters.backfill,
      deadLettersByCode: Object.fromEntries(deadLetters),
      shedByReason: Object.fromEntries(shed),
      overload: this.counters.overload,
    };
  }

  private measure(): void {
    const now = performance.now();
    const seconds = (now - this.lastAt) / 1_000;
    if (seconds < 0.1) return;
    const readings = [...this.counters.readingsAccepted.values()].reduce(
      (sum, count) => sum + count,
      0,
    );
    const messagesNow = (this.counters.messages - this.lastMessages) / seconds;
    const readingsNow = (readings - this.lastReadings) / seconds;
    this.messagesPerSecond += (messagesNow - this.messagesPerSecond) * SMOOTHING;
    this.readingsPerSecond += (readingsNow - this.readingsPerSecond) * SMOOTHING;
    this.lastAt = now;
    this.lastMessages = this.counters.messages;
    this.lastReadings = readings;
  }
}
