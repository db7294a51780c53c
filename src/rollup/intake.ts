import type {
  DeadLetterRecord,
  DeviceType,
  LogRecord,
  ReadingRecord,
  ShedRecord,
} from '../core/nouns.ts';
import { REFUSALS, type RefusalCode } from '../core/refusals.ts';
import type { LogBatch, RecordSource } from '../log/contract.ts';
import type { RefusedReading, StoredDeadLetter, StoredReading } from '../store/contract.ts';
import { countStored, type DeviceEntry, type DeviceTable, isLost, spill } from './device-table.ts';
import type { Applied, DeviceWindows } from './device-windows.ts';
import { PartitionState, type TakenReading } from './partition-state.ts';
import type { Watcher } from './watcher.ts';
import type { Rebuild, Waiting, WindowLoader } from './window-loader.ts';
import { windowStart } from './windows.ts';

/** Bytes of the original that a dead letter made here keeps. */
const PAYLOAD_BYTES_MAX = 16_384;

export interface IntakeCounts {
  readings: number;
  stored: number;
  identical: number;
  merged: number;
  conflicts: number;
  /** Readings that came after their window's lateness. */
  late: number;
  deadLetters: number;
  shed: number;
  /** Records that their sender had sent before; they count nowhere. */
  retransmitted: number;
  /** Readings that the store refused, or that are older than raw readings are kept. */
  refused: number;
}

export interface IntakeOptions {
  baseMs: number;
  latenessMs: number;
  /** How long raw readings are kept, ms; 0: for ever. */
  rawMs: number;
  devices: DeviceTable;
  loader: WindowLoader;
  types: ReadonlyMap<string, DeviceType>;
  /** Sees each record that is taken. */
  watcher: Pick<Watcher, 'take'> | undefined;
}

/**
 * Takes log records into memory: readings into their devices' windows and their partition's list of raw
 * readings to write, dead letters into the list of those to write, and everything into the ledger's tally.
 */
export class Intake {
  readonly partitions = new Map<number, PartitionState>();
  readonly counts: IntakeCounts = {
    readings: 0,
    stored: 0,
    identical: 0,
    merged: 0,
    conflicts: 0,
    late: 0,
    deadLetters: 0,
    shed: 0,
    retransmitted: 0,
    refused: 0,
  };
  /** Something of partitions that are lost is still in memory. */
  hasLost = false;
  private waiting: DeviceEntry[] = [];
  private lost: PartitionState[] = [];
  /** Lost, but kept in memory in case that they come back as they were. */
  private parked: PartitionState[] = [];
  private readonly options: IntakeOptions;
  private readonly devices: DeviceTable;

  constructor(options: IntakeOptions) {
    this.options = options;
    this.devices = options.devices;
  }

  /** A partition that this worker has from now on, beginning at `next`. */
  gain(
    partition: number,
    next: number,
    sources?: ReadonlyMap<string, number>,
    notes?: readonly string[],
  ): PartitionState {
    this.lose([partition]);
    const state = new PartitionState(partition, next, sources, notes);
    this.partitions.set(partition, state);
    return state;
  }

  /** From now on nothing of these is written; {@link forgetLost} must follow. */
  lose(partitions: Iterable<number>): void {
    for (const partition of partitions) {
      const state = this.partitions.get(partition);
      if (state === undefined) continue;
      state.isLost = true;
      this.hasLost = true;
      this.lost.push(state);
      this.partitions.delete(partition);
    }
  }

  /** Next offset to take of a partition; Infinity when it is not this worker's. */
  nextOf(partition: number): number {
    return this.partitions.get(partition)?.next ?? Number.POSITIVE_INFINITY;
  }

  /** Raw readings, dead letters and changes of these that are not in the store yet. */
  unwritten(): number {
    let count = 0;
    for (const { raw, deadLetters, letterChanges } of this.partitions.values()) {
      count += raw.length + deadLetters.length + letterChanges.size;
    }
    return count;
  }

  /**
   * Takes the records that were not taken yet. When the partition is lost meanwhile, it ends early.
   * `now`: gateway time, ms. Throws what the store throws.
   */
  async take(partition: PartitionState, batch: LogBatch, now: number): Promise<void> {
    for (let index = 0; index < batch.records.length; index += 1) {
      const offset = batch.firstOffset + index;
      const record = batch.records[index];
      if (offset < partition.next || record === undefined) continue;
      if (this.isRetransmission(batch.sources?.[index], partition)) continue;
      this.takeRecord(record, partition, offset, now);
    }
    while (this.waiting.length > 0) await this.resume(partition);
    partition.next = Math.max(partition.next, batch.nextOffset);
  }

  private isRetransmission(from: RecordSource | undefined, { sources }: PartitionState): boolean {
    if (from === undefined) return false;
    const { source, number } = from;
    if (number <= (sources.get(source) ?? -1)) {
      this.counts.retransmitted += 1;
      return true;
    }
    sources.set(source, number);
    return false;
  }

