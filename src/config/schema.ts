import { z } from 'zod';
import { isMetricName, isName } from '../core/names.ts';
import { formatDuration, parseBytes, parseDuration } from '../core/units.ts';

/**
 * Every key of the configuration with its default. `config/spillway.yaml` shows all of them with
 * comments; a test keeps the two equal. Durations are texts with a unit (`10s`) and become ms,
 * sizes (`64MiB`) become bytes.
 */
const duration = (fallback: string, min = 0, max = Number.MAX_SAFE_INTEGER) =>
  z
    .string()
    .default(fallback)
    .transform((text, ctx) => {
      const ms = parseDuration(text);
      if (ms === undefined || ms < min || ms > max) {
        const message =
          ms === undefined
            ? 'expected a duration such as 500ms, 10s, 1m, 2h or 30d'
            : ms < min
              ? `expected a duration of at least ${formatDuration(min)}`
              : `expected a duration of at most ${formatDuration(max)}`;
        ctx.addIssue({ code: 'custom', message });
        return z.NEVER;
      }
      return ms;
    })
    .meta({ unit: 'duration' });

/** What a timer waits for: Node fires one of more than 24.8 days at once. */
const timer = (fallback: string, min = 0) => duration(fallback, min, 86_400_000);

const bytes = (fallback: string) =>
  z
    .string()
    .default(fallback)
    .transform((text, ctx) => {
      const size = parseBytes(text);
      if (size === undefined) {
        ctx.addIssue({
          code: 'custom',
          message: 'expected a size such as 512B, 64KiB, 16MiB or 4GiB',
        });
        return z.NEVER;
      }
      return size;
    })
    .meta({ unit: 'bytes' });

const port = (fallback: number) => z.int().min(0).max(65_535).default(fallback);
const count = (fallback: number, max = Number.MAX_SAFE_INTEGER) =>
  z.int().min(1).max(max).default(fallback);

const metric = z.strictObject({
  kind: z.enum(['float', 'int', 'bool', 'string']).default('float'),
  unit: z.string().max(32).optional(),
  min: z.number().optional(),
  max: z.number().optional(),
  values: z.array(z.string().max(256)).max(256).optional(),
  required: z.boolean().default(false),
});

/** One of `types`. */
export const deviceTypeSchema = z.strictObject({
  metrics: z
    .record(
      z
        .string()
        .refine(
          isMetricName,
          'expected a metric name: 1 to 64 of A-Z a-z 0-9 _ . : / - and no reserved word',
        ),
      metric,
    )
    .default({}),
  unknownMetrics: z.enum(['reject', 'keep', 'drop']).default('reject'),
  period: duration('0ms'),
  futureMax: duration('5m'),
  future: z.enum(['reject', 'useReceived']).default('reject'),
  pastMax: duration('7d'),
});

/** What a process does. */
export const ROLES = ['gateway', 'rollup', 'http'] as const;
export type Role = (typeof ROLES)[number];

const text = (chars: number) => z.string().max(chars);

const kafka = z.strictObject({
  brokers: z.array(text(256)).max(64).default([]),
  clientId: text(64).min(1).default('spillway'),
  topicPrefix: z
    .string()
    .refine(isName, 'expected a name: 1 to 64 of A-Z a-z 0-9 _ -')
    .default('spillway'),
  acknowledge: z.enum(['local', 'replicated']).default('local'),
  compression: z.enum(['zstd', 'gzip', 'none']).default('zstd'),
  partitions: count(6, 1_024),
  replication: count(1, 32),
  retainFor: duration('7d'),
  retainBytes: bytes('0B'),
  batchBytesMax: bytes('1MiB'),
  linger: timer('20ms'),
  connectTimeout: timer('5s', 100),
  requestTimeout: timer('20s', 1_000),
  sessionTimeout: timer('20s', 6_000),
  tls: z
    .strictObject({
      enabled: z.boolean().default(false),
      caFile: text(4_096).default(''),
      certFile: text(4_096).default(''),
      keyFile: text(4_096).default(''),
      servername: text(256).default(''),
    })
    .prefault({}),
  sasl: z
    .strictObject({
      mechanism: z.enum(['none', 'plain', 'scram-sha-256', 'scram-sha-512']).default('none'),
      username: text(256).default(''),
      password: text(1_024).default(''),
      passwordFile: text(4_096).default(''),
    })
    .prefault({}),
});

