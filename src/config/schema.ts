import { z } from 'zod';
import { isMetricName, isName } from '../core/names.ts';
import {
  formatDuration,
  parseByteRate,
  parseBytes,
  parseDuration,
  parseRate,
  type RateLimit,
} from '../core/units.ts';

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

const size = () =>
  z
    .string()
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
const bytes = (fallback: string) => size().prefault(fallback);

const port = (fallback: number) => z.int().min(0).max(65_535).default(fallback);
const count = (fallback: number, max = Number.MAX_SAFE_INTEGER) =>
  z.int().min(1).max(max).default(fallback);

/** Windows of one limit: a burst and what may be sustained. */
const RATES_MAX = 4;

const rateList = (parse: (text: string) => RateLimit | undefined, example: string) =>
  z
    .array(z.string())
    .max(RATES_MAX)
    .transform((texts, ctx) =>
      texts.map((text, index) => {
        const limit = parse(text);
        if (limit !== undefined) return limit;
        const message = `expected a rate such as ${example}`;
        ctx.addIssue({ code: 'custom', path: [index], message });
        return z.NEVER;
      }),
    );
const rates = () => rateList(parseRate, '500/1s or 20000/1m');
const byteRates = () => rateList(parseByteRate, '64KiB/1s or 1GiB/1d');
/** 0: no limit. */
const limit = () => z.int().min(0);

const weight = z.number().min(0.01).max(1_000);

/** A tenant's own limits: what it doesn't name is that of `quotas.default`. */
const tenantQuota = z.strictObject({
  weight: weight.optional(),
  tenant: z
    .strictObject({
      messages: rates().optional(),
      bytes: byteRates().optional(),
      connections: limit().optional(),
      connects: rates().optional(),
      devices: limit().optional(),
      metrics: limit().optional(),
    })
    .prefault({}),
  device: z
    .strictObject({
      messages: rates().optional(),
      bytes: byteRates().optional(),
      connections: limit().optional(),
      connects: rates().optional(),
      metrics: limit().optional(),
      payloadBytesMax: size().optional(),
    })
    .prefault({}),
});

const defaultQuota = z.strictObject({
  weight: weight.default(1),
  tenant: z
    .strictObject({
      messages: rates().prefault([]),
      bytes: byteRates().prefault([]),
      connections: limit().default(0),
      connects: rates().prefault([]),
      devices: limit().default(0),
      metrics: limit().default(10_000),
    })
    .prefault({}),
  device: z
    .strictObject({
      messages: rates().prefault([]),
      bytes: byteRates().prefault([]),
      connections: limit().default(10),
      connects: rates().prefault([]),
      metrics: limit().default(1_000),
      payloadBytesMax: bytes('0B'),
    })
    .prefault({}),
});

const share = (fallback: number) => z.number().min(0).max(1).default(fallback);
/** The levels of a signal that is a time. */
const delays = (brake: string, shed: string, refuse: string) =>
  z.strictObject({ brake: timer(brake), shed: timer(shed), refuse: timer(refuse) }).prefault({});
/** The levels of a signal that is a part of what there is. */
const shares = (brake: number, shed: number, refuse: number) =>
  z.strictObject({ brake: share(brake), shed: share(shed), refuse: share(refuse) }).prefault({});

const overload = z.strictObject({
  protection: z.boolean().default(true),
  delayTarget: timer('50ms', 1),
  rise: timer('300ms'),
  dwell: z
    .strictObject({ brake: timer('2s'), shed: timer('2s'), refuse: timer('5s') })
    .prefault({}),
  adapt: z.number().min(1).max(100).default(4),
  loopDelay: delays('50ms', '250ms', '5s'),
  commit: delays('250ms', '2s', '0s'),
  wait: z.strictObject({ shed: timer('5s') }).prefault({}),
  lag: z.strictObject({ brake: timer('10s') }).prefault({}),
  backlog: shares(0.7, 0.85, 0.95),
  memory: shares(0.7, 0.8, 0.9),
  memoryBytesMax: bytes('0B'),
  connects: z
    .strictObject({
      perAddress: rates().prefault(['500/1s', '10000/1m']),
      trusted: z.array(z.string().max(64)).max(256).default(['127.0.0.0/8', '::1']),
      handshakesMax: count(128),
      waitingMax: count(10_000),
    })
    .prefault({}),
  penalty: z
    .strictObject({
      connects: rates().prefault(['30/1m']),
      time: timer('10s', 1),
      timeMax: timer('5m', 1),
    })
    .prefault({}),
});

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
      rememberedDevicesMax: count(5_000),
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
          commitInterval: timer('20ms'),
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
      niceness: z.int().min(0).max(19).default(10),
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
  backfill: z
    .strictObject({
      enabled: z.boolean().default(true),
      after: duration('1h', 1_000),
      readingsPerSecond: count(4_000),
      tenantReadingsPerSecond: count(3_000),
      deviceReadingsPerSecond: count(2_000),
      windowsPerSecond: count(1_000),
      waitingMax: count(100_000),
    })
    .prefault({}),
  deadman: z
    .strictObject({
      enabled: z.boolean().default(true),
      periods: z.number().min(1).max(1_000).default(3),
      minimum: duration('30s', 1_000),
      unknownPeriod: duration('1d', 1_000),
      devicesMax: count(100_000),
    })
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
  overload: overload.prefault({}),
  quotas: z
    .strictObject({
      default: defaultQuota.prefault({}),
      tenants: z
        .record(
          z.string().refine(isName, 'expected a name: 1 to 64 of A-Z a-z 0-9 _ -'),
          tenantQuota,
        )
        .default({}),
    })
    .prefault({}),
  shutdown: z
    .strictObject({
      readinessDelay: timer('0s'),
      closesPerSecond: count(500),
      drainTimeout: timer('20s'),
    })
    .prefault({}),
  types: z
    .record(
      z.string().refine(isName, 'expected a name: 1 to 64 of A-Z a-z 0-9 _ -'),
      deviceTypeSchema,
    )
    .default({}),
});

/** The configuration after defaults; durations in ms, sizes in bytes. */
export type Config = z.output<typeof configSchema>;
