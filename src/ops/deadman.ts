import type { DeviceType, LogRecord } from '../core/nouns.ts';

/**
 * Who has gone silent.
 *
 *     (never heard of) ──any message──▶ online ──silent for too long──▶ offline ──any message──▶ online …
 *
 * Any message is a sign of life, refused and shed ones too; a replay is none, and a connection alone is
 * none where the type has a period. Too long is `periods` times the period of the device's type, and half
 * of that, though not less than one period, when its connection broke (its will, or an end without
 * DISCONNECT) and it did not come back. A device whose type has no period is online while it is connected
 * and for `unknownPeriodMs` after its last sign.
 *
 * Time is that of the log, at which readings were received: what is not processed yet can't be missed. After
 * a time in which nobody looked, since log or store were away, everybody has as long again to be heard of.
 * All devices are looked at in one walk; those beyond `devicesMax` are not watched.
 */

export type PresenceStatus = 'online' | 'offline';

export interface Presence {
  status: PresenceStatus;
  /** When it became so, gateway time, ms; for `offline`, when it had been silent for too long. */
  since: number;
  /** Gateway time of its last message, ms; of one from before the start, of its newest reading in the store. */
  heard: number;
}

export interface PresenceChange extends Presence {
  tenant: string;
  device: string;
  partition: number;
}

/** What is too long. */
export interface Patience {
  periods: number;
  /** However short the period is, ms. */
  minimumMs: number;
  unknownPeriodMs: number;
}

export interface DeadmanOptions extends Patience {
  /** May change meanwhile. */
  types: ReadonlyMap<string, DeviceType>;
  devicesMax: number;
  /** Asked once for each device; undefined when it is not registered. */
  typeOf(tenant: string, device: string): string | undefined;
  /** Where its readings are; asked once for each device. */
  partitionOf(tenant: string, device: string): number;
}

export interface KnownDevice {
  tenant: string;
  device: string;
  type: string;
  /** Gateway time of its newest reading, ms. */
  heard: number;
  /** What the log was told of it; undefined: nothing. */
  told: PresenceStatus | undefined;
}

export interface PresenceCounts {
  online: number;
  offline: number;
  /** Records of devices beyond the bound. */
  unwatched: number;
}

interface Entry {
  tenant: string;
  device: string;
  type: string;
  partition: number;
  heard: number;
  /** Gateway time, ms: who was known before is not missed before it could be heard of again. */
  restoredAt: number;
  /** Client ids of open connections, each with when it began. */
  connections: Map<string, unknown> | undefined;
  /** When the last one ended, ms. */
  endedAt: number;
  /** It ended without a farewell. */
  broke: boolean;
  status: PresenceStatus | undefined;
  since: number;
  /** What the log was told last. */
  told: PresenceStatus | undefined;
}

/** A device has rarely more than one. */
const CONNECTIONS_MAX = 8;
/** Longer than any two looks are apart while log and store are there, ms. */
const LOOK_GAP_MS = 30_000;
/** What of a connection's end is the device's own doing, or ours: no sign that it is gone. */
const NO_BREAK = new Set<unknown>([undefined, 'DISCONNECT', 'STOPPING', 'TAKEN_OVER']);

/** How long a device may be silent, ms. `periodMs` 0: unknown. */
export function patienceOf({ periods, minimumMs, unknownPeriodMs }: Patience, periodMs: number) {
  return periodMs === 0 ? unknownPeriodMs : Math.max(minimumMs, periods * periodMs);
}

export class Deadman {
  private readonly options: DeadmanOptions;
  private readonly tenants = new Map<string, Map<string, Entry>>();
  private size = 0;
  private seen: PresenceCounts = { online: 0, offline: 0, unwatched: 0 };
  /** NaN before the first look, which no comparison is true of. */
  private lookedAt = Number.NaN;
  /** Before this nobody looked for a while, ms. */
  private lookingSince = 0;

  constructor(options: DeadmanOptions) {
    this.options = options;
  }

  /** As of the last look. */
  counts(): PresenceCounts {
    return { ...this.seen };
  }

