import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import mqtt, { type MqttClient } from 'mqtt';
import { stringify } from 'yaml';
import type { Explanation } from '../../src/http/explain.ts';
import type { SpillwayProcess, TestDevice } from '../system/spillway-process.ts';
import { Balancer } from './balancer.ts';
import { DeviceLoad, midnight } from './device-load.ts';
import { NO_KCAT, readTopicByKcat } from './kcat.ts';
import { connected, publish } from './publishing.ts';
import { assertStored, type Level, lettersArrived, rawReadings } from './stored-readings.ts';
import { NO_SERVICES, Topology } from './topology.ts';

/**
 * Every role twice, each in a process of its own: two gateways behind a TCP load balancer, two rollup
 * workers, two HTTP servers. What people change is seen everywhere within the promised time, and data is
 * read by programs that are not ours.
 */

/** What every process has to see after a command has returned, ms. */
const EVERYWHERE_MS = 2_000;
const PATIENCE_MS = 60_000;
const TYPES = {
  meter: {
    pastMax: '7d',
    metrics: {
      temperature: { kind: 'float', min: -40, max: 85, required: true },
      pulses: { kind: 'int', min: 0 },
      open: { kind: 'bool' },
      mode: { kind: 'string', values: ['auto', 'off'] },
    },
  },
  probe: { pastMax: '7d', metrics: { temperature: { kind: 'float', required: true } } },
};
const SETTINGS = {
  logging: { format: 'json', level: 'info' },
  rollup: { baseWindow: '1m', lateness: '30s', flushInterval: '250ms' },
  types: TYPES,
};
const LEVELS: Level[] = [
  { name: '1m', ms: 60_000 },
  { name: '1h', ms: 3_600_000 },
  { name: '1d', ms: 86_400_000 },
];

