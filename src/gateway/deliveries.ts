import type { Client } from 'aedes';
import { gateOf, subscriptionQos } from './broker.ts';
import { deviceTopic, type SubscribeChannel, shortTopic } from './topics.ts';

const RECEIPT_BACKLOG_BYTES = 64 * 1_024;

/** Sends to the names under which the device listens; false when to none, or when it doesn't read. */
export function deliver(
  client: Client,
  identity: { tenant: string; device: string },
  channel: SubscribeChannel,
  payload: string,
): boolean {
  if (client.closed || gateOf(client).outputBytes > RECEIPT_BACKLOG_BYTES) return false;
  for (const topic of [
    deviceTopic(identity.tenant, identity.device, channel),
    shortTopic(channel),
  ]) {
    const granted = subscriptionQos(client, topic);
    if (granted === undefined) continue;
    const qos = granted === 0 ? 0 : 1;
    if (qos === 1) gateOf(client).expectAck();
    const publish = () =>
      client.publish({ cmd: 'publish', topic, payload, qos, retain: false, dup: false }, () => {});
    // Aedes first notes a QoS 1 message of a persistent session, and drops it as an old one when a
    // QoS 0 message has overtaken it meanwhile.
    if (qos === 0 && !client.clean) setImmediate(publish);
    else publish();
    return true;
  }
  return false;
}
