import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { GatewayFixture } from '../../helpers/gateway.ts';
import { createGateway } from '../../helpers/gateway.ts';
import { publishBytes, type RawClient } from '../../helpers/raw-client.ts';
import { connect, newDevice, received, subscribe, until } from '../raw.ts';

const READING = Buffer.from('{"temperature":20}');

function burst(client: RawClient, count: number, qos: 0 | 1 = 1, payload = READING): void {
  const packets = Array.from({ length: count }, (_, i) =>
    publishBytes('me/telemetry', payload, qos, i + 1),
  );
  client.socket.write(Buffer.concat(packets));
}

function pubacks(client: RawClient): number[] {
  return client.packets.flatMap((packet) =>
    packet.cmd === 'puback' ? [packet.messageId ?? 0] : [],
  );
}

function receipts(client: RawClient): { code: string; severity: string; expected: string }[] {
  return client.packets.flatMap((packet) =>
    packet.cmd === 'publish' ? [JSON.parse(String(packet.payload))] : [],
  );
}

function limited(fixture: GatewayFixture, tenant: string, code: string): number {
  return fixture.counters.limited.get(tenant)?.get(code) ?? 0;
}

describe('rates', { concurrency: true }, () => {
  for (const fastPath of [true, false]) {
    test(`a device over its rate is slowed down and told so, and loses nothing (fast path ${fastPath})`, async (t) => {
      const fixture = await createGateway(t, {
        fastPath,
        config: { quotas: { default: { device: { messages: ['20/1s'] } } } },
      });
      const { client: loud } = await newDevice(fixture, 'loud', { keepalive: 1 });
      await subscribe(loud, ['me/receipts']);
      const { client: other } = await newDevice(fixture, 'other');
      const started = performance.now();
      burst(loud, 60);
      await received(loud, 'puback', 20);
      const first = performance.now() - started;
      // Others don't feel it.
      const asked = performance.now();
      await other.publish('me/telemetry', READING, 1);
      assert.ok(performance.now() - asked < 1_000);
      await until(() => pubacks(loud).length === 60, 'not all were acknowledged');
      const all = performance.now() - started;
      assert.ok(first < 1_000, `the burst took ${first} ms`);
      assert.ok(all > 1_900 && all < 4_000, `60 at 20 a second took ${all} ms`);
      assert.deepEqual(
        pubacks(loud),
        Array.from({ length: 60 }, (_, i) => i + 1),
      );
      const notices = receipts(loud);
      assert.equal(notices.length, 1, 'told once');
      assert.equal(notices[0]?.code, 'DEVICE_MESSAGES');
      assert.equal(notices[0]?.severity, 'notice');
      assert.equal(notices[0]?.expected, 'at most 20 messages in 1s');
      const held = fixture.gateway.overload.limitedBy('acme', 'loud');
      assert.equal(held?.code, 'DEVICE_MESSAGES');
      assert.equal(held?.count, limited(fixture, 'acme', 'DEVICE_MESSAGES'));
      assert.equal(fixture.gateway.overload.limitedBy('acme', 'other'), undefined);
      assert.equal((await fixture.records()).length, 61);
    });
  }

  test('QoS 0 over the rate is slowed down as well, not dropped', async (t) => {
    const fixture = await createGateway(t, {
      config: { quotas: { default: { device: { messages: ['50/1s'] } } } },
    });
    const { client } = await newDevice(fixture, 'd1');
    const started = performance.now();
    burst(client, 100, 0);
    await until(() => fixture.counters.messages === 100);
    assert.ok(performance.now() - started > 900);
    assert.equal((await fixture.records()).length, 100);
    assert.equal(fixture.counters.shed.size, 0);
  });

  test('the rate of a tenant holds for its devices together; other tenants have their own', async (t) => {
    const fixture = await createGateway(t, {
      config: { quotas: { tenants: { acme: { tenant: { bytes: ['400B/1s'] } } } } },
    });
    const devices = [await newDevice(fixture, 'd1'), await newDevice(fixture, 'd2')];
    const { secret } = fixture.registry.addDevice({
      tenant: 'free',
      device: 'd1',
      type: 'thermostat',
    });
    const { client: free } = await connect(fixture, 'free/d1', secret);
    const started = performance.now();
    for (const { client } of devices) burst(client, 20);
    burst(free, 200);
    await until(() => pubacks(free).length === 200);
    await until(() => devices.every(({ client }) => pubacks(client).length === 20));
    const all = performance.now() - started;
    // 40 payloads of 18 bytes: 400 at once, 320 in 0.8 s.
    assert.ok(all > 700 && all < 3_000, `${all} ms`);
    assert.ok(limited(fixture, 'acme', 'TENANT_BYTES') > 0);
    assert.equal(fixture.counters.limited.get('free'), undefined);
  });

  test('a ping goes on while publishes wait for their rate', async (t) => {
    const fixture = await createGateway(t, {
      config: { quotas: { default: { device: { messages: ['5/1s'] } } } },
    });
    const { client } = await newDevice(fixture, 'd1', { keepalive: 1 });
    burst(client, 12);
    client.send({ cmd: 'pingreq' });
    // Longer than one and a half of its keep-alive.
    await sleep(1_200);
    assert.equal(client.closed, false);
    await received(client, 'pingresp', 1);
    await received(client, 'puback', 12);
  });

  test('coming back is no way around a rate', async (t) => {
    const fixture = await createGateway(t, {
      config: { quotas: { default: { device: { messages: ['10/1m'] } } } },
    });
    const { client: first, secret } = await newDevice(fixture, 'd1');
    burst(first, 10);
    await received(first, 'puback', 10);
    first.close();
    const { client: second } = await connect(fixture, 'acme/d1', secret);
    burst(second, 1);
    await sleep(300);
    assert.equal(pubacks(second).length, 0);
  });
});

