import type { Clock } from '../core/clock.ts';
import type { EventRecord, LogRecord } from '../core/nouns.ts';
import { NO_TALLY } from '../log/record.ts';
import type { Store } from '../store/contract.ts';
import type { Deadman, KnownDevice, Presence, PresenceChange } from './deadman.ts';
import type { Append } from './letters/letter.ts';

/**
 * The {@link Deadman} at a rollup worker's side: it hears what the worker takes, watches the devices of the
 * worker's partitions, and tells the log who went and who came back.
 *
 * When a partition comes, its devices and their last readings are read from the store, and so is the mark: the
 * time up to which the log was told of every change. It is a note of a group of its own, and moves when the log has
 * the events. What a device was at that time, which the readings before it show, is what the log was told:
 * a crash or a rebalance in between tells again what the mark does not have yet, and nothing else. Nobody is missed
 * for the time in which nobody listened.
 */

/** The store's notes of this group are the marks, gateway time, ms. */
export const DEADMAN_GROUP = 'deadman';

/** Events of one append. */
const TOLD_MAX = 500;
const RESTORE_RETRY_MS = 5_000;
/** How far the mark may be behind while nobody goes or comes, gateway time, ms. */
const MARK_MS = 5_000;
/** How often those who are not registered any more are looked for, ms. */
const FORGET_MS = 60_000;

export interface DeviceWatchOptions {
  deadman: Deadman;
  store: Pick<Store, 'newest' | 'notes' | 'writeNotes'>;
  /** All that are registered. */
  devices(): readonly { tenant: string; device: string; type: string }[];
  /** Where a device's readings are. */
  partitionOf(tenant: string, device: string): number;
  append: Append;
  clock: Clock;
  logger: { warn(fields: Record<string, unknown>, message: string): void };
}

type Restored = KnownDevice & { partition: number; toldUntil: number | undefined };

export class DeviceWatch {
  private readonly options: DeviceWatchOptions;
  private readonly deadman: Deadman;
  /** Each with an object that is this gain's own. */
  private readonly owned = new Map<number, object>();
  /** Those of them whose devices of before are not known yet. */
  private readonly unrestored = new Set<number>();
  private restoring = false;
  private restoreDue = 0;
  private forgetDue = 0;
  private telling = false;
  /** Something was heard of that the mark is behind. */
  private isUnmarked = false;
  /** Gateway time, ms. */
  private markedUntil = Number.NEGATIVE_INFINITY;
  private closed = false;
  /** Events in the log since the start, by status. */
  readonly events = { online: 0, offline: 0 };

  constructor(options: DeviceWatchOptions) {
    this.options = options;
    this.deadman = options.deadman;
  }

