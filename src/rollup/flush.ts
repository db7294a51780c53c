import type { RollupRow } from '../core/nouns.ts';
import type { LogConsumer } from '../log/contract.ts';
import type { Store } from '../store/contract.ts';
import type { DeviceTable } from './device-table.ts';
import type { Intake } from './intake.ts';
import type { RollupRows } from './rollup-rows.ts';
import type { WindowLoader } from './window-loader.ts';

/** Rollup rows of one write. */
const ROWS_MAX = 10_000;
/** Devices whose rows are made at once. */
const DEVICES_MAX = 500;

/** Where a test may stop the worker: after each of these. */
export type FaultPoint =
  | 'applied'
  | 'rawWritten'
  | 'deadLettersWritten'
  | 'rebuilt'
  | 'rollupsWritten'
  | 'storeCommitted'
  | 'logCommitted';

export interface FlushOptions {
  group: string;
  store: Pick<Store, 'writeReadings' | 'writeDeadLetters' | 'writeRollups' | 'commit'>;
  consumer: Pick<LogConsumer, 'commit'>;
  intake: Intake;
  devices: DeviceTable;
  loader: WindowLoader;
  rows: RollupRows;
  devicesMax: number;
  readingsMax: number;
  faultPoint: (name: FaultPoint) => void;
}

/**
 * Makes durable what memory holds, in the order of the store's contract: raw readings, dead letters,
 * rollups, position with ledger, and last the log's own offset. A crash anywhere in between is made
 * good by the replay of the same records.
 */
export class Flush {
  private readonly options: FlushOptions;
  rowsWritten = 0;
  rowsRevised = 0;

  constructor(options: FlushOptions) {
    this.options = options;
  }

  /** Writes raw readings and dead letters; may be called any time between flushes. */
  async writeRaw(): Promise<void> {
    const { intake, store, faultPoint } = this.options;
    if (intake.raw.length > 0) intake.rawWritten(await store.writeReadings(intake.raw));
    faultPoint('rawWritten');
    if (intake.deadLetters.length > 0) {
      await store.writeDeadLetters(intake.deadLetters);
      intake.deadLettersWritten();
    }
    faultPoint('deadLettersWritten');
  }

  /** `now`: gateway time, ms. */
  async run(now: number): Promise<void> {
    const { intake, devices, loader, faultPoint } = this.options;
    await this.writeRaw();
    const rebuilds = intake.rebuilds();
    if (rebuilds.length > 0) await loader.rebuild(rebuilds);
    faultPoint('rebuilt');
    await this.writeRollups(now);
    await this.commit();
    devices.flushed(now);
    devices.shrink(this.options.devicesMax, this.options.readingsMax, now);
  }

  private async writeRollups(now: number): Promise<void> {
    const { intake, rows } = this.options;
    const devices = intake.touchedWindows();
    let pending: RollupRow[] = [];
    for (let at = 0; at < devices.length; at += DEVICES_MAX) {
      const some = devices.slice(at, at + DEVICES_MAX);
      await rows.loadUnknown(some);
      const dirty = rows.take(some, now);
      this.rowsRevised += dirty.revised;
      pending = pending.length === 0 ? dirty.rows : pending.concat(dirty.rows);
      if (pending.length < ROWS_MAX) continue;
      await this.writeRows(pending);
      pending = [];
    }
    await this.writeRows(pending);
  }

  private async writeRows(rows: readonly RollupRow[]): Promise<void> {
    const { store, faultPoint } = this.options;
    for (let at = 0; at < rows.length; at += ROWS_MAX) {
      await store.writeRollups(rows.length <= ROWS_MAX ? rows : rows.slice(at, at + ROWS_MAX));
      faultPoint('rollupsWritten');
    }
    this.rowsWritten += rows.length;
  }

  private async commit(): Promise<void> {
    const { group, store, consumer, intake, faultPoint } = this.options;
    for (const state of intake.partitions.values()) {
      const { partition, next, tally, sources } = state;
      if (next <= state.committed) continue;
      const progress = { group, partition, nextOffset: next, ledger: tally.read() };
      await store.commit(sources.size === 0 ? progress : { ...progress, sources });
      state.committed = next;
      tally.clear();
      faultPoint('storeCommitted');
      await consumer.commit(group, partition, next);
      faultPoint('logCommitted');
    }
  }
}