test('two of each role: changes are seen everywhere, and data is whole', {
  skip: NO_SERVICES || NO_KCAT,
  timeout: 300_000,
}, async (t) => {
  const topology = new Topology(t, {
    settings: SETTINGS,
    kafka: { sessionTimeout: '6s', partitions: 4 },
  });
  const { buckets } = topology;
  const start = (role: 'gateway' | 'rollup' | 'http') => topology.start([role]);
  const left = await start('gateway');
  const right = await start('gateway');
  const workers = await Promise.all([start('rollup'), start('rollup')]);
  const servers = await Promise.all([start('http'), start('http')]);
  const gateways = [left, right];
  const balancer = await Balancer.start(gateways.map((gateway) => () => gateway.mqttPort));
  t.after(() => balancer.close());
  const operator = (await topology.command(left, 'token', 'add', '--operator')).trim();
  const addProbes = (tenant: string, count: number) =>
    topology.addDevices(left, { tenant, type: 'probe', prefix: 'probe', count });

  await t.test('a device is known at every gateway, and unknown again', async (sub) => {
    const [here, there] = await addProbes('coming', 2);
    const added = performance.now();
    assert.ok(here !== undefined && there !== undefined);
    const clients = await Promise.all([
      knownWithin(sub, left, here, added),
      knownWithin(sub, right, there, added),
    ]);
    const ended = clients.map(
      (client) => new Promise<void>((resolve) => client.once('close', () => resolve())),
    );
    await topology.command(right, 'device', 'remove', 'coming/probe-01');
    await topology.command(right, 'device', 'remove', 'coming/probe-02');
    const removed = performance.now();
    await within(EVERYWHERE_MS, Promise.all(ended), 'the connections end');
    for (const gateway of gateways) {
      for (const device of [here, there]) await unknownWithin(gateway, device, removed);
    }
  });

  await t.test('a token is known at both HTTP servers, and unknown again', async () => {
    const token = (await topology.command(left, 'token', 'add', '--tenant', 'acme')).trim();
    const added = performance.now();
    for (const server of servers) await answers(server, token, 200, added);
    const list = await topology.command(right, 'token', 'list');
    const [id = ''] = (list.split('\n').find((line) => line.includes(',acme,')) ?? '').split(',');
    await topology.command(right, 'token', 'remove', id);
    const removed = performance.now();
    for (const server of servers) await answers(server, token, 401, removed);
  });

  await t.test('a command reaches its device from either server at either gateway', async (sub) => {
    const devices = await addProbes('commanded', 2);
    const added = performance.now();
    const received: string[][] = [];
    for (const [i, device] of devices.entries()) {
      const client = await knownWithin(sub, gateways[i] ?? left, device, added);
      const got: string[] = [];
      received.push(got);
      client.on('message', (_, payload) => got.push(payload.toString()));
      await client.subscribeAsync(`t/commanded/d/${device.device}/commands`, { qos: 1 });
    }
    for (const [from, server] of servers.entries()) {
      for (const { device } of devices) {
        const url = `${server.httpUrl}/api/v1/devices/${device}/commands?tenant=commanded`;
        const answer = await fetch(url, {
          method: 'POST',
          headers: { authorization: `Bearer ${operator}`, 'content-type': 'application/json' },
          body: JSON.stringify({ to: device, from }),
        });
        assert.equal(answer.status, 202, await answer.text());
      }
    }
    const all = devices.map(({ device }) => servers.map((_, from) => ({ to: device, from })));
    const until = performance.now() + 10_000;
    while (received.some(({ length }) => length < servers.length) && performance.now() < until) {
      await sleep(20);
    }
    // One that comes twice comes soon.
    await sleep(500);
    assert.deepEqual(
      received.map((got) => got.map((payload) => JSON.parse(payload))),
      all,
    );
  });

  await t.test('what the gateways know of a device is told by any server', async (sub) => {
    const [device] = await addProbes('explained', 1);
    assert.ok(device !== undefined);
    const added = performance.now();
    for (const gateway of gateways) {
      const client = await knownWithin(sub, gateway, device, added);
      await client.publishAsync('me/telemetry', '{"temperature": 1}', { qos: 1 });
      await client.publishAsync('me/telemetry', '{"temperature": "hot"}', { qos: 1 });
      if (gateway === left) await client.endAsync();
    }
    for (const server of servers) {
      const url: string = `${server.httpUrl}/api/v1/devices/${device.device}/explain?tenant=explained`;
      const answer: Response = await fetch(url, {
        headers: { authorization: `Bearer ${operator}` },
      });
      assert.equal(answer.status, 200);
      const { gateway, offsets = [] } = (await answer.json()) as Explanation;
      assert.ok(gateway !== null, 'no gateway answered');
      assert.equal(gateway.connections.length, 1);
      assert.equal(gateway.lastConnection?.reason, 'DISCONNECT');
      const refused = gateway.decisions.filter(({ code }) => code === 'VALUE_KIND');
      assert.equal(refused.length, 2);
      // One partition of each kind, all of one number.
      assert.equal(new Set(offsets.map(({ partition }) => partition % 1_024)).size, 1);
      assert.deepEqual(
        offsets.map(({ isBackfill }) => isBackfill),
        [false, false, false, true],
      );
    }
  });

  await t.test(
    'a type that is applied holds at running gateways, workers and servers',
    async (sub) => {
      const devices = await addProbes('typed', 2);
      const added = performance.now();
      const clients: MqttClient[] = [];
      for (const [i, device] of devices.entries()) {
        clients.push(await knownWithin(sub, gateways[i] ?? left, device, added));
      }
      let refused = 0;
      const receipts = (client: MqttClient) => client.on('message', () => (refused += 1));
      for (const [i, client] of clients.entries()) {
        receipts(client);
        await client.subscribeAsync(`t/typed/d/${devices[i]?.device}/receipts`, { qos: 1 });
      }
      const from = midnight();
      let seconds = 0;
      /** True when the gateway takes a reading with the new metric. */
      const takes = async (i: number) => {
        const [client, device] = [clients[i], devices[i]];
        assert.ok(client !== undefined && device !== undefined);
        const before = refused;
        seconds += 1;
        const values = { temperature: 20, humidity: seconds };
        await publish(client, device, { ts: from + seconds * 1_000, values });
        // A receipt is on its way before the acknowledgement is.
        await sleep(50);
        return refused === before;
      };
      for (const i of [0, 1]) assert.equal(await takes(i), false, 'the metric is not declared');
      const metrics = { ...TYPES.probe.metrics, humidity: { kind: 'float', unit: '%' } };
      const types = { ...TYPES, probe: { ...TYPES.probe, metrics } };
      const file = topology.file(left, 'types.yaml', stringify({ ...left.settings, types }));
      await topology.commandWith(file, 'type', 'apply');
      const applied = performance.now();
      const taken: number[] = [];
      for (const i of [0, 1]) {
        while (!(await takes(i))) {
          assert.ok(performance.now() - applied < EVERYWHERE_MS, 'the type does not get there');
        }
        taken.push(seconds);
      }
      const expected = new Map(
        devices.map(({ device }, i) => {
          const at = taken[i] ?? 0;
          const values = { temperature: 20, humidity: at };
          return [device, [{ ts: from + at * 1_000, values }]];
        }),
      );
      await assertStored(buckets, 'typed', expected, LEVELS, PATIENCE_MS);
      for (const server of servers) {
        const range = `from=${from}&to=${from + 60_000}`.replace(/\d{13}/g, iso);
        const report = await get(
          server,
          `/api/v1/query?tenant=typed&metric=humidity&${range}`,
          operator,
        );
        const { series } = report as { series: { unit?: string }[] };
        assert.deepEqual(
          series.map(({ unit }) => unit),
          ['%', '%'],
        );
      }
    },
  );

  const loads: DeviceLoad[] = [];
  await t.test(
    'devices behind the balancer move when a gateway is killed; all is stored once',
    async (sub) => {
      const devices = await topology.addDevices(left, {
        ...{ tenant: 'balanced', type: 'meter', prefix: 'meter', count: 12 },
      });
      const port = () => balancer.port;
      const load = new DeviceLoad(sub, { devices, port, seed: 500, everyMs: 40 });
      loads.push(load);
      await load.acknowledgesMore(600, PATIENCE_MS);
      assert.ok(
        balancer.taken.every((count) => count >= 4),
        `connections: ${balancer.taken}`,
      );
      // Its spool keeps what was not forwarded yet; devices are with the other gateway meanwhile.
      await left.kill();
      await load.acknowledgesMore(600, PATIENCE_MS);
      await left.start();
      await right.kill();
      await load.acknowledgesMore(600, PATIENCE_MS);
      await right.start();
      await load.finish(PATIENCE_MS);
      await assertStored(buckets, 'balanced', load.expected, LEVELS, PATIENCE_MS);
      await lettersArrived(buckets, 'balanced', load.bad, PATIENCE_MS);
      sub.diagnostic(`${load.sent} messages, ${load.readings} readings, ${load.connects} connects`);
    },
  );

  await t.test('both servers and the command line give the same balanced account', async () => {
    const accounts = [];
    for (const server of servers) {
      accounts.push(await balancedAccount(() => get(server, '/api/v1/audit', operator)));
    }
    accounts.push(
      await balancedAccount(async () =>
        JSON.parse(await topology.command(left, 'audit', '--format', 'json')),
      ),
    );
    const [one, ...others] = accounts;
    for (const other of others) assert.deepEqual(other, one);
    const row = one?.rows.find(({ tenant }) => tenant === 'balanced');
    assert.deepEqual([row?.stored, row?.inFlight, row?.difference], [loads[0]?.readings, 0, 0]);
  });

  await t.test('Kafka holds every reading for clients that are not ours', async (sub) => {
    const [load] = loads;
    assert.ok(load !== undefined);
    const { brokers, prefix } = topology;
    // The devices of this load send readings of the day before, too.
    const both = await Promise.all(
      ['readings', 'backfill'].map((topic) => readTopicByKcat(brokers, `${prefix}.${topic}`)),
    );
    const records = both.flat().filter(({ headers }) => headers.tenant === 'balanced');
    const raw = await rawReadings(buckets, 'balanced');
    const places = new Map<string, number>();
    const sent = new Map<string, { last: number; payloads: Map<number, string> }>();
    let repeated = 0;
    const seen = new Map([...raw.keys()].map((device) => [device, new Map<number, unknown>()]));
    for (const { topic, partition, key, headers, payload } of records) {
      const reading = JSON.parse(payload);
      const { tenant, device, type, ts, received, values } = reading;
      assert.equal(key, `balanced/${device}`);
      assert.equal(tenant, 'balanced');
      assert.equal(type, 'meter');
      assert.equal(headers.type, 'meter');
      assert.equal(headers.schema, '1');
      assert.equal(headers.codec, 'json');
      assert.equal(Number(headers.received), received);
      // One device, one partition; the records of one sender in its order. One that was killed repeats
      // itself: what has no higher number than before was there before.
      assert.equal(places.get(device) ?? partition, partition);
      places.set(device, partition);
      const sender = sent.get(`${topic} ${partition} ${headers.source}`) ?? {
        last: -1,
        payloads: new Map(),
      };
      sent.set(`${topic} ${partition} ${headers.source}`, sender);
      const number = Number(headers.number);
      if (number <= sender.last) {
        assert.equal(sender.payloads.get(number), payload, 'a repeated record is the same');
        repeated += 1;
        continue;
      }
      sender.last = number;
      sender.payloads.set(number, payload);
      const known = seen.get(device)?.get(ts);
      if (known !== undefined) assert.deepEqual(values, known, `${device} ${ts} came twice`);
      seen.get(device)?.set(ts, values);
    }
    for (const [device, readings] of raw) {
      assert.deepEqual(
        [...(seen.get(device) ?? [])].sort(([a], [b]) => a - b),
        readings.map(({ ts, values }) => [ts, values]),
        device,
      );
    }
    assert.ok(new Set(places.values()).size > 1, 'devices are spread over partitions');
    assert.ok(new Set(records.map(({ headers }) => headers.source)).size === 2, 'of two spools');
    sub.diagnostic(`${records.length} records, ${repeated} of them sent again after kills`);
    const letters = await readTopicByKcat(brokers, `${prefix}.dead-letters`);
    assert.ok(letters.filter(({ key }) => key.startsWith('balanced/')).length >= load.bad);
  });

  await t.test('every process ends in order', async () => {
    await Promise.all([...gateways, ...workers, ...servers].map((process) => process.stop()));
  });
});