  private takeRecord(
    record: LogRecord,
    partition: PartitionState,
    offset: number,
    now: number,
  ): void {
    this.options.watcher?.take(record);
    if (record.kind === 'reading') this.takeReading(record, partition, offset, now);
    else if (record.kind === 'deadLetter') this.takeDeadLetter(record, partition, offset);
    else if (record.kind === 'shed') this.takeShed(record, partition);
    else partition.letterChanges.take(record);
  }

  private takeReading(
    reading: ReadingRecord,
    partition: PartitionState,
    offset: number,
    now: number,
  ): void {
    this.counts.readings += 1;
    const code = this.unfit(reading);
    if (code !== undefined) {
      this.refuse(taken(reading, partition.partition, offset), partition, code);
      return;
    }
    const entry = this.devices.touch(reading, partition, now);
    if (entry.waiting === undefined) this.apply(entry, reading, offset);
    else entry.waiting.readings.push({ reading, offset });
  }

  /** The gateway refuses such readings; a log may be older than its rules. */
  private unfit(reading: ReadingRecord): RefusalCode | undefined {
    const { ts, received } = reading;
    if (!Number.isSafeInteger(ts)) return 'TS_INVALID';
    const { rawMs, baseMs } = this.options;
    // A window whose raw readings may be gone cannot be built anew, and must not be written over.
    if (rawMs > 0 && windowStart(ts, baseMs) < received - rawMs) return 'TS_PAST';
    return undefined;
  }

  private apply(entry: DeviceEntry, reading: ReadingRecord, offset: number): void {
    const { windows, partition } = entry;
    const isLate = reading.ts < windows.watermark - this.options.latenessMs;
    const applied = windows.apply(reading, partition.partition);
    if (applied === 'load') {
      const readings = [{ reading, offset }];
      entry.waiting = { device: windows, partition: partition.partition, offset, readings };
      this.waiting.push(entry);
      return;
    }
    if (isLate) this.counts.late += 1;
    const counted = applied === 'stored' ? applied : partition.repeats.take(offset, applied);
    this.count(entry, reading, counted);
    if (applied === 'IDENTICAL') return;
    const raw = taken(reading, partition.partition, offset);
    raw.claims = applied === 'stored';
    partition.raw.push(raw);
    partition.rawApplied.push(counted);
  }

  private count(entry: DeviceEntry, reading: ReadingRecord, counted: Applied): void {
    const { tenant, device, received } = reading;
    if (counted === 'stored') {
      this.counts.stored += 1;
      countStored(entry, received);
      return;
    }
    entry.partition.tally.add(tenant, device, received, 'duplicate', counted);
    if (counted === 'IDENTICAL') this.counts.identical += 1;
    else if (counted === 'MERGED') this.counts.merged += 1;
    else this.counts.conflicts += 1;
  }

  /** Loads for those that wait, and applies their readings until something else is missing. */
  private async resume(partition: PartitionState): Promise<void> {
    const entries = this.waiting;
    this.waiting = [];
    const waiting = entries.flatMap((entry) => entry.waiting ?? []);
    await this.options.loader.load(waiting, this.unwrittenReadings());
    if (partition.isLost) return;
    for (const entry of entries) this.applyWaiting(entry);
  }

  private *unwrittenReadings(): Iterable<StoredReading> {
    for (const { raw } of this.partitions.values()) yield* raw;
  }

  private applyWaiting(entry: DeviceEntry): void {
    const readings = entry.waiting?.readings ?? [];
    entry.waiting = undefined;
    readings.forEach(({ reading, offset }) => {
      const again: Waiting | undefined = entry.waiting;
      if (again === undefined) this.apply(entry, reading, offset);
      else again.readings.push({ reading, offset });
    });
  }

  private takeDeadLetter(
    letter: DeadLetterRecord,
    partition: PartitionState,
    offset: number,
  ): void {
    const { kind, ...rest } = letter;
    partition.deadLetters.push({ ...rest, partition: partition.partition, offset });
    partition.tally.add(letter.tenant, letter.device, letter.received, kind, letter.code);
    this.counts.deadLetters += 1;
  }

  private takeShed(shed: ShedRecord, partition: PartitionState): void {
    const { tenant, device, received, code, count } = shed;
    partition.tally.add(tenant, device, received, 'shed', code, count);
    this.counts.shed += count;
  }

  private refuse(
    reading: TakenReading,
    partition: PartitionState,
    code: RefusalCode,
    words?: string,
  ): void {
    const typeVersion = this.options.types.get(reading.type)?.version;
    partition.deadLetters.push(letterOf(reading, typeVersion, code, words));
    partition.tally.add(reading.tenant, reading.device, reading.received, 'deadLetter', code);
    this.counts.refused += 1;
  }

  /**
   * After all raw readings were written: those that the store refused become dead letters instead of what
   * they counted as, and their windows are built anew without them.
   */
  rawWritten(refused: readonly RefusedReading[]): void {
    for (const state of this.partitions.values()) {
      const ofState = refused.filter(({ reading }) => reading.partition === state.partition);
      if (ofState.length > 0) this.takeBackAll(state, ofState);
      state.raw = [];
      state.rawApplied = [];
    }
  }

