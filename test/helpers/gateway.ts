import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import mqtt, { ErrorWithReasonCode, type IClientOptions, type MqttClient } from 'mqtt';
import { deviceTypes } from '../../src/config/device-types.ts';
import { type Config, configSchema } from '../../src/config/schema.ts';
import { type Clock, systemClock } from '../../src/core/clock.ts';
import type { LogRecord } from '../../src/core/nouns.ts';
import { openGateway } from '../../src/gateway/open.ts';
import type { Readings } from '../../src/gateway/overload/signals.ts';
import type { Gateway } from '../../src/gateway/server.ts';
import { EmbeddedAppender } from '../../src/log/embedded/appender.ts';
import { EmbeddedConsumer } from '../../src/log/embedded/consumer.ts';
import { type GatewayCounters, gatewayCounters } from '../../src/ops/counters.ts';
import { PasswordVerifier } from '../../src/tenants/passwords.ts';
import { Registry } from '../../src/tenants/registry.ts';
import { PROTOCOL_VERSION } from './raw-client.ts';

export const TYPES = {
  thermostat: {
    metrics: {
      temperature: { kind: 'float', unit: '°C', min: -40, max: 85, required: true },
      humidity: { kind: 'float', min: 0, max: 100 },
      heating: { kind: 'bool' },
      mode: { kind: 'string', values: ['auto', 'off'] },
      pulses: { kind: 'int', min: 0 },
    },
    period: '1s',
    pastMax: '30d',
  },
  keeper: { unknownMetrics: 'keep' },
  dropper: { metrics: { a: {} }, unknownMetrics: 'drop' },
};

export interface GatewayFixture {
  dir: string;
  config: Config;
  gateway: Gateway;
  appender: EmbeddedAppender;
  registry: Registry;
  counters: GatewayCounters;
  url: string;
  /** Adds a device of tenant `acme`, connects it, and collects its receipts. */
  device(name: string, options?: { type?: string; via?: string; tenant?: string }): Promise<Device>;
  /** All records of the log so far; events are left out. */
  records(): Promise<Exclude<LogRecord, { kind: 'event' }>[]>;
}

export interface Device {
  client: MqttClient;
  username: string;
  secret: string;
  topic: string;
  receipts: { code: string; severity: string; path?: string; expected?: string; actual?: string }[];
  /** Resolves when `count` receipts have come. */
  receipt(count?: number): Promise<Device['receipts']>;
}

/** As for the whole program: `npm run test:broker-path` runs the suite with it off. */
const FAST_PATH = process.env.SPILLWAY_GATEWAY_FAST_PATH !== 'false';

