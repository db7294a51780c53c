import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { LogRecord, ReceivedCount } from '../../src/core/nouns.ts';
import type { Account, ConsumeOptions, LogBatch, LogConsumer } from '../../src/log/contract.ts';
import { audit } from '../../src/ops/ledger.ts';
import { MemoryStore } from '../reports/memory-store.ts';
import { reading } from './moving-system.ts';

const HOUR = 3_600_000;
const PARTITIONS = 2;

interface Entry {
  record: LogRecord;
  source: string;
  number: number;
}

/** Gateways that may repeat themselves, a log that they share, and a worker that tells repetitions apart. */
class SharedSystem implements LogConsumer {
  readonly store = new (class extends MemoryStore {
    readonly numbers = new Map<number, Map<string, number>>();
    async sources() {
      return this.numbers;
    }
  })();
  readonly partitions: Entry[][] = Array.from({ length: PARTITIONS }, () => []);
  private readonly spools = new Map<string, Entry[]>();
  private readonly forwarded = new Map<string, number>();
  private readonly marks = new Map<string, number>();
  waiting = 0;

  receive(gateway: string, device: string): void {
    const spool = this.spools.get(gateway) ?? [];
    this.spools.set(gateway, spool);
    spool.push({ record: reading('acme', device, 0), source: gateway, number: spool.length });
  }

  /** Brings what is new to the log, and the last `repeats` before it once more. */
  forward(gateway: string, repeats: number): void {
    const spool = this.spools.get(gateway) ?? [];
    const from = Math.max(0, (this.forwarded.get(gateway) ?? 0) - repeats);
    for (const entry of spool.slice(from)) {
      this.partitions[entry.record.device.charCodeAt(0) % PARTITIONS]?.push(entry);
    }
    this.forwarded.set(gateway, spool.length);
  }

  /** The gateway writes its account. */
  tally(gateway: string): void {
    this.marks.set(gateway, this.forwarded.get(gateway) ?? 0);
  }

  process(partition: number, count: number): void {
    const numbers = this.store.numbers.get(partition) ?? new Map<string, number>();
    this.store.numbers.set(partition, numbers);
    const from = this.store.positions.get(partition) ?? 0;
    const entries = this.partitions[partition]?.slice(from, from + count) ?? [];
    for (const { record, source, number } of entries) {
      if (number <= (numbers.get(source) ?? -1)) continue;
      numbers.set(source, number);
      this.store.lines.push({
        ...{ tenant: record.tenant, device: record.device, outcome: 'stored', code: '' },
        ...{ hour: Math.floor(record.received / HOUR) * HOUR, count: 1 },
      });
    }
    this.store.positions.set(partition, from + entries.length);
  }

  async account(): Promise<Account> {
    const counts: ReceivedCount[] = [];
    for (const [gateway, upTo] of this.marks) {
      for (const { record } of (this.spools.get(gateway) ?? []).slice(0, upTo)) {
        counts.push({
          ...{ tenant: record.tenant, device: record.device, outcome: 'reading', code: '' },
          ...{ hour: Math.floor(record.received / HOUR) * HOUR, count: 1 },
        });
      }
    }
    return { counts, upTo: new Map(this.marks), waiting: this.waiting };
  }

  async *consume(_group: string, options: ConsumeOptions): AsyncIterable<LogBatch> {
    assert.equal(options.alone, true);
    for (const [partition, entries] of this.partitions.entries()) {
      const from = options.from?.get(partition) ?? 0;
      for (let at = from; at < entries.length; at += 3) {
        const some = entries.slice(at, at + 3);
        yield {
          partition,
          firstOffset: at,
          nextOffset: at + some.length,
          records: some.map(({ record }) => record),
          sources: some.map(({ source, number }) => ({ source, number })),
          appendedAt: 0,
        };
      }
    }
  }

  async bounds() {
    return new Map(this.partitions.map(({ length }, p) => [p, { first: 0, end: length }]));
  }

  async received() {
    return (await this.account()).counts;
  }

  async commit() {}

  async committed() {
    return new Map<number, number>();
  }

  async close() {}
}

type Step =
  | { do: 'receive'; gateway: string; device: string }
  | { do: 'forward'; gateway: string; repeats: number }
  | { do: 'tally'; gateway: string }
  | { do: 'process'; partition: number; count: number };

const gateway = fc.constantFrom('g1', 'g2', 'g3');
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('receive' as const),
      gateway,
      device: fc.constantFrom('a', 'b', 'c'),
    }),
  },
  fc.record({ do: fc.constant('forward' as const), gateway, repeats: fc.nat(5) }),
  fc.record({ do: fc.constant('tally' as const), gateway }),
  fc.record({
    do: fc.constant('process' as const),
    partition: fc.nat(PARTITIONS - 1),
    count: fc.nat(9),
  }),
);

function play(steps: readonly Step[]): SharedSystem {
  const system = new SharedSystem();
  for (const one of steps) {
    if (one.do === 'receive') system.receive(one.gateway, one.device);
    else if (one.do === 'forward') system.forward(one.gateway, one.repeats);
    else if (one.do === 'tally') system.tally(one.gateway);
    else system.process(one.partition, one.count);
  }
  // An account that is behind comes within a second; here at once.
  for (const name of ['g1', 'g2', 'g3']) system.tally(name);
  return system;
}

test('the account of a shared log is exact, whatever is on its way or came twice', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
      const system = play(steps);
      const result = await audit({ store: system.store, consumer: system, group: 'rollup' });
      assert.equal(result.balanced, true, JSON.stringify(result.rows));
    }),
    { numRuns: 300 },
  );
});

test('a reading that the worker lost is a difference', async () => {
  const system = play([
    { do: 'receive', gateway: 'g1', device: 'a' },
    { do: 'receive', gateway: 'g1', device: 'b' },
    { do: 'forward', gateway: 'g1', repeats: 0 },
    { do: 'process', partition: 0, count: 9 },
    { do: 'process', partition: 1, count: 9 },
  ]);
  system.store.lines.pop();
  const result = await audit({ store: system.store, consumer: system, group: 'rollup' });
  assert.equal(result.balanced, false);
  assert.deepEqual(
    result.rows.map(({ received, stored, inFlight, difference }) => ({
      received,
      stored,
      inFlight,
      difference,
    })),
    [{ received: 2, stored: 1, inFlight: 0, difference: 1 }],
  );
});

test('without the account of a gateway that is gone nothing is claimed', async () => {
  const system = new SharedSystem();
  system.receive('g1', 'a');
  system.forward('g1', 0);
  system.process(1, 9);
  const result = await audit({
    ...{ store: system.store, consumer: system, group: 'rollup' },
    signal: AbortSignal.timeout(60_000),
  });
  assert.equal(result.balanced, null);
  assert.match(result.note, /g1/);
});

test('what waits on the disks of gateways is said', async () => {
  const system = new SharedSystem();
  system.waiting = 12;
  const result = await audit({ store: system.store, consumer: system, group: 'rollup' });
  assert.equal(result.balanced, true);
  assert.match(result.note, /^12 records wait/);
});
