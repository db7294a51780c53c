import assert from 'node:assert/strict';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import mqtt, { type MqttClient } from 'mqtt';
import { audit } from '../../src/ops/ledger.ts';
import { command, SpillwayProcess, type TestDevice } from './spillway-process.ts';

const GROUP = 'rollup';
const ALL = { from: 0, to: Number.MAX_SAFE_INTEGER };
const SETTINGS = {
  logging: { format: 'json' },
  rollup: { baseWindow: '10s' },
  store: { retention: { raw: '0ms' } },
  types: { probe: { pastMax: '20000d', metrics: { v: { kind: 'float', required: true } } } },
};

async function connected(t: TestContext, program: SpillwayProcess, device: TestDevice) {
  const username = `${device.tenant}/${device.device}`;
  const client = await mqtt.connectAsync(program.url, {
    ...{ username, password: device.secret, clientId: username },
    reconnectPeriod: 0,
  });
  client.on('error', () => {});
  t.after(() => client.end(true));
  return client;
}

function publish(client: MqttClient, device: TestDevice, ts: number, v: number): Promise<unknown> {
  const topic = `t/${device.tenant}/d/${device.device}/telemetry`;
  return client.publishAsync(topic, JSON.stringify({ ts, values: { v } }), { qos: 1 });
}

async function until(what: string, ms: number, done: () => Promise<boolean>): Promise<void> {
  const late = performance.now() + ms;
  while (!(await done())) {
    assert.ok(performance.now() < late, `after ${ms} ms: not ${what}`);
    await sleep(20);
  }
}

test('from publish to query', { timeout: 120_000 }, async (t) => {
  const COUNT = 100;
  const program = new SpillwayProcess(t, SETTINGS);
  const [device] = program.addDevices('acme', 'probe', ['probe-1']);
  assert.ok(device !== undefined);
  await program.start();
  const client = await connected(t, program, device);
  const sentAt = new Map<number, number>();
  const visibleAfter = new Map<number, number>();
  const range = { tenant: 'acme', devices: ['probe-1'], ...ALL };
  await program.read(async (store) => {
    const publishing = (async () => {
      for (let i = 0; i < COUNT; i += 1) {
        const ts = Date.now() + i; // unique
        sentAt.set(ts, performance.now());
        await publish(client, device, ts, i);
        await sleep(50);
      }
    })();
    await until('visible', 20_000, async () => {
      for (const { ts } of await store.readings(range)) {
        if (!visibleAfter.has(ts)) {
          visibleAfter.set(ts, performance.now() - (sentAt.get(ts) ?? Number.NaN));
        }
      }
      return visibleAfter.size === COUNT;
    });
    await publishing;
    await until('in the rollups', 5_000, async () => {
      const rows = await store.rollups({ ...range, windowMs: 10_000 });
      return rows.reduce((sum, { state }) => sum + state.count, 0) === COUNT;
    });
  });
  const sorted = [...visibleAfter.values()].sort((a, b) => a - b);
  const at = (share: number) => Math.round(sorted[Math.ceil(share * COUNT) - 1] ?? Number.NaN);
  t.diagnostic(`publish to visible: p50 ${at(0.5)} ms, p99 ${at(0.99)} ms, at most ${at(1)} ms`);
  assert.ok(at(0.99) <= 5_000, `p99 ${at(0.99)} ms`);
  await program.stop();
});

test('SIGTERM while devices publish: exit 0, and everything acknowledged is stored', {
  timeout: 120_000,
}, async (t) => {
  const program = new SpillwayProcess(t, SETTINGS);
  const devices = program.addDevices('acme', 'probe', ['a', 'b', 'c', 'd', 'e']);
  await program.start();
  const acknowledged = new Map<string, number[]>();
  const publishing = devices.map(async (device) => {
    const client = await connected(t, program, device);
    const list: number[] = [];
    acknowledged.set(device.device, list);
    let open = true;
    client.on('close', () => {
      open = false;
    });
    const from = Date.now();
    for (let i = 0; open; i += 1) {
      publish(client, device, from + i, i).then(
        () => list.push(i),
        () => {},
      );
      if (i % 10 === 9) await sleep(2);
    }
  });
  await sleep(1_500);
  await program.stop();
  await Promise.all(publishing);
  await program.read(async (store, consumer) => {
    for (const [device, list] of acknowledged) {
      const rows = await store.readings({ tenant: 'acme', devices: [device], ...ALL });
      const stored = new Set(rows.map(({ values }) => Number(values.v)));
      assert.equal(stored.size, rows.length);
      assert.ok(list.length > 100, `${device}: ${list.length} acknowledged`);
      const lost = list.filter((i) => !stored.has(i));
      assert.deepEqual(lost, [], `${device}: acknowledged and not stored`);
    }
    const end = (await consumer.bounds()).get(0)?.end;
    assert.equal((await store.position(GROUP)).get(0), end, 'the log was processed to its end');
    const account = await audit({ store, consumer, group: GROUP });
    assert.equal(account.balanced, true);
    assert.equal(account.rows[0]?.inFlight, 0);
  });
  const total = [...acknowledged.values()].reduce((sum, list) => sum + list.length, 0);
  t.diagnostic(`${total} messages were acknowledged`);
  const account = await command(t, ['audit', '--config', program.file]);
  assert.equal(account.code, 0, account.stderr);
  assert.match(account.stdout, /Every message is accounted for\./);
});

