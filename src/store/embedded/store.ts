import { mkdirSync } from 'node:fs';
import { accountCutoff } from '../../core/account-age.ts';
import { type Clock, systemClock } from '../../core/clock.ts';
import type { LedgerCount, Outcome, RollupRow } from '../../core/nouns.ts';
import type {
  DeadLetterGroup,
  DeadLetterPage,
  DeadLetterQuery,
  DevicePurge,
  LatestQuery,
  LedgerQuery,
  LetterMark,
  Progress,
  RangeQuery,
  RecountQuery,
  RefusedReading,
  Retention,
  RollupQuery,
  RowTimes,
  Store,
  StoredDeadLetter,
  StoredReading,
} from '../contract.ts';
import { eventTimes } from '../newest-rows.ts';
import {
  countDeadLetters,
  groupDeadLetters,
  queryDeadLetters,
  writeDeadLetters,
} from './dead-letters.ts';
import { LEDGER_FILE, listFiles, type StoreFile } from './files.ts';
import { addLatest, latestReadings } from './latest.ts';
import {
  commitProgress,
  forgetLedger,
  queryLedger,
  queryLedgerTotals,
  queryNotes,
  queryPosition,
  querySources,
  writeNotes,
} from './ledger.ts';
import { markDeadLetters, purgeDeadLetters } from './letter-changes.ts';
import { OpenFiles } from './open-files.ts';
import { countReadings, queryReadings } from './raw-reader.ts';
import { writeReadings } from './raw-writer.ts';
import { recount } from './recount.ts';
import { dropExpired, sweep } from './retention.ts';
import { queryRollups, writeRollups } from './rollups.ts';
import { addSeries } from './series.ts';
import { TenantViews } from './tenant-views.ts';
import { lockForWriting } from './writer-lock.ts';

export interface EmbeddedStoreOptions {
  /** Directory of the store's files; a writer makes it. */
  dir: string;
  retention: Retention;
  /** For other threads and processes while one writer works. Default false. */
  readOnly?: boolean;
  /** The configured window sizes, ms; rollups of others are refused. */
  windowsMs: readonly number[];
  /** For the time of creation that files carry. */
  clock?: Clock;
}

/**
 * Opens the store of SQLite files in `dir` (`docs/store-format.md`): one writer at a time, any number
 * of readers. All work is synchronous inside: a call blocks its thread until the data is on disk.
 * @throws SpillwayError DATA_DIR_LOCKED when another writer has the directory; STORE_VERSION,
 * STORE_CORRUPT for the ledger's file here, for other files when a call first needs them
 */
export function openEmbeddedStore(options: EmbeddedStoreOptions): Store {
  return new EmbeddedStore(options);
}

class EmbeddedStore implements Store {
  private readonly dir: string;
  private readonly retention: Retention;
  private readonly readOnly: boolean;
  private readonly windowsMs: ReadonlySet<number>;
  private readonly files: OpenFiles;
  private readonly seriesViews: TenantViews<Map<string, Set<string>>>;
  private readonly latestViews: TenantViews<Map<string, RowTimes>>;
  private readonly unlock: () => void;
  private closed = false;
  /** The ledger's hours before this were dropped, ms. */
  private ledgerCutoff = 0;
  /** The last run of retention, so that closing waits for it and runs do not overlap. */
  private retaining: Promise<unknown> = Promise.resolve();

  constructor({ dir, retention, readOnly = false, windowsMs, clock }: EmbeddedStoreOptions) {
    this.dir = dir;
    this.retention = retention;
    this.readOnly = readOnly;
    this.windowsMs = new Set(windowsMs);
    this.files = new OpenFiles({ dir, readOnly, clock: clock ?? systemClock });
    this.seriesViews = new TenantViews(
      dir,
      () => new Map(),
      (devices, file, tenant) => this.files.read(file, (db) => addSeries(db, tenant, devices)),
    );
    this.latestViews = new TenantViews(
      dir,
      () => new Map(),
      (latest, file, tenant) => this.files.read(file, (db) => addLatest(db, tenant, latest)),
    );
    if (!readOnly) mkdirSync(dir, { recursive: true });
    this.unlock = readOnly ? () => {} : lockForWriting(dir);
    try {
      if (!readOnly) sweep(dir);
      this.files.read(LEDGER_FILE, () => undefined);
    } catch (error) {
      this.files.close();
      this.unlock();
      throw error;
    }
  }

  async writeNotes(group: string, partition: number, notes: readonly string[]): Promise<void> {
    this.assertWritable();
    writeNotes(this.files, group, partition, notes);
  }

  async writeReadings(readings: readonly StoredReading[]): Promise<RefusedReading[]> {
    this.assertWritable();
    return writeReadings(this.files, readings);
  }

  async writeDeadLetters(letters: readonly StoredDeadLetter[]): Promise<void> {
    this.assertWritable();
    writeDeadLetters(this.files, letters);
  }