const influxdb = z.strictObject({
  url: text(1_024).default('http://127.0.0.1:8086'),
  org: text(256).default(''),
  token: text(1_024).default(''),
  tokenFile: text(4_096).default(''),
  bucketPrefix: z
    .string()
    .refine(isName, 'expected a name: 1 to 64 of A-Z a-z 0-9 _ -')
    .default('spillway'),
  batchLinesMax: count(5_000),
  batchBytesMax: bytes('2MiB'),
  writesMax: count(2, 16),
  gzipLevel: z.int().min(0).max(9).default(1),
  attemptTimeout: timer('30s', 1_000),
  retryAfterMax: timer('5m'),
});

export const configSchema = z.strictObject({
  roles: z
    .array(z.enum(ROLES))
    .max(ROLES.length)
    .default([...ROLES]),
  data: z.strictObject({ dir: z.string().min(1).default('./data') }).prefault({}),
  logging: z
    .strictObject({
      level: z.enum(['fatal', 'error', 'warn', 'info', 'debug', 'trace']).default('info'),
      format: z.enum(['auto', 'json', 'pretty']).default('auto'),
    })
    .prefault({}),
  gateway: z
    .strictObject({
      mqtt: z
        .strictObject({ host: z.string().default('127.0.0.1'), port: port(1883) })
        .prefault({}),
      fastPath: z.boolean().default(true),
      connectionsMax: count(20_000),
      connectingMax: count(2_000),
      connectTimeout: timer('10s', 1),
      packetTimeout: timer('60s', 1),
      keepAliveMax: duration('1h', 1_000, 65_535_000),
      packetBytesMax: bytes('2MiB'),
      connectBytesMax: bytes('8KiB'),
      payloadBytesMax: bytes('64KiB'),
      readingsPerMessageMax: count(1_000),
      metricsPerReadingMax: count(256),
      textCharsMax: count(256),
      inflightMax: count(256),
      deadLetterPayloadBytesMax: bytes('16KiB'),
    })
    .prefault({}),
  log: z
    .strictObject({
      engine: z.enum(['embedded', 'kafka']).default('embedded'),
      embedded: z
        .strictObject({
          diskBytesMax: bytes('4GiB'),
          retainFor: duration('1h'),
          retainBytes: bytes('1GiB'),
          commitRecordsMax: count(4_000),
          commitBytesMax: bytes('4MiB'),
          pendingBytesMax: bytes('32MiB'),
          compression: z.enum(['zstd', 'none']).default('zstd'),
        })
        .prefault({}),
      kafka: kafka.prefault({}),
    })
    .prefault({}),
  rollup: z
    .strictObject({
      baseWindow: duration('1m', 1_000),
      lateness: duration('2m'),
      flushInterval: timer('1s', 10),
      openReadingsMax: count(8_000_000),
      devicesMax: count(100_000),
      batchRecordsMax: count(8_000),
    })
    .prefault({}),
  store: z
    .strictObject({
      engine: z.enum(['embedded', 'influxdb']).default('embedded'),
      influxdb: influxdb.prefault({}),
      retention: z
        .strictObject({
          raw: duration('30d'),
          base: duration('90d'),
          hour: duration('730d'),
          day: duration('3650d'),
          deadLetters: duration('30d'),
          ledger: duration('400d'),
        })
        .prefault({}),
    })
    .prefault({}),
  deadLetters: z
    .strictObject({ replaysPerSecondMax: count(500), attemptsMax: count(3) })
    .prefault({}),
  http: z
    .strictObject({
      host: z.string().default('127.0.0.1'),
      port: port(8080),
      bodyBytesMax: bytes('1MiB'),
      queryRowsMax: count(100_000),
      requestTimeout: timer('30s', 100),
      metricsTokenFile: text(4_096).default(''),
    })
    .prefault({}),
  shutdown: z.strictObject({ drainTimeout: timer('20s') }).prefault({}),
  types: z
    .record(
      z.string().refine(isName, 'expected a name: 1 to 64 of A-Z a-z 0-9 _ -'),
      deviceTypeSchema,
    )
    .default({}),
});

/** The configuration after defaults; durations in ms, sizes in bytes. */
export type Config = z.output<typeof configSchema>;
