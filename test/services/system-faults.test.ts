import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { SpillwayProcess } from '../system/spillway-process.ts';
import { DeviceLoad, midnight } from './device-load.ts';
import { influxEnvironment, writeLines } from './influx-env.ts';
import { type Action, InfluxProxy } from './influx-proxy.ts';
import { influxdProgram, OwnInfluxd } from './own-influxd.ts';
import { kafkaProgram, NO_PROGRAM, OwnKafka } from './own-kafka.ts';
import { connected, publish } from './publishing.ts';
import {
  assertStored,
  countRaw,
  type Level,
  lettersArrived,
  rawArrived,
  rawReadings,
} from './stored-readings.ts';
import { NO_SERVICES, Topology } from './topology.ts';

/**
 * Every fault of the services and of processes that a deployment meets, one after the other in one
 * topology: a gateway, two rollup workers, a Kafka and an InfluxDB of the test's own, and a proxy before
 * the InfluxDB. In each, devices publish all the time, and in the end every reading is in InfluxDB exactly
 * once, raw and in the rollups, as plain Flux sees it.
 */

const SETTINGS = {
  logging: { format: 'json', level: 'info' },
  rollup: { baseWindow: '1m', lateness: '30s', flushInterval: '250ms' },
  types: {
    meter: {
      pastMax: '7d',
      metrics: {
        temperature: { kind: 'float', min: -40, max: 85, required: true },
        pulses: { kind: 'int', min: 0 },
        open: { kind: 'bool' },
        mode: { kind: 'string', values: ['auto', 'off'] },
      },
    },
    gauge: { pastMax: '7d', metrics: { level: { kind: 'float' }, flow: { kind: 'float' } } },
  },
};
const LEVELS: Level[] = [
  { name: '1m', ms: 60_000 },
  { name: '1h', ms: 3_600_000 },
  { name: '1d', ms: 86_400_000 },
];
const DEVICES = 8;
const EVERY_MS = 25;
/** Long enough for a service that starts again on a busy machine. */
const PATIENCE_MS = 60_000;

const influx = influxEnvironment();
const kafkaJars = kafkaProgram();
const influxd = influx && influxdProgram(influx);
const skip =
  NO_SERVICES ||
  (kafkaJars === undefined && NO_PROGRAM) ||
  (influxd === undefined && 'InfluxDB does not run on this machine; INFLUXD may name its program');

