import type {
  AggregateState,
  LedgerCount,
  LogRecord,
  Outcome,
  RollupRow,
  Values,
} from '../../src/core/nouns.ts';
import type {
  ConsumeOptions,
  LogBatch,
  LogConsumer,
  RecordSource,
} from '../../src/log/contract.ts';
import type {
  DeadLetterGroup,
  DevicePurge,
  LetterMark,
  Origin,
  Progress,
  RefusedReading,
  RowTimes,
  Store,
  StoredDeadLetter,
  StoredReading,
} from '../../src/store/contract.ts';

/** What a fake throws where a process would have died. */
export class Crash extends Error {}

/** A log in memory with one partition 0; each append is one group commit. */
export class FakeLog implements LogConsumer {
  private readonly batches: LogBatch[] = [];
  private waiting: (() => void)[] = [];
  readonly commits = new Map<string, number>();
  first = 0;
  end = 0;
  /** Thrown once the consumer gets there. */
  corruptAt = Number.POSITIVE_INFINITY;

  append(records: readonly LogRecord[], appendedAt = 0, sources?: readonly RecordSource[]): void {
    const firstOffset = this.end;
    this.end += records.length;
    this.batches.push({
      partition: 0,
      firstOffset,
      nextOffset: this.end,
      records: records.map((record) => structuredClone(record)),
      ...(sources === undefined ? {} : { sources }),
      appendedAt,
    });
    for (const wake of this.waiting.splice(0)) wake();
  }

  async *consume(group: string, { signal, from }: ConsumeOptions): AsyncIterable<LogBatch> {
    let next = from?.get(0) ?? this.commits.get(group) ?? this.first;
    while (!signal.aborted) {
      if (next >= this.corruptAt) throw new Crash('corrupt');
      const batch = this.batches.find((one) => one.nextOffset > next);
      if (batch !== undefined) {
        next = batch.nextOffset;
        yield structuredClone(batch);
        continue;
      }
      await new Promise<void>((resolve) => {
        this.waiting.push(resolve);
        signal.addEventListener('abort', () => resolve(), { once: true });
      });
    }
  }

  async commit(group: string, partition: number, offset: number): Promise<void> {
    if (partition !== 0) throw new Error(`no partition ${partition}`);
    this.commits.set(group, offset);
  }

  async committed(group: string): Promise<Map<number, number>> {
    const offset = this.commits.get(group);
    return offset === undefined ? new Map() : new Map([[0, offset]]);
  }

  async bounds(): Promise<Map<number, { first: number; end: number }>> {
    return new Map([[0, { first: this.first, end: this.end }]]);
  }

  async received(): Promise<never[]> {
    return [];
  }

  async close(): Promise<void> {}
}

interface Row extends StoredReading {
  /** Where each metric's value came from. */
  writers: Record<string, Origin>;
}

function isLater(a: Origin, b: Origin): boolean {
  return a.partition === b.partition ? a.offset > b.offset : a.partition > b.partition;
}

/**
 * A store in memory that keeps the contract: idempotent, merging, atomic commits. `before` is called
 * ahead of each call with its name and may throw; `cut` may make a write stop half-way.
 */
export class FakeStore implements Store {
  readonly rows = new Map<string, Row>();
  readonly rollupRows = new Map<string, RollupRow>();
  readonly letters = new Map<string, StoredDeadLetter>();
  readonly marks: LetterMark[] = [];
  readonly purges: DevicePurge[] = [];
  readonly lines = new Map<string, LedgerCount>();
  readonly positions = new Map<string, number>();
  readonly sourceNumbers = new Map<string, Map<string, number>>();
  readonly noted = new Map<string, string[]>();
  readonly calls: string[] = [];
  /** Whether a row remembers the writer of each metric, or takes any offset that is not below its own. */
  tracksWriters = true;
  before: (call: string) => void = () => {};
  cut: (call: string) => boolean = () => false;
  refuses: (reading: StoredReading) => string | undefined = () => undefined;
  retentionCalls: number[] = [];

