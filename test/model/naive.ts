import type { Outcome, Values } from '../../src/core/nouns.ts';
import { type DeviceSpec, HOUR, type Item, type Message, RULES } from './fleet.ts';

/**
 * What the system must come to, from what was made durable and in which order: with everything at hand
 * and no cleverness. Nothing here is the program's.
 */

/** A message that the log has. */
export interface Arrival {
  message: Message;
  /** Gateway time at which it was taken, ms. */
  received: number;
}

/** Messages that were dropped and counted, as the log has it. */
export interface Shed {
  device: string;
  code: string;
  count: number;
  received: number;
}

export interface Row {
  device: string;
  ts: number;
  /** Of the reading that was there first. */
  received: number;
  seq: number | undefined;
  values: Values;
}

export interface Letter {
  device: string;
  code: string;
  received: number;
  /** Only where the message was refused as a whole. */
  payload?: Buffer;
}

/** Counts by `device hour outcome code`. */
export type Counts = Map<string, number>;

export interface Expected {
  /** By `device/ts`. */
  rows: Map<string, Row>;
  letters: Letter[];
  ledger: Counts;
  received: Counts;
}

export function countKey(line: {
  device: string;
  hour: number;
  outcome: Outcome | 'reading';
  code: string;
}): string {
  return `${line.device} ${new Date(line.hour).toISOString()} ${line.outcome} ${line.code}`.trim();
}

export function expectedOf(
  arrivals: readonly Arrival[],
  sheds: readonly Shed[],
  devices: readonly DeviceSpec[],
): Expected {
  const naive = new Naive(devices);
  for (const { message, received } of arrivals) {
    if (message.flaw !== undefined) naive.refuseWhole(message, message.flaw, received);
    for (const item of message.items) naive.take(item, received);
  }
  for (const { device, code, count, received } of sheds) {
    naive.count(naive.ledger, device, received, 'shed', code, count);
    naive.count(naive.received, device, received, 'shed', code, count);
  }
  return naive;
}

class Naive implements Expected {
  readonly rows = new Map<string, Row>();
  readonly letters: Letter[] = [];
  readonly ledger: Counts = new Map();
  readonly received: Counts = new Map();
  private readonly devices: ReadonlyMap<string, DeviceSpec>;

  constructor(devices: readonly DeviceSpec[]) {
    this.devices = new Map(devices.map((device) => [device.name, device]));
  }

  count(
    counts: Counts,
    device: string,
    received: number,
    outcome: Outcome | 'reading',
    code: string,
    by = 1,
  ): void {
    const hour = Math.floor(received / HOUR) * HOUR;
    const key = countKey({ device, hour, outcome, code });
    counts.set(key, (counts.get(key) ?? 0) + by);
  }

  refuseWhole(message: Message, code: string, received: number): void {
    this.refuse(message.session, code, received, message.payload);
  }

  private refuse(device: string, code: string, received: number, payload?: Buffer): void {
    this.letters.push({ device, code, received, ...(payload !== undefined && { payload }) });
    this.count(this.ledger, device, received, 'deadLetter', code);
    this.count(this.received, device, received, 'deadLetter', code);
  }

  take(item: Item, received: number): void {
    const { device } = item;
    const type = this.devices.get(device)?.type;
    if (type === undefined) throw new Error(`nobody knows ${device}`);
    const rule = RULES[type];
    if (item.flaw !== undefined) {
      this.refuse(device, item.flaw, received);
      return;
    }
    let ts = item.ts ?? received;
    if (ts > received + rule.futureMs) {
      if (!rule.usesReceived) {
        this.refuse(device, 'TS_FUTURE', received);
        return;
      }
      ts = received;
    }
    if (ts < received - rule.pastMs) {
      this.refuse(device, 'TS_PAST', received);
      return;
    }
    this.count(this.received, device, received, 'reading', '');
    this.store(item, ts, received, rule.known);
  }

  private store(item: Item, ts: number, received: number, known: string[] | undefined): void {
    const { device, seq } = item;
    const values: Values = {};
    for (const [name, value] of Object.entries(item.values)) {
      if (known === undefined || known.includes(name)) values[name] = value;
    }
    const row = this.rows.get(`${device}/${ts}`);
    if (row === undefined) {
      this.rows.set(`${device}/${ts}`, { device, ts, received, seq, values });
      this.count(this.ledger, device, received, 'stored', '');
      return;
    }
    let isNew = false;
    let isOther = false;
    for (const [name, value] of Object.entries(values)) {
      const old = row.values[name];
      if (old === undefined) isNew = true;
      else if (old !== value) isOther = true;
      row.values[name] = value;
    }
    const kind = isOther ? 'CONFLICT' : isNew ? 'MERGED' : 'IDENTICAL';
    this.count(this.ledger, device, received, 'duplicate', kind);
  }
}