test('faults of Kafka, InfluxDB and processes: every acknowledged reading is stored exactly once', {
  skip,
  timeout: 480_000,
}, async (t) => {
  assert.ok(kafkaJars !== undefined && influxd !== undefined);
  const kafka = await OwnKafka.start(kafkaJars);
  t.after(() => kafka.remove());
  const database = await OwnInfluxd.start(influxd);
  t.after(() => database.remove());
  const proxy = await InfluxProxy.start(database.env.url);
  t.after(() => proxy.close());
  const topology = new Topology(t, {
    brokers: kafka.brokers,
    influx: database.env,
    influxUrl: proxy.url,
    settings: SETTINGS,
    kafka: { sessionTimeout: '6s', requestTimeout: '5s', connectTimeout: '2s' },
    influxdb: { attemptTimeout: '4s' },
  });
  const { buckets } = topology;
  const gateway = await topology.start(['gateway']);
  const [first, second] = await Promise.all([
    topology.start(['rollup']),
    topology.start(['rollup']),
  ]);
  const loads: DeviceLoad[] = [];
  let seed = 1;

  const load = async (
    sub: TestContext,
    at: SpillwayProcess,
    tenant: string,
    options: { everyMs?: number; window?: number } = {},
  ): Promise<DeviceLoad> => {
    const device = { tenant, type: 'meter', prefix: 'meter', count: DEVICES };
    const devices = await topology.addDevices(gateway, device);
    const one = DeviceLoad.at(sub, at, {
      ...{ devices, seed, everyMs: options.everyMs ?? EVERY_MS },
      ...(options.window !== undefined && { window: options.window }),
    });
    seed += DEVICES;
    loads.push(one);
    await one.acknowledgesMore(200, PATIENCE_MS);
    return one;
  };

  /** Ends a load and looks for every reading of it. `exact`: no device had to send anything again. */
  const settle = async (sub: TestContext, one: DeviceLoad, exact = true): Promise<void> => {
    const began = performance.now();
    await one.finish(PATIENCE_MS);
    const acknowledged = performance.now();
    await rawArrived(buckets, one.tenant, one.readings, PATIENCE_MS);
    const stored = performance.now();
    await assertStored(buckets, one.tenant, one.expected, LEVELS, PATIENCE_MS);
    const letters = await lettersArrived(buckets, one.tenant, one.bad, PATIENCE_MS);
    if (exact) assert.equal(letters.length, one.bad, 'dead letters');
    sub.diagnostic(
      `${one.sent} messages, ${one.readings} readings, ${one.connects} connects; acknowledged after ` +
        `${Math.round(acknowledged - began)} ms, stored ${Math.round(stored - acknowledged)} ms later, ` +
        `checked in ${Math.round(performance.now() - stored)} ms`,
    );
  };

  let failed = '';
  /** What follows a failure would only tell of it again. */
  const step = (name: string, work: (sub: TestContext) => Promise<void>) =>
    t.test(name, async (sub) => {
      assert.equal(failed, '', 'a step before this one failed');
      failed = name;
      await work(sub);
      failed = '';
    });

  await step('Kafka is killed and started again while devices publish', async (sub) => {
    const one = await load(sub, gateway, 'kafka-killed');
    await kafka.kill();
    await one.acknowledgesMore(1_000, PATIENCE_MS);
    assert.equal(one.connects, DEVICES, 'no connection ended');
    await kafka.run();
    await one.acknowledgesMore(500, PATIENCE_MS);
    await settle(sub, one);
  });

  await step('Kafka is paused for 30 s', async (sub) => {
    const one = await load(sub, gateway, 'kafka-paused', { everyMs: 100 });
    kafka.pause();
    const until = performance.now() + 30_000;
    while (performance.now() < until) await one.acknowledgesMore(50, 10_000);
    kafka.resume();
    await one.acknowledgesMore(200, PATIENCE_MS);
    assert.equal(one.connects, DEVICES, 'no connection ended');
    await settle(sub, one);
  });

  await step('InfluxDB is killed and started again', async (sub) => {
    const one = await load(sub, gateway, 'influxdb-killed');
    await database.kill();
    await one.acknowledgesMore(1_000, PATIENCE_MS);
    await database.run();
    await one.acknowledgesMore(300, PATIENCE_MS);
    await settle(sub, one);
  });

  await step('InfluxDB is paused for longer than requests wait', async (sub) => {
    const one = await load(sub, gateway, 'influxdb-paused');
    database.pause();
    await sleep(9_000);
    await one.acknowledgesMore(100, PATIENCE_MS);
    database.resume();
    await one.acknowledgesMore(300, PATIENCE_MS);
    await settle(sub, one);
  });

  await step('InfluxDB answers 503, 429, 500, or not at all', async (sub) => {
    const one = await load(sub, gateway, 'influxdb-refusing');
    const faults: Action[] = [
      { status: 503, headers: { 'retry-after': '1' }, body: '{"code":"unavailable"}' },
      { status: 429, headers: { 'retry-after': '1' }, body: '{"code":"too many requests"}' },
      { status: 500, body: '{"code":"internal error","message":"unexpected error"}' },
      { status: 500, body: 'out of order' },
      'lose',
      'refuse',
    ];
    const met = new Map<number, number>();
    proxy.obey(({ isWrite, index }) => {
      const at = index % (faults.length * 2);
      const fault = faults[at];
      if (!isWrite || fault === undefined) return 'forward';
      met.set(at, (met.get(at) ?? 0) + 1);
      return fault;
    });
    const until = performance.now() + PATIENCE_MS;
    while (met.size < faults.length) {
      assert.ok(performance.now() < until, `faults that were met: ${[...met.keys()]}`);
      await sleep(100);
    }
    await one.acknowledgesMore(300, PATIENCE_MS);
    proxy.obey(() => 'forward');
    await settle(sub, one);
  });

  await step('InfluxDB refuses some points of a batch', async (sub) => {
    const one = await load(sub, gateway, 'influxdb-partial');
    const [device] = await topology.addDevices(gateway, {
      ...{ tenant: 'gauges', type: 'gauge', prefix: 'gauge', count: 1 },
    });
    assert.ok(device !== undefined);
    // Somebody else has written texts to a field, which the database holds on to for that day.
    const noon = midnight() + 43_200_000;
    const foreign = `gauge,device=foreign,tenant=foreign level="full" ${noon}`;
    await writeLines(database.env, `${topology.prefix}-raw`, foreign);
    const readings = Array.from({ length: 40 }, (_, i) => ({
      ts: noon + i * 1_000,
      values: i % 2 === 0 ? { flow: i } : { flow: i, level: i },
    }));
    await publish(await connected(sub, gateway.url, device), device, readings);
    const good = readings.filter((_, i) => i % 2 === 0);
    const want = new Map([[device.device, good]]);
    await assertStored(buckets, 'gauges', want, LEVELS, PATIENCE_MS);
    const letters = await lettersArrived(buckets, 'gauges', 20, PATIENCE_MS);
    assert.equal(letters.length, 20);
    for (const { message } of letters) assert.match(message, /field type conflict/);
    await settle(sub, one);
  });

  await step('one of two rollup workers is killed under load', async (sub) => {
    for (const worker of [first, second]) await worker.current().printed(/"gained":[1-9]/);
    const one = await load(sub, gateway, 'worker-killed');
    await first.kill();
    await one.acknowledgesMore(1_000, PATIENCE_MS);
    await settle(sub, one);
    await first.start();
  });

  await step(
    'a rollup worker is stopped until another one has its partitions, and goes on',
    async (sub) => {
      const one = await load(sub, gateway, 'worker-stopped', { everyMs: 50 });
      for (const worker of [first, second]) {
        const { process } = worker.current();
        // Anywhere, in the middle of a flush as well.
        process.kill('SIGSTOP');
        try {
          // The session, and a rebalance.
          await sleep(9_000);
          await one.acknowledgesMore(100, PATIENCE_MS);
        } finally {
          process.kill('SIGCONT');
        }
        await one.acknowledgesMore(500, PATIENCE_MS);
      }
      await settle(sub, one);
    },
  );

  await step('a third worker joins under load and leaves', async (sub) => {
    const one = await load(sub, gateway, 'rebalanced');
    const third = await topology.start(['rollup']);
    await third.current().printed(/"gained":[1-9]/);
    await one.acknowledgesMore(500, PATIENCE_MS);
    await third.stop();
    await one.acknowledgesMore(500, PATIENCE_MS);
    await settle(sub, one);
  });

  await step('a gateway is killed with a full spool while Kafka is away', async (sub) => {
    const small = await topology.start(['gateway'], {
      log: { embedded: { diskBytesMax: '1MiB', compression: 'none' } },
    });
    const one = await load(sub, small, 'spool-full', { everyMs: 10, window: 100 });
    await kafka.kill();
    await full(small);
    const { acknowledged } = one;
    await sleep(1_000);
    assert.equal(one.acknowledged, acknowledged, 'nothing is acknowledged by a full spool');
    assert.equal(one.connects, DEVICES, 'no connection ended');
    await small.kill();
    await small.start();
    await full(small);
    await kafka.run();
    await one.acknowledgesMore(500, PATIENCE_MS);
    await settle(sub, one, false);
    await small.stop();
  });

  await step('acknowledge: replicated waits for Kafka with living connections', async (sub) => {
    const careful = await topology.start(['gateway'], {
      log: { kafka: { acknowledge: 'replicated' } },
    });
    const one = await load(sub, careful, 'replicated');
    kafka.pause();
    // What Kafka has taken before is acknowledged yet.
    await sleep(500);
    const { acknowledged, sent } = one;
    await sleep(7_000);
    assert.equal(one.acknowledged, acknowledged, 'nothing is acknowledged while Kafka is away');
    assert.ok(one.sent > sent, 'devices went on');
    assert.equal(one.connects, DEVICES, 'no connection ended');
    kafka.resume();
    await one.acknowledgesMore(500, PATIENCE_MS);
    assert.equal(one.connects, DEVICES, 'no connection ended');
    await settle(sub, one);
    // Killed while it waits: what it has not acknowledged comes again.
    const again = await load(sub, careful, 'replicated-killed');
    kafka.pause();
    await sleep(2_000);
    await careful.kill();
    kafka.resume();
    await careful.start();
    await again.acknowledgesMore(500, PATIENCE_MS);
    await settle(sub, again, false);
    await careful.stop();
  });

  await step('nothing was lost or doubled by what came after', async () => {
    await gateway.stop();
    const account = JSON.parse(await topology.command(first, 'audit', '--format', 'json')) as {
      balanced: unknown;
      rows: { tenant: string; stored: number; inFlight: number }[];
    };
    assert.equal(account.balanced, true);
    for (const one of loads) {
      const row = account.rows.find(({ tenant }) => tenant === one.tenant);
      assert.deepEqual([row?.stored, row?.inFlight], [one.readings, 0], one.tenant);
    }
    await Promise.all([first.stop(), second.stop()]);
    for (const one of loads) {
      assert.equal(await countRaw(buckets, one.tenant), one.readings, one.tenant);
      assert.equal((await rawReadings(buckets, one.tenant)).size, DEVICES, one.tenant);
      await assertStored(buckets, one.tenant, one.expected, LEVELS, 0);
    }
  });
});

/** Waits until the spool has used up its disk budget. */
async function full(gateway: SpillwayProcess): Promise<void> {
  const until = performance.now() + PATIENCE_MS;
  for (;;) {
    const metrics = await (await fetch(`${gateway.httpUrl}/metrics`)).text();
    if (/^spillway_log_full 1$/m.test(metrics)) return;
    assert.ok(performance.now() < until, 'the spool does not fill');
    await sleep(100);
  }
}
