import { Counter, Gauge, type Metric, type Registry } from 'prom-client';
import type { LogStats } from '../log/contract.ts';
import {
  type BackfillStatus,
  type GatewayCounters,
  OVERLOAD_LEVELS,
  type OverloadStatus,
  type PresenceStatistics,
  type RollupStatus,
  type SequenceStatus,
} from './counters.ts';
import type { PlainHistogram } from './histogram.ts';

/**
 * The metrics of Spillway by Prometheus' conventions. They are read from plain counters when somebody
 * asks; nothing here runs on the path of a reading. Each thread has its own registry; `MetricsHub`
 * puts them together.
 */

/** Tenants with a series of their own; the others are counted together as `_other`. */
export const TENANTS_MAX = 1_000;
/** Codes and reasons are few by nature; a label that is not stays bounded all the same. */
const CODES_MAX = 200;
const OTHER = '_other';
/** Signals of overload that are times. */
const IN_MS = new Set(['loopDelay', 'commit', 'wait', 'lag']);

type Reading = Iterable<readonly [labels: Record<string, string>, value: number]>;
/** How the values of several threads become one. */
export type Merging = 'sum' | 'max' | 'min' | 'average' | 'first';

export function counter(
  registry: Registry,
  name: string,
  help: string,
  labelNames: readonly string[],
  read: () => Reading,
): void {
  new Counter({
    ...{ name, help, labelNames: [...labelNames], registers: [registry] },
    collect() {
      this.reset();
      for (const [labels, value] of read()) this.inc(labels, value);
    },
  });
}

export function gauge(
  registry: Registry,
  name: string,
  help: string,
  read: () => number,
  aggregator: Merging = 'sum',
): void {
  new Gauge({
    ...{ name, help, aggregator, registers: [registry] },
    collect() {
      this.set(read());
    },
  });
}

export function histogram(
  registry: Registry,
  name: string,
  help: string,
  source: PlainHistogram,
): void {
  const get = async () => ({
    ...{ name, help, type: 'histogram', aggregator: 'sum' },
    values: source.values(name),
  });
  // prom-client asks a registered metric for its name and get() alone.
  registry.registerMetric({ name, help, get } as unknown as Metric<string>);
}

/** A map of counts as label values, at most `max` of them (the first that came), the rest as `_other`. */
export function* bounded(label: string, counts: ReadonlyMap<string, number>, max: number): Reading {
  let other = 0;
  let seen = 0;
  for (const [key, value] of counts) {
    if (seen < max) yield [{ [label]: key }, value];
    else other += value;
    seen += 1;
  }
  if (seen > max) yield [{ [label]: OTHER }, other];
}

/** Counts of two keys as label values; of the outer one at most `max`, the rest as `_other`. */
export function* boundedPairs(
  labels: readonly [outer: string, inner: string],
  counts: ReadonlyMap<string, ReadonlyMap<string, number>>,
  max: number,
): Reading {
  const other = new Map<string, number>();
  let seen = 0;
  for (const [outer, of] of counts) {
    for (const [inner, value] of of) {
      if (seen < max) yield [{ [labels[0]]: outer, [labels[1]]: inner }, value];
      else other.set(inner, (other.get(inner) ?? 0) + value);
    }
    seen += 1;
  }
  for (const [inner, value] of other) yield [{ [labels[0]]: OTHER, [labels[1]]: inner }, value];
}

const one = (value: number): Reading => [[{}, value]];

