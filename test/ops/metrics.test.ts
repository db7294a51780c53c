import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { MessageChannel } from 'node:worker_threads';
import { Registry } from 'prom-client';
import { ManualClock } from '../../src/core/clock.ts';
import { gatewayCounters } from '../../src/ops/counters.ts';
import { PlainHistogram, type Snapshot } from '../../src/ops/histogram.ts';
import { gatewayMetrics, histogram, TENANTS_MAX } from '../../src/ops/metrics.ts';
import { MetricsHub, type MetricsMessage, publishMetrics } from '../../src/ops/metrics-hub.ts';
import { mainMetrics, rollupThreadMetrics } from '../../src/ops/thread-metrics.ts';

const LOG = {
  ...{ pendingBytes: 1, pendingRecords: 2, endOffset: 30, firstOffset: 4, diskBytes: 5 },
  ...{ diskBytesMax: 6, full: true, commits: 7, commitMsLast: 1, commitMsMean: 1 },
};
const ROLLUP = {
  ...{ lagRecords: 11, openWindows: 1, openReadings: 2, devices: 3, processed: 4, stored: 5 },
  ...{ duplicates: { IDENTICAL: 2 }, lateCorrections: 1, flushMs: 250, loopDelayMs: 5 },
};

/** Lines of samples, by name with labels. */
function samples(text: string): Map<string, number> {
  const lines = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  return new Map(
    lines.map((line) => [
      line.slice(0, line.lastIndexOf(' ')),
      Number(line.slice(line.lastIndexOf(' '))),
    ]),
  );
}

async function snapshot(registry: Registry): Promise<Snapshot> {
  // Through a message port, as between threads.
  return structuredClone((await registry.getMetricsAsJSON()) as Snapshot);
}

test('counters are read when asked, and not added up', async () => {
  const counters = gatewayCounters();
  const { registry, commit, puback } = mainMetrics(counters, () => LOG);
  counters.connections = 3;
  counters.messages = 10;
  counters.readingsAccepted.set('acme', 9);
  counters.deadLetters.set('VALUE_BOUNDS', 1);
  await registry.metrics();
  counters.messages = 12;
  counters.readingsAccepted.set('acme', 11);
  commit(2, 50);
  puback(3);
  puback(40_000);
  const found = samples(await registry.metrics());
  const expected = {
    spillway_connections: 3,
    spillway_messages_received_total: 12,
    'spillway_readings_accepted_total{tenant="acme"}': 11,
    'spillway_dead_letters_total{code="VALUE_BOUNDS"}': 1,
    spillway_log_full: 1,
    spillway_log_commits_total: 7,
    spillway_log_records_total: 50,
    'spillway_log_commit_seconds_bucket{le="0.001"}': 0,
    'spillway_log_commit_seconds_bucket{le="0.0025"}': 1,
    spillway_log_commit_seconds_count: 1,
    'spillway_puback_seconds_bucket{le="30"}': 1,
    'spillway_puback_seconds_bucket{le="+Inf"}': 2,
    spillway_puback_seconds_sum: 40.003,
  };
  for (const [name, value] of Object.entries(expected)) assert.equal(found.get(name), value, name);
});

test('names, units and types follow the conventions', async () => {
  const { registry } = mainMetrics(gatewayCounters(), () => LOG);
  const rollup = rollupThreadMetrics(() => ROLLUP);
  for (const { name, type, help } of [...(await snapshot(registry)), ...(await snapshot(rollup))]) {
    if (!name.startsWith('spillway_')) continue;
    assert.match(name, /^spillway_[a-z0-9]+(_[a-z0-9]+)*$/);
    assert.equal(name.endsWith('_total'), String(type) === 'counter', name);
    assert.match(help, /\.$/);
    assert.ok(!/_ms$|millis/.test(name));
  }
  assert.equal(samples(await rollup.metrics()).get('spillway_rollup_flush_seconds'), 0.25);
});

