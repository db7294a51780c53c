import assert from 'node:assert/strict';
import { cpSync, rmSync } from 'node:fs';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { ManualClock } from '../../src/core/clock.ts';
import { audit } from '../../src/ops/ledger.ts';
import { assertRight } from '../model/check.ts';
import { EmbeddedEngines } from '../model/engines.ts';
import { ModelGateway } from '../model/gateway.ts';
import { type Expected, expectedOf } from '../model/naive.ts';
import { type LifeFaults, type Plan, planOf, T0 } from '../model/plan.ts';
import { GROUP, WorkerLife } from '../model/worker.ts';
import { Child } from './spillway-process.ts';

const CHILD = fileURLToPath(new URL('killed-worker.ts', import.meta.url));
const CALM: LifeFaults = { diesAfter: false, outageCalls: 0, answersLost: false };

/** Late, repeated, contradicting and refused messages of a few devices, in several batches and flushes. */
function small(): Plan {
  const plan = planOf(73, { stepsMax: 8, devicesMax: 3 });
  const steps = plan.steps.filter(({ kind }) => kind === 'advance' || kind === 'publish');
  const settings = {
    ...plan.settings,
    ...{ flushEvery: 4, batchRecordsMax: 20, commitRecordsMax: 7, pendingBytesMax: 2 ** 20 },
    ...{ baseWindowMs: 60_000, latenessMs: 120_000 },
    ...{ backfillAfterMs: 3_600_000, backfillPerSecond: 1_000_000 },
  };
  return { ...plan, steps, settings };
}

interface Filled {
  plan: Plan;
  root: string;
  expected: Expected;
  gateway: ModelGateway;
  now: number;
}

/** The log of all that the plan's devices send, and no store. */
async function filled(t: TestContext, plan: Plan): Promise<Filled> {
  const engines = new EmbeddedEngines(plan.settings);
  const { root } = engines;
  t.after(() => rmSync(root, { recursive: true, force: true }));
  const clock = new ManualClock(T0);
  const gateway = new ModelGateway(engines, clock, plan.devices);
  await gateway.open();
  for (const step of plan.steps) {
    if (step.kind === 'advance') clock.advance(step.ms);
    if (step.kind === 'publish') gateway.publish(step.messages, true);
    await gateway.committed();
  }
  await gateway.drain(async () => {});
  await gateway.close();
  const expected = expectedOf(gateway.arrivals(), gateway.sheds(), plan.devices);
  return { plan, root, expected, gateway, now: clock.now() };
}

/** Runs a worker in a process of its own on a copy; returns how it ended, and what is on disk then. */
async function lifeOf(t: TestContext, of: Filled, faults: LifeFaults, name: string) {
  const root = `${of.root}-${name}`;
  t.after(() => rmSync(root, { recursive: true, force: true }));
  cpSync(of.root, root, { recursive: true });
  const args = [root, of.now, of.plan.settings, faults].map((one) => JSON.stringify(one));
  const child = new Child(t, [CHILD, ...args], {});
  return { root, how: await child.end(), stdout: child.stdout, stderr: child.stderr };
}

/** What a killed worker left: the account is exact as it stands, and after another worker has gone on. */
async function assertExact(of: Filled, root: string): Promise<void> {
  const { plan, expected, gateway, now } = of;
  const engines = new EmbeddedEngines(plan.settings, root);
  const consumer = engines.consumer();
  try {
    const store = await engines.store();
    const left = await audit({ store, consumer, group: GROUP, by: 'hour' });
    assert.equal(left.balanced, true, JSON.stringify(left.rows));
    const life = new WorkerLife(engines, store, new ManualClock(now), plan.settings);
    await life.reaches(await consumer.bounds(), store);
    await life.stop();
    assert.equal(life.failure, undefined);
    await assertRight({ store, consumer, expected, plan, gateway, now });
  } finally {
    await consumer.close();
    await engines.close();
    rmSync(root, { recursive: true, force: true });
  }
}

test('kill -9 between every two steps of the rollup worker: the ledger is exact, each time', {
  timeout: 300_000,
}, async (t) => {
  const of = await filled(t, small());
  const calm = await lifeOf(t, of, CALM, 'calm');
  assert.equal(calm.how, 0, calm.stderr);
  const { points, writes } = JSON.parse(calm.stdout) as { points: number; writes: number };
  await assertExact(of, calm.root);
  assert.ok(points >= 15 && writes >= 15, calm.stdout);
  const duplicates = [...of.expected.ledger.keys()].filter((key) => key.includes('duplicate'));
  for (const kind of ['IDENTICAL', 'MERGED', 'CONFLICT']) {
    assert.ok(
      duplicates.some((key) => key.endsWith(kind)),
      kind,
    );
  }
  const kills: [string, LifeFaults][] = [];
  for (let at = 1; at <= points; at += 1) kills.push([`step-${at}`, { ...CALM, diesAtPoint: at }]);
  // Inside the steps: before each transaction, and after the last.
  for (let at = 1; at <= writes; at += 1) kills.push([`write-${at}`, { ...CALM, diesAtWrite: at }]);
  kills.push(['end', { ...CALM, diesAtWrite: writes, diesAfter: true }]);
  const begin = (at: number) => {
    const [name, faults] = kills[at] ?? [];
    return name && faults ? lifeOf(t, of, faults, name) : undefined;
  };
  // While one is looked at, the next one lives.
  let coming = begin(0);
  for (let at = 0; coming !== undefined; at += 1) {
    const life = await coming;
    const name = `${kills[at]?.[0]} of ${points} steps and ${writes} writes`;
    coming = begin(at + 1);
    assert.equal(life.how, 'SIGKILL', `${name}: ${life.stderr}`);
    await assertExact(of, life.root).catch((error: unknown) => {
      throw new Error(`killed at ${name}`, { cause: error });
    });
  }
  t.diagnostic(
    `${kills.length} kills: after ${points} steps, before ${writes} transactions; ` +
      `${of.expected.rows.size} readings, ${of.expected.letters.length} dead letters`,
  );
});
