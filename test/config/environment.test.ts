import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { SETTABLE_KEYS, variableName } from '../../src/config/keys.ts';
import { loadConfig } from '../../src/config/load.ts';

const BAD_FILE = join(import.meta.dirname, '../cases/config/kinds.bad.yaml');
const DEMO_FILE = join(import.meta.dirname, '../../config/demo.yaml');

function message(env: Record<string, string>, file?: string): string {
  try {
    loadConfig({ file, env });
  } catch (error) {
    assert.ok(error instanceof Error);
    return error.message;
  }
  return assert.fail('the environment was taken');
}

test('a key has the variable of its path, split at capitals', () => {
  assert.equal(variableName(['gateway', 'mqtt', 'port']), 'SPILLWAY_GATEWAY_MQTT_PORT');
  assert.equal(variableName(['gateway', 'payloadBytesMax']), 'SPILLWAY_GATEWAY_PAYLOAD_BYTES_MAX');
});

test('no two keys share a variable', () => {
  const variables = SETTABLE_KEYS.map(({ path }) => variableName(path));
  assert.equal(new Set(variables).size, variables.length);
  assert.ok(variables.length > 30);
});

test('numbers, booleans, texts, durations and sizes are taken', () => {
  const { config, sources } = loadConfig({
    env: {
      SPILLWAY_GATEWAY_MQTT_PORT: '0',
      SPILLWAY_GATEWAY_FAST_PATH: 'false',
      SPILLWAY_DATA_DIR: '1883',
      SPILLWAY_LOGGING_LEVEL: 'warn',
      SPILLWAY_ROLLUP_BASE_WINDOW: '10s',
      SPILLWAY_GATEWAY_PAYLOAD_BYTES_MAX: '1KiB',
    },
  });
  assert.equal(config.gateway.mqtt.port, 0);
  assert.equal(config.gateway.fastPath, false);
  assert.equal(config.data.dir, '1883');
  assert.equal(config.logging.level, 'warn');
  assert.equal(config.rollup.baseWindow, 10_000);
  assert.equal(config.gateway.payloadBytesMax, 1_024);
  assert.deepEqual(sources.get('gateway.mqtt.port'), {
    from: 'environment',
    variable: 'SPILLWAY_GATEWAY_MQTT_PORT',
  });
});

test('the environment wins over the file', () => {
  const { config, sources } = loadConfig({
    file: DEMO_FILE,
    env: {
      SPILLWAY_DATA_DIR: '/data',
      SPILLWAY_TYPES: '{"lamp": {"metrics": {"on": {"kind": "bool"}}}}',
    },
  });
  assert.equal(config.data.dir, '/data');
  assert.equal(config.rollup.baseWindow, 10_000);
  assert.deepEqual(Object.keys(config.types), ['lamp']);
  assert.equal(sources.has('types.thermostat'), false);
  assert.equal(sources.get('types.lamp.metrics.on.kind')?.from, 'environment');
  assert.equal(sources.get('rollup.baseWindow')?.from, 'file');
});

test('an empty variable, a reserved one and those of others count for nothing', () => {
  const env = {
    SPILLWAY_HTTP_PORT: '',
    SPILLWAY_TOKEN: 'x',
    SPILLWAY_CONFIG: 'y',
    PATH: '/bin',
    SPILLWAYS: 'y',
  };
  const { config, sources } = loadConfig({ env });
  assert.equal(config.http.port, 8080);
  assert.equal(sources.size, 0);
});

test('an unknown variable is refused by the name of the nearest, without its value', () => {
  assert.equal(
    message({ SPILLWAY_GATEWAY_MQTTPORT: 'hunter2' }),
    'SPILLWAY_GATEWAY_MQTTPORT: unknown variable, did you mean SPILLWAY_GATEWAY_MQTT_PORT?',
  );
});

test('values of another kind are refused under the name of the variable', () => {
  const env = {
    SPILLWAY_GATEWAY_MQTT_PORT: '0x10',
    SPILLWAY_HTTP_PORT: ' 80',
    SPILLWAY_GATEWAY_FAST_PATH: 'yes',
    SPILLWAY_ROLLUP_LATENESS: '5 minutes',
  };
  assert.deepEqual(message(env).split('\n'), [
    'SPILLWAY_GATEWAY_FAST_PATH: gateway.fastPath: expected true or false, got "yes"',
    'SPILLWAY_GATEWAY_MQTT_PORT: gateway.mqtt.port: expected a whole number from 0 to 65535, got "0x10"',
    'SPILLWAY_HTTP_PORT: http.port: expected a whole number from 0 to 65535, got " 80"',
    'SPILLWAY_ROLLUP_LATENESS: rollup.lateness: expected a duration such as 500ms, 10s, 1m, 2h or 30d, got "5 minutes"',
  ]);
});

test('types in a variable are checked like those of the file', () => {
  assert.equal(
    message({ SPILLWAY_TYPES: '{meter: {metrics: {power: {kind: watt}}}}' }),
    'SPILLWAY_TYPES: types.meter.metrics.power.kind: expected one of float, int, bool, string, got "watt"',
  );
  assert.match(message({ SPILLWAY_TYPES: '{meter: ' }), /^SPILLWAY_TYPES:1:\d+: types: /);
  assert.match(
    message({ SPILLWAY_TYPES: '[meter]' }),
    /^SPILLWAY_TYPES:1:1: types: expected a map/,
  );
  assert.match(
    message({ SPILLWAY_TYPES: '{"__proto__": {}}' }),
    /__proto__: not allowed as a name$/,
  );
});

test('a conflict between a key of the file and a variable names the one to change', () => {
  assert.equal(
    message({ SPILLWAY_STORE_RETENTION_RAW: '1d' }, DEMO_FILE).split('\n')[0],
    'SPILLWAY_STORE_RETENTION_RAW: types.thermostat.pastMax: expected at most store.retention.raw (1d), got 1w',
  );
});

test('a variable mends a wrong value of the file, and does not hide the others', () => {
  const env = { SPILLWAY_GATEWAY_MQTT_PORT: '1884', SPILLWAY_NONSENSE: '1' };
  const lines = message(env, BAD_FILE);
  assert.doesNotMatch(lines, /gateway\.mqtt\.port/);
  assert.match(lines, /http: expected a map, got a list/);
  assert.match(lines, /SPILLWAY_NONSENSE: unknown variable/);
});
