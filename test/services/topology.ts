import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { parse } from 'csv-parse/sync';
import kafkajs from 'kafkajs';
import { command, SpillwayProcess, type TestDevice } from '../system/spillway-process.ts';
import {
  type InfluxEnvironment,
  influxEnvironment,
  removeBuckets,
  uniquePrefix,
} from './influx-env.ts';
import { BROKERS } from './kafka-env.ts';
import type { Buckets } from './stored-readings.ts';

const env = influxEnvironment();

/** Why tests of whole programs can't run here; false when they can. */
export const NO_SERVICES =
  BROKERS === undefined || env === undefined
    ? 'KAFKA_BROKERS, INFLUX_URL, INFLUX_ORG and INFLUX_TOKEN are not all set'
    : false;

type Settings = Record<string, unknown>;
export type Role = 'gateway' | 'rollup' | 'http';

export interface TopologyOptions {
  /** Default: those of the environment. */
  brokers?: string[] | undefined;
  influx?: InfluxEnvironment | undefined;
  /** Where processes reach the InfluxDB, when something stands in between. */
  influxUrl?: string;
  /** Of every process. */
  settings: Settings;
  /** More settings of the two engines. */
  kafka?: Settings;
  influxdb?: Settings;
}

/** Any number of real processes that share topics and buckets which are theirs alone. */
export class Topology {
  readonly prefix = uniquePrefix();
  readonly brokers: string[];
  readonly influx: InfluxEnvironment;
  private readonly t: TestContext;
  private readonly settings: Settings;
  private readonly processes: SpillwayProcess[] = [];

  /** Ends its processes after the test, and removes what they left in the services. */
  constructor(t: TestContext, options: TopologyOptions) {
    const brokers = options.brokers ?? BROKERS;
    const influx = options.influx ?? env;
    assert.ok(brokers !== undefined && influx !== undefined);
    this.t = t;
    this.brokers = brokers;
    this.influx = influx;
    const { url, org, token } = influx;
    this.settings = {
      ...options.settings,
      log: { engine: 'kafka', kafka: { brokers, topicPrefix: this.prefix, ...options.kafka } },
      store: {
        engine: 'influxdb',
        influxdb: {
          ...{ url: options.influxUrl ?? url, org, token, bucketPrefix: this.prefix },
          ...options.influxdb,
        },
      },
    };
    t.after(async () => {
      // Before what they need is gone.
      await Promise.all(this.processes.map((process) => process.end()));
      this.keepLogs();
      const removed = await Promise.allSettled([
        options.influx === undefined && removeBuckets(influx, this.prefix),
        options.brokers === undefined && this.removeTopics(),
      ]);
      // What is left is in nobody's way.
      for (const one of removed) {
        if (one.status === 'rejected') t.diagnostic(`not removed: ${one.reason}`);
      }
    });
  }

  get buckets(): Buckets {
    return { env: this.influx, prefix: this.prefix };
  }

  /** A process with a data directory of its own; not started. `changes` are merged two levels deep. */
  process(roles: readonly Role[], changes: Settings = {}): SpillwayProcess {
    const settings = merged(this.settings, changes);
    const process = new SpillwayProcess(this.t, settings, { args: ['--roles', roles.join()] });
    this.processes.push(process);
    return process;
  }

  async start(roles: readonly Role[], changes: Settings = {}): Promise<SpillwayProcess> {
    const process = this.process(roles, changes);
    await process.start();
    return process;
  }

  /** A command of the program with the configuration of one of its processes; fails when it fails. */
  async command(of: SpillwayProcess, ...args: string[]): Promise<string> {
    return this.commandWith(of.file, ...args);
  }

  /** The same with a configuration file of its own. */
  async commandWith(file: string, ...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await command(this.t, [...args, '--config', file]);
    assert.equal(code, 0, `${args.join(' ')}\n${stderr}`);
    return stdout;
  }

  /** Devices of the shared registry: `<prefix>-01` and so on. */
  async addDevices(
    of: SpillwayProcess,
    device: { tenant: string; type: string; prefix: string; count: number },
  ): Promise<TestDevice[]> {
    const { tenant, type, prefix, count } = device;
    const names = ['--tenant', tenant, '--type', type, '--prefix', prefix];
    const csv = await this.command(of, 'device', 'add', ...names, '--count', String(count));
    return parse(csv, { columns: true }) as TestDevice[];
  }

  /** Writes a file beside the configuration of a process. */
  file(of: SpillwayProcess, name: string, text: string): string {
    const path = join(of.dir, name);
    writeFileSync(path, text);
    return path;
  }

  /** What processes printed, for eyes, where TOPOLOGY_LOGS names a directory. */
  private keepLogs(): void {
    const dir = process.env.TOPOLOGY_LOGS;
    if (dir === undefined) return;
    for (const [i, one] of this.processes.entries()) {
      writeFileSync(join(dir, `${this.prefix}-${i}.log`), one.logs.join('\n--- started again\n'));
    }
  }

  private async removeTopics(): Promise<void> {
    const { brokers } = this;
    const kafka = new kafkajs.Kafka({ brokers, logLevel: kafkajs.logLevel.NOTHING });
    const admin = kafka.admin();
    await admin.connect();
    const topics = (await admin.listTopics()).filter((name) => name.startsWith(`${this.prefix}.`));
    if (topics.length > 0) await admin.deleteTopics({ topics });
    await admin.disconnect();
  }
}

function merged(base: Settings, changes: Settings, depth = 2): Settings {
  const all = { ...base };
  for (const [key, value] of Object.entries(changes)) {
    const under = all[key];
    all[key] =
      depth > 0 && isSettings(under) && isSettings(value) ? merged(under, value, depth - 1) : value;
  }
  return all;
}

function isSettings(value: unknown): value is Settings {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
