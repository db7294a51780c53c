import { LatencyHistogram } from './latency.ts';
import type { MalformedKind } from './malformed.ts';

/** Distinct codes and reasons kept; a gateway gone mad must not grow the simulator. */
const KEYS_MAX = 100;
const OTHER = '(other)';
const NOTE_CHARS_MAX = 300;

/** Counts by name, bounded: what doesn't fit is counted as "(other)". */
export class NamedCounts {
  readonly #counts = new Map<string, number>();
  total = 0;

  /** @returns whether the name was new */
  add(name: string): boolean {
    const known = this.#counts.has(name);
    const key = known || this.#counts.size < KEYS_MAX ? name : OTHER;
    this.#counts.set(key, (this.#counts.get(key) ?? 0) + 1);
    this.total++;
    return !known && key === name;
  }

  toObject(): Record<string, number> {
    return Object.fromEntries([...this.#counts].sort(([, a], [, b]) => b - a));
  }
}

/** What a message was, for the books. */
export type MessageKind = 'reading' | 'duplicate' | 'malformed';

/**
 * The simulator's side of the account. Messages of QoS 0 are counted apart, as nobody acknowledges them.
 * readings: sampled = sent + malformed + dropped from a buffer + left in a buffer.
 */
export class Tally {
  startedAt = new Date();
  startedMs = performance.now();
  sampled = 0;
  readingsSent = 0;
  readingsAcknowledged = 0;
  sent = 0;
  acknowledged = 0;
  sentUnconfirmed = 0;
  retransmitted = 0;
  duplicates = 0;
  readonly malformed: Partial<Record<MalformedKind, number>> = {};
  late = 0;
  dropped = 0;
  /** Samples not taken because the simulator itself was too slow. */
  missed = 0;
  stateSent = 0;
  stateAcknowledged = 0;
  commands = 0;
  everConnected = 0;
  reconnects = 0;
  disconnects = 0;
  subscribeFailures = 0;
  readonly connectFailures = new NamedCounts();
  readonly pubackRefusals = new NamedCounts();
  readonly receipts = new NamedCounts();
  readonly receiptSeverities = new NamedCounts();
  /** The first receipt of each code, as it came. */
  readonly receiptExamples = new Map<string, string>();
  readonly latency = new LatencyHistogram();
  /** From the loss of a connection until there was another. */
  readonly away = new LatencyHistogram();
  connectAttempts = 0;
  /** Most attempts to connect in one second. */
  connectAttemptsPeak = 0;
  #attemptsSecond = 0;
  #attemptsInSecond = 0;

  /** The run begins now. */
  begin(): void {
    this.startedAt = new Date();
    this.startedMs = performance.now();
  }

  countAttempt(): void {
    const second = Math.floor((performance.now() - this.startedMs) / 1000);
    if (second !== this.#attemptsSecond) this.#attemptsInSecond = 0;
    this.#attemptsSecond = second;
    this.#attemptsInSecond++;
    this.connectAttempts++;
    this.connectAttemptsPeak = Math.max(this.connectAttemptsPeak, this.#attemptsInSecond);
  }

  countMalformed(kind: MalformedKind): void {
    this.malformed[kind] = (this.malformed[kind] ?? 0) + 1;
  }

  /** @param payload a message from a receipts topic */
  countReceipt(payload: Uint8Array): void {
    const text = Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength).toString();
    const { code, severity } = parseReceipt(text);
    this.receiptSeverities.add(severity);
    if (this.receipts.add(code)) this.receiptExamples.set(code, text.slice(0, NOTE_CHARS_MAX));
  }
}

function parseReceipt(text: string): { code: string; severity: string } {
  try {
    const receipt: unknown = JSON.parse(text);
    if (typeof receipt === 'object' && receipt !== null && 'code' in receipt) {
      const severity = 'severity' in receipt ? String(receipt.severity) : '(none)';
      return { code: String(receipt.code).slice(0, 64), severity: severity.slice(0, 64) };
    }
  } catch {
    // Told below.
  }
  return { code: '(unreadable)', severity: '(none)' };
}