export function gatewayMetrics(registry: Registry, counters: GatewayCounters): void {
  const total = (name: string, help: string, read: () => number) =>
    counter(registry, name, help, [], () => one(read()));
  const by = (
    name: string,
    help: string,
    label: string,
    counts: ReadonlyMap<string, number>,
    max: number,
  ) => counter(registry, name, help, [label], () => bounded(label, counts, max));
  gauge(
    registry,
    'spillway_connections',
    'MQTT connections that are open.',
    () => counters.connections,
  );
  total(
    'spillway_connections_total',
    'MQTT connections that were accepted.',
    () => counters.connectionsTotal,
  );
  total(
    'spillway_backfill_accepted_total',
    'Readings taken that came long after they were measured.',
    () => counters.backfill.readings,
  );
  gauge(
    registry,
    'spillway_backfill_connections_held',
    'Connections that are not read since they sent many old readings.',
    () => counters.backfill.held,
  );
  total('spillway_messages_received_total', 'Publishes that came in.', () => counters.messages);
  total(
    'spillway_message_bytes_total',
    'Payload bytes of the publishes that came in.',
    () => counters.bytes,
  );
  total(
    'spillway_receipts_sent_total',
    'Receipts sent for messages that were not taken.',
    () => counters.receiptsSent,
  );
  by(
    'spillway_connections_refused_total',
    'Connections refused, or closed for a broken rule, by reason.',
    ...(['reason', counters.refusedConnections, CODES_MAX] as const),
  );
  by(
    'spillway_readings_accepted_total',
    'Readings made durable in the log, by tenant.',
    ...(['tenant', counters.readingsAccepted, TENANTS_MAX] as const),
  );
  by(
    'spillway_dead_letters_total',
    'Messages or parts of messages that were not taken, by code.',
    ...(['code', counters.deadLetters, CODES_MAX] as const),
  );
  counter(
    registry,
    'spillway_shed_total',
    'QoS 0 messages dropped under overload, by tenant and reason.',
    ['tenant', 'reason'],
    () => boundedPairs(['tenant', 'reason'], counters.shedByTenant, TENANTS_MAX),
  );
  counter(
    registry,
    'spillway_limited_total',
    'How often a limit slowed down or refused a device, by tenant and limit.',
    ['tenant', 'limit'],
    () => boundedPairs(['tenant', 'limit'], counters.limited, TENANTS_MAX),
  );
  overloadMetrics(registry, () => counters.overload);
}

function overloadMetrics(registry: Registry, status: () => OverloadStatus): void {
  const level = (name: string, help: string, read: (status: OverloadStatus) => number) =>
    gauge(registry, name, help, () => read(status()));
  gauge(
    registry,
    'spillway_overload_level',
    'How loaded the gateway is: 0 normal, 1 brake, 2 shed, 3 refuse.',
    () => OVERLOAD_LEVELS.indexOf(status().level),
    'max',
  );
  counter(
    registry,
    'spillway_overload_changes_total',
    'Changes of the level, by the level that began.',
    ['level'],
    () => bounded('level', new Map(Object.entries(status().changes)), CODES_MAX),
  );
  new Gauge({
    name: 'spillway_overload_signal',
    help: 'The signals of overload; times in seconds, the others as parts of what there is.',
    labelNames: ['signal'],
    registers: [registry],
    collect() {
      for (const [signal, { value }] of Object.entries(status().signals))
        this.set({ signal }, IN_MS.has(signal) ? value / 1_000 : value);
    },
  });
  level(
    'spillway_admission_window_bytes',
    'What may be under way between socket and commit.',
    ({ admission }) => admission.windowBytes,
  );
  level(
    'spillway_admission_under_way_bytes',
    'What is under way between socket and commit.',
    ({ admission }) => admission.underWayBytes,
  );
  level(
    'spillway_connects_waiting',
    'CONNECTs that wait for their turn.',
    ({ connectsWaiting }) => connectsWaiting,
  );
}

export function logMetrics(registry: Registry, stats: () => LogStats): void {
  const level = (
    name: string,
    help: string,
    read: (stats: LogStats) => number,
    merging?: Merging,
  ) => gauge(registry, name, help, () => read(stats()), merging);
  level(
    'spillway_log_pending_records',
    'Records that wait for their commit.',
    (s) => s.pendingRecords,
  );
  level('spillway_log_pending_bytes', 'Bytes that wait for their commit.', (s) => s.pendingBytes);
  level(
    'spillway_log_disk_bytes',
    'Bytes on disk that count against the budget.',
    (s) => s.diskBytes,
  );
  level('spillway_log_disk_bytes_max', 'The disk budget of the log.', (s) => s.diskBytesMax);
  level('spillway_log_full', '1 while the disk budget is used up.', (s) => Number(s.full), 'max');
  level('spillway_log_end_offset', 'Next offset to be given.', (s) => s.endOffset, 'max');
  level(
    'spillway_log_first_offset',
    'First offset that is still kept.',
    (s) => s.firstOffset,
    'max',
  );
  counter(registry, 'spillway_log_commits_total', 'Group commits.', [], () => one(stats().commits));
}