interface Account {
  balanced: boolean | null;
  note: string;
  rows: { tenant: string; stored: number; inFlight: number; difference: number }[];
}

/** Figures of gateways come a moment after their records. */
async function balancedAccount(ask: () => Promise<unknown>): Promise<Account> {
  const until = performance.now() + 10_000;
  for (;;) {
    const account = (await ask()) as Account;
    if (account.balanced === true || performance.now() > until) {
      assert.equal(account.balanced, true, JSON.stringify(account));
      return account;
    }
    await sleep(200);
  }
}

function iso(ms: string): string {
  return new Date(Number(ms)).toISOString();
}

async function get(server: SpillwayProcess, path: string, token: string): Promise<unknown> {
  const answer = await fetch(`${server.httpUrl}${path}`, {
    headers: { authorization: `Bearer ${token}` },
  });
  const text = await answer.text();
  assert.equal(answer.status, 200, text);
  return JSON.parse(text);
}

/** Waits until a server answers a token so. */
async function answers(
  server: SpillwayProcess,
  token: string,
  status: number,
  since: number,
): Promise<void> {
  for (;;) {
    const headers = { authorization: `Bearer ${token}` };
    const answer = await fetch(`${server.httpUrl}/api/v1/devices`, { headers });
    await answer.text();
    if (answer.status === status) return;
    assert.ok(performance.now() - since < EVERYWHERE_MS, `${answer.status} instead of ${status}`);
    await sleep(20);
  }
}

