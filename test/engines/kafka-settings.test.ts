import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { loadConfig } from '../../src/config/load.ts';
import { kafkaSettings, topicsSettings } from '../../src/engines/kafka.ts';

function configured(env: Record<string, string>) {
  return loadConfig({
    env: { SPILLWAY_LOG_ENGINE: 'kafka', SPILLWAY_LOG_KAFKA_BROKERS: '["kafka:9092"]', ...env },
  }).config;
}

function fileWith(t: TestContext, text: string): string {
  const dir = mkdtempSync(join(tmpdir(), 'spillway-secret-'));
  t.after(() => rmSync(dir, { recursive: true }));
  const file = join(dir, 'secret');
  writeFileSync(file, text);
  return file;
}

test('two lines of configuration are enough', () => {
  const { brokers, topicPrefix, tls, sasl } = kafkaSettings(configured({}));
  assert.deepEqual(
    { brokers, topicPrefix, tls, sasl },
    {
      ...{ brokers: ['kafka:9092'], topicPrefix: 'spillway', tls: undefined, sasl: undefined },
    },
  );
});

test('SASL with a password from a file, TLS with files', (t) => {
  const settings = kafkaSettings(
    configured({
      SPILLWAY_LOG_KAFKA_SASL_MECHANISM: 'scram-sha-512',
      SPILLWAY_LOG_KAFKA_SASL_USERNAME: 'spillway',
      SPILLWAY_LOG_KAFKA_SASL_PASSWORD_FILE: fileWith(t, 'hush\nnot this\n'),
      SPILLWAY_LOG_KAFKA_TLS_ENABLED: 'true',
      SPILLWAY_LOG_KAFKA_TLS_CA_FILE: fileWith(t, '-----BEGIN CERTIFICATE-----\n'),
      SPILLWAY_LOG_KAFKA_TLS_SERVERNAME: 'kafka.example',
    }),
  );
  assert.deepEqual(settings.sasl, {
    ...{ mechanism: 'scram-sha-512', username: 'spillway', password: 'hush' },
  });
  assert.deepEqual(settings.tls, {
    ...{ ca: '-----BEGIN CERTIFICATE-----\n', servername: 'kafka.example' },
  });
});

test('a file that is not there is named by its key', () => {
  const config = configured({
    SPILLWAY_LOG_KAFKA_TLS_ENABLED: 'true',
    SPILLWAY_LOG_KAFKA_TLS_CA_FILE: '/nowhere/ca.pem',
  });
  assert.throws(() => kafkaSettings(config), {
    code: 'CONFIG_INVALID',
    message: /^log\.kafka\.tls\.caFile: \/nowhere\/ca\.pem/,
  });
});

test('streams are kept as configured; tables are compacted and kept for ever', () => {
  const topics = topicsSettings(
    configured({
      SPILLWAY_LOG_KAFKA_PARTITIONS: '12',
      SPILLWAY_LOG_KAFKA_REPLICATION: '3',
      SPILLWAY_LOG_KAFKA_RETAIN_FOR: '2d',
    }),
  );
  for (const name of ['readings', 'dead-letters', 'presence', 'backfill'] as const) {
    const { partitions, replication, retainForMs, compacted } = topics[name];
    assert.deepEqual(
      [partitions, replication, retainForMs, compacted],
      [12, 3, 172_800_000, false],
    );
  }
  for (const name of ['registry', 'received'] as const) {
    const { partitions, replication, retainForMs, compacted } = topics[name];
    assert.deepEqual([partitions, replication, retainForMs, compacted], [1, 3, 0, true]);
  }
});
