import assert from 'node:assert/strict';
import { mkdirSync, watch } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { windowsOf as windowSizesOf } from '../../src/config/windows.ts';
import { audit } from '../../src/ops/ledger.ts';
import { seeded } from '../helpers/seeded.ts';
import { assertRollups, differences } from './naive.ts';
import { RestlessDevice } from './restless-device.ts';
import { SpillwayProcess } from './spillway-process.ts';

const DAY_MS = 86_400_000;
const DEVICES = 10;
const GROUP = 'rollup';
const SETTINGS = {
  logging: { format: 'json', level: 'info' },
  rollup: { baseWindow: '10s', lateness: '30s', flushInterval: '150ms' },
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
  },
};

/** When a kill comes; each cycle goes through all of them. */
const PHASES = [
  'traffic',
  'flush',
  'starting',
  'committed',
  'flush',
  'draining',
  'traffic',
] as const;
const KILLS = 21;

test('killed again and again while devices publish, it loses and repeats nothing', {
  timeout: 180_000,
}, async (t) => {
  const seed = Number(process.env.CRASH_SEED ?? Math.floor(Math.random() * 2 ** 31));
  t.diagnostic(`seed ${seed} (CRASH_SEED=${seed} repeats the schedule, not the machine's timing)`);
  const random = seeded(seed);
  const program = new SpillwayProcess(t, SETTINGS);
  const names = Array.from({ length: DEVICES }, (_, i) => `meter-${i}`);
  const identities = program.addDevices('acme', 'meter', names);
  await program.start();
  // Three hours before a midnight: readings cross hours and a day, and none lies in the future.
  const from = Math.floor(Date.now() / DAY_MS) * DAY_MS - DAY_MS - DAY_MS / 8;
  const devices = identities.map(
    (identity, i) =>
      new RestlessDevice({ identity, port: () => program.mqttPort, seed: seed + i + 1, from }),
  );
  t.after(() => {
    for (const device of devices) device.end();
  });
  const running = Promise.all(devices.map((device) => device.run(25)));

  const kills = new Map<string, number>();
  for (let kill = 0; kill < KILLS; kill += 1) {
    const phase = PHASES[kill % PHASES.length] ?? 'traffic';
    if (phase !== 'starting' && program.mqttPort === undefined) await program.start();
    await killIn(phase, program, random);
    kills.set(phase, (kills.get(phase) ?? 0) + 1);
  }
  if (program.mqttPort === undefined) await program.start();
  await sleep(500);
  for (const device of devices) device.stop();
  await running;
  await Promise.all(devices.map((device) => device.acknowledgedAll(15_000)));
  await program.stop();

  const sum = (of: (device: RestlessDevice) => number) =>
    devices.reduce((total, device) => total + of(device), 0);
  const readings = sum((device) => device.readings.length);
  t.diagnostic(
    `${[...kills].map(([phase, count]) => `${phase} ${count}`).join(', ')}; ${sum((d) => d.sent)} messages, ` +
      `${readings} readings, ${sum((d) => d.repeated)} repeated and ${sum((d) => d.bad)} bad on purpose, ` +
      `${sum((d) => d.connects)} connects`,
  );
  assert.ok(readings > 1_000, `only ${readings} readings were sent`);
  await verify(t, program, devices);
});

async function killIn(
  phase: (typeof PHASES)[number],
  program: SpillwayProcess,
  random: () => number,
): Promise<void> {
  if (phase === 'starting') {
    program.spawn();
    await sleep(1_200 * random());
    await program.kill();
    return;
  }
  if (phase === 'traffic') await sleep(100 + 600 * random());
  else if (phase === 'flush') {
    await changed(join(program.config.data.dir, 'store'), /^(raw|rollup|ledger)/);
    await sleep(15 * random());
  } else if (phase === 'committed') {
    await program.read(async (store) => {
      const before = (await store.position(GROUP)).get(0);
      while ((await store.position(GROUP)).get(0) === before) await sleep(1);
    });
  } else {
    await sleep(300);
    program.current().process.kill('SIGTERM');
    await sleep(120 * random());
    // The last moments of draining may be over by now.
    const how = await program.kill({ mayHaveEnded: true });
    assert.ok(how === 'SIGKILL' || how === 0, `ended with ${how}`);
    return;
  }
  await program.kill();
}

/** Waits until a file whose name matches is written to. */
async function changed(dir: string, name: RegExp): Promise<void> {
  mkdirSync(dir, { recursive: true });
  const watcher = watch(dir);
  try {
    await new Promise<void>((resolve, reject) => {
      const late = setTimeout(() => reject(new Error(`nothing was written to ${dir}`)), 10_000);
      watcher.on('change', (_, file) => {
        if (!name.test(String(file))) return;
        clearTimeout(late);
        resolve();
      });
    });
  } finally {
    watcher.close();
  }
}

async function verify(
  t: TestContext,
  program: SpillwayProcess,
  devices: readonly RestlessDevice[],
): Promise<void> {
  await program.read(async (store, consumer) => {
    const account = await audit({ store, consumer, group: GROUP, by: 'device' });
    assert.equal(account.balanced, true, JSON.stringify(account.rows));
    const rows = new Map(account.rows.map((row) => [row.device, row]));
    const all = { from: 0, to: Number.MAX_SAFE_INTEGER };
    const letters = await store.countDeadLetters({ tenant: 'acme', ...all });
    let duplicates = 0;
    for (const { identity, readings, bad, repeated } of devices) {
      const { tenant, device } = identity;
      const of = { tenant, devices: [device], ...all };
      const raw = await store.readings(of);
      const want = [...readings].sort((a, b) => a.ts - b.ts);
      assert.deepEqual(differences(raw, want), [], `raw readings of ${device}`);
      for (const windowMs of windowSizesOf(program.config)) {
        assertRollups(await store.rollups({ ...of, windowMs }), want, windowMs, device);
      }
      const row = rows.get(device);
      assert.ok(row !== undefined, `${device} has no row in the account`);
      assert.equal(row.stored, want.length, `${device} stored`);
      assert.equal(row.inFlight, 0, `${device} in flight`);
      assert.equal(row.difference, 0, `${device} difference`);
      const total = (counts: ReadonlyMap<string, number>) =>
        [...counts.values()].reduce((a, b) => a + b, 0);
      assert.equal(total(row.shed), 0, `${device} shed`);
      assert.deepEqual([...row.duplicate.keys()], ['IDENTICAL'], `${device} duplicates`);
      assert.ok(total(row.duplicate) >= repeated, `${device} duplicates`);
      assert.ok(total(row.deadLettered) >= bad, `${device} dead letters`);
      const kept = letters.filter((letter) => letter.device === device);
      assert.deepEqual(
        kept.map(({ code, count }) => [code, count]).sort(),
        [...row.deadLettered].sort(),
        `${device} dead letters`,
      );
      duplicates += total(row.duplicate) - repeated;
    }
    t.diagnostic(`${duplicates} readings were redelivered after kills and count once`);
  });
}