  async markDeadLetters(marks: readonly LetterMark[]): Promise<void> {
    this.assertWritable();
    markDeadLetters(this.dir, this.files, marks);
  }

  async purgeDeadLetters(purge: DevicePurge): Promise<void> {
    this.assertWritable();
    purgeDeadLetters(this.dir, this.files, purge);
  }

  /** @throws RangeError for a window that is not configured; nothing is written then. */
  async writeRollups(rows: readonly RollupRow[]): Promise<void> {
    this.assertWritable();
    for (const { windowMs } of rows) {
      if (!this.windowsMs.has(windowMs)) throw new RangeError(`No window of ${windowMs} ms is set`);
    }
    writeRollups(this.files, rows);
  }

  async commit(progress: Progress): Promise<void> {
    this.assertWritable();
    commitProgress(this.files, progress);
  }

  async applyRetention(now: number): Promise<string[]> {
    this.assertWritable();
    const run = this.retaining.then(async () => {
      if (this.closed) return [];
      const dropped = await dropExpired(this.dir, this.files, this.retention, now);
      return dropped.concat(await this.forgetLedger(now));
    });
    this.retaining = run.catch(() => undefined);
    return run;
  }

  /** Once an hour, as it is counted by hours. */
  private async forgetLedger(now: number): Promise<string[]> {
    const cutoff = accountCutoff(now, this.retention.ledgerMs);
    if (cutoff <= this.ledgerCutoff || this.closed) return [];
    this.ledgerCutoff = cutoff;
    const dropped = await forgetLedger(this.files, cutoff);
    return dropped === 0 ? [] : [`${dropped} lines of the ledger`];
  }

  async readings(query: RangeQuery): Promise<StoredReading[]> {
    return queryReadings(this.files, this.list(), query);
  }

  async rollups(query: RollupQuery): Promise<RollupRow[]> {
    return queryRollups(this.files, this.list(), query);
  }

  async countReadings(query: RangeQuery): Promise<Map<string, number>> {
    return countReadings(this.files, this.list(), query);
  }

  async latest(tenant: string, query?: LatestQuery): Promise<Map<string, number>> {
    return eventTimes(this.newestRows(tenant, query));
  }

  async newest(tenant: string, query?: LatestQuery): Promise<Map<string, RowTimes>> {
    return new Map(this.newestRows(tenant, query));
  }

  /** May belong to a view, and must not be changed. */
  private newestRows(tenant: string, query: LatestQuery = {}): ReadonlyMap<string, RowTimes> {
    const files = this.list().filter(({ kind }) => kind === 'raw');
    return query.devices === undefined && query.before === undefined
      ? this.latestViews.get(tenant, files)
      : latestReadings(this.files, files, tenant, query);
  }

  async deadLetters(query: DeadLetterPage): Promise<StoredDeadLetter[]> {
    return queryDeadLetters(this.files, this.list(), query);
  }

  async groupDeadLetters(query: DeadLetterQuery): Promise<DeadLetterGroup[]> {
    return groupDeadLetters(this.files, this.list(), query);
  }

  async countDeadLetters(
    query: DeadLetterQuery,
  ): Promise<{ device: string; code: string; count: number }[]> {
    return countDeadLetters(this.files, this.list(), query);
  }

  async series(tenant: string): Promise<{ device: string; metrics: string[] }[]> {
    const files = this.list().filter(({ kind }) => kind === 'raw' || kind === 'rollup');
    const devices = this.seriesViews.get(tenant, files);
    return [...devices.keys()].sort().map((device) => ({
      device,
      metrics: [...(devices.get(device) ?? [])].sort(),
    }));
  }

  async ledger(query: LedgerQuery): Promise<LedgerCount[]> {
    this.assertOpen();
    return queryLedger(this.files, query);
  }

  async ledgerTotals(query: LedgerQuery): Promise<Map<Outcome, number>> {
    this.assertOpen();
    return queryLedgerTotals(this.files, query);
  }

  async recount(query: RecountQuery): Promise<LedgerCount[]> {
    return recount(this.files, this.list(), query);
  }

  async position(group: string): Promise<Map<number, number>> {
    this.assertOpen();
    return queryPosition(this.files, group);
  }

  async sources(group: string): Promise<Map<number, Map<string, number>>> {
    this.assertOpen();
    return querySources(this.files, group);
  }

  async notes(group: string): Promise<Map<number, string[]>> {
    this.assertOpen();
    return queryNotes(this.files, group);
  }

  /** Waits for a running retention; further calls fail. Harmless when repeated. */
  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    await this.retaining;
    this.files.close();
    this.unlock();
  }

  /** The directory is read for each query: a reader must see files that the writer has just made. */
  private list(): StoreFile[] {
    this.assertOpen();
    return listFiles(this.dir);
  }

  private assertOpen(): void {
    if (this.closed) throw new Error('The store is closed');
  }

  private assertWritable(): void {
    this.assertOpen();
    if (this.readOnly) throw new Error('The store was opened to read only');
  }
}