/** Connects as soon as the gateway knows the device. */
async function knownWithin(
  t: TestContext,
  gateway: SpillwayProcess,
  device: TestDevice,
  since: number,
): Promise<MqttClient> {
  for (;;) {
    try {
      return await connected(t, gateway.url, device);
    } catch (error) {
      assert.ok(performance.now() - since < EVERYWHERE_MS, String(error));
    }
    await sleep(50);
  }
}

/** Waits until the gateway refuses the device. */
async function unknownWithin(
  gateway: SpillwayProcess,
  device: TestDevice,
  since: number,
): Promise<void> {
  const username = `${device.tenant}/${device.device}`;
  for (;;) {
    const options = { username, password: device.secret, reconnectPeriod: 0 };
    const client = await mqtt.connectAsync(gateway.url, options).catch(() => undefined);
    if (client === undefined) return;
    client.end(true);
    assert.ok(performance.now() - since < EVERYWHERE_MS, `${username} is still known`);
    await sleep(50);
  }
}

async function within<T>(ms: number, work: Promise<T>, what: string): Promise<T> {
  const late = new AbortController();
  const timeout = sleep(ms, undefined, { signal: late.signal }).then(
    () => assert.fail(`after ${ms} ms: not ${what}`),
    () => assert.fail('aborted'),
  );
  timeout.catch(() => {});
  try {
    return await Promise.race([work, timeout]);
  } finally {
    late.abort();
  }
}