describe('connections', { concurrency: true }, () => {
  test('a device has so many connections, and may always take its own over', async (t) => {
    const fixture = await createGateway(t, {
      config: { quotas: { default: { device: { connections: 2 } } } },
    });
    const { secret } = await newDevice(fixture, 'd1', { clientId: 'a' });
    await connect(fixture, 'acme/d1', secret, { clientId: 'b' });
    const third = await connect(fixture, 'acme/d1', secret, { clientId: 'c' });
    assert.equal(third.connack.returnCode, 3);
    await third.client.ended();
    const again = await connect(fixture, 'acme/d1', secret, { clientId: 'a' });
    assert.equal(again.connack.returnCode, 0);
    assert.equal(fixture.counters.refusedConnections.get('DEVICE_CONNECTIONS'), 1);
    assert.equal(
      fixture.gateway.overload.limitedBy('acme', 'd1')?.expected,
      'at most 2 connections',
    );
  });

  test('a tenant has so many connections, connects and devices', async (t) => {
    const fixture = await createGateway(t, {
      config: {
        quotas: {
          tenants: {
            acme: { tenant: { connections: 2 } },
            often: { tenant: { connects: ['3/1m'] } },
            many: { tenant: { devices: 2 } },
          },
        },
      },
    });
    const add = (tenant: string, device: string) =>
      fixture.registry.addDevice({ tenant, device, type: 'thermostat' }).secret;
    const codes = async (tenant: string, devices: string[]) => {
      const got = [];
      for (const device of devices) {
        const { client, connack } = await connect(
          fixture,
          `${tenant}/${device}`,
          add(tenant, device),
        );
        got.push(connack.returnCode);
        if (tenant === 'often') client.close();
      }
      return got;
    };
    assert.deepEqual(await codes('acme', ['d1', 'd2', 'd3']), [0, 0, 3]);
    assert.deepEqual(await codes('often', ['d1', 'd2', 'd3', 'd4']), [0, 0, 0, 3]);
    assert.deepEqual(await codes('many', ['d1', 'd2', 'd3']), [0, 0, 3]);
    for (const code of ['TENANT_CONNECTIONS', 'TENANT_CONNECTS', 'TENANT_DEVICES'])
      assert.equal(fixture.counters.refusedConnections.get(code), 1, code);
  });
});

describe('cardinality and size', { concurrency: true }, () => {
  test('undeclared metrics are so many a day, for a device and for a tenant; declared ones are free', async (t) => {
    const fixture = await createGateway(t, {
      config: {
        quotas: { default: { device: { metrics: 3 }, tenant: { metrics: 4 } } },
        types: { mixed: { metrics: { a: {}, b: {} }, unknownMetrics: 'keep' } },
      },
    });
    const { client: d1 } = await newDevice(fixture, 'd1', { type: 'mixed' });
    const { client: d2 } = await newDevice(fixture, 'd2', { type: 'mixed' });
    for (const name of ['a', 'b', 'x1', 'x2', 'x3', 'x4', 'x1'])
      await d1.publish('me/telemetry', `{"${name}":1}`, 1);
    for (const name of ['x1', 'y1', 'y2', 'a'])
      await d2.publish('me/telemetry', `{"${name}":1}`, 1);
    const outcomes = (await fixture.records()).map((record) =>
      record.kind === 'deadLetter' ? `${record.code} ${record.actual}` : record.kind,
    );
    assert.deepEqual(outcomes, [
      ...Array(5).fill('reading'),
      'DEVICE_METRICS x4',
      'reading',
      'reading',
      'reading',
      'TENANT_METRICS y2',
      'reading',
    ]);
  });

  test('a gateway in the field may report for so many devices a day', async (t) => {
    const fixture = await createGateway(t, {
      config: { quotas: { default: { tenant: { devices: 3 } } } },
    });
    const { client } = await newDevice(fixture, 'hub');
    for (const device of ['l1', 'l2', 'l3'])
      fixture.registry.addDevice({ tenant: 'acme', device, type: 'thermostat', via: 'hub' });
    const devices = ['l1', 'l2', 'l3', 'l1'].map((name) => `"${name}":{"temperature":20}`);
    for (const device of devices)
      await client.publish('me/telemetry', `{"devices":{${device}}}`, 1);
    assert.deepEqual(
      (await fixture.records()).map((record) =>
        record.kind === 'deadLetter' ? record.code : record.device,
      ),
      ['l1', 'l2', 'DEVICES_TOO_MANY', 'l1'],
    );
  });

  test('a payload has the size of its quota', async (t) => {
    const fixture = await createGateway(t, {
      config: { quotas: { tenants: { acme: { device: { payloadBytesMax: '40B' } } } } },
    });
    const { client } = await newDevice(fixture, 'd1');
    await client.publish('me/telemetry', READING, 1);
    await client.publish('me/telemetry', `{"temperature":20${' '.repeat(40)}}`, 1);
    const [, letter] = await fixture.records();
    assert.equal(letter?.kind === 'deadLetter' && letter.code, 'PAYLOAD_TOO_LARGE');
    assert.equal(letter?.kind === 'deadLetter' && letter.expected, 'at most 40 bytes');
  });
});
