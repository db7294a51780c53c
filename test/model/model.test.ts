import assert from 'node:assert/strict';
import { test } from 'node:test';
import { EmbeddedEngines } from './engines.ts';
import { planOf } from './plan.ts';
import { runPlan } from './run.ts';

/** A few seeds with every run of the tests; `npm run test:model` has many. */
const SEEDS = 12;
const FIRST = 9_000;

test('a few plans of devices and faults come to what a naive model says', async () => {
  const total = { messages: 0, duplicates: 0, workerDeaths: 0, gatewayDeaths: 0 };
  for (let seed = FIRST; seed < FIRST + SEEDS; seed += 1) {
    const plan = planOf(seed);
    const summary = await runPlan(plan, new EmbeddedEngines(plan.settings));
    for (const name of ['messages', 'duplicates', 'workerDeaths', 'gatewayDeaths'] as const) {
      total[name] += summary[name];
    }
  }
  assert.ok(total.messages > 500 && total.duplicates > 100, JSON.stringify(total));
  assert.ok(total.workerDeaths > 3 && total.gatewayDeaths > 3, JSON.stringify(total));
});

test('a seed says all', () => {
  assert.deepEqual(planOf(7), planOf(7));
  assert.notDeepEqual(planOf(7), planOf(8));
});

test('a system that takes nothing but what the model does not know of is found out', async () => {
  const plan = planOf(FIRST);
  const engines = new EmbeddedEngines(plan.settings);
  const { store } = engines;
  engines.store = async () => {
    const real = await store.call(engines);
    return Object.assign(Object.create(real), {
      writeReadings: (readings: Parameters<typeof real.writeReadings>[0]) =>
        real.writeReadings(readings.slice(1)),
    });
  };
  await assert.rejects(runPlan(plan, engines), /raw readings/);
});
