import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { MqttClient } from 'mqtt';
import type { EventRecord } from '../../src/core/nouns.ts';
import type { ListedDevice } from '../../src/http/device-list.ts';
import { topicPartition } from '../../src/log/kafka/topics.ts';
import type { SpillwayProcess, TestDevice } from '../system/spillway-process.ts';
import { connected, publish } from './publishing.ts';
import { NO_SERVICES, Topology } from './topology.ts';

/** Longer than any worker takes to notice, and to get the partitions of another, on a busy machine. */
const PATIENCE_MS = 90_000;
const DEVICES = 8;
const EVERY_MS = 300;

/** The changes of one device, oldest first, as they are in Kafka. */
async function changesByDevice(of: SpillwayProcess): Promise<Map<string, string[]>> {
  const events = await of.read(async (_, consumer) => {
    const bounds = [...(await consumer.bounds())].filter(
      ([partition, { first, end }]) =>
        topicPartition(partition)?.topic === 'presence' && end > first,
    );
    const left = new Map(bounds.map(([partition, { end }]) => [partition, end]));
    const found: EventRecord[] = [];
    const stop = new AbortController();
    for await (const batch of consumer.consume('test', { alone: true, signal: stop.signal })) {
      for (const record of batch.records) {
        if (record.kind !== 'event') continue;
        if (record.event === 'online' || record.event === 'offline') found.push(record);
      }
      if (batch.nextOffset >= (left.get(batch.partition) ?? Number.POSITIVE_INFINITY)) {
        left.delete(batch.partition);
      }
      if (left.size === 0) break;
    }
    return found;
  });
  const changes = new Map<string, string[]>();
  for (const { device, event } of events) {
    changes.set(device, [...(changes.get(device) ?? []), event]);
  }
  return changes;
}

async function until(what: string, done: () => Promise<boolean>): Promise<void> {
  const late = performance.now() + PATIENCE_MS;
  while (!(await done())) {
    assert.ok(performance.now() < late, `not ${what}`);
    await sleep(250);
  }
}

/** Publishes readings until it is told to stop. */
function keepSending(client: MqttClient, device: TestDevice): { stop(): Promise<void> } {
  const stopped = new AbortController();
  const sending = (async () => {
    for (let i = 0; !stopped.signal.aborted; i += 1) {
      await publish(client, device, { v: i });
      await sleep(EVERY_MS);
    }
  })();
  return {
    stop() {
      stopped.abort();
      return sending;
    },
  };
}

test('workers watch the devices of their partitions, and those of a worker that died', {
  skip: NO_SERVICES,
  timeout: 300_000,
}, async (t) => {
  const topology = new Topology(t, {
    settings: {
      logging: { format: 'json', level: 'info' },
      rollup: { baseWindow: '1m', flushInterval: '250ms' },
      deadman: { periods: 8, minimum: '1s' },
      types: { probe: { period: '1s', metrics: { v: {} } } },
    },
    kafka: { sessionTimeout: '6s', partitions: 4 },
  });
  const gateway = await topology.start(['gateway']);
  const workers = await Promise.all([topology.start(['rollup']), topology.start(['rollup'])]);
  const server = await topology.start(['http']);
  const token = (await topology.command(gateway, 'token', 'add', '--operator')).trim();
  const headers = { authorization: `Bearer ${token}` };
  const device = { tenant: 'acme', type: 'probe', prefix: 'probe', count: DEVICES };
  const devices = await topology.addDevices(gateway, device);

  const offline = async (): Promise<string[]> => {
    const url = `${server.httpUrl}/api/v1/devices?tenant=acme&status=offline`;
    const answer = (await (await fetch(url, { headers })).json()) as { devices?: ListedDevice[] };
    return (answer.devices ?? []).map((one) => one.device).sort();
  };
  const watched = async (worker: SpillwayProcess): Promise<number> => {
    const text = await (await fetch(`${worker.httpUrl}/metrics`, { headers })).text();
    const values = text.matchAll(/^spillway_devices_(?:online|offline) (\d+)$/gm);
    return [...values].reduce((sum, [, value]) => sum + Number(value), 0);
  };

  const clients = await Promise.all(devices.map((one) => connected(t, gateway.url, one)));
  const senders = clients.map((client, i) => keepSending(client, devices[i] as TestDevice));
  t.after(() => Promise.allSettled(senders.map((one) => one.stop())));
  await until('watched by both', async () => {
    const counts = await Promise.all(workers.map(watched));
    return Math.min(...counts) > 0 && counts.reduce((sum, one) => sum + one, 0) === DEVICES;
  });

  const silent = devices.slice(0, DEVICES / 2).map((one) => one.device);
  await Promise.all(senders.slice(0, DEVICES / 2).map((one) => one.stop()));
  await until('told of', async () => {
    const changes = await changesByDevice(gateway);
    return silent.every((name) => changes.get(name)?.at(-1) === 'offline');
  });
  await until('listed', async () => String(await offline()) === String(silent));
  // The marks are in the store a moment after the events are in the log, or after the last record.
  await sleep(8_000);

  const [died, other] = workers as [SpillwayProcess, SpillwayProcess];
  await died.kill();
  await until('taken over', async () => (await watched(other)) === DEVICES);
  // Longer than a device may be silent.
  await sleep(10_000);
  const before = await changesByDevice(gateway);
  for (const { device: name } of devices) {
    const expected = silent.includes(name) ? ['online', 'offline'] : ['online'];
    assert.deepEqual(before.get(name), expected, name);
  }

  for (const [i, name] of silent.entries()) {
    const one = devices.find((entry) => entry.device === name);
    assert.ok(one !== undefined);
    senders[i] = keepSending(clients[i] as MqttClient, one);
  }
  await until('back', async () => {
    const changes = await changesByDevice(gateway);
    return silent.every((name) => changes.get(name)?.at(-1) === 'online');
  });
  const after = await changesByDevice(gateway);
  for (const name of silent) assert.deepEqual(after.get(name), ['online', 'offline', 'online']);
  await until('listed', async () => (await offline()).length === 0);
});
