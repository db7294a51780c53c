import type { Clock } from '../core/clock.ts';
import type { EventRecord, LogRecord } from '../core/nouns.ts';
import { NO_TALLY } from '../log/record.ts';
import type { Store } from '../store/contract.ts';
import type { Deadman, Presence, PresenceChange } from './deadman.ts';
import type { Append } from './letters/letter.ts';

/**
 * The {@link Deadman} at a rollup worker's side: it hears what the worker takes, watches the devices of the
 * worker's partitions, and tells the log who went and who came back.
 *
 * When a partition comes, its devices and their last readings are read from the store, and so is the mark: the
 * time up to which the log was told of those who went offline. It is the position of a group of its own,
 * and moves when the log has the events; so a crash in between tells them again, and one that has been told of
 * is not told of at every start. Nobody is missed for the time in which nobody listened.
 */

/** In the store, positions of this group are times, ms. */
export const DEADMAN_GROUP = 'deadman';

/** Events of one append. */
const TOLD_MAX = 500;
const RESTORE_RETRY_MS = 5_000;
/** How often those who are not registered any more are looked for, ms. */
const FORGET_MS = 60_000;

export interface DeviceWatchOptions {
  deadman: Deadman;
  store: Pick<Store, 'latest' | 'position' | 'commit'>;
  /** All that are registered. */
  devices(): readonly { tenant: string; device: string; type: string }[];
  /** Where a device's readings are. */
  partitionOf(tenant: string, device: string): number;
  append: Append;
  clock: Clock;
  logger: { warn(fields: Record<string, unknown>, message: string): void };
}

export class DeviceWatch {
  private readonly options: DeviceWatchOptions;
  private readonly deadman: Deadman;
  private readonly owned = new Set<number>();
  private readonly unrestored = new Set<number>();
  private restoring = false;
  private restoreDue = 0;
  private forgetDue = 0;
  private telling = false;
  private closed = false;
  /** Events in the log since the start, by status. */
  readonly events = { online: 0, offline: 0 };

  constructor(options: DeviceWatchOptions) {
    this.options = options;
    this.deadman = options.deadman;
  }

  gained(partitions: Iterable<number>): void {
    for (const partition of partitions) {
      this.owned.add(partition);
      this.unrestored.add(partition);
    }
    this.restoreDue = 0;
    void this.restore();
  }

  lost(partitions: Iterable<number>): void {
    const gone = new Set(partitions);
    for (const partition of gone) {
      this.owned.delete(partition);
      this.unrestored.delete(partition);
    }
    this.deadman.forget(({ partition }) => gone.has(partition));
  }

  take(record: LogRecord): void {
    this.deadman.take(record);
  }

  /** `now`: up to when the log is processed, gateway time, ms. */
  look(now: number): void {
    const at = this.options.clock.now();
    if (this.unrestored.size > 0 && at >= this.restoreDue) void this.restore();
    if (at >= this.forgetDue) this.forgetRemoved(at);
    const changes = this.deadman.look(now);
    // Who is not known from before may only seem new.
    if (this.unrestored.size > 0 || this.restoring) return;
    if (changes.length > 0 && !this.telling && !this.closed) void this.tell(changes);
  }

  /** Those of a tenant that are watched here. */
  list(tenant: string): Iterable<[device: string, Presence]> {
    return this.deadman.list(tenant);
  }

  /** Tells the log nothing more. */
  close(): void {
    this.closed = true;
  }

  private async restore(): Promise<void> {
    if (this.restoring || this.closed || this.unrestored.size === 0) return;
    this.restoring = true;
    const { store, clock, logger } = this.options;
    const partitions = new Set(this.unrestored);
    try {
      const marks = await store.position(DEADMAN_GROUP);
      const byTenant = Map.groupBy(this.options.devices(), ({ tenant }) => tenant);
      for (const [tenant, devices] of byTenant) {
        const latest = await store.latest(tenant);
        for (const { device, type } of devices) {
          const heard = latest.get(device);
          const partition = this.options.partitionOf(tenant, device);
          // Partitions may go while the store is read.
          if (heard === undefined || !partitions.has(partition) || !this.owned.has(partition))
            continue;
          const toldUntil = marks.get(partition) ?? Number.NEGATIVE_INFINITY;
          this.deadman.restore({ tenant, device, type, heard }, toldUntil, clock.now());
        }
      }
      for (const partition of partitions) this.unrestored.delete(partition);
    } catch (err) {
      this.restoreDue = clock.now() + RESTORE_RETRY_MS;
      logger.warn({ err }, 'devices that are known from before are not watched yet; trying again');
    } finally {
      this.restoring = false;
    }
  }

  private forgetRemoved(at: number): void {
    this.forgetDue = at + FORGET_MS;
    try {
      const names = new Set(
        this.options.devices().map(({ tenant, device }) => `${tenant}/${device}`),
      );
      this.deadman.forget(({ tenant, device }) => !names.has(`${tenant}/${device}`));
    } catch (err) {
      this.options.logger.warn({ err }, 'the directory could not be read; trying again');
    }
  }

  private async tell(changes: readonly PresenceChange[]): Promise<void> {
    this.telling = true;
    try {
      for (let at = 0; at < changes.length && !this.closed; at += TOLD_MAX) {
        const some = changes
          .slice(at, at + TOLD_MAX)
          .filter((one) => this.owned.has(one.partition));
        if (some.length === 0) continue;
        const received = this.options.clock.now();
        const records = some.map((change) => JSON.stringify(eventOf(change, received)));
        await this.options.append({ records, tallyKeys: records.map(() => NO_TALLY) });
        this.deadman.told(some);
        for (const { status } of some) this.events[status] += 1;
        await this.mark(some);
      }
    } catch (err) {
      this.options.logger.warn(
        { err },
        'who went or came back is not in the log yet; trying again',
      );
    } finally {
      this.telling = false;
    }
  }

  private async mark(told: readonly PresenceChange[]): Promise<void> {
    const marks = new Map<number, number>();
    for (const { partition, status, since } of told) {
      if (status !== 'offline') continue;
      marks.set(partition, Math.max(marks.get(partition) ?? 0, Math.ceil(since)));
    }
    for (const [partition, nextOffset] of marks) {
      if (!this.owned.has(partition)) continue;
      await this.options.store.commit({ group: DEADMAN_GROUP, partition, nextOffset, ledger: [] });
    }
  }
}

function eventOf(change: PresenceChange, received: number): EventRecord {
  const { tenant, device, status, since, heard } = change;
  return { kind: 'event', tenant, device, received, event: status, data: { since, heard } };
}
