import type { MessagePort } from 'node:worker_threads';
import { AggregatorRegistry, Counter, Gauge, Registry } from 'prom-client';
import type { Clock } from '../core/clock.ts';
import { systemClock } from '../core/clock.ts';
import type { Snapshot } from './histogram.ts';

/**
 * Metrics across threads: each thread sends a snapshot of its registry from time to time, and the
 * thread that answers `/metrics` merges the latest of each. So a thread that is busy or dead never
 * holds up an answer. Of a snapshot that is stale the counters and histograms stay (they would seem to
 * restart otherwise), the gauges go, and `spillway_metrics_stale` says so.
 */

const SOURCES_MAX = 64;

export interface MetricsMessage {
  kind: 'metrics';
  source: string;
  metrics: Snapshot;
}

/** Sends a thread's metrics at an interval, and at once; `stop` ends that. */
export function publishMetrics(
  registry: Registry,
  port: Pick<MessagePort, 'postMessage'>,
  options: { source: string; intervalMs: number; onError: (error: unknown) => void },
): { stop(): void; now(): Promise<void> } {
  let sending: Promise<void> | undefined;
  const now = (): Promise<void> => {
    sending ??= registry
      .getMetricsAsJSON()
      .then((metrics) => {
        port.postMessage({
          kind: 'metrics',
          source: options.source,
          metrics,
        } satisfies MetricsMessage);
      })
      .catch(options.onError)
      .finally(() => {
        sending = undefined;
      });
    return sending;
  };
  const timer = setInterval(now, options.intervalMs);
  timer.unref();
  void now();
  return { stop: () => clearInterval(timer), now };
}

export class MetricsHub {
  private readonly sources = new Map<string, { at: number; metrics: Snapshot }>();
  private readonly own: Registry | undefined;
  private readonly clock: Clock;
  private readonly staleMs: number;

  /** `own`: the registry of this thread, read when asked. */
  constructor(options: { own?: Registry; clock?: Clock; staleMs?: number } = {}) {
    this.own = options.own;
    this.clock = options.clock ?? systemClock;
    this.staleMs = options.staleMs ?? 15_000;
  }

  /** Keeps the latest snapshot of a source; beyond 64 sources new ones are not kept. */
  accept(source: string, metrics: Snapshot): void {
    if (!this.sources.has(source) && this.sources.size >= SOURCES_MAX) return;
    this.sources.set(source, { at: this.clock.now(), metrics });
  }

  /** The Prometheus text form of everything. */
  async text(): Promise<string> {
    const now = this.clock.now();
    const snapshots: Snapshot[] = [];
    const about = new Registry();
    const age = new Gauge({
      name: 'spillway_metrics_age_seconds',
      help: 'Age of the metrics of a thread.',
      ...{ labelNames: ['thread'], registers: [about] },
    });
    const stale = new Gauge({
      name: 'spillway_metrics_stale',
      help: '1 for a thread that stopped sending its metrics; its gauges are left out.',
      ...{ labelNames: ['thread'], registers: [about] },
    });
    for (const [thread, { at, metrics }] of this.sources) {
      const old = now - at > this.staleMs;
      age.set({ thread }, (now - at) / 1_000);
      stale.set({ thread }, Number(old));
      snapshots.push(old ? metrics.filter((metric) => !isGauge(metric)) : metrics);
    }
    if (this.own !== undefined) snapshots.push((await this.own.getMetricsAsJSON()) as Snapshot);
    snapshots.push((await about.getMetricsAsJSON()) as Snapshot);
    return AggregatorRegistry.aggregate(snapshots).metrics();
  }
}

function isGauge(metric: Snapshot[number]): boolean {
  return String(metric.type) === 'gauge';
}

/** A counter of the HTTP thread itself: requests by route and status class. */
export function httpMetrics(registry: Registry): (route: string, status: number) => void {
  const requests = new Counter({
    name: 'spillway_http_requests_total',
    help: 'HTTP requests, by route and class of status.',
    ...{ labelNames: ['route', 'status'], registers: [registry] },
  });
  return (route, status) => requests.inc({ route, status: `${Math.floor(status / 100)}xx` });
}
