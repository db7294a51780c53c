import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import mqtt from 'mqtt';
import { parse } from 'yaml';
import { z } from 'zod';
import { forwardingMetrics } from '../../src/ops/thread-metrics.ts';
import { ROOT, SpillwayProcess } from './spillway-process.ts';

/** What alerts and dashboards ask for, against what a running Spillway shows. */

const ALERTS = join(ROOT, 'config/prometheus/alerts.yml');
const DASHBOARDS = join(ROOT, 'config/grafana/dashboards');
const PATIENCE_MS = 30_000;
/** What only a process with a shared log shows. */
const KAFKA_AWAY = {
  ...{ backlogRecords: 1, records: 0, bytes: 0, refused: 0, retries: 0 },
  error: 'away',
};
/** Labels that Prometheus adds to what it scrapes. */
const SCRAPED = new Set(['instance', 'job']);

interface Asked {
  where: string;
  expr: string;
}

function asked(): Asked[] {
  const rule = z.object({ alert: z.string(), expr: z.string() });
  const { groups } = z
    .object({ groups: z.array(z.object({ rules: z.array(rule) })) })
    .parse(parse(readFileSync(ALERTS, 'utf8')));
  const alerts = groups.flatMap(({ rules }) =>
    rules.map(({ alert, expr }) => ({ where: alert, expr })),
  );
  const panels = readdirSync(DASHBOARDS).flatMap((name) => {
    const text = readFileSync(join(DASHBOARDS, name), 'utf8');
    return [...text.matchAll(/"expr": ("(?:[^"\\]|\\.)*")/g)].map(([, expr = '""']) => ({
      where: name,
      expr: String(JSON.parse(expr)),
    }));
  });
  assert.ok(alerts.length > 3 && panels.length > 3);
  return [...alerts, ...panels];
}

/** The labels of each metric in the text that `/metrics` answers. */
function shown(text: string): Map<string, Set<string>> {
  const metrics = new Map<string, Set<string>>();
  for (const [, name = '', labels = ''] of text.matchAll(/^([a-z_]+)(?:\{(.*)\})? \S+$/gm)) {
    const known = metrics.get(name) ?? new Set();
    for (const [, label = ''] of labels.matchAll(/([a-z_]+)="/g)) known.add(label);
    metrics.set(name, known);
  }
  return metrics;
}

/** What an expression names: metrics, and labels it selects, groups or joins by. */
function namedIn(expr: string): { metrics: string[]; labels: string[] } {
  const metrics = expr.match(/\b(?:spillway|process|nodejs)_[a-z_]+/g) ?? [];
  const selected = [...expr.matchAll(/([a-z_]+) *(?:=~|!~|!=|=)/g)].map(([, name = '']) => name);
  const grouped = [...expr.matchAll(/\b(?:by|without|on|ignoring) *\(([^)]*)\)/g)].flatMap(
    ([, names = '']) => names.split(',').map((name) => name.trim()),
  );
  return { metrics, labels: [...selected, ...grouped].filter((name) => !SCRAPED.has(name)) };
}

test('alerts and dashboards ask for metrics and labels that a running Spillway shows', {
  timeout: 90_000,
}, async (t) => {
  const program = new SpillwayProcess(t, { types: { probe: { metrics: { v: { max: 10 } } } } });
  const [device] = program.addDevices('acme', 'probe', ['d1']);
  assert.ok(device !== undefined);
  await program.start();
  const client = await mqtt.connectAsync(program.url, {
    ...{ username: 'acme/d1', password: device.secret, clientId: 'd1', reconnectPeriod: 0 },
  });
  for (const payload of ['{"v": 1}', '{"v": 99}']) {
    await client.publishAsync('me/telemetry', payload, { qos: 1 });
  }
  await client.endAsync();
  const metrics = async () => (await fetch(`${program.httpUrl}/metrics`)).text();
  const late = performance.now() + PATIENCE_MS;
  let text = await metrics();
  // Threads show what they have once they have told it.
  while (!/^spillway_rollup_readings_stored_total [1-9]/m.test(text)) {
    assert.ok(performance.now() < late, 'the reading is in no metric');
    await sleep(200);
    text = await metrics();
  }
  const known = shown(`${text}\n${await forwardingMetrics(() => KAFKA_AWAY).metrics()}`);

  for (const { where, expr } of asked()) {
    const named = namedIn(expr);
    for (const metric of named.metrics) assert.ok(known.has(metric), `${where}: ${metric}`);
    const labels = new Set(named.metrics.flatMap((metric) => [...(known.get(metric) ?? [])]));
    for (const label of named.labels) assert.ok(labels.has(label), `${where}: label ${label}`);
  }
  await program.stop();
});

test('each alert fires for what it is meant for, and for nothing else', (t) => {
  const rules = join(ROOT, 'config/prometheus/alerts.test.yml');
  if (spawnSync('promtool', ['--version']).error !== undefined) {
    t.skip('promtool is not here; it comes with Prometheus (apt-get install prometheus)');
    return;
  }
  execFileSync('promtool', ['check', 'rules', ALERTS], { stdio: 'pipe' });
  execFileSync('promtool', ['test', 'rules', rules], { stdio: 'pipe' });
});

test('each alert has a test that it fires, and one that it does not', () => {
  const text = readFileSync(join(ROOT, 'config/prometheus/alerts.test.yml'), 'utf8');
  const checks = z
    .object({
      tests: z.array(
        z.object({
          alert_rule_test: z.array(
            z.object({ alertname: z.string(), exp_alerts: z.array(z.unknown()).default([]) }),
          ),
        }),
      ),
    })
    .parse(parse(text))
    .tests.flatMap(({ alert_rule_test }) => alert_rule_test);
  const alerts = [...readFileSync(ALERTS, 'utf8').matchAll(/alert: (\w+)/g)].map(
    (match) => match[1],
  );
  for (const alert of alerts) {
    const its = checks.filter(({ alertname }) => alertname === alert);
    assert.ok(
      its.some(({ exp_alerts }) => exp_alerts.length > 0),
      `${alert} fires`,
    );
    assert.ok(
      its.some(({ exp_alerts }) => exp_alerts.length === 0),
      `${alert} does not fire`,
    );
  }
});
