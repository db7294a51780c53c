import { z } from 'zod';
import { MALFORMED_KINDS } from './malformed.ts';
import { metricsSchema } from './models-schema.ts';
import { BATCH_MAX } from './payload.ts';
import { RATE_FACTOR_MIN } from './rate.ts';
import { duration, share } from './yaml-file.ts';

/** More devices than one process can carry on one address (ports) are more than one fleet. */
export const DEVICES_MAX = 50_000;

const name = z.string().regex(/^[A-Za-z0-9_-]{1,64}$/, 'expected 1 to 64 letters, digits, _ or -');

const outageSchema = z.strictObject({
  /** Since the start of the run. */
  at: duration(),
  for: duration(1),
  /** Comes again this long after each start. */
  every: duration(1).optional(),
  /** Which part of the devices it hits. */
  share: share.default(1),
});

const weight = z.number().min(0);

/** One QoS for every message, or weights: `{0: 3, 1: 7}` sends three of ten messages with QoS 0. */
const qosSchema = z
  .union([
    z.literal([0, 1, 2]),
    z
      .strictObject({ 0: weight.default(0), 1: weight.default(0), 2: weight.default(0) })
      .refine((of) => of[0] + of[1] + of[2] > 0, 'expected a weight above 0'),
  ])
  .default(1)
  .transform((qos): QosWeights => {
    if (typeof qos === 'object') return [qos[0], qos[1], qos[2]];
    return [Number(qos === 0), Number(qos === 1), Number(qos === 2)];
  });

export type QosWeights = readonly [number, number, number];

const form = z.enum(['flat', 'stamped']);

/** One shape of message in a mix. */
const payloadSchema = z.strictObject({
  weight: z.number().positive().default(1),
  form: form.default('stamped'),
  /** Readings that are collected before the message goes. */
  readings: z.int().min(1).max(BATCH_MAX).default(1),
  /** The text is padded with spaces to at least so many bytes. */
  bytes: z.int().min(0).max(2_000_000).default(0),
});

const behaviourSchema = z.strictObject({
  qos: qosSchema,
  /** `names`: t/<tenant>/d/<device>/telemetry; `me`: me/telemetry. */
  topic: z.enum(['names', 'me']).default('names'),
  /** `flat`: {metric: value}; `stamped`: {ts, seq, values}. */
  form: form.default('stamped'),
  /** Several shapes of message, by weight, in place of `form`. */
  payloads: z.array(payloadSchema).min(1).max(20).optional(),
  /** Readings kept while they can't be sent; then the oldest go. */
  buffer: z.int().min(1).max(100_000).default(1000),
  /** Messages sent and not yet acknowledged. */
  inflight: z.int().min(1).max(1000).default(20),
  clock: z
    .strictObject({
      /** How far the clock is ahead (negative: behind). */
      offset: duration(Number.NEGATIVE_INFINITY).default(0),
      /** Parts per million that it runs too fast. */
      drift: z.number().min(-100_000).max(100_000).default(0),
    })
    .prefault({}),
  /** Probability that a message is sent twice. */
  duplicates: share.default(0),
  malformed: z
    .strictObject({
      probability: share,
      kinds: z
        .array(z.enum(MALFORMED_KINDS))
        .min(1)
        .default([...MALFORMED_KINDS]),
    })
    .optional(),
  /** Some readings are held back for up to `by`, and so come out of order. */
  late: z.strictObject({ probability: share, by: duration(1) }).optional(),
  outages: z.array(outageSchema).max(20).default([]),
});

const firmwareSchema = z.strictObject({
  version: z.string().min(1).max(64),
  /** Weight among the group's versions. */
  share: z.number().positive().default(1),
  /** Metrics that this version measures besides the group's. */
  metrics: metricsSchema.default({}),
});