  private enter(call: string): void {
    this.calls.push(call);
    this.before(call);
  }

  private some<T>(call: string, all: readonly T[]): readonly T[] {
    return this.cut(call) ? all.slice(0, Math.floor(all.length / 2)) : all;
  }

  async writeNotes(group: string, partition: number, notes: readonly string[]): Promise<void> {
    this.enter('writeNotes');
    this.noted.set(`${group}/${partition}`, [...notes]);
  }

  async notes(group: string): Promise<Map<number, string[]>> {
    this.enter('notes');
    return new Map(ofGroup(this.noted, group));
  }

  async writeReadings(readings: readonly StoredReading[]): Promise<RefusedReading[]> {
    this.enter('writeReadings');
    const refused: RefusedReading[] = [];
    const some = this.some('writeReadings', readings);
    for (const reading of some) {
      const message = this.refuses(reading);
      if (message === undefined) this.writeReading(structuredClone(reading));
      else refused.push({ reading: structuredClone(reading), message });
    }
    if (some !== readings) throw new Crash('in writeReadings');
    return refused;
  }

  private writeReading(reading: StoredReading): void {
    const key = `${reading.tenant}/${reading.device}/${reading.ts}`;
    const row = this.rows.get(key);
    const { claims: _, ...stored } = reading;
    if (row === undefined) {
      const writers: Record<string, Origin> = {};
      for (const name of Object.keys(reading.values)) writers[name] = reading;
      this.rows.set(key, { ...stored, writers });
      return;
    }
    if (reading.claims === true) {
      const { partition, offset, received } = reading;
      Object.assign(row, { partition, offset, received });
    }
    for (const [name, value] of Object.entries(reading.values)) {
      const writer = this.tracksWriters ? (row.writers[name] ?? row) : row;
      if (row.values[name] !== undefined && isLater(writer, reading)) continue;
      row.values[name] = value;
      row.writers[name] = reading;
    }
  }

  async writeDeadLetters(letters: readonly StoredDeadLetter[]): Promise<void> {
    this.enter('writeDeadLetters');
    for (const letter of letters) this.letters.set(`${letter.partition}/${letter.offset}`, letter);
  }

  async markDeadLetters(marks: readonly LetterMark[]): Promise<void> {
    this.enter('markDeadLetters');
    for (const mark of marks) this.marks.push(mark);
  }

  async purgeDeadLetters(purge: DevicePurge): Promise<void> {
    this.enter('purgeDeadLetters');
    this.purges.push(purge);
  }

  async writeRollups(rows: readonly RollupRow[]): Promise<void> {
    this.enter('writeRollups');
    const some = this.some('writeRollups', rows);
    for (const row of some) this.rollupRows.set(rollupKey(row), structuredClone(row));
    if (some !== rows) throw new Crash('in writeRollups');
  }

  async commit({ group, partition, nextOffset, ledger, sources }: Progress): Promise<void> {
    this.enter('commit');
    const key = `${group}/${partition}`;
    if ((this.positions.get(key) ?? -1) >= nextOffset) return;
    this.positions.set(key, nextOffset);
    if (sources !== undefined) this.sourceNumbers.set(key, new Map(sources));
    for (const line of ledger) {
      const { tenant, device, hour, outcome, code } = line;
      const at = `${tenant}/${device}/${hour}/${outcome}/${code}`;
      const old = this.lines.get(at);
      this.lines.set(at, { ...line, count: line.count + (old?.count ?? 0) });
    }
  }

  async applyRetention(now: number): Promise<string[]> {
    this.enter('applyRetention');
    this.retentionCalls.push(now);
    return [];
  }

