import type { LogStats } from '../log/contract.ts';
import {
  type ForwardingStatus,
  type LiveStatus,
  OVERLOAD_LEVELS,
  type OverloadStatus,
  type RollupStatus,
} from './counters.ts';

/** How one process of several is. */
export interface ProcessStatus {
  id: string;
  host: string;
  /** When it said so, ms since the epoch, by its own clock. */
  at: number;
  status: LiveStatus;
}

/** One line of the list of processes. */
export interface ProcessLine {
  id: string;
  host: string;
  roles: readonly string[];
  version: string;
  startedAt: number;
  ready: boolean;
  readyReason: string;
  connections: number;
  readingsPerSecond: number;
  /** Records on this process's disk that Kafka does not have. */
  waitingRecords: number;
  /** How loaded its gateway is. */
  level: string;
  /** Records of its partitions that its rollup worker has not processed. */
  lagRecords: number;
}

export interface WholeStatus extends LiveStatus {
  /** Absent where there is one process by itself. */
  processes?: ProcessLine[];
}

/**
 * The status of this process and the others as one: rates and counts are sums, times the worst; version,
 * start and readiness are its own.
 */
export function wholeStatus(own: ProcessStatus, others: readonly ProcessStatus[]): WholeStatus {
  const all = [own, ...others];
  const statuses = all.map(({ status }) => status);
  const forwardings = statuses.flatMap(({ forwarding }) => forwarding ?? []);
  return {
    ...own.status,
    connections: sum(statuses, (one) => one.connections),
    messagesPerSecond: sum(statuses, (one) => one.messagesPerSecond),
    readingsPerSecond: sum(statuses, (one) => one.readingsPerSecond),
    log: logs(statuses.map(({ log }) => log)),
    rollup: rollups(statuses.map(({ rollup }) => rollup)),
    ...(forwardings.length > 0 && { forwarding: forwarding(forwardings) }),
    backfill: {
      readings: sum(statuses, (one) => one.backfill?.readings ?? 0),
      held: sum(statuses, (one) => one.backfill?.held ?? 0),
    },
    deadLettersByCode: merged(statuses.map((one) => one.deadLettersByCode)),
    shedByReason: merged(statuses.map((one) => one.shedByReason)),
    overload: mostLoaded(statuses),
    processes: all.map(line).sort((a, b) => (a.id < b.id ? -1 : 1)),
  };
}

/** The overload of the process that is worst off; its own where it is as bad as any. */
function mostLoaded(statuses: readonly LiveStatus[]): OverloadStatus {
  const rank = ({ overload }: LiveStatus) => OVERLOAD_LEVELS.indexOf(overload.level);
  return statuses.reduce((worst, one) => (rank(one) > rank(worst) ? one : worst)).overload;
}

function line({ id, host, status }: ProcessStatus): ProcessLine {
  const { roles, version, startedAt, ready, readyReason, connections, readingsPerSecond } = status;
  return {
    ...{ id, host, roles, version, startedAt, ready, readyReason, connections, readingsPerSecond },
    waitingRecords: status.forwarding?.backlogRecords ?? 0,
    level: status.overload.level,
    lagRecords: status.rollup.lagRecords,
  };
}

function sum<T>(all: readonly T[], of: (one: T) => number): number {
  return all.reduce((total, one) => total + of(one), 0);
}

function most<T>(all: readonly T[], of: (one: T) => number): number {
  return all.reduce((max, one) => Math.max(max, of(one)), 0);
}

function logs(all: readonly LogStats[]): LogStats {
  return {
    pendingBytes: sum(all, (one) => one.pendingBytes),
    pendingRecords: sum(all, (one) => one.pendingRecords),
    endOffset: sum(all, (one) => one.endOffset),
    firstOffset: sum(all, (one) => one.firstOffset),
    diskBytes: sum(all, (one) => one.diskBytes),
    diskBytesMax: sum(all, (one) => one.diskBytesMax),
    full: all.some(({ full }) => full),
    commits: sum(all, (one) => one.commits),
    commitMsLast: most(all, (one) => one.commitMsLast),
    commitMsMean: most(all, (one) => one.commitMsMean),
    ...(all.some((one) => one.backfillWaiting !== undefined) && {
      backfillWaiting: sum(all, (one) => one.backfillWaiting ?? 0),
    }),
  };
}

function rollups(all: readonly RollupStatus[]): RollupStatus {
  const backfilling = all.flatMap(({ backfill }) => backfill ?? []);
  const oldest = backfilling.flatMap(({ ts }) => ts ?? []);
  const counting = all.flatMap(({ sequence }) => sequence ?? []);
  const watching = all.flatMap(({ presence }) => presence ?? []);
  return {
    lagRecords: sum(all, (one) => one.lagRecords),
    openWindows: sum(all, (one) => one.openWindows),
    openReadings: sum(all, (one) => one.openReadings),
    devices: sum(all, (one) => one.devices),
    processed: sum(all, (one) => one.processed),
    stored: sum(all, (one) => one.stored),
    duplicates: merged(all.map((one) => one.duplicates)),
    lateCorrections: sum(all, (one) => one.lateCorrections),
    flushMs: most(all, (one) => one.flushMs),
    loopDelayMs: most(all, (one) => one.loopDelayMs),
    ...(backfilling.length > 0 && {
      backfill: {
        readings: sum(backfilling, (one) => one.readings),
        windows: sum(backfilling, (one) => one.windows),
        perSecond: sum(backfilling, (one) => one.perSecond),
        lagRecords: sum(backfilling, (one) => one.lagRecords),
        lagMs: most(backfilling, (one) => one.lagMs),
        ...(oldest.length > 0 && { ts: Math.min(...oldest) }),
      },
    }),
    ...(counting.length > 0 && {
      sequence: {
        gaps: sum(counting, (one) => one.gaps),
        missing: sum(counting, (one) => one.missing),
        restarts: sum(counting, (one) => one.restarts),
        unwatched: sum(counting, (one) => one.unwatched),
      },
    }),
    ...(watching.length > 0 && {
      presence: {
        online: sum(watching, (one) => one.online),
        offline: sum(watching, (one) => one.offline),
        unwatched: sum(watching, (one) => one.unwatched),
        events: merged(watching.map((one) => one.events)),
      },
    }),
  };
}

function forwarding(all: readonly ForwardingStatus[]): ForwardingStatus {
  return {
    backlogRecords: sum(all, (one) => one.backlogRecords),
    records: sum(all, (one) => one.records),
    bytes: sum(all, (one) => one.bytes),
    refused: sum(all, (one) => one.refused),
    retries: sum(all, (one) => one.retries),
    error: all.find(({ error }) => error !== '')?.error ?? '',
  };
}

function merged(all: readonly Record<string, number>[]): Record<string, number> {
  const sums = new Map<string, number>();
  for (const counts of all) {
    for (const [name, count] of Object.entries(counts))
      sums.set(name, (sums.get(name) ?? 0) + count);
  }
  return Object.fromEntries(sums);
}
