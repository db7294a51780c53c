import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createGateway } from '../helpers/gateway.ts';

for (const fastPath of [true, false]) {
  const path = fastPath ? 'fast path' : 'broker path';

  test(`${path}: readings of every QoS and form reach the log before the acknowledgement`, async (t) => {
    const gateway = await createGateway(t, { fastPath });
    const device = await gateway.device('d1');
    const now = Date.now();
    await device.client.publishAsync(device.topic, JSON.stringify({ temperature: 20 }), { qos: 1 });
    assert.equal((await gateway.records()).length, 1);
    await device.client.publishAsync(
      'me/telemetry',
      JSON.stringify({ ts: now, seq: 7, values: { temperature: 21 } }),
      { qos: 2 },
    );
    assert.equal((await gateway.records()).length, 2);
    await device.client.publishAsync(device.topic, JSON.stringify({ temperature: 22, ts: now }), {
      qos: 0,
    });
    await device.client.publishAsync(
      device.topic,
      JSON.stringify([
        { temperature: 23 },
        { ts: new Date(now).toISOString(), values: { temperature: 24, mode: 'auto' } },
      ]),
      { qos: 1 },
    );
    const readings = (await gateway.records()).filter((record) => record.kind === 'reading');
    assert.deepEqual(
      readings.map((reading) => reading.values.temperature),
      [20, 21, 22, 23, 24],
    );
    assert.equal(readings[1]?.seq, 7);
    assert.equal(readings[1]?.ts, now);
    assert.equal(readings[4]?.ts, now);
    assert.equal(readings[0]?.ts, readings[0]?.received);
    assert.equal(readings[0]?.tenant, 'acme');
    assert.equal(readings[0]?.device, 'd1');
  });
}
