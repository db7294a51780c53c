import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { explain } from '../../src/config/explain.ts';
import { formatKey, isSecret, SETTABLE_KEYS } from '../../src/config/keys.ts';
import { loadConfig } from '../../src/config/load.ts';
import { nearest } from '../../src/config/nearest.ts';

const DEMO_FILE = join(import.meta.dirname, '../../config/demo.yaml');

test('every key is explained, with its value in units and where it came from', () => {
  const { config, sources } = loadConfig({ file: DEMO_FILE, env: { SPILLWAY_HTTP_PORT: '81' } });
  const lines = new Map(
    explain(config, sources).map(({ key, value, source }) => [key, { value, source }]),
  );
  for (const { path } of SETTABLE_KEYS) {
    const key = formatKey(path);
    assert.ok(
      [...lines.keys()].some((line) => line === key || line.startsWith(`${key}.`)),
      key,
    );
  }
  assert.deepEqual(lines.get('http.port'), { value: '81', source: 'SPILLWAY_HTTP_PORT' });
  assert.deepEqual(lines.get('http.host'), { value: '"127.0.0.1"', source: 'default' });
  assert.equal(lines.get('rollup.baseWindow')?.value, '10s');
  assert.match(lines.get('rollup.baseWindow')?.source ?? '', /demo\.yaml:8:3$/);
  assert.deepEqual(lines.get('gateway.payloadBytesMax'), { value: '64KiB', source: 'default' });
  assert.equal(
    lines.get('types.weather_station.metrics.mode.values')?.value,
    '["normal","rain","storm"]',
  );
  assert.deepEqual(lines.get('types.thermostat.future'), { value: '"reject"', source: 'default' });
});

test('without types the record itself is explained', () => {
  const { config, sources } = loadConfig({ env: {} });
  const types = explain(config, sources).find(({ key }) => key === 'types');
  assert.deepEqual(types, { key: 'types', value: '{}', source: 'default' });
});

test('names of secrets are known as such', () => {
  assert.ok(isSecret(['store', 'influxdb', 'token']));
  assert.ok(isSecret(['gateway', 'tls', 'privateKey', 'file']));
  assert.ok(!isSecret(['gateway', 'keepAliveMax']));
});

test('the nearest name is the one with the fewest slips', () => {
  assert.equal(nearest('prot', ['host', 'port']), 'port');
  assert.equal(
    nearest('PayloadBytesMax', ['packetBytesMax', 'payloadBytesMax']),
    'payloadBytesMax',
  );
  assert.equal(nearest('prot', ['engine'], 2), undefined);
  assert.equal(nearest('x', []), undefined);
});