/** A gateway on the embedded log in a directory of its own; everything ends with the test. */
export async function createGateway(
  t: TestContext,
  options: {
    config?: object;
    clock?: Clock;
    fastPath?: boolean;
    /** Signals of overload in place of what is measured. */
    readings?: Partial<Readings>;
    monotonic?: Clock;
  } = {},
): Promise<GatewayFixture> {
  const dir = mkdtempSync(join(tmpdir(), 'spillway-'));
  const given = (options.config ?? {}) as { gateway?: object };
  const config = configSchema.parse({
    data: { dir },
    types: TYPES,
    ...given,
    gateway: { mqtt: { port: 0 }, fastPath: options.fastPath ?? FAST_PATH, ...given.gateway },
  });
  const clock = options.clock ?? systemClock;
  const { embedded } = config.log;
  const appender = await EmbeddedAppender.open({
    dir: join(dir, 'log'),
    diskBytesMax: embedded.diskBytesMax,
    retainForMs: embedded.retainFor,
    retainBytes: embedded.retainBytes,
    compression: embedded.compression,
    commitRecordsMax: embedded.commitRecordsMax,
    commitBytesMax: embedded.commitBytesMax,
    commitIntervalMs: embedded.commitInterval,
    pendingBytesMax: embedded.pendingBytesMax,
  });
  const registry = new Registry({ dir, types: new Set(deviceTypes(config).keys()), clock });
  const counters = gatewayCounters();
  const logger = { info() {}, warn() {} };
  const verifier = new PasswordVerifier(registry);
  const gateway = await openGateway({
    config,
    appender,
    directory: registry,
    verifier,
    counters,
    clock,
    logger,
    ...(options.readings && { readings: options.readings }),
    ...(options.monotonic && { monotonic: options.monotonic }),
  });
  const url = `mqtt://127.0.0.1:${gateway.port}`;
  const clients: MqttClient[] = [];
  t.after(async () => {
    for (const client of clients) client.end(true);
    await gateway.stopReading();
    await gateway.close();
    await appender.close();
    registry.close();
    rmSync(dir, { recursive: true });
  });
  return {
    dir,
    config,
    gateway,
    appender,
    registry,
    counters,
    url,
    async device(name, { type = 'thermostat', via, tenant = 'acme' } = {}) {
      const { secret } = registry.addDevice({
        tenant,
        device: name,
        type,
        ...(via === undefined ? {} : { via }),
      });
      const device = await connectDevice(url, `${tenant}/${name}`, secret);
      clients.push(device.client);
      return device;
    },
    async records() {
      await appender.flush();
      return (await readLog(join(dir, 'log'))).filter((record) => record.kind !== 'event');
    },
  };
}

/** All records of an embedded log. */
export async function readLog(dir: string): Promise<LogRecord[]> {
  const consumer = new EmbeddedConsumer({ dir });
  const end = [...(await consumer.bounds()).values()].reduce((sum, { end }) => sum + end, 0);
  const records: LogRecord[] = [];
  const stop = new AbortController();
  if (end > 0) {
    for await (const batch of consumer.consume('test', { signal: stop.signal })) {
      records.push(...batch.records);
      if (batch.nextOffset >= end) break;
    }
  }
  await consumer.close();
  return records;
}

/** MQTT 5 says with the acknowledgement that a message was refused; tests in both versions read receipts. */
function acknowledgeRefusals(client: MqttClient): void {
  const publish = client.publishAsync.bind(client) as MqttClient['publishAsync'];
  client.publishAsync = (async (...args: Parameters<MqttClient['publishAsync']>) =>
    publish(...args).catch((error: unknown) => {
      if (!(error instanceof ErrorWithReasonCode)) throw error;
    })) as MqttClient['publishAsync'];
}

export async function connectDevice(
  url: string,
  username: string,
  secret: string,
  options: IClientOptions = {},
): Promise<Device> {
  const client = await mqtt.connectAsync(url, {
    username,
    password: secret,
    clientId: username,
    protocolVersion: PROTOCOL_VERSION,
    reconnectPeriod: 0,
    ...options,
  });
  const [tenant, name] = username.split('/');
  const receipts: Device['receipts'] = [];
  const waiting: { count: number; resolve: () => void }[] = [];
  client.on('error', () => {});
  acknowledgeRefusals(client);
  client.on('message', (topic, payload) => {
    if (!topic.endsWith('/receipts')) return;
    receipts.push(JSON.parse(payload.toString()));
    for (const wait of waiting) if (receipts.length >= wait.count) wait.resolve();
  });
  await client.subscribeAsync(`t/${tenant}/d/${name}/receipts`, { qos: 1 });
  return {
    client,
    username,
    secret,
    topic: `t/${tenant}/d/${name}/telemetry`,
    receipts,
    async receipt(count = 1) {
      if (receipts.length < count) {
        await new Promise<void>((resolve, reject) => {
          const late = setTimeout(
            () => reject(new Error(`${receipts.length} of ${count} receipts came`)),
            5_000,
          );
          waiting.push({
            count,
            resolve: () => {
              clearTimeout(late);
              resolve();
            },
          });
        });
      }
      return receipts;
    },
  };
}
