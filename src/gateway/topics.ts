import { isUtf8 } from 'node:buffer';

/** What a device may publish to, and where it may listen. */
export type Channel = PublishChannel | SubscribeChannel;
export type PublishChannel = 'telemetry' | 'state' | 'time/request';
export type SubscribeChannel = 'commands' | 'receipts' | 'time/response';

const PUBLISH: ReadonlySet<string> = new Set<PublishChannel>([
  'telemetry',
  'state',
  'time/request',
]);
const SUBSCRIBE: ReadonlySet<string> = new Set<SubscribeChannel>([
  'commands',
  'receipts',
  'time/response',
]);

/** Aedes closes the connection of a topic or filter with more levels without a word. */
const TOPIC_LEVELS_MAX = 100;

export function isDeep(topic: string): boolean {
  return topic.split('/', TOPIC_LEVELS_MAX + 1).length > TOPIC_LEVELS_MAX;
}

/** `t/<tenant>/d/<device>/<channel>` */
export function deviceTopic(tenant: string, device: string, channel: Channel): string {
  return `t/${tenant}/d/${device}/${channel}`;
}

/** `me/<channel>`, for a device that doesn't know its names. */
export function shortTopic(channel: Channel): string {
  return `me/${channel}`;
}

/** The own channel that a topic names; undefined for anything else. Topics are compared whole. */
export function publishChannel(
  topic: string,
  tenant: string,
  device: string,
): PublishChannel | undefined {
  const channel = ownChannel(topic, tenant, device);
  return channel !== undefined && PUBLISH.has(channel) ? (channel as PublishChannel) : undefined;
}

export function subscribeChannel(
  topic: string,
  tenant: string,
  device: string,
): SubscribeChannel | undefined {
  const channel = ownChannel(topic, tenant, device);
  return channel !== undefined && SUBSCRIBE.has(channel)
    ? (channel as SubscribeChannel)
    : undefined;
}

function ownChannel(topic: string, tenant: string, device: string): string | undefined {
  if (topic.startsWith('me/')) return topic.slice(3);
  const own = `t/${tenant}/d/${device}/`;
  return topic.startsWith(own) ? topic.slice(own.length) : undefined;
}

/**
 * A publish topic must be non-empty UTF-8 without NUL, wildcards [MQTT-3.3.2-2] or control characters
 * [MQTT-1.5.3-2]; undefined when it is not.
 */
export function decodeTopic(bytes: Buffer): string | undefined {
  if (bytes.length === 0 || !isUtf8(bytes)) return undefined;
  const topic = bytes.toString('utf8');
  return /[\p{Cc}#+]/u.test(topic) ? undefined : topic;
}