test('a wrong configuration ends with exit code 1 and names file and line', {
  timeout: 120_000,
}, async (t) => {
  const program = new SpillwayProcess(t, SETTINGS);
  const file = join(program.dir, 'wrong.yaml');
  writeFileSync(file, `data:\n  dir: ${program.dir}\nrollup:\n  baseWindow: soon\n`);
  const { code, stderr } = await command(t, ['run', '--config', file]);
  assert.equal(code, 1);
  assert.match(stderr, /^CONFIG_INVALID: /m);
  assert.ok(stderr.includes(`${file}:4:`), stderr);
  assert.match(stderr, /rollup\.baseWindow: expected a duration .*soon/);
});

test('a second program on one data directory ends with DATA_DIR_LOCKED, the first goes on', {
  timeout: 120_000,
}, async (t) => {
  const program = new SpillwayProcess(t, SETTINGS);
  const [device] = program.addDevices('acme', 'probe', ['probe-1']);
  assert.ok(device !== undefined);
  await program.start();
  const { code, stderr } = await command(t, ['run', '--config', program.file]);
  assert.equal(code, 1);
  assert.match(stderr, /^DATA_DIR_LOCKED: /m);
  const client = await connected(t, program, device);
  await publish(client, device, Date.now(), 1);
  await program.stop();
  await program.read(async (store) => {
    assert.equal((await store.readings({ tenant: 'acme', ...ALL })).length, 1);
  });
});

test('a rollup worker that fails stops neither the gateway nor the API, and catches up', {
  timeout: 120_000,
}, async (t) => {
  const program = new SpillwayProcess(t, SETTINGS);
  const [device] = program.addDevices('acme', 'probe', ['probe-1']);
  assert.ok(device !== undefined);
  // A file that the worker meets as soon as there is a reading of its day.
  const spoilt = join(program.config.data.dir, 'store', 'raw-2020-01-01.db');
  mkdirSync(join(program.config.data.dir, 'store'), { recursive: true });
  writeFileSync(spoilt, 'no database at all');
  const child = await program.start();
  const client = await connected(t, program, device);
  await publish(client, device, Date.UTC(2020, 0, 1), 0);
  await child.printed(/"code":"STORE_CORRUPT".*the rollup worker stopped/);
  const from = Date.now();
  for (let i = 1; i <= 100; i += 1) await publish(client, device, from + i, i);
  assert.equal((await fetch(`${program.httpUrl}/healthz`)).status, 200);
  await program.read(async (store, consumer) => {
    const end = (await consumer.bounds()).get(0)?.end ?? 0;
    assert.ok(
      ((await store.position(GROUP)).get(0) ?? 0) < end - 100,
      'nothing is stored meanwhile',
    );
  });
  rmSync(spoilt);
  await program.read((store) =>
    until('caught up', 15_000, async () => {
      const rows = await store.readings({ tenant: 'acme', ...ALL });
      return rows.length === 101;
    }),
  );
  await program.stop();
  await program.read(async (store, consumer) => {
    const account = await audit({ store, consumer, group: GROUP });
    assert.equal(account.balanced, true);
    assert.deepEqual([account.rows[0]?.received, account.rows[0]?.stored], [101, 101]);
  });
});

test('stopped while the rollup worker is down, it says so and goes on at the next start', {
  timeout: 120_000,
}, async (t) => {
  const program = new SpillwayProcess(t, SETTINGS);
  const [device] = program.addDevices('acme', 'probe', ['probe-1']);
  assert.ok(device !== undefined);
  const spoilt = join(program.config.data.dir, 'store', 'raw-2020-01-01.db');
  mkdirSync(join(program.config.data.dir, 'store'), { recursive: true });
  writeFileSync(spoilt, 'no database at all');
  const child = await program.start();
  const client = await connected(t, program, device);
  await publish(client, device, Date.UTC(2020, 0, 1), 0);
  await child.printed(/the rollup worker stopped/);
  await publish(client, device, Date.now(), 1);
  await program.stop();
  assert.match(child.stderr, /the rollup worker did not finish/);
  rmSync(spoilt);
  await program.start();
  await program.stop();
  await program.read(async (store, consumer) => {
    assert.equal((await store.readings({ tenant: 'acme', ...ALL })).length, 2);
    assert.equal((await audit({ store, consumer, group: GROUP })).balanced, true);
  });
});