  async readings(query: Parameters<Store['readings']>[0]): Promise<StoredReading[]> {
    this.enter('readings');
    const found = [...this.rows.values()].filter(
      (row) =>
        row.tenant === query.tenant &&
        (query.devices === undefined || query.devices.includes(row.device)) &&
        row.ts >= query.from &&
        row.ts < query.to,
    );
    found.sort((a, b) => (a.device === b.device ? a.ts - b.ts : a.device < b.device ? -1 : 1));
    return found.slice(0, query.limit).map(({ writers, ...row }) => {
      const clone: StoredReading = structuredClone(row);
      const others = Object.entries(writers).filter(
        ([, from]) => from.partition !== row.partition || from.offset !== row.offset,
      );
      if (query.mergedFrom !== true || others.length === 0) return clone;
      const mergedFrom = others.map(([name, { partition, offset }]) => [
        name,
        { partition, offset },
      ]);
      return { ...clone, mergedFrom: Object.fromEntries(mergedFrom) };
    });
  }

  async rollups(query: Parameters<Store['rollups']>[0]): Promise<RollupRow[]> {
    this.enter('rollups');
    return [...this.rollupRows.values()]
      .filter(
        (row) =>
          row.tenant === query.tenant &&
          row.windowMs === query.windowMs &&
          (query.devices === undefined || query.devices.includes(row.device)) &&
          row.start >= query.from &&
          row.start < query.to,
      )
      .map((row) => structuredClone(row));
  }

  async position(group: string): Promise<Map<number, number>> {
    this.enter('position');
    return new Map(ofGroup(this.positions, group));
  }

  async sources(group: string): Promise<Map<number, Map<string, number>>> {
    this.enter('sources');
    const numbers = ofGroup(this.sourceNumbers, group);
    return new Map(numbers.map(([partition, some]) => [partition, new Map(some)]));
  }

  async countReadings(): Promise<Map<string, number>> {
    throw new Error('not used');
  }
  async latest(): Promise<Map<string, number>> {
    throw new Error('not used');
  }
  async newest(): Promise<Map<string, RowTimes>> {
    throw new Error('not used');
  }
  async deadLetters(): Promise<StoredDeadLetter[]> {
    throw new Error('not used');
  }
  async groupDeadLetters(): Promise<DeadLetterGroup[]> {
    throw new Error('not used');
  }
  async countDeadLetters(): Promise<{ device: string; code: string; count: number }[]> {
    throw new Error('not used');
  }
  async series(): Promise<{ device: string; metrics: string[] }[]> {
    throw new Error('not used');
  }
  async ledger(): Promise<LedgerCount[]> {
    return [...this.lines.values()];
  }
  async recount(): Promise<LedgerCount[]> {
    throw new Error('not used');
  }
  async ledgerTotals(): Promise<Map<Outcome, number>> {
    throw new Error('not used');
  }
  async close(): Promise<void> {}

  /** Counts by `device outcome code`, over all hours. */
  ledgerByDevice(): Record<string, number> {
    const counts: Record<string, number> = {};
    for (const { device, outcome, code, count } of this.lines.values()) {
      const key = [device, outcome, code].filter((part) => part !== '').join(' ');
      counts[key] = (counts[key] ?? 0) + count;
    }
    return counts;
  }

  row(device: string, metric: string, windowMs: number, start: number): RollupRow | undefined {
    return this.rollupRows.get(rollupKey({ tenant: 'acme', device, metric, windowMs, start }));
  }

  state(device: string, metric: string, windowMs: number, start: number): AggregateState {
    const row = this.row(device, metric, windowMs, start);
    if (row === undefined) throw new Error(`no row ${device} ${metric} ${windowMs} ${start}`);
    return row.state;
  }

  values(device: string, ts: number): Values | undefined {
    return this.rows.get(`acme/${device}/${ts}`)?.values;
  }
}

function ofGroup<T>(all: ReadonlyMap<string, T>, group: string): [number, T][] {
  return [...all].flatMap(([key, value]): [number, T][] => {
    const [name, partition] = key.split('/');
    return name === group ? [[Number(partition), value]] : [];
  });
}

export function rollupKey(
  row: Pick<RollupRow, 'tenant' | 'device' | 'metric' | 'windowMs' | 'start'>,
): string {
  return `${row.tenant}/${row.device}/${row.metric}/${row.windowMs}/${row.start}`;
}
