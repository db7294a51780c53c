import { z } from 'zod';
import type { Behaviour, FleetSpec, QosWeights } from './fleet-schema.ts';
import { checkShape, duration, InputError } from './yaml-file.ts';

/**
 * Floods for any fleet, written in one word each: `step,factor=10,at=30s,for=60s`. Each sets keys that a
 * fleet file may set too; what it doesn't name has a default that makes a flood.
 */
const number = z
  .string()
  .transform((text) => (text.trim() === '' ? Number.NaN : Number(text)))
  .pipe(z.number({ error: 'expected a number' }).min(0));
const factor = number.pipe(z.number().min(0.01).max(1000)).prefault('10');
const size = number.pipe(z.int().max(2_000_000));
const start = duration().prefault('10s');

const floods = {
  /** The rate jumps. */
  step: flood({ factor, at: start, for: duration(1).optional() }, (fleet, options) => {
    fleet.rate = { profile: 'step', ...options };
  }),
  /** The rate grows. */
  ramp: flood({ factor, at: start, over: duration(1).prefault('60s') }, (fleet, options) => {
    fleet.rate = { profile: 'ramp', ...options };
  }),
  /** The rate swings. */
  sine: flood({ factor, every: duration(1).prefault('60s') }, (fleet, options) => {
    fleet.rate = { profile: 'sine', ...options };
  }),
  /** All connect, and come back, at once. */
  herd: flood({}, (fleet) => {
    fleet.herd = true;
  }),
  /** One tenant alone is loud. */
  noisy: flood(
    { tenant: z.string().min(1), factor, at: start, for: duration(1).optional() },
    (fleet, { tenant, ...options }) => {
      fleet.tenantRates[tenant] = { profile: 'step', ...options };
    },
  ),
  /** Messages of every QoS, by weight. */
  qos: flood(
    { 0: number.prefault('1'), 1: number.prefault('1'), 2: number.prefault('1') },
    (fleet, weights) => {
      const qos: QosWeights = [weights[0], weights[1], weights[2]];
      if (qos.every((weight) => weight === 0)) throw new InputError('expected a weight above 0');
      for (const behaviour of behavioursOf(fleet)) behaviour.qos = qos;
    },
  ),
  /** Messages of every shape: single, without a time, many readings in one, large, spoilt. */
  payloads: flood(
    {
      readings: number.pipe(z.int().min(1).max(100)).prefault('20'),
      bytes: size.prefault('16384'),
      malformed: number.pipe(z.number().max(1)).prefault('0.01'),
    },
    (fleet, { readings, bytes, malformed }) => {
      for (const behaviour of behavioursOf(fleet)) {
        behaviour.payloads = [
          { weight: 6, form: 'stamped', readings: 1, bytes: 0 },
          { weight: 2, form: 'flat', readings: 1, bytes: 0 },
          { weight: 1, form: 'stamped', readings, bytes: 0 },
          { weight: 1, form: 'stamped', readings: 1, bytes },
        ];
        behaviour.malformed ??= {
          probability: malformed,
          kinds: ['notJson', 'wrongKind', 'outOfBounds'],
        };
      }
    },
  ),
  /** Connections break at once, as when a gateway dies. */
  storm: flood(
    {
      at: start,
      every: duration(1).optional(),
      share: number.pipe(z.number().max(1)).prefault('1'),
    },
    (fleet, options) => {
      fleet.storms.push(options);
    },
  ),
};

export const FLOOD_NAMES = Object.keys(floods);

/**
 * Changes `fleet` to what `text` says.
 * @throws InputError that says which part of it is wrong
 */
export function layFlood(fleet: FleetSpec, text: string): void {
  const [name = '', ...pairs] = text.split(',');
  const known = Object.hasOwn(floods, name) ? floods[name as keyof typeof floods] : undefined;
  if (known === undefined) {
    throw new InputError(`flood: expected one of ${FLOOD_NAMES.join(', ')}, got "${name}"`);
  }
  const options: Record<string, string> = {};
  for (const pair of pairs) {
    const [key = '', value, ...more] = pair.split('=');
    if (value === undefined || more.length > 0) {
      throw new InputError(`flood ${name}: expected key=value, got "${pair}"`);
    }
    options[key] = value;
  }
  known(fleet, options, `flood ${name}`);
}

function flood<S extends z.core.$ZodLooseShape>(
  shape: S,
  lay: (fleet: FleetSpec, options: z.output<z.ZodObject<S, z.core.$strict>>) => void,
) {
  const schema = z.strictObject(shape);
  return (fleet: FleetSpec, options: Record<string, string>, source: string): void =>
    lay(fleet, checkShape(schema, options, source));
}

function behavioursOf(fleet: FleetSpec): Behaviour[] {
  return fleet.groups.flatMap(({ behaviour, exceptions }) => [
    behaviour,
    ...exceptions.map((exception) => exception.behaviour),
  ]);
}
