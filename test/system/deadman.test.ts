import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import mqtt, { type MqttClient } from 'mqtt';
import type { EventRecord } from '../../src/core/nouns.ts';
import { openRegistry } from '../../src/engines.ts';
import type { ListedDevice } from '../../src/http/device-list.ts';
import { command, SpillwayProcess, type TestDevice } from './spillway-process.ts';

/** Longer than the program takes to notice on a busy machine, ms. */
const PATIENCE_MS = 60_000;

async function connected(t: TestContext, program: SpillwayProcess, device: TestDevice) {
  const username = `${device.tenant}/${device.device}`;
  const client = await mqtt.connectAsync(program.url, {
    ...{ username, password: device.secret, clientId: username, reconnectPeriod: 0 },
  });
  client.on('error', () => {});
  t.after(() => client.end(true));
  return client;
}

/** Sends a reading every 200 ms until the client ends. */
async function keepSending(client: MqttClient): Promise<void> {
  // What waits for its acknowledgement then is not told.
  const closed = new Promise<void>((done) => client.once('close', () => done()));
  while (client.connected) {
    const sent = client.publishAsync('me/telemetry', '{"v":1}', { qos: 1 }).catch(() => {});
    await Promise.race([sent, closed]);
    await sleep(200);
  }
}

/** Who went and who came back, as the log has it. */
function presenceEvents(program: SpillwayProcess): Promise<EventRecord[]> {
  return program.read(async (_, consumer) => {
    const { end = 0 } = (await consumer.bounds()).get(0) ?? {};
    const found: EventRecord[] = [];
    const from = new Map([[0, 0]]);
    const batches = consumer.consume('test', { signal: AbortSignal.timeout(PATIENCE_MS), from });
    for await (const { records, nextOffset } of batches) {
      for (const record of records) {
        if (record.kind !== 'event') continue;
        if (record.event === 'online' || record.event === 'offline') found.push(record);
      }
      if (nextOffset >= end) break;
    }
    return found;
  });
}

const ofDevice = (events: readonly EventRecord[], name: string) =>
  events.filter(({ device }) => device === name).map(({ event }) => event);

test('a device that goes silent is listed, counted and told of, once, whatever happens to the program', {
  timeout: 240_000,
}, async (t) => {
  const program = new SpillwayProcess(t, {
    log: { embedded: { retainFor: '1h' } },
    deadman: { periods: 3, minimum: '1s' },
    types: { probe: { period: '1s', metrics: { v: {} } } },
  });
  const [steady, silent] = program.addDevices('acme', 'probe', ['steady', 'silent', 'new']);
  assert.ok(steady !== undefined && silent !== undefined);
  const registry = openRegistry(program.config);
  const { token } = registry.addToken({ role: 'operator' });
  registry.close();

  const get = async (path: string) =>
    fetch(`${program.httpUrl}${path}`, { headers: { authorization: `Bearer ${token}` } });
  const list = async (parameters = ''): Promise<ListedDevice[]> => {
    const { devices } = (await (await get(`/api/v1/devices${parameters}`)).json()) as {
      devices: ListedDevice[];
    };
    return devices;
  };
  const statusOf = async (name: string) =>
    (await list()).find(({ device }) => device === name)?.status;
  const until = async (what: string, done: () => Promise<boolean>) => {
    const late = performance.now() + PATIENCE_MS;
    while (!(await done())) {
      assert.ok(performance.now() < late, `not ${what}`);
      await sleep(100);
    }
  };

  await program.start();
  let client = await connected(t, program, steady);
  let sending = keepSending(client);
  const leaving = await connected(t, program, silent);
  await leaving.publishAsync('me/telemetry', '{"v":1}', { qos: 1 });
  const left = Date.now();
  await until('online', async () => (await statusOf('silent')) === 'online');
  await until('offline', async () => (await statusOf('silent')) === 'offline');
  const [entry] = await list('?status=offline');
  assert.deepEqual([entry?.device, (await list('?status=offline')).length], ['silent', 1]);
  const since = Date.parse(String(entry?.since));
  assert.ok(since > left + 2_000 && since < left + 4_000, `${since - left} ms after`);
  assert.equal(await statusOf('new'), null);
  assert.equal(await statusOf('steady'), 'online');

  const shown = await command(
    t,
    ['device', 'status', '--status', 'offline', '--url', program.httpUrl, '--config', program.file],
    { SPILLWAY_TOKEN: token },
  );
  assert.equal(shown.code, 0, shown.stderr);
  assert.match(
    shown.stdout,
    /^tenant .*\n[- ]+\nacme +silent +probe +offline +\d{4}-.*Z +\d{4}-.*Z\s*\n$/,
  );
  const metrics = async () => (await get('/metrics')).text();
  await until('counted', async () => /^spillway_devices_offline 1$/m.test(await metrics()));
  await until('counted as told', async () =>
    /^spillway_device_changes_total\{status="offline"\} 1$/m.test(await metrics()),
  );
  const explained = await get('/api/v1/devices/silent/explain?tenant=acme');
  const { presence } = (await explained.json()) as { presence: ListedDevice };
  assert.deepEqual([presence.status, presence.since], ['offline', entry?.since]);

  await program.kill();
  await sending;
  await program.start();
  client = await connected(t, program, steady);
  sending = keepSending(client);
  assert.equal((await list('?status=offline'))[0]?.device, 'silent');
  const back = await connected(t, program, silent);
  await sleep(3_000);
  // A connection alone is no sign of life.
  assert.equal(await statusOf('silent'), 'offline');
  await back.publishAsync('me/telemetry', '{"v":1}', { qos: 1 });
  await until('back', async () => (await statusOf('silent')) === 'online');
  await until(
    'told',
    async () => ofDevice(await presenceEvents(program), 'silent').at(-1) === 'online',
  );
  client.end();
  await sending;
  await program.stop();
  const events = await presenceEvents(program);
  assert.deepEqual(ofDevice(events, 'silent').slice(0, 3), ['online', 'offline', 'online']);
  const gone = events.find(({ event }) => event === 'offline');
  assert.ok(gone !== undefined);
  assert.equal((gone.data as { since: number }).since, since);
  assert.equal(ofDevice(events, 'steady')[0], 'online');
});