  private takeBackAll(state: PartitionState, refused: readonly RefusedReading[]): void {
    const places = new Map(state.raw.map(({ offset }, index) => [offset, index]));
    for (const { reading, message } of refused) {
      const place = places.get(reading.offset) ?? -1;
      const own = state.raw[place];
      const applied = state.rawApplied[place];
      if (own !== undefined && applied !== undefined) this.takeBack(state, own, applied, message);
    }
  }

  private takeBack(
    partition: PartitionState,
    reading: TakenReading,
    applied: Applied,
    message: string,
  ): void {
    const { tenant, device, received } = reading;
    if (applied === 'stored') partition.tally.add(tenant, device, received, 'stored', '', -1);
    else partition.tally.add(tenant, device, received, 'duplicate', applied, -1);
    const entry = this.devices.find(tenant, device);
    const window = entry?.windows.windows.get(windowStart(reading.ts, this.options.baseMs));
    if (window !== undefined) {
      window.rebuild = true;
      window.dirty = true;
    }
    this.refuse(reading, partition, 'STORE_REFUSED', message);
  }

  deadLettersWritten(): void {
    for (const state of this.partitions.values()) state.deadLetters = [];
  }

  /** Windows that differ from the raw readings, now that these are written. */
  rebuilds(): Rebuild[] {
    const rebuilds: Rebuild[] = [];
    for (const { windows: device, partition } of this.devices.touchedEntries()) {
      for (const window of device.windows.values()) {
        if (!window.rebuild) continue;
        rebuilds.push({ device, window, partition: partition.partition, offset: partition.next });
      }
    }
    return rebuilds;
  }

  /** Devices with readings since the last flush; their counts are in the tallies now. */
  touchedWindows(): DeviceWindows[] {
    return this.devices.touchedEntries().map((entry) => {
      spill(entry);
      return entry.windows;
    });
  }

  /**
   * Lets go of everything of partitions that are lost; or parks all of them, when this worker has nothing
   * else and all that it took is in the store.
   */
  forgetLost(): void {
    if (!this.hasLost) return;
    this.hasLost = false;
    const lost = [...this.parked, ...this.lost];
    this.lost = [];
    const parks = this.partitions.size === 0 && lost.every((state) => state.isWritten);
    for (const state of lost) state.isParked = parks;
    this.parked = parks ? lost : [];
    this.waiting = this.waiting.filter((entry) => !isLost(entry));
    this.devices.forgetLost();
  }

  /**
   * Takes back what was parked, as it was, when all of it belongs to this worker again and nobody has moved
   * the store's positions meanwhile; else forgets it. All or nothing: another worker that had one partition
   * may have changed windows of devices whose records are in several. What it left in the store without
   * moving a position comes again, as after a crash. Returns what was taken back.
   */
  unpark(
    assigned: ReadonlySet<number>,
    stored: ReadonlyMap<number, number>,
  ): ReadonlyMap<number, PartitionState> {
    const { parked } = this;
    const isUnchanged = parked.every(
      ({ partition, committed }) =>
        assigned.has(partition) && (stored.get(partition) ?? committed) === committed,
    );
    if (!isUnchanged) {
      this.forgetParked();
      return new Map();
    }
    this.parked = [];
    for (const state of parked) {
      state.isLost = false;
      state.isParked = false;
      this.partitions.set(state.partition, state);
    }
    return new Map(parked.map((state) => [state.partition, state]));
  }

  get isParking(): boolean {
    return this.parked.length > 0;
  }

  forgetParked(): void {
    for (const state of this.parked) state.isParked = false;
    this.parked = [];
    this.devices.forgetLost();
  }
}

function taken(record: ReadingRecord, partition: number, offset: number): TakenReading {
  const { tenant, device, type, ts, received, seq, values, attempt } = record;
  const reading: TakenReading = {
    tenant,
    device,
    type,
    ts,
    received,
    values,
    partition,
    offset,
    claims: false,
  };
  if (seq !== undefined) reading.seq = seq;
  if (attempt !== undefined) reading.attempt = attempt;
  return reading;
}

function letterOf(
  reading: TakenReading,
  typeVersion: string | undefined,
  code: RefusalCode,
  words: string | undefined,
): StoredDeadLetter {
  const { tenant, device, type, ts, received, seq, values, attempt, partition, offset } = reading;
  const payload = Buffer.from(JSON.stringify({ ts, seq, values }));
  return {
    tenant,
    device,
    type,
    ...(typeVersion !== undefined && { typeVersion }),
    received,
    ...(attempt !== undefined && { attempt }),
    topic: `t/${tenant}/d/${device}/telemetry`,
    payload: payload.subarray(0, PAYLOAD_BYTES_MAX).toString('base64'),
    payloadBytes: payload.length,
    code,
    message: words === undefined ? REFUSALS[code] : `${REFUSALS[code]} (${words})`,
    partition,
    offset,
  };
}
