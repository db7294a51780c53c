import type { LogRecord, ReceivedCount } from '../../src/core/nouns.ts';
import type { ConsumeOptions, LogBatch, LogConsumer } from '../../src/log/contract.ts';
import { MemoryStore } from '../reports/memory-store.ts';

const HOUR = 3_600_000;

/** A log in memory with its gateways' account, and a store that takes from it; both move between calls when told to. */
export class MovingSystem implements LogConsumer {
  readonly store: MemoryStore;
  readonly records: LogRecord[] = [];
  readonly counts: ReceivedCount[] = [];
  readonly groups: string[] = [];
  first = 0;
  /** Called before each answer of log and store. */
  onLook: () => void = () => {};

  constructor() {
    const look = () => this.onLook();
    this.store = new (class extends MemoryStore {
      override async position() {
        look();
        return super.position();
      }
      override async ledger(query: Parameters<MemoryStore['ledger']>[0]) {
        look();
        return super.ledger(query);
      }
    })();
  }

  /** One group commit: records and account together. */
  append(records: LogRecord[]): void {
    for (const record of records) {
      this.records.push(record);
      if (record.kind === 'event') continue;
      this.counts.push({
        ...{ tenant: record.tenant, device: record.device },
        hour: Math.floor(record.received / HOUR) * HOUR,
        outcome: record.kind,
        code: record.kind === 'reading' ? '' : record.code,
        count: record.kind === 'shed' ? record.count : 1,
      });
    }
  }

  /** The rollup worker: ledger and position together. Every fifth reading is a duplicate. */
  process(count: number): void {
    const from = this.store.positions.get(0) ?? 0;
    const to = Math.min(this.records.length, from + count);
    for (let offset = from; offset < to; offset += 1) {
      const record = this.records[offset];
      if (record === undefined || record.kind === 'event') continue;
      const duplicate = offset % 5 === 0;
      this.store.lines.push({
        ...{ tenant: record.tenant, device: record.device },
        hour: Math.floor(record.received / HOUR) * HOUR,
        outcome: record.kind === 'reading' ? (duplicate ? 'duplicate' : 'stored') : record.kind,
        code: record.kind === 'reading' ? (duplicate ? 'IDENTICAL' : '') : record.code,
        count: record.kind === 'shed' ? record.count : 1,
      });
    }
    this.store.positions.set(0, to);
  }

  async *consume(group: string, options: ConsumeOptions): AsyncIterable<LogBatch> {
    this.groups.push(group);
    let at = options.from?.get(0) ?? 0;
    while (!options.signal.aborted) {
      const start = Math.max(at, this.first);
      const records = this.records.slice(start, start + 7);
      if (records.length === 0) {
        await new Promise((resolve) => setImmediate(resolve));
        continue;
      }
      at = start + records.length;
      yield { partition: 0, firstOffset: start, nextOffset: at, records, appendedAt: 0 };
    }
  }

  async commit(): Promise<void> {
    throw new Error('an audit commits nothing');
  }

  async committed(): Promise<Map<number, number>> {
    return new Map();
  }

  async bounds(): Promise<Map<number, { first: number; end: number }>> {
    this.onLook();
    return new Map([[0, { first: this.first, end: this.records.length }]]);
  }

  async received(filter: {
    tenant?: string;
    from?: number;
    to?: number;
  }): Promise<ReceivedCount[]> {
    this.onLook();
    return this.counts.filter(
      (c) =>
        (filter.tenant === undefined || c.tenant === filter.tenant) &&
        c.hour >= (filter.from ?? 0) &&
        c.hour < (filter.to ?? Number.POSITIVE_INFINITY),
    );
  }

  async close(): Promise<void> {}
}

export function reading(tenant: string, device: string, received: number): LogRecord {
  return {
    kind: 'reading',
    tenant,
    device,
    type: 'probe',
    ts: received,
    received,
    values: { v: 1 },
  };
}

export function deadLetter(tenant: string, device: string, received: number): LogRecord {
  return {
    ...{ kind: 'deadLetter' as const, tenant, device, type: 'probe', received },
    ...{ code: 'JSON_INVALID', message: '', topic: '', payload: '', payloadBytes: 0 },
  };
}

export function shed(tenant: string, device: string, received: number, count: number): LogRecord {
  return { kind: 'shed', tenant, device, received, code: 'LOG_FULL', count };
}

export function event(tenant: string, device: string, received: number): LogRecord {
  return { kind: 'event', tenant, device, received, event: 'connected' };
}
