import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { describe, test } from 'node:test';
import { promisify } from 'node:util';
import { createGateway, type GatewayFixture } from '../helpers/gateway.ts';
import { until } from './raw.ts';

const run = promisify(execFile);
const PUBLISH = '/usr/bin/mosquitto_pub';
const SUBSCRIBE = '/usr/bin/mosquitto_sub';
const absent = existsSync(PUBLISH) ? false : 'mosquitto-clients are not installed';

/** Runs one of mosquitto's clients as device acme/d1; resolves to what it says. */
async function client(
  fixture: GatewayFixture,
  program: string,
  secret: string,
  ...args: string[]
): Promise<{ said: string; code: number }> {
  const who = [
    '-h',
    '127.0.0.1',
    '-p',
    String(fixture.gateway.port),
    '-u',
    'acme/d1',
    '-P',
    secret,
  ];
  try {
    const { stdout, stderr } = await run(program, [...who, ...args], { timeout: 10_000 });
    return { said: stdout + stderr, code: 0 };
  } catch (error) {
    const { stdout, stderr, code } = error as { stdout: string; stderr: string; code: number };
    return { said: stdout + stderr, code };
  }
}

describe('clients of mosquitto', { skip: absent }, () => {
  for (const version of ['mqttv311', 'mqttv5']) {
    test(`${version}: publish, are refused, and listen`, async (t) => {
      const fixture = await createGateway(t);
      const { secret } = fixture.registry.addDevice({
        tenant: 'acme',
        device: 'd1',
        type: 'thermostat',
      });
      const publish = (topic: string, payload: string, ...more: string[]) =>
        client(fixture, PUBLISH, secret, '-V', version, '-t', topic, '-m', payload, ...more);
      for (const qos of ['0', '1', '2']) {
        const { said, code } = await publish('me/telemetry', '{"temperature":20}', '-q', qos);
        assert.deepEqual([said, code], ['', 0], qos);
      }
      const refused = await publish('me/telemetry', '{"temperature":"x"}', '-q', '1');
      assert.match(refused.said, version === 'mqttv5' ? /Implementation specific error/ : /^$/);
      const kinds = (await fixture.records()).map(({ kind }) => kind);
      assert.deepEqual(kinds, ['reading', 'reading', 'reading', 'deadLetter']);

      const listening = client(
        ...[fixture, SUBSCRIBE, secret],
        ...['-V', version, '-t', 'me/commands', '-q', '1', '-C', '1', '-W', '8'],
      );
      await until(() => fixture.gateway.sendCommand('acme', 'd1', '"hello"'));
      assert.deepEqual(await listening, { said: '"hello"\n', code: 0 });
      const { said, code } = await client(
        ...[fixture, PUBLISH, 'wrong'],
        ...['-V', version, '-t', 'me/telemetry', '-m', '{}'],
      );
      assert.notEqual(code, 0);
      assert.match(said, /[Nn]ot authori[sz]ed|[Bb]ad [Uu]ser/);
    });
  }

  test('mqttv5: aliases, properties, session expiry and a delayed will are taken', async (t) => {
    const fixture = await createGateway(t);
    const { secret } = fixture.registry.addDevice({
      tenant: 'acme',
      device: 'd1',
      type: 'thermostat',
    });
    const { said, code } = await client(
      ...[fixture, PUBLISH, secret, '-V', 'mqttv5', '-q', '1', '-t', 'me/telemetry'],
      ...['-m', '{"temperature":20}', '--repeat', '5'],
      ...['-i', 'one', '-c'],
      ...['-D', 'publish', 'topic-alias', '3'],
      ...['-D', 'publish', 'user-property', 'batch', '7'],
      ...['-D', 'publish', 'content-type', 'application/json'],
      ...['--will-topic', 'me/state', '--will-payload', '"gone"'],
      ...['-D', 'will', 'will-delay-interval', '5'],
    );
    assert.deepEqual([said, code], ['', 0]);
    assert.equal((await fixture.records()).length, 5);
  });
});