  gained(partitions: Iterable<number>): void {
    for (const partition of partitions) {
      this.owned.set(partition, {});
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
    this.isUnmarked = true;
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
    if (this.telling || this.closed) return;
    const isDue = this.isUnmarked && now - this.markedUntil >= MARK_MS;
    if (changes.length > 0 || isDue) void this.tell(changes, now);
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
    const { clock, logger } = this.options;
    const wanted = new Set(this.unrestored);
    const isStillOwned = this.ownedFromNowOn();
    const isStillWanted = (partition: number) => wanted.has(partition) && isStillOwned(partition);
    try {
      for (const { partition, toldUntil, ...known } of await this.known(isStillWanted)) {
        if (isStillWanted(partition)) this.deadman.restore(known, toldUntil, clock.now());
      }
      for (const partition of wanted) {
        if (isStillOwned(partition)) this.unrestored.delete(partition);
      }
    } catch (err) {
      this.restoreDue = clock.now() + RESTORE_RETRY_MS;
      logger.warn({ err }, 'devices that are known from before are not watched yet; trying again');
    } finally {
      this.restoring = false;
    }
  }

  /** Whether a partition has been owned since now: it may go, and come again, while something is waited for. */
  private ownedFromNowOn(): (partition: number) => boolean {
    const gains = new Map(this.owned);
    return (partition) =>
      gains.has(partition) && gains.get(partition) === this.owned.get(partition);
  }

  /** What the store has of the devices of some partitions. */
  private async known(isWanted: (partition: number) => boolean): Promise<Restored[]> {
    const { store, deadman, partitionOf } = this.options;
    const marks = marksOf(await store.notes(DEADMAN_GROUP));
    const found: Restored[] = [];
    for (const [tenant, devices] of Map.groupBy(this.options.devices(), (one) => one.tenant)) {
      const newest = await store.newest(tenant);
      const of = devices.flatMap(({ device, type }) => {
        const row = newest.get(device);
        const partition = partitionOf(tenant, device);
        if (row === undefined || !isWanted(partition)) return [];
        const aheadMs = row.ts - row.received;
        return [{ tenant, device, type, partition, heard: row.received, aheadMs }];
      });
      for (const [toldUntil, some] of Map.groupBy(of, ({ partition }) => marks.get(partition))) {
        const heardThen = await heardUntil(store, tenant, some, toldUntil);
        for (const { aheadMs: _, ...one } of some) {
          const heard = heardThen.get(one.device);
          const told =
            toldUntil === undefined || heard === undefined
              ? undefined
              : deadman.statusAt(toldUntil, heard, one.type);
          found.push({ ...one, told, toldUntil });
        }
      }
    }
    return found;
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

  /** `now`: what happened before is in `changes`, or the log has it. */
  private async tell(changes: readonly PresenceChange[], now: number): Promise<void> {
    this.telling = true;
    const isStillOwned = this.ownedFromNowOn();
    try {
      for (let at = 0; at < changes.length && !this.closed; at += TOLD_MAX) {
        const some = changes.slice(at, at + TOLD_MAX).filter((one) => isStillOwned(one.partition));
        if (some.length === 0) continue;
        const received = this.options.clock.now();
        const records = some.map((change) => JSON.stringify(eventOf(change, received)));
        await this.options.append({ records, tallyKeys: records.map(() => NO_TALLY) });
        this.deadman.told(some);
        for (const { status } of some) this.events[status] += 1;
      }
      if (!this.closed) await this.mark([...this.owned.keys()].filter(isStillOwned), now);
    } catch (err) {
      this.isUnmarked = true;
      this.options.logger.warn(
        { err },
        'who went or came back is not in the log yet, or not noted; trying again',
      );
    } finally {
      this.telling = false;
    }
  }

  /** All partitions at once, so that few times have to be asked for later. */
  private async mark(partitions: readonly number[], now: number): Promise<void> {
    this.isUnmarked = false;
    this.markedUntil = now;
    const note = String(Math.floor(now));
    const writes = partitions.map((partition) =>
      this.options.store.writeNotes(DEADMAN_GROUP, partition, [note]),
    );
    await Promise.all(writes);
  }
}

function marksOf(notes: ReadonlyMap<number, readonly string[]>): Map<number, number> {
  const marks = new Map<number, number>();
  for (const [partition, [text]] of notes) {
    const mark = Number(text);
    if (Number.isFinite(mark)) marks.set(partition, mark);
  }
  return marks;
}

/**
 * When each device was heard of last as of a time, gateway time, ms; asks only for those who were heard of after it.
 * `aheadMs`: how far the clock of each is ahead, since rows are found by event time; devices whose clocks are right, or
 * wrong by the same second, are asked for together.
 */
async function heardUntil(
  store: Pick<Store, 'newest'>,
  tenant: string,
  devices: readonly { device: string; heard: number; aheadMs: number }[],
  time: number | undefined,
): Promise<Map<string, number>> {
  if (time === undefined) return new Map();
  const earlier = devices.filter(({ heard }) => heard <= time);
  const then = new Map(earlier.map(({ device, heard }) => [device, heard]));
  const later = devices.filter(({ heard }) => heard > time);
  for (const [aheadS, some] of Map.groupBy(later, (one) => Math.floor(one.aheadMs / 1_000))) {
    const aheadMs = 1_000 * aheadS;
    const names = some.map(({ device }) => device);
    const rows = await store.newest(tenant, { devices: names, before: time + 1 + aheadMs });
    for (const [device, { received }] of rows) then.set(device, received);
  }
  return then;
}

function eventOf(change: PresenceChange, received: number): EventRecord {
  const { tenant, device, status, since, heard } = change;
  return { kind: 'event', tenant, device, received, event: status, data: { since, heard } };
}
