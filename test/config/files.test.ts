import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { deviceTypes } from '../../src/config/device-types.ts';
import { formatKey, SETTABLE_KEYS } from '../../src/config/keys.ts';
import { loadConfig } from '../../src/config/load.ts';
import { configSchema } from '../../src/config/schema.ts';

const CONFIG = join(import.meta.dirname, '../../config');
const REFERENCE = join(CONFIG, 'spillway.yaml');

test('config/spillway.yaml says what the defaults are', () => {
  assert.deepEqual(loadConfig({ file: REFERENCE, env: {} }).config, configSchema.parse({}));
});

test('config/spillway.yaml shows every key', () => {
  const { sources } = loadConfig({ file: REFERENCE, env: {} });
  const missing = SETTABLE_KEYS.map(({ path }) => formatKey(path)).filter(
    (key) => !sources.has(key),
  );
  assert.deepEqual(missing, []);
});

test('config/spillway.yaml says something about every key', () => {
  const lines = readFileSync(REFERENCE, 'utf8').split('\n');
  const mute = lines.filter((line, index) => {
    const isLeaf = /^\s+\w+: \S/.test(line);
    const before = lines[index - 1] ?? '';
    // Two bounds of one thing may share a comment.
    return isLeaf && !before.trim().startsWith('#') && !/BytesMax: /.test(line);
  });
  assert.deepEqual(mute, []);
});

test('the device types in the comments of config/spillway.yaml are taken', (t) => {
  const lines = readFileSync(REFERENCE, 'utf8').split('\n');
  const example = lines.slice(lines.indexOf('# types:'), lines.indexOf('types: {}'));
  const dir = mkdtempSync(join(tmpdir(), 'spillway-config-'));
  t.after(() => rmSync(dir, { recursive: true }));
  const file = join(dir, 'example.yaml');
  writeFileSync(file, example.map((line) => line.slice(2)).join('\n'));
  const { config } = loadConfig({ file, env: {} });
  assert.deepEqual(Object.keys(config.types), ['thermostat', 'vibration_logger']);
});

test('config/demo.yaml declares the three kinds of devices of the demo', () => {
  const { config } = loadConfig({ file: join(CONFIG, 'demo.yaml'), env: {} });
  assert.equal(config.data.dir, './data/demo');
  assert.equal(config.rollup.baseWindow, 10_000);
  const types = deviceTypes(config);
  const periods = [...types].map(([name, type]) => [name, type.periodMs]);
  assert.deepEqual(periods, [
    ['thermostat', 2_000],
    ['power_meter', 1_000],
    ['weather_station', 5_000],
  ]);
  assert.deepEqual(types.get('thermostat')?.metrics.temperature, {
    kind: 'float',
    unit: '°C',
    min: -40,
    max: 85,
    required: true,
  });
  assert.deepEqual(types.get('weather_station')?.metrics.mode?.values, ['normal', 'rain', 'storm']);
  assert.deepEqual(Object.keys(types.get('power_meter')?.metrics ?? {}), [
    'power',
    'voltage',
    'energy',
  ]);
});