test('tenants beyond the limit are one series', async () => {
  const counters = gatewayCounters();
  for (let i = 0; i < TENANTS_MAX + 50; i += 1) counters.readingsAccepted.set(`t${i}`, 2);
  const registry = new Registry();
  gatewayMetrics(registry, counters);
  const found = samples(await registry.metrics());
  const tenants = [...found.keys()].filter((name) =>
    name.startsWith('spillway_readings_accepted_total'),
  );
  assert.equal(tenants.length, TENANTS_MAX + 1);
  assert.equal(found.get('spillway_readings_accepted_total{tenant="_other"}'), 100);
});

describe('the hub', () => {
  test('adds up threads and keeps types, histograms and labels', async () => {
    const hub = new MetricsHub();
    for (const source of ['g1', 'g2']) {
      const counters = gatewayCounters();
      counters.connections = 5;
      counters.readingsAccepted.set('acme', 7);
      const { registry, commit } = mainMetrics(counters, () => ({ ...LOG, full: source === 'g1' }));
      commit(0.2, 1);
      hub.accept(source, await snapshot(registry));
    }
    hub.accept('rollup', await snapshot(rollupThreadMetrics(() => ROLLUP)));
    const text = await hub.text();
    const found = samples(text);
    assert.equal(found.get('spillway_connections'), 10);
    assert.equal(found.get('spillway_readings_accepted_total{tenant="acme"}'), 14);
    assert.equal(found.get('spillway_log_full'), 1);
    assert.equal(found.get('spillway_log_commit_seconds_bucket{le="0.00025"}'), 2);
    assert.equal(found.get('spillway_log_commit_seconds_count'), 2);
    assert.equal(found.get('spillway_log_backlog_records'), 11);
    assert.match(text, /# TYPE spillway_log_commit_seconds histogram/);
    assert.match(text, /# TYPE spillway_connections gauge/);
    assert.match(text, /# TYPE spillway_readings_accepted_total counter/);
    const names = text.match(/^# TYPE \S+/gm) ?? [];
    assert.equal(new Set(names).size, names.length);
  });

  test('of a stale thread counters stay, gauges go, and it is said', async () => {
    const clock = new ManualClock(1_000_000);
    const hub = new MetricsHub({ clock, staleMs: 10_000 });
    hub.accept('rollup', await snapshot(rollupThreadMetrics(() => ROLLUP)));
    clock.advance(10_001);
    const found = samples(await hub.text());
    assert.equal(found.get('spillway_rollup_readings_stored_total'), 5);
    assert.equal(found.get('spillway_rollup_open_windows'), undefined);
    assert.equal(found.get('spillway_metrics_stale{thread="rollup"}'), 1);
    assert.equal(found.get('spillway_metrics_age_seconds{thread="rollup"}'), 10.001);
  });

  test('a source that comes again takes the place of its old self; sources are bounded', async () => {
    const hub = new MetricsHub();
    for (let i = 0; i < 100; i += 1) {
      const registry = new Registry();
      const source = new PlainHistogram([1]);
      source.observe(0.5);
      histogram(registry, 'spillway_test_seconds', 'A test.', source);
      hub.accept(`s${i % 80}`, await snapshot(registry));
    }
    assert.equal(samples(await hub.text()).get('spillway_test_seconds_count'), 64);
  });
});

test('a thread publishes through its port until it is stopped', async () => {
  const { port1, port2 } = new MessageChannel();
  const counters = gatewayCounters();
  counters.messages = 4;
  const registry = new Registry();
  gatewayMetrics(registry, counters);
  const errors: unknown[] = [];
  const message = new Promise<MetricsMessage>((resolve) => port2.once('message', resolve));
  const publisher = publishMetrics(registry, port1, {
    ...{ source: 'main', intervalMs: 60_000 },
    onError: (error) => errors.push(error),
  });
  const { source, metrics } = await message;
  publisher.stop();
  port1.close();
  const hub = new MetricsHub();
  hub.accept(source, metrics);
  assert.equal(samples(await hub.text()).get('spillway_messages_received_total'), 4);
  assert.deepEqual(errors, []);
});
