import { z } from 'zod';
import { duration, share } from './yaml-file.ts';

const numberModel = {
  /** The value that everything else is added to. */
  base: z.number(),
  /** Standard deviation of the base between devices. */
  spread: z.number().min(0).default(0),
  daily: z
    .strictObject({
      amplitude: z.number(),
      /** Hour of the device's day (of 24, whatever `dayLength` is) with the highest value. */
      peakHour: z.number().min(0).max(24).default(15),
    })
    .optional(),
  /** Standard deviation of the measuring noise. */
  noise: z.number().min(0).default(0),
  /** Change for each hour since boot: a sensor that ages. */
  drift: z.number().default(0),
  walk: z
    .strictObject({
      /** Standard deviation of the change for each second. */
      step: z.number().min(0),
      /** Share of the way back to 0 for each second. */
      pull: share.default(0.001),
    })
    .optional(),
  spike: z.strictObject({ probability: share, size: z.number() }).optional(),
  stuck: z.strictObject({ probability: share, for: duration(1) }).optional(),
  min: z.number().optional(),
  max: z.number().optional(),
};

const floatModel = z.strictObject({
  kind: z.literal('float'),
  ...numberModel,
  decimals: z.int().min(0).max(12).default(2),
});

const intModel = z.strictObject({ kind: z.literal('int'), ...numberModel });

const counterModel = z.strictObject({
  kind: z.literal('counter'),
  start: z.number().min(0).default(0),
  /** Standard deviation of the start between devices (its size only, so never below `start`). */
  spread: z.number().min(0).default(0),
  /** Steady growth for each hour. */
  perHour: z.number().min(0).default(0),
  /** Growth from another metric: `scale` for each unit of it and hour. */
  integrates: z.strictObject({ metric: z.string(), scale: z.number().positive() }).optional(),
  decimals: z.int().min(0).max(12).default(3),
});

const boolModel = z.strictObject({
  kind: z.literal('bool'),
  /** Mean time in each state; the times themselves are exponential. */
  trueFor: duration(1),
  falseFor: duration(1),
});

const stringModel = z.strictObject({
  kind: z.literal('string'),
  /** Each mode: mean time in it, and how often it is chosen next. The first is the one at boot. */
  modes: z
    .record(
      z.string().min(1).max(64),
      z.strictObject({ for: duration(1), weight: z.number().positive().default(1) }),
    )
    .refine((modes) => Object.keys(modes).length >= 1, 'expected at least one mode'),
});

/** What one metric does. */
export const modelSchema = z.discriminatedUnion('kind', [
  floatModel,
  intModel,
  counterModel,
  boolModel,
  stringModel,
]);

/** The metrics of one device: name → model. */
export const metricsSchema = z
  .record(
    z.string().regex(/^[A-Za-z0-9_.-]{1,64}$/, 'expected a metric name of letters, digits, _ . -'),
    modelSchema,
  )
  .superRefine((metrics, context) => {
    for (const [name, model] of Object.entries(metrics)) {
      if (model.kind !== 'counter' || model.integrates === undefined) continue;
      const kind = metrics[model.integrates.metric]?.kind;
      if (kind === 'float' || kind === 'int') continue;
      context.addIssue({
        code: 'custom',
        path: [name, 'integrates', 'metric'],
        message: `expected a float or int metric of the same device, got "${model.integrates.metric}"`,
      });
    }
  });

export type ModelSpec = z.output<typeof modelSchema>;
export type NumberSpec = z.output<typeof floatModel> | z.output<typeof intModel>;
export type CounterSpec = z.output<typeof counterModel>;
export type MetricsSpec = z.output<typeof metricsSchema>;
