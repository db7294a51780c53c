import assert from 'node:assert/strict';
import { test } from 'node:test';
import { planOf } from '../model/plan.ts';
import { runPlan } from '../model/run.ts';
import { influxEnvironment } from './influx-env.ts';
import { BROKERS } from './kafka-env.ts';
import { DistributedEngines } from './model-engines.ts';

/**
 * The model of devices and faults (`test/model/`) on a real Kafka and InfluxDB: fewer seeds and smaller
 * plans than on the embedded engines. MODEL_SEED and MODEL_SEEDS choose others.
 */
const FIRST = Number(process.env.MODEL_SEED ?? 1);
const SEEDS = Number(process.env.MODEL_SEEDS ?? 10);
const SCALE = { stepsMax: 14, devicesMax: 4 };

const influx = influxEnvironment();
const SKIP =
  BROKERS === undefined || influx === undefined
    ? 'KAFKA_BROKERS, INFLUX_URL, INFLUX_ORG and INFLUX_TOKEN are not all set'
    : false;

test('plans of devices and faults on Kafka and InfluxDB come to what a naive model says', {
  skip: SKIP,
  timeout: 900_000,
}, async (t) => {
  assert.ok(influx !== undefined);
  for (let seed = FIRST; seed < FIRST + SEEDS; seed += 1) {
    await t.test(`seed ${seed} (MODEL_SEED=${seed} MODEL_SEEDS=1 repeats it)`, async (t) => {
      const plan = planOf(seed, SCALE);
      const summary = await runPlan(plan, await DistributedEngines.open(t, plan.settings, influx));
      t.diagnostic(JSON.stringify(summary));
    });
  }
});
