import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Sensors, type Values } from '../../firmware-sim/models.ts';
import { metricsSchema } from '../../firmware-sim/models-schema.ts';

const DAY = 86_400_000;

function sample(
  metrics: object,
  options: { seed?: number; name?: string; count: number; every: number },
) {
  const spec = metricsSchema.parse(metrics);
  const sensors = new Sensors(spec, options.seed ?? 1, options.name ?? 'd', DAY);
  const values: Values[] = [];
  for (let i = 0; i < options.count; i++) {
    const upMs = i * options.every;
    values.push(sensors.sample({ clockMs: upMs, upMs, sinceMs: i === 0 ? 0 : options.every }));
  }
  return values;
}

const everything = {
  temperature: {
    kind: 'float',
    base: 20,
    spread: 1,
    noise: 2,
    drift: 0.1,
    daily: { amplitude: 10 },
    walk: { step: 0.5 },
    spike: { probability: 0.05, size: 100 },
    stuck: { probability: 0.01, for: '1m' },
    min: 0,
    max: 40,
    decimals: 1,
  },
  steps: { kind: 'int', base: 5, noise: 3 },
  door: { kind: 'bool', trueFor: '30s', falseFor: '2m' },
  mode: {
    kind: 'string',
    modes: { normal: { for: '1m' }, rain: { for: '30s' }, storm: { for: '10s' } },
  },
  energy: {
    kind: 'counter',
    start: 7,
    perHour: 1,
    integrates: { metric: 'temperature', scale: 0.5 },
  },
};

test('the same seed and name give the same values; another seed or name gives others', () => {
  const options = { count: 500, every: 5000 };
  const first = sample(everything, options);
  assert.deepEqual(sample(everything, options), first);
  assert.notDeepEqual(sample(everything, { ...options, seed: 2 }), first);
  assert.notDeepEqual(sample(everything, { ...options, name: 'e' }), first);
});

test('a metric more does not change the others', () => {
  const options = { count: 50, every: 5000 };
  const { door, ...rest } = everything;
  const without = sample(rest, options).map(({ temperature }) => temperature);
  const withDoor = sample({ door, ...rest }, options).map(({ temperature }) => temperature);
  assert.deepEqual(withDoor, without);
});

test('values stay in their bounds and kinds, and are rounded', () => {
  const values = sample(everything, { count: 5000, every: 5000 });
  const modes = new Set<unknown>();
  const doors = new Set<unknown>();
  let energy = 7;
  for (const { temperature, steps, door, mode, energy: counted } of values) {
    assert.ok(typeof temperature === 'number' && temperature >= 0 && temperature <= 40);
    assert.equal(Math.round(temperature * 10) / 10, temperature);
    assert.ok(Number.isInteger(steps));
    assert.ok(typeof counted === 'number' && counted >= energy, 'a counter never falls');
    energy = counted;
    modes.add(mode);
    doors.add(door);
  }
  assert.deepEqual([...modes].sort(), ['normal', 'rain', 'storm']);
  assert.deepEqual([...doors].sort(), [false, true]);
});

test('the daily cycle is highest at its hour', () => {
  const daily = { t: { kind: 'float', base: 10, daily: { amplitude: 4, peakHour: 15 } } };
  const hours = sample(daily, { count: 24, every: DAY / 24 }).map(({ t }) => t);
  assert.equal(hours[15], 14);
  assert.equal(hours[3], 6);
  assert.equal(Math.max(...hours.map(Number)), 14);
});

test('drift, integration and constant growth are exact', () => {
  const exact = {
    aging: { kind: 'float', base: 1, drift: 0.5 },
    power: { kind: 'float', base: 2000 },
    kwh: { kind: 'counter', start: 10, integrates: { metric: 'power', scale: 0.001 } },
    turns: { kind: 'counter', perHour: 60 },
  };
  const last = sample(exact, { count: 121, every: 60_000 }).at(-1);
  assert.deepEqual(last, { aging: 2, power: 2000, kwh: 14, turns: 120 });
});

test('a stuck sensor repeats its value for the time given', () => {
  const stuck = { t: { kind: 'float', base: 0, noise: 5, stuck: { probability: 1, for: '10s' } } };
  const values = sample(stuck, { count: 20, every: 1000 }).map(({ t }) => t);
  assert.equal(new Set(values.slice(0, 10)).size, 1);
  assert.equal(new Set(values.slice(10)).size, 1);
  assert.notEqual(values[0], values[10]);
});

test('spikes come as often as told and are that large', () => {
  const spiky = { t: { kind: 'float', base: 100, spike: { probability: 0.1, size: 50 } } };
  const values = sample(spiky, { count: 2000, every: 1000 }).map(({ t }) => t);
  const spikes = values.filter((value) => value !== 100);
  assert.ok(spikes.length > 150 && spikes.length < 250, String(spikes.length));
  assert.deepEqual(new Set(spikes), new Set([50, 150]));
});
