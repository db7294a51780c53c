import type { TestContext } from 'node:test';
import mqtt, { type MqttClient } from 'mqtt';
import type { TestDevice } from '../system/spillway-process.ts';

/** A connection that ends with the test and does not come back by itself. */
export async function connected(
  t: TestContext,
  url: string,
  device: TestDevice,
): Promise<MqttClient> {
  const username = `${device.tenant}/${device.device}`;
  const client = await mqtt.connectAsync(url, {
    ...{ username, password: device.secret, clientId: username },
    ...{ reconnectPeriod: 0, connectTimeout: 5_000 },
  });
  client.on('error', () => {});
  t.after(() => client.end(true));
  return client;
}

/** Publishes one message with QoS 1 and resolves with its PUBACK. */
export async function publish(
  client: MqttClient,
  { tenant, device }: TestDevice,
  payload: unknown,
): Promise<void> {
  await client.publishAsync(`t/${tenant}/d/${device}/telemetry`, JSON.stringify(payload), {
    qos: 1,
  });
}