const groupSchema = z
  .strictObject({
    type: name,
    tenant: name.optional(),
    count: z.int().min(1).max(DEVICES_MAX),
    period: duration(1),
    /** Each period varies by up to this part, up and down. */
    jitter: share.default(0.05),
    metrics: metricsSchema.refine(
      (metrics) => Object.keys(metrics).length > 0,
      'expected at least one metric',
    ),
    firmware: z
      .array(firmwareSchema)
      .min(1)
      .max(10)
      .prefault([{ version: '1.0.0' }]),
    behaviour: behaviourSchema.prefault({}),
    /** The last devices of the group that behave otherwise; their behaviour replaces the group's. */
    exceptions: z
      .array(z.strictObject({ count: z.int().min(1), behaviour: behaviourSchema }))
      .max(20)
      .default([]),
    /** The group doesn't connect by itself: gateways of `type` speak for `devices` of it each. */
    gateway: z.strictObject({ type: name, devices: z.int().min(1).max(100) }).optional(),
  })
  .superRefine((group, context) => {
    const odd = group.exceptions.reduce((sum, exception) => sum + exception.count, 0);
    if (odd > group.count) {
      context.addIssue({
        code: 'custom',
        path: ['exceptions'],
        message: `expected at most ${group.count} devices (the group's count) in all, got ${odd}`,
      });
    }
  });

const factor = z.number().min(RATE_FACTOR_MIN).max(1000);

const rateSchema = z.discriminatedUnion('profile', [
  z.strictObject({ profile: z.literal('steady'), factor: factor.default(1) }),
  z.strictObject({
    profile: z.literal('step'),
    factor,
    at: duration(),
    for: duration(1).optional(),
  }),
  z.strictObject({
    profile: z.literal('ramp'),
    factor,
    at: duration().default(0),
    over: duration(1),
  }),
  z.strictObject({ profile: z.literal('sine'), factor, every: duration(1) }),
]);

/** A fleet as described in YAML. Every duration is ms once parsed. */
export const fleetSchema = z
  .strictObject({
    /** The same seed gives the same values. */
    seed: z.int().min(0).default(1),
    /** Whose credentials are used; any tenant's without it. */
    tenant: name.optional(),
    /** How long one daily cycle of the sensors takes. */
    dayLength: duration(1000).default(86_400_000),
    /** The first connections are spread over this time. */
    connectOver: duration().default(2000),
    /** All connect, and come back, at once. */
    herd: z.boolean().default(false),
    rate: rateSchema.default({ profile: 'steady', factor: 1 }),
    /** By tenant, in place of `rate`. */
    tenantRates: z.record(name, rateSchema).default({}),
    /** Moments at which connections break at once; they come back by their backoff. */
    storms: z
      .array(
        z.strictObject({
          at: duration(),
          every: duration(1).optional(),
          share: share.default(1),
        }),
      )
      .max(20)
      .default([]),
    keepalive: duration(1000).default(60_000),
    connectTimeout: duration(100).default(10_000),
    backoff: z
      .strictObject({
        base: duration(1).default(500),
        cap: duration(1).default(30_000),
        resetAfter: duration().default(10_000),
      })
      .prefault({}),
    groups: z.array(groupSchema).min(1).max(100),
  })
  .superRefine((fleet, context) => {
    const total = fleet.groups.reduce((sum, group) => sum + group.count, 0);
    if (total > DEVICES_MAX) {
      context.addIssue({
        code: 'custom',
        path: ['groups'],
        message: `expected at most ${DEVICES_MAX} devices in all, got ${total}`,
      });
    }
    for (const [index, group] of fleet.groups.entries()) {
      if (group.gateway === undefined || (group.tenant ?? fleet.tenant) !== undefined) continue;
      context.addIssue({
        code: 'custom',
        path: ['groups', index, 'tenant'],
        message: 'expected a tenant here or for the fleet: a gateway speaks for one tenant only',
      });
    }
  });

export type FleetSpec = z.output<typeof fleetSchema>;
/** What may be written for a fleet: keys with a default may be left out, durations are texts. */
export type FleetInput = z.input<typeof fleetSchema>;
export type GroupSpec = z.output<typeof groupSchema>;
export type RateSpec = z.output<typeof rateSchema>;
export type PayloadSpec = z.output<typeof payloadSchema>;
export type Behaviour = z.output<typeof behaviourSchema>;
export type FirmwareSpec = z.output<typeof firmwareSchema>;