  /** One record of the log. */
  take(record: LogRecord): void {
    const { tenant, device, received } = record;
    if (record.kind === 'event') {
      const { event, data } = record;
      if (event === 'connected') this.connected(tenant, device, received, data);
      else if (event === 'disconnected') this.disconnected(tenant, device, received, data);
      else if (event === 'state' && record.will === true) this.broken(tenant, device);
      else if (event === 'state') this.hear(tenant, device, received, undefined);
      return;
    }
    if (record.kind !== 'shed' && record.attempt !== undefined) return;
    // A refused message may be about a device that there is not.
    const type = record.kind === 'reading' ? record.type : undefined;
    this.hear(tenant, device, received, type);
  }

  /**
   * A device as it is known from before. `toldUntil`: the log was told of every change before that, ms; undefined
   * where it was told of none. `now`: gateway time, ms.
   */
  restore(known: KnownDevice, toldUntil: number | undefined, now: number): void {
    const { tenant, device, type, told } = known;
    const met = this.find(tenant, device);
    if (met !== undefined) {
      // Heard of meanwhile: the log needs to be told when that made a difference.
      met.told ??= told;
      return;
    }
    const entry = this.entry(tenant, device);
    if (entry === undefined) return;
    const heard = Math.min(known.heard, now);
    const isGone = toldUntil !== undefined && this.statusAt(toldUntil, heard, type) === 'offline';
    const status = isGone ? 'offline' : 'online';
    Object.assign(entry, { type, heard, status, restoredAt: now });
    // Those of a time in which nobody was watched are taken for told of.
    entry.told = toldUntil === undefined ? status : told;
    entry.since = isGone ? heard + this.patience(type) : heard;
  }

  /** What a device was at `at` (ms) whose newest message before that was `heard` (ms), connections aside. */
  statusAt(at: number, heard: number, type: string): PresenceStatus {
    return heard + this.patience(type) <= at ? 'offline' : 'online';
  }

  /** Forgets who is not to be watched any more. */
  forget(isGone: (device: { tenant: string; device: string; partition: number }) => boolean): void {
    for (const [tenant, devices] of this.tenants) {
      for (const entry of devices.values()) {
        if (isGone(entry) && devices.delete(entry.device)) this.size -= 1;
      }
      if (devices.size === 0) this.tenants.delete(tenant);
    }
  }

  /**
   * Looks at who has been silent for too long. `now`: the log's time, ms. Returns what the log has to be told, the
   * oldest change first; it comes again until {@link told}.
   */
  look(now: number): PresenceChange[] {
    if (now - this.lookedAt > LOOK_GAP_MS) this.lookingSince = now;
    this.lookedAt = Number.isNaN(this.lookedAt) ? now : Math.max(this.lookedAt, now);
    const changes: PresenceChange[] = [];
    let online = 0;
    let offline = 0;
    for (const devices of this.tenants.values()) {
      for (const entry of devices.values()) {
        if (entry.status === undefined) continue;
        if (entry.status === 'online') {
          const deadline = this.deadline(entry);
          if (deadline <= this.lookedAt) {
            entry.status = 'offline';
            entry.since = deadline;
          }
        }
        if (entry.status === 'online') online += 1;
        else offline += 1;
        if (entry.status !== entry.told) changes.push(changeOf(entry, entry.status));
      }
    }
    this.seen = { ...this.seen, online, offline };
    return changes.sort((a, b) => a.since - b.since);
  }

  /** These changes are in the log. */
  told(changes: readonly PresenceChange[]): void {
    for (const { tenant, device, status } of changes) {
      const entry = this.find(tenant, device);
      if (entry !== undefined) entry.told = status;
    }
  }

  /** Undefined when it is not watched, or nothing can be said. */
  presence(tenant: string, device: string): Presence | undefined {
    const entry = this.find(tenant, device);
    if (entry?.status === undefined) return undefined;
    return { status: entry.status, since: entry.since, heard: entry.heard };
  }

  /** All that are watched of a tenant. */
  *list(tenant: string): Iterable<[device: string, Presence]> {
    for (const { device, status, since, heard } of this.tenants.get(tenant)?.values() ?? []) {
      if (status !== undefined) yield [device, { status, since, heard }];
    }
  }

  private find(tenant: string, device: string): Entry | undefined {
    return this.tenants.get(tenant)?.get(device);
  }

