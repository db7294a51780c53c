import type { CounterSpec, MetricsSpec, ModelSpec, NumberSpec } from './models-schema.ts';
import { createRandom, exponential, gaussian, type Random } from './random.ts';

export type Value = number | boolean | string;
export type Values = Record<string, Value>;

const HOUR_MS = 3_600_000;

/** When a sample is taken. */
export interface SampleMoment {
  /** The device's own clock, ms since the epoch: where in the day it is. */
  clockMs: number;
  /** ms since the device booted. */
  upMs: number;
  /** ms since the sample before; 0 for the first. */
  sinceMs: number;
}

type Model = (moment: SampleMoment, values: Values) => Value;

/**
 * The sensors of one device. The same seed and name give the same values for the same moments.
 */
export class Sensors {
  readonly #models: [string, Model][];

  /**
   * @param name the device's own, so that no two devices measure the same
   * @param dayLengthMs how long one daily cycle takes
   */
  constructor(metrics: MetricsSpec, seed: number, name: string, dayLengthMs: number) {
    // Counters come last: they may integrate what the others have just measured.
    this.#models = Object.entries(metrics)
      .sort(([, a], [, b]) => Number(a.kind === 'counter') - Number(b.kind === 'counter'))
      .map(([metric, spec]) => {
        const random = createRandom(seed, `${name}#${metric}`);
        return [metric, createModel(spec, random, dayLengthMs)];
      });
  }

  /** One value for each metric. */
  sample(moment: SampleMoment): Values {
    const values: Values = {};
    for (const [metric, model] of this.#models) values[metric] = model(moment, values);
    return values;
  }
}

function createModel(spec: ModelSpec, random: Random, dayLengthMs: number): Model {
  switch (spec.kind) {
    case 'float':
    case 'int':
      return numberModel(spec, random, dayLengthMs);
    case 'counter':
      return counterModel(spec, random);
    case 'bool': {
      const states = [
        { name: true, for: spec.trueFor, weight: 1 },
        { name: false, for: spec.falseFor, weight: 1 },
      ];
      const first = random() * (spec.trueFor + spec.falseFor) < spec.trueFor ? 0 : 1;
      return stepModel(states, first, random);
    }
    case 'string': {
      const states = Object.entries(spec.modes).map(([name, mode]) => ({ name, ...mode }));
      return stepModel(states, 0, random);
    }
  }
}

function numberModel(spec: NumberSpec, random: Random, dayLengthMs: number): Model {
  const base = spec.base + spec.spread * gaussian(random);
  const decimals = spec.kind === 'int' ? 0 : spec.decimals;
  const low = spec.min ?? Number.NEGATIVE_INFINITY;
  const high = spec.max ?? Number.POSITIVE_INFINITY;
  let walked = 0;
  let last = 0;
  let stuckUntil = -1;
  return ({ clockMs, upMs, sinceMs }) => {
    if (upMs < stuckUntil) return last;
    let value = base + (spec.drift * upMs) / HOUR_MS;
    if (spec.daily !== undefined) {
      const day = clockMs / dayLengthMs - spec.daily.peakHour / 24;
      value += spec.daily.amplitude * Math.cos(2 * Math.PI * day);
    }
    if (spec.walk !== undefined) {
      const seconds = sinceMs / 1000;
      walked *= (1 - spec.walk.pull) ** seconds;
      walked += spec.walk.step * Math.sqrt(seconds) * gaussian(random);
      value += walked;
    }
    if (spec.noise > 0) value += spec.noise * gaussian(random);
    if (spec.spike !== undefined && random() < spec.spike.probability) {
      value += random() < 0.5 ? spec.spike.size : -spec.spike.size;
    }
    last = round(Math.min(high, Math.max(low, value)), decimals);
    if (spec.stuck !== undefined && random() < spec.stuck.probability) {
      stuckUntil = upMs + spec.stuck.for;
    }
    return last;
  };
}

function counterModel(spec: CounterSpec, random: Random): Model {
  let total = spec.start + spec.spread * Math.abs(gaussian(random));
  return ({ sinceMs }, values) => {
    let growth = spec.perHour;
    if (spec.integrates !== undefined) {
      const measured = values[spec.integrates.metric];
      // A counter never runs backwards, whatever is measured.
      if (typeof measured === 'number') growth += Math.max(0, measured) * spec.integrates.scale;
    }
    total += (growth * sinceMs) / HOUR_MS;
    return round(total, spec.decimals);
  };
}

interface State<T> {
  name: T;
  /** Mean time in it, ms. */
  for: number;
  weight: number;
}

/** A door, a heater, a mode: stays for an exponential time, then moves to another state by weight. */
function stepModel<T extends Value>(states: State<T>[], first: number, random: Random): Model {
  let state = states[first] as State<T>;
  let until = exponential(random, state.for);
  return ({ upMs }) => {
    // Bounded: after a long sleep the state is stepped at most this often.
    for (let i = 0; i < 100 && upMs >= until && states.length > 1; i++) {
      state = pickOther(states, state, random);
      until += exponential(random, state.for);
    }
    if (upMs >= until) until = upMs + exponential(random, state.for);
    return state.name;
  };
}

function pickOther<T>(states: State<T>[], current: State<T>, random: Random): State<T> {
  let total = 0;
  for (const state of states) if (state !== current) total += state.weight;
  let point = random() * total;
  let chosen = current;
  for (const state of states) {
    if (state === current) continue;
    chosen = state;
    point -= state.weight;
    if (point < 0) break;
  }
  return chosen;
}

function round(value: number, decimals: number): number {
  const factor = 10 ** decimals;
  return Math.round(value * factor) / factor;
}
