import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import mqtt, { type MqttClient } from 'mqtt';
import { stringify } from 'yaml';
import { windowsOf } from '../../src/config/windows.ts';
import type { Explanation } from '../../src/http/explain.ts';
import { audit } from '../../src/ops/ledger.ts';
import { assertRollups, type Measured } from './naive.ts';
import { command, SpillwayProcess, type TestDevice } from './spillway-process.ts';

/** Longer than anything takes on a busy machine, ms. */
const PATIENCE_MS = 90_000;
const EVERYTHING = { from: 0, to: Number.MAX_SAFE_INTEGER };
const SETTINGS = {
  rollup: { baseWindow: '10s', lateness: '2s', flushInterval: '200ms' },
  quotas: { default: { device: { messages: ['200/1s'] } } },
  types: { probe: { period: '1s', pastMax: '7d', metrics: { v: {} } } },
};

async function connected(t: TestContext, program: SpillwayProcess, device: TestDevice) {
  const username = `${device.tenant}/${device.device}`;
  const client = await mqtt.connectAsync(program.url, {
    ...{ username, password: device.secret, clientId: username, reconnectPeriod: 0 },
  });
  client.on('error', () => {});
  t.after(() => client.end(true));
  return client;
}

async function send(client: MqttClient, readings: readonly Measured[]): Promise<void> {
  await client.publishAsync('me/telemetry', JSON.stringify(readings), { qos: 1 });
}

const series = (from: number, count: number, stepMs: number): Measured[] =>
  Array.from({ length: count }, (_, i) => ({ ts: from + i * stepMs, values: { v: i % 97 } }));

async function until(what: string, done: () => boolean | Promise<boolean>): Promise<void> {
  const late = performance.now() + PATIENCE_MS;
  while (!(await done())) {
    assert.ok(performance.now() < late, `not ${what}`);
    await sleep(100);
  }
}

async function metric(program: SpillwayProcess, name: string): Promise<number> {
  const text = await (await fetch(`${program.httpUrl}/metrics`)).text();
  const [, value = 'NaN'] = new RegExp(`^${name} (\\S+)$`, 'm').exec(text) ?? [];
  return Number(value);
}

/** Version of the log's files, which says whether the release before may read them. */
function logVersion(program: SpillwayProcess): unknown {
  const db = new DatabaseSync(join(program.config.data.dir, 'log', 'log.db'), { readOnly: true });
  try {
    return db.prepare("SELECT value FROM meta WHERE key = 'version'").get()?.value;
  } finally {
    db.close();
  }
}

/** Raw, every level of rollups, and the account, of one device. */
async function verify(
  program: SpillwayProcess,
  device: string,
  want: readonly Measured[],
): Promise<void> {
  await program.read(async (store, consumer) => {
    const account = await audit({ store, consumer, group: 'rollup' });
    assert.equal(account.balanced, true, JSON.stringify(account.rows));
    const query = { tenant: 'acme', devices: [device], ...EVERYTHING };
    const raw = await store.readings(query);
    assert.deepEqual(
      raw.map(({ ts, values }) => ({ ts, values })),
      [...want].sort((a, b) => a.ts - b.ts),
    );
    for (const windowMs of windowsOf(program.config)) {
      assertRollups(await store.rollups({ ...query, windowMs }), want, windowMs, device);
    }
  });
}

test('a device comes back with a day of readings, and nobody else notices', {
  timeout: 240_000,
}, async (t) => {
  const program = new SpillwayProcess(t, {
    ...SETTINGS,
    backfill: { after: '1m', deviceReadingsPerSecond: 1_500, windowsPerSecond: 400 },
  });
  const [late, live] = program.addDevices('acme', 'probe', ['late', 'live']);
  assert.ok(late !== undefined && live !== undefined);
  await program.start();
  const [token = ''] = (
    await command(t, ['token', 'add', '--tenant', 'acme', '--config', program.file])
  ).stdout.split('\n');

  const liveClient = await connected(t, program, live);
  const lateClient = await connected(t, program, late);
  const lost: string[] = [];
  liveClient.on('close', () => lost.push('live'));
  lateClient.on('close', () => lost.push('late'));
  const sentLive: Measured[] = [];
  const stop = new AbortController();
  const publishing = (async () => {
    for (let i = 0; !stop.signal.aborted; i += 1) {
      const reading = { ts: Date.now(), values: { v: i } };
      sentLive.push(reading);
      await send(liveClient, [reading]);
      await sleep(50);
    }
  })();
  // A reading each 8 s of a day, 20 to a message, all at once: many times the quota.
  const readings = series(Date.now() - 86_400_000, 10_000, 8_000);
  const began = performance.now();
  const messages = Array.from({ length: 500 }, (_, i) => readings.slice(i * 20, i * 20 + 20));
  let acknowledged = 0;
  const sending = Promise.all(
    messages.map((one) => send(lateClient, one).then(() => (acknowledged += one.length))),
  );
  let isWaiting = false;
  let isHeld = false;
  let worstMs = 0;
  await until('processed', async () => {
    isHeld ||= (await metric(program, 'spillway_backfill_connections_held')) > 0;
    isWaiting ||= (await metric(program, 'spillway_backfill_waiting_records')) > 0;
    await program.read(async (store) => {
      const newest = (await store.latest('acme', { devices: ['live'] })).get('live') ?? Date.now();
      worstMs = Math.max(worstMs, Date.now() - newest);
    });
    return (await metric(program, 'spillway_backfill_readings_total')) === 10_000;
  });
  await sending;
  const seconds = (performance.now() - began) / 1_000;
  assert.equal(acknowledged, 10_000);
  // 1,500 at once and as many each second.
  assert.ok(seconds > 5, `${seconds} s`);
  assert.ok(isHeld, 'its socket was read all the time');
  assert.ok(isWaiting, 'nothing ever waited in the lane');
  assert.deepEqual(lost, []);
  // A flush and the time to look; the lane alone takes half a minute.
  t.diagnostic(`${seconds.toFixed(1)} s; live readings in the store after ${worstMs} ms at most`);
  assert.ok(worstMs < 8_000, `live readings were ${worstMs} ms behind`);

  const explained = await command(
    t,
    ['explain', 'acme/late', '--url', program.httpUrl, '--format', 'json'],
    { SPILLWAY_TOKEN: token },
  );
  const { gateway } = JSON.parse(explained.stdout) as Explanation;
  assert.equal(gateway?.backfill?.readings, 10_000, explained.stderr);
  assert.ok(gateway.decisions.some(({ code }) => code === 'BACKFILL_RATE'));
  assert.ok(!gateway.decisions.some(({ code }) => code === 'DEVICE_MESSAGES'));
  assert.equal(await metric(program, 'spillway_backfill_accepted_total'), 10_000);

  stop.abort();
  await publishing;
  await program.stop();
  await verify(program, 'late', readings);
  await verify(program, 'live', sentLive);
});

