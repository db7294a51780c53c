import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { ROLLUP_GROUP } from '../../src/engines.ts';
import { audit } from '../../src/ops/ledger.ts';
import type { WholeStatus } from '../../src/ops/whole-status.ts';
import { publishBytes, RawClient } from '../helpers/raw-client.ts';
import { SpillwayProcess } from './spillway-process.ts';

/** The real program, whose rollup worker may be a second behind and no more before devices are slowed down. */
const BRAKE_MS = 3_000;
/** Longer than anything takes on a busy machine, ms. */
const PATIENCE_MS = 120_000;
const READINGS = 20;
/** Messages of a device that are not acknowledged. */
const WINDOW = 4;
const SLOWED = 'overload: slowed down for the rollup worker';

function programWith(t: TestContext, rollup: object): SpillwayProcess {
  return new SpillwayProcess(t, {
    types: { meter: { pastMax: '7d', metrics: { v: {} } } },
    rollup: { flushInterval: '100ms', ...rollup },
    backfill: { enabled: false },
    overload: { lag: { brake: `${BRAKE_MS}ms` } },
    quotas: { default: { device: { connections: 10 } } },
  });
}

async function statusOf(program: SpillwayProcess): Promise<WholeStatus> {
  const response = await fetch(`${program.httpUrl}/api/v1/status`);
  return (await response.json()) as WholeStatus;
}

const lagOf = ({ overload }: Pick<WholeStatus, 'overload'>) => overload.signals.lag?.value ?? 0;

async function until(what: string, done: () => Promise<boolean>): Promise<void> {
  const late = performance.now() + PATIENCE_MS;
  while (!(await done())) {
    assert.ok(performance.now() < late, `not ${what}`);
    await sleep(100);
  }
}

/** Devices that publish at QoS 1 as fast as they are acknowledged, or `perSecond` messages each. */
async function publish(program: SpillwayProcess, count: number, perSecond = Infinity) {
  const names = Array.from({ length: count }, (_, i) => `d${i}`);
  const devices = program.addDevices('acme', 'meter', names);
  const port = program.mqttPort ?? 0;
  const began = Date.now();
  let acknowledged = 0;
  let stopped = false;
  const clients = await Promise.all(
    devices.map(({ device, secret }) => RawClient.connect(port, `acme/${device}`, secret)),
  );
  const timers: NodeJS.Timeout[] = [];
  for (const { socket } of clients) {
    let id = 0;
    let under = 0;
    let bytes = 0;
    const send = () => {
      id++;
      under++;
      // Each time comes once.
      const first = began - id * READINGS;
      const readings = Array.from({ length: READINGS }, (_, i) => `{"ts":${first + i},"v":${i}}`);
      const body = Buffer.from(`[${readings.join()}]`);
      socket.write(publishBytes('me/telemetry', body, 1, (id % 60_000) + 1));
    };
    socket.removeAllListeners('data');
    socket.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
      for (; bytes >= 4; bytes -= 4) {
        acknowledged++;
        under--;
      }
      while (!stopped && perSecond === Infinity && under < WINDOW) send();
    });
    if (perSecond === Infinity) send();
    else timers.push(setInterval(send, 1_000 / perSecond));
  }
  return {
    acknowledged: () => acknowledged * READINGS,
    stop() {
      stopped = true;
      for (const timer of timers) clearInterval(timer);
    },
    close() {
      for (const { socket } of clients) socket.destroy();
    },
  };
}

const canPin = spawnSync('taskset', ['--version']).error === undefined;

test('a flood that leaves the rollup worker too little CPU is slowed down until the worker catches up', {
  skip: canPin ? false : 'taskset is absent',
}, async (t) => {
  const program = programWith(t, { niceness: 10 });
  const { process: child } = await program.start();
  // With a core of its own the worker would keep up on some machines.
  spawnSync('taskset', ['-a', '-p', '-c', '0', String(child.pid)]);
  const flood = await publish(program, 20);
  await until('slowed down', async () => program.current().stderr.includes(SLOWED));
  let most = 0;
  const levels = new Set<string>();
  await until('catching up', async () => {
    const { rollup, overload } = await statusOf(program);
    most = Math.max(most, rollup.lagRecords);
    levels.add(overload.level);
    return rollup.lagRecords < 0.98 * most;
  });
  const before = flood.acknowledged();
  await until('still taking', async () => flood.acknowledged() > before);
  const { overload } = await statusOf(program);
  assert.equal(overload.signals.lag?.brake, BRAKE_MS);
  assert.ok(lagOf({ overload }) > 0);
  flood.stop();
  await until('normal', async () => {
    const now = await statusOf(program);
    return now.overload.level === 'normal' && now.rollup.lagRecords === 0;
  });
  flood.close();
  await program.stop();
  assert.match(program.logs.join(''), /no longer slowed down for the rollup worker/);
  assert.deepEqual([...levels], ['brake']);
  await program.read(async (store, consumer) => {
    const { balanced, rows } = await audit({ store, consumer, group: ROLLUP_GROUP });
    assert.equal(balanced, true);
    const stored = rows.reduce((sum, row) => sum + row.stored, 0);
    assert.ok(stored >= flood.acknowledged(), `${stored} of ${flood.acknowledged()}`);
  });
});

test('a store that does not answer fills the log and slows down nobody', async (t) => {
  const program = programWith(t, {});
  await program.start();
  const trickle = await publish(program, 2, 20);
  await until('processed', async () => (await statusOf(program)).rollup.stored > 0);
  const ledger = new DatabaseSync(join(program.config.data.dir, 'store', 'ledger.db'));
  ledger.exec('BEGIN IMMEDIATE');
  const before = trickle.acknowledged();
  for (let look = 0; look < 40; look++) {
    const status = await statusOf(program);
    assert.equal(lagOf(status), 0);
    await sleep(100);
  }
  ledger.exec('ROLLBACK');
  ledger.close();
  assert.ok(trickle.acknowledged() - before > 20 * READINGS);
  trickle.stop();
  // The lag that the worker told last is of before.
  await until(
    'processed',
    async () => (await statusOf(program)).rollup.stored >= trickle.acknowledged(),
  );
  trickle.close();
  assert.ok(!program.current().stderr.includes(SLOWED));
});
