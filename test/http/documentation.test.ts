import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { Registry } from 'prom-client';
import { HTTP_ERRORS } from '../../src/http/errors.ts';
import { gatewayCounters } from '../../src/ops/counters.ts';
import { httpMetrics } from '../../src/ops/metrics-hub.ts';
import { mainMetrics, rollupThreadMetrics } from '../../src/ops/thread-metrics.ts';
import { FORMATS, STATS } from '../../src/reports/parameters.ts';
import { backend, liveStatus } from './backend.ts';

const text = await readFile(join(import.meta.dirname, '../../docs/api.md'), 'utf8');

test('docs/api.md names every error of HTTP with its status', () => {
  for (const [code, { status }] of Object.entries(HTTP_ERRORS)) {
    assert.match(text, new RegExp(`^\\| ${status} \\|.*\`${code}\``, 'm'), code);
  }
});

test('docs/api.md names every route', async () => {
  const { app } = await backend();
  const routes = app.printRoutes({ commonPrefix: false });
  for (const path of text.matchAll(/\| `(?:GET|POST) (\/[a-z0-9/:-]+)/g)) {
    const last = path[1]?.split('/').at(-1) ?? '';
    assert.ok(routes.includes(last), path[1]);
  }
  for (const path of ['query', 'devices', 'dead-letters', 'audit', 'status']) {
    assert.ok(text.includes(`/api/v1/${path}`), path);
  }
});

test('docs/api.md names every metric, statistic and format', async () => {
  const http = new Registry();
  httpMetrics(http);
  const { log, rollup } = liveStatus();
  const registries = [
    mainMetrics(gatewayCounters(), () => log).registry,
    rollupThreadMetrics(() => rollup),
    http,
  ];
  for (const registry of registries) {
    for (const { name } of await registry.getMetricsAsJSON()) {
      if (name.startsWith('spillway_')) assert.ok(text.includes(`\`${name}\``), name);
    }
  }
  for (const word of [...STATS, ...FORMATS]) assert.ok(text.includes(`\`${word}\``), word);
});
