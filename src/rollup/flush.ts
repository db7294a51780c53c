import type { RollupRow } from '../core/nouns.ts';
import type { LogConsumer } from '../log/contract.ts';
import type { Store } from '../store/contract.ts';
import { type DeviceTable, isLost } from './device-table.ts';
import type { Intake } from './intake.ts';
import type { PartitionState } from './partition-state.ts';
import { Abandoned } from './retry.ts';
import type { RollupRows } from './rollup-rows.ts';
import type { WindowLoader } from './window-loader.ts';

/** Rollup rows of one write. */
const ROWS_MAX = 10_000;
/** Devices whose rows are made at once. */
const DEVICES_MAX = 500;

/** Where a test may stop the worker: after each of these. */
export type FaultPoint =
  | 'applied'
  | 'noted'
  | 'rawWritten'
  | 'deadLettersWritten'
  | 'lettersChanged'
  | 'rebuilt'
  | 'rollupsWritten'
  | 'storeCommitted'
  | 'logCommitted';

export interface FlushOptions {
  group: string;
  /** Its writes throw {@link Abandoned} in place of another attempt, when partitions were lost meanwhile. */
  store: Pick<
    Store,
    | 'writeNotes'
    | 'writeReadings'
    | 'writeDeadLetters'
    | 'markDeadLetters'
    | 'purgeDeadLetters'
    | 'writeRollups'
    | 'commit'
  >;
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
 * Makes durable what memory holds, in the order of the store's contract: notes, raw readings, dead letters,
 * rollups, position with ledger, and last the log's own offset. A crash anywhere in between is made
 * good by the replay of the same records.
 *
 * Partitions may be lost at any time. What is lost goes into no call that begins afterwards, and no call
 * is repeated with it.
 */
export class Flush {
  private readonly options: FlushOptions;
  rowsWritten = 0;
  rowsRevised = 0;

  constructor(options: FlushOptions) {
    this.options = options;
  }

  /** Writes raw readings, dead letters and what became of these; may be called any time between flushes. */
  async writeRaw(): Promise<void> {
    const { intake, store, faultPoint } = this.options;
    await this.writeNotes();
    faultPoint('noted');
    await unlessLost(async () => {
      const raw = this.collect((state) => state.raw);
      if (raw.length > 0) intake.rawWritten(await store.writeReadings(raw));
    });
    faultPoint('rawWritten');
    await unlessLost(async () => {
      const letters = this.collect((state) => state.deadLetters);
      if (letters.length > 0) await store.writeDeadLetters(letters);
      intake.deadLettersWritten();
    });
    faultPoint('deadLettersWritten');
    await unlessLost(async () => {
      for (const state of [...intake.partitions.values()]) {
        if (!state.isLost) await state.letterChanges.write(store);
      }
    });
    faultPoint('lettersChanged');
  }

  /** What repeated readings count as, before these change any row. */
  private async writeNotes(): Promise<void> {
    const { intake, store, group } = this.options;
    await unlessLost(async () => {
      for (const { partition, repeats, next, isLost } of [...intake.partitions.values()]) {
        if (!repeats.areDue || isLost) continue;
        await store.writeNotes(group, partition, repeats.notes(next));
        repeats.noted();
      }
    });
  }

  /** Of all partitions that this worker has. */
  private collect<T>(of: (state: PartitionState) => T[]): T[] {
    const lists = [...this.options.intake.partitions.values()].map(of);
    const filled = lists.filter((list) => list.length > 0);
    const [first] = filled;
    return filled.length === 1 && first !== undefined ? first : filled.flat();
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
    const { store, intake, devices, faultPoint } = this.options;
    const isOurs = ({ tenant, device }: RollupRow): boolean => {
      const entry = devices.find(tenant, device);
      return entry !== undefined && !isLost(entry);
    };
    for (let at = 0; at < rows.length; at += ROWS_MAX) {
      const some = rows.length <= ROWS_MAX ? rows : rows.slice(at, at + ROWS_MAX);
      await unlessLost(async () => {
        const ours = intake.hasLost ? some.filter(isOurs) : some;
        if (ours.length > 0) await store.writeRollups(ours);
      });
      faultPoint('rollupsWritten');
    }
    this.rowsWritten += rows.length;
  }

  /** All partitions at once: a store or log that is far away may make one request of it. */
  private async commit(): Promise<void> {
    const { group, store, consumer, intake, faultPoint } = this.options;
    const moved = [...intake.partitions.values()]
      .filter(({ next, committed }) => next > committed)
      .map((state) => ({ state, next: state.next }));
    await all(moved, ({ state, next }) =>
      unlessLost(async () => {
        if (state.isLost) return;
        const { partition, tally, sources, repeats } = state;
        const progress = { group, partition, nextOffset: next, ledger: tally.read() };
        await store.commit(sources.size === 0 ? progress : { ...progress, sources });
        state.committed = next;
        tally.clear();
        repeats.committed();
      }),
    );
    faultPoint('storeCommitted');
    await all(moved, ({ state, next }) =>
      unlessLost(async () => {
        if (!state.isLost) await consumer.commit(group, state.partition, next);
      }),
    );
    faultPoint('logCommitted');
  }
}

/** Resolves when all are done; when one fails, throws after the others have ended. */
async function all<T>(of: readonly T[], work: (one: T) => Promise<void>): Promise<void> {
  for (const result of await Promise.allSettled(of.map(work))) {
    if (result.status === 'rejected') throw result.reason;
  }
}

/** Does a step anew when partitions were lost before it was through; it takes what is left. */
async function unlessLost(step: () => Promise<void>): Promise<void> {
  for (;;) {
    try {
      await step();
      return;
    } catch (error) {
      if (!(error instanceof Abandoned)) throw error;
    }
  }
}
