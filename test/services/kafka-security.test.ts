import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, describe, type TestContext, test } from 'node:test';
import { promisify } from 'node:util';
import { CompactedTable } from '../../src/log/kafka/compacted-table.ts';
import { KafkaLogConsumer } from '../../src/log/kafka/consumer.ts';
import { Forwarder } from '../../src/log/kafka/forwarder.ts';
import type { KafkaSettings, SaslSettings } from '../../src/log/kafka/settings.ts';
import { ensureTopics, fullName } from '../../src/log/kafka/topics.ts';
import { openEmbedded } from '../log/embedded-log.ts';
import { appended, message, range, seqs, take } from '../suites/log.ts';
import { FORWARDER, LIMITS, recordingLogger, SKIP, TOPICS } from './kafka-env.ts';
import { kafkaProgram, NO_PROGRAM, OwnKafka } from './own-kafka.ts';

const program = SKIP === false ? kafkaProgram() : undefined;
const skip = SKIP || (program === undefined && NO_PROGRAM);

/** A key store with a certificate for 127.0.0.1 that nobody has signed, made by the tool beside `java`. */
async function makeCertificate(java: string, dir: string, name: string): Promise<string> {
  const keytool = (...words: string[]) =>
    promisify(execFile)(join(dirname(java), 'keytool'), [
      ...['-keystore', join(dir, `${name}.p12`), '-storetype', 'PKCS12'],
      ...['-storepass', 'store-secret', '-alias', 'kafka', ...words],
    ]);
  await keytool(
    ...['-genkeypair', '-keyalg', 'EC', '-groupname', 'secp256r1', '-dname', 'CN=kafka'],
    ...['-ext', 'SAN=IP:127.0.0.1', '-validity', '2'],
  );
  const file = join(dir, `${name}.pem`);
  await keytool('-exportcert', '-rfc', '-file', file);
  return readFile(file, 'utf8');
}

describe('TLS and SASL', { skip }, () => {
  let dir = '';
  let ca = '';
  let stranger = '';
  let kafka: OwnKafka;

  before(async () => {
    if (program === undefined) return;
    dir = await mkdtemp(join(tmpdir(), 'spillway-tls-'));
    ca = await makeCertificate(program.java, dir, 'broker');
    stranger = await makeCertificate(program.java, dir, 'stranger');
    const scram = 'org.apache.kafka.common.security.scram.ScramLoginModule required;';
    const plain = 'org.apache.kafka.common.security.plain.PlainLoginModule required';
    kafka = await OwnKafka.start(program, {
      protocol: 'SASL_SSL',
      properties: {
        'listener.name.client.ssl.keystore.location': join(dir, 'broker.p12'),
        'listener.name.client.ssl.keystore.password': 'store-secret',
        'listener.name.client.ssl.keystore.type': 'PKCS12',
        'listener.name.client.sasl.enabled.mechanisms': 'PLAIN,SCRAM-SHA-256,SCRAM-SHA-512',
        'listener.name.client.plain.sasl.jaas.config': `${plain} user_alice="plain-secret";`,
        'listener.name.client.scram-sha-256.sasl.jaas.config': scram,
        'listener.name.client.scram-sha-512.sasl.jaas.config': scram,
      },
      format: [256, 512].flatMap((bits) => [
        '--add-scram',
        `SCRAM-SHA-${bits}=[name=alice,password=scram-${bits}-secret]`,
      ]),
    });
  });
  after(async () => {
    await kafka?.remove();
    await rm(dir, { recursive: true, force: true });
  });

  function settings(t: TestContext, sasl: Partial<SaslSettings>): KafkaSettings {
    return {
      brokers: kafka.brokers,
      clientId: 'test',
      topicPrefix: t.name.replaceAll(/[^a-z0-9]+/gi, '-'),
      connectTimeoutMs: 2_000,
      requestTimeoutMs: 5_000,
      tls: { ca },
      sasl: { mechanism: 'plain', username: 'alice', password: 'plain-secret', ...sasl },
    };
  }

  for (const [mechanism, password] of [
    ['plain', 'plain-secret'],
    ['scram-sha-256', 'scram-256-secret'],
    ['scram-sha-512', 'scram-512-secret'],
  ] as const) {
    test(`forwarder, consumers and tables work with TLS and ${mechanism}`, async (t) => {
      const logger = recordingLogger();
      const mine = settings(t, { mechanism, password });
      const spool = await openEmbedded(t);
      const appender = await spool.appender();
      const forwarder = new Forwarder({
        ...FORWARDER,
        settings: mine,
        topics: TOPICS,
        spool: spool.consumer(),
        logger,
      });
      const consumer = new KafkaLogConsumer({ settings: mine, limits: LIMITS, logger });
      t.after(async () => {
        await consumer.close();
        await forwarder.close();
      });
      for (const seq of range(0, 100)) appender.append(message('d1', seq), () => {});
      await appended(appender, message('d1', 100));
      assert.equal(await forwarder.drained(), true);
      assert.deepEqual(seqs(await take(consumer, 'g', 101, { commit: true }), 'd1'), range(0, 101));
      assert.deepEqual([...(await consumer.committed('g')).values()], [101]);
      assert.equal((await consumer.received({}))[0]?.count, 101);
      const topic = fullName(mine.topicPrefix, 'registry');
      const table = new CompactedTable<string>({ settings: mine, logger, topic });
      await table.put('a', 'b');
      assert.equal(table.get('a'), 'b');
      await table.close();
    });
  }

  for (const [what, changes, reason] of [
    ['a wrong password', () => ({ password: 'wrong' }), /SASL PLAIN authentication failed/],
    ['a wrong mechanism', () => ({ mechanism: 'scram-sha-256' as const }), /authentication failed/],
  ] as const) {
    test(`${what} is an error that says so`, async (t) => {
      await assert.rejects(
        ensureTopics(settings(t, changes()), TOPICS, recordingLogger()),
        (error: { code?: string; message: string }) => {
          assert.equal(error.code, 'LOG_UNAVAILABLE');
          assert.match(error.message, reason);
          assert.doesNotMatch(error.message, /secret/);
          return true;
        },
      );
    });
  }

  test('a broker with another certificate is not talked to', async (t) => {
    const wrong = { ...settings(t, {}), tls: { ca: stranger } };
    await assert.rejects(ensureTopics(wrong, TOPICS, recordingLogger()), {
      code: 'LOG_UNAVAILABLE',
      message: /certificate/,
    });
    const unsafe = { ...settings(t, {}), tls: true as const };
    await assert.rejects(ensureTopics(unsafe, TOPICS, recordingLogger()), /certificate/);
  });
});