export function rollupMetrics(registry: Registry, status: () => RollupStatus): void {
  const level = (name: string, help: string, read: (status: RollupStatus) => number) =>
    gauge(registry, name, help, () => read(status()));
  const total = (name: string, help: string, read: (status: RollupStatus) => number) =>
    counter(registry, name, help, [], () => one(read(status())));
  level(
    'spillway_log_backlog_records',
    'Records that the rollup workers have not processed.',
    (s) => s.lagRecords,
  );
  level('spillway_rollup_open_windows', 'Windows in memory.', (s) => s.openWindows);
  level(
    'spillway_rollup_open_readings',
    'Readings of open windows in memory.',
    (s) => s.openReadings,
  );
  level('spillway_rollup_devices', 'Devices with open windows.', (s) => s.devices);
  level('spillway_rollup_flush_seconds', 'Duration of the last flush.', (s) => s.flushMs / 1_000);
  total('spillway_rollup_records_processed_total', 'Records processed.', (s) => s.processed);
  total('spillway_rollup_readings_stored_total', 'Readings stored.', (s) => s.stored);
  total(
    'spillway_rollup_late_corrections_total',
    'Final windows changed by late data.',
    (s) => s.lateCorrections,
  );
  counter(
    registry,
    'spillway_rollup_duplicates_total',
    'Readings that were stored before, by kind.',
    ['kind'],
    () => bounded('kind', new Map(Object.entries(status().duplicates)), CODES_MAX),
  );
  backfillMetrics(registry, () => status().backfill);
  sequenceMetrics(registry, () => status().sequence);
  presenceMetrics(registry, () => status().presence);
}

function sequenceMetrics(registry: Registry, sequence: () => SequenceStatus | undefined): void {
  gauge(
    registry,
    'spillway_sequence_missing_readings',
    'Readings that are missing by the numbers that devices give them, for some time.',
    () => sequence()?.missing ?? 0,
  );
  const total = (name: string, help: string, read: (of: SequenceStatus) => number) =>
    counter(registry, name, help, [], () => {
      const status = sequence();
      return one(status === undefined ? 0 : read(status));
    });
  total(
    'spillway_sequence_gaps_total',
    'Gaps in the numbers of a device that nothing closed for some time.',
    (s) => s.gaps,
  );
  total(
    'spillway_sequence_restarts_total',
    'Counters of devices that began anew.',
    (s) => s.restarts,
  );
  total(
    'spillway_sequence_unwatched_total',
    'Numbered readings of devices that are not watched, since those are too many.',
    (s) => s.unwatched,
  );
}

function backfillMetrics(registry: Registry, backfill: () => BackfillStatus | undefined): void {
  const level = (
    name: string,
    help: string,
    read: (of: BackfillStatus) => number,
    merging?: Merging,
  ) => {
    const value = () => {
      const status = backfill();
      return status === undefined ? 0 : read(status);
    };
    gauge(registry, name, help, value, merging);
  };
  level(
    'spillway_backfill_waiting_records',
    'Old readings in the log that the rollup workers have not processed.',
    (s) => s.lagRecords,
  );
  level(
    'spillway_backfill_lag_seconds',
    'How long ago the old readings came that are processed now; 0 when none wait.',
    (s) => s.lagMs / 1_000,
    'max',
  );
  level(
    'spillway_backfill_event_time_seconds',
    'The time of the old readings that are processed now, since the epoch; 0 when none wait.',
    (s) => (s.ts ?? 0) / 1_000,
    'max',
  );
  const total = (name: string, help: string, read: (of: BackfillStatus) => number) =>
    counter(registry, name, help, [], () => {
      const status = backfill();
      return one(status === undefined ? 0 : read(status));
    });
  total('spillway_backfill_readings_total', 'Old readings processed.', (s) => s.readings);
  total('spillway_backfill_windows_total', 'Windows that were opened for them.', (s) => s.windows);
}

function presenceMetrics(registry: Registry, presence: () => PresenceStatistics | undefined): void {
  gauge(
    registry,
    'spillway_devices_online',
    'Watched devices that are heard of as often as they should.',
    () => presence()?.online ?? 0,
  );
  gauge(
    registry,
    'spillway_devices_offline',
    'Watched devices that have been silent for too long.',
    () => presence()?.offline ?? 0,
  );
  counter(
    registry,
    'spillway_devices_unwatched_records_total',
    'Records of devices that are not watched, since those are too many.',
    [],
    () => one(presence()?.unwatched ?? 0),
  );
  counter(
    registry,
    'spillway_device_changes_total',
    'Devices that went silent or came back, by what they are since.',
    ['status'],
    () => bounded('status', new Map(Object.entries(presence()?.events ?? {})), CODES_MAX),
  );
}