test('the same reading by both lanes counts once, whatever order they are processed in', {
  timeout: 120_000,
}, async (t) => {
  const program = new SpillwayProcess(t, { ...SETTINGS, backfill: { after: '4s' } });
  const [device] = program.addDevices('acme', 'probe', ['twice']);
  assert.ok(device !== undefined);
  await program.start();
  const client = await connected(t, program, device);
  const now = Date.now();
  const readings = series(now - 500, 30, 10);
  await send(client, readings);
  await sleep(4_500);
  // Again, long after; the last of them with other values. Then what is new and old in one message.
  const changed = readings.map(({ ts, values }, i) =>
    i < 20 ? { ts, values } : { ts, values: { v: -i } },
  );
  await send(client, changed);
  const more = [
    { ts: now - 3_600_000, values: { v: 1 } },
    { ts: Date.now(), values: { v: 2 } },
  ];
  await send(client, more);
  await program.stop();
  assert.equal(logVersion(program), 1);
  await verify(program, 'twice', [...changed, ...more]);
  await program.read(async (store) => {
    const totals = await store.ledgerTotals({ tenant: 'acme' });
    assert.deepEqual([...totals].sort(), [
      ['duplicate', 30],
      ['stored', 32],
    ]);
    const kinds = (await store.ledger({ tenant: 'acme' }))
      .filter(({ outcome }) => outcome === 'duplicate')
      .map(({ code, count }) => [code, count]);
    assert.deepEqual(kinds.sort(), [
      ['CONFLICT', 10],
      ['IDENTICAL', 20],
    ]);
  });
});

test('old readings that wait survive a stop and a kill; meanwhile the release before is refused', {
  timeout: 180_000,
}, async (t) => {
  const slow = { ...SETTINGS, backfill: { windowsPerSecond: 1 }, shutdown: { drainTimeout: '4s' } };
  const program = new SpillwayProcess(t, slow);
  const [device] = program.addDevices('acme', 'probe', ['late']);
  assert.ok(device !== undefined);
  const readings = series(Date.now() - 3 * 86_400_000, 3_000, 60_000);
  await program.start();
  const client = await connected(t, program, device);
  for (let i = 0; i < 3_000; i += 100) await send(client, readings.slice(i, i + 100));
  await until('waiting', async () => {
    return (await metric(program, 'spillway_backfill_waiting_records')) > 1_000;
  });
  await program.kill();
  assert.equal(logVersion(program), 2);
  await program.start();
  await sleep(1_000);
  // It has a quarter of the time to stop to go on with them, as fast as it can.
  await program.stop();
  const rest = await program.read(async (store, consumer) => {
    const account = await audit({ store, consumer, group: 'rollup' });
    assert.equal(account.balanced, true, JSON.stringify(account.rows));
    const { end = 0 } = (await consumer.bounds()).get(1) ?? {};
    return end - ((await store.position('rollup')).get(1) ?? 0);
  });
  assert.equal(logVersion(program), rest > 0 ? 2 : 1);

  writeFileSync(program.file, stringify({ ...program.settings, backfill: {}, shutdown: {} }));
  await program.start();
  await until('processed', async () => {
    const left = await metric(program, 'spillway_backfill_waiting_records');
    return left === 0 && logVersion(program) === 1;
  });
  await program.stop();
  await verify(program, 'late', readings);
});
