import { monitorEventLoopDelay } from 'node:perf_hooks';
import { collectDefaultMetrics, Gauge, Registry } from 'prom-client';
import type { LogStats } from '../log/contract.ts';
import type { ForwardingStatus, GatewayCounters, RollupStatus } from './counters.ts';
import { LATENCY_BOUNDS_S, PlainHistogram } from './histogram.ts';
import { counter, gatewayMetrics, gauge, histogram, logMetrics, rollupMetrics } from './metrics.ts';

/** The registries of the threads. */

/** The delay of a thread's event loop since it was last read; the first sign of overload. */
export function eventLoopMetrics(registry: Registry, thread: string): void {
  const delay = monitorEventLoopDelay({ resolution: 10 });
  delay.enable();
  new Gauge({
    name: 'spillway_event_loop_delay_seconds',
    help: 'Delay of the event loop since the last reading, by thread and quantile.',
    labelNames: ['thread', 'quantile'],
    registers: [registry],
    collect() {
      const seconds = (ns: number): number => (Number.isFinite(ns) ? ns / 1e9 : 0);
      this.set({ thread, quantile: '0.5' }, seconds(delay.percentile(50)));
      this.set({ thread, quantile: '0.99' }, seconds(delay.percentile(99)));
      this.set({ thread, quantile: '1' }, seconds(delay.max));
      delay.reset();
    },
  });
}

export interface MainMetrics {
  registry: Registry;
  /** One group commit: its duration in ms and its records. */
  commit(ms: number, records: number): void;
  /** One acknowledged message: time from the publish to its PUBACK, ms. */
  puback(ms: number): void;
}

/** The thread of gateway and log; also holds the metrics of the process. */
export function mainMetrics(counters: GatewayCounters, stats: () => LogStats): MainMetrics {
  const registry = new Registry();
  const commits = new PlainHistogram(LATENCY_BOUNDS_S);
  const pubacks = new PlainHistogram(LATENCY_BOUNDS_S);
  let records = 0;
  gatewayMetrics(registry, counters);
  logMetrics(registry, stats);
  histogram(registry, 'spillway_log_commit_seconds', 'Duration of a group commit.', commits);
  histogram(
    registry,
    'spillway_puback_seconds',
    'Time from a QoS 1 publish to its PUBACK.',
    pubacks,
  );
  counter(registry, 'spillway_log_records_total', 'Records made durable.', [], () => [
    [{}, records],
  ]);
  eventLoopMetrics(registry, 'main');
  collectDefaultMetrics({ register: registry });
  return {
    registry,
    commit(ms, count) {
      commits.observe(ms / 1_000);
      records += count;
    },
    puback(ms) {
      pubacks.observe(ms / 1_000);
    },
  };
}

/** The thread of a rollup worker, from what it tells: prom-client in every thread takes megabytes. */
export function rollupThreadMetrics(status: () => RollupStatus): Registry {
  const registry = new Registry();
  rollupMetrics(registry, status);
  new Gauge({
    name: 'spillway_event_loop_delay_seconds',
    help: 'Delay of the event loop since the last reading, by thread and quantile.',
    labelNames: ['thread', 'quantile'],
    registers: [registry],
    collect() {
      this.set({ thread: 'rollup', quantile: '0.99' }, status().loopDelayMs / 1_000);
    },
  });
  return registry;
}

/** The forwarder's way from the spool to Kafka. */
export function forwardingMetrics(status: () => ForwardingStatus): Registry {
  const registry = new Registry();
  const total = (name: string, help: string, read: (of: ForwardingStatus) => number) =>
    counter(registry, `spillway_forwarder_${name}_total`, help, [], () => [[{}, read(status())]]);
  gauge(
    registry,
    'spillway_forwarder_backlog_records',
    'Records of the spool that Kafka does not have yet.',
    () => status().backlogRecords,
  );
  gauge(
    registry,
    'spillway_forwarder_connected',
    '1 while Kafka takes records.',
    () => Number(status().error === ''),
    'min',
  );
  total('records', 'Records that Kafka has acknowledged.', (of) => of.records);
  total('bytes', 'Bytes sent to Kafka, compressed.', (of) => of.bytes);
  total(
    'refused',
    'Records that became dead letters since Kafka refused them.',
    (of) => of.refused,
  );
  total('retries', 'Requests to Kafka that were made again.', (of) => of.retries);
  return registry;
}