  private entry(tenant: string, device: string): Entry | undefined {
    let devices = this.tenants.get(tenant);
    const found = devices?.get(device);
    if (found !== undefined) return found;
    if (this.size >= this.options.devicesMax) {
      this.seen.unwatched += 1;
      return undefined;
    }
    if (devices === undefined) {
      devices = new Map();
      this.tenants.set(tenant, devices);
    }
    const entry: Entry = {
      ...{ tenant, device, type: this.options.typeOf(tenant, device) ?? '' },
      partition: this.options.partitionOf(tenant, device),
      ...{ heard: 0, restoredAt: 0, connections: undefined, endedAt: 0, broke: false },
      ...{ status: undefined, since: 0, told: undefined },
    };
    devices.set(device, entry);
    this.size += 1;
    return entry;
  }

  /** `type`: of a reading; else devices that are not watched yet stay so. */
  private hear(tenant: string, device: string, at: number, type: string | undefined): void {
    const entry = type === undefined ? this.find(tenant, device) : this.entry(tenant, device);
    if (entry === undefined) return;
    if (type !== undefined) entry.type = type;
    if (at > entry.heard) entry.heard = at;
    if (at > entry.endedAt) entry.broke = false;
    if (entry.status !== 'online') this.revive(entry, at);
  }

  private connected(tenant: string, device: string, at: number, data: unknown): void {
    const entry = this.entry(tenant, device);
    if (entry === undefined) return;
    entry.connections ??= new Map();
    const { connections } = entry;
    const { clientId, since } = connectionOf(data);
    connections.delete(clientId);
    if (connections.size >= CONNECTIONS_MAX) {
      const [oldest] = connections.keys();
      if (oldest !== undefined) connections.delete(oldest);
    }
    connections.set(clientId, since);
    entry.broke = false;
    const isSign = entry.heard === 0 || this.periodOf(entry.type) === 0;
    if (isSign && at > entry.heard) entry.heard = at;
    if (isSign && entry.status !== 'online') this.revive(entry, at);
  }

  private disconnected(tenant: string, device: string, at: number, data: unknown): void {
    const entry = this.find(tenant, device);
    if (entry === undefined) return;
    const { clientId, since, reason } = connectionOf(data);
    // The same client may be back by another gateway already.
    const isOfAnother =
      entry.connections?.has(clientId) === true && entry.connections.get(clientId) !== since;
    if (isOfAnother) return;
    entry.connections?.delete(clientId);
    if (isConnected(entry)) return;
    entry.endedAt = Math.max(entry.endedAt, at);
    if (!NO_BREAK.has(reason)) entry.broke = true;
  }

  private broken(tenant: string, device: string): void {
    const entry = this.find(tenant, device);
    if (entry !== undefined) entry.broke = true;
  }

  private periodOf(type: string): number {
    return this.options.types.get(type)?.periodMs ?? 0;
  }

  private patience(type: string): number {
    return patienceOf(this.options, this.periodOf(type));
  }

  /** When it will have been silent for too long, ms, as things are. */
  private deadline(entry: Entry): number {
    const { type, heard, restoredAt, endedAt, broke } = entry;
    const periodMs = this.periodOf(type);
    const patience = this.patience(type);
    const from = Math.max(heard, restoredAt, this.lookingSince);
    if (periodMs === 0) {
      return isConnected(entry) ? Number.POSITIVE_INFINITY : Math.max(from, endedAt) + patience;
    }
    const isBroken = broke && !isConnected(entry);
    return from + (isBroken ? Math.max(periodMs, patience / 2) : patience);
  }

  private revive(entry: Entry, at: number): void {
    // Old news, from a gateway that could not send it on, make nobody online.
    if (entry.status === 'offline' && this.deadline(entry) <= this.lookedAt) return;
    entry.status = 'online';
    entry.since = at;
  }
}

function isConnected({ connections }: Entry): boolean {
  return connections !== undefined && connections.size > 0;
}

function changeOf(entry: Entry, status: PresenceStatus): PresenceChange {
  const { tenant, device, partition, since, heard } = entry;
  return { tenant, device, partition, status, since, heard };
}

function connectionOf(data: unknown): { clientId: string; since: unknown; reason: unknown } {
  const { clientId, since, reason } = (data ?? {}) as Record<string, unknown>;
  return { clientId: typeof clientId === 'string' ? clientId : '', since, reason };
}
