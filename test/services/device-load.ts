import assert from 'node:assert/strict';
import type { TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Measured } from '../system/naive.ts';
import { RestlessDevice } from '../system/restless-device.ts';
import type { SpillwayProcess, TestDevice } from '../system/spillway-process.ts';
import type { Expected } from './stored-readings.ts';

const DAY_MS = 86_400_000;

export interface LoadOptions {
  devices: readonly TestDevice[];
  /** Where devices connect now; undefined: nowhere. */
  port: () => number | undefined;
  seed: number;
  /** Mean time between two messages of a device, ms. */
  everyMs: number;
  /** Messages of a device that may wait for their acknowledgement. */
  window?: number;
}

/** The last midnight but one (UTC), so that all of a test's readings are of the past. */
export function midnight(): number {
  return Math.floor(Date.now() / DAY_MS) * DAY_MS - DAY_MS;
}

/** Devices of one tenant that publish whatever happens, from shortly before a midnight on. */
export class DeviceLoad {
  readonly tenant: string;
  readonly devices: RestlessDevice[];
  private readonly running: Promise<unknown>;

  constructor(t: TestContext, options: LoadOptions) {
    const { devices, port, seed, everyMs, window = 50 } = options;
    const [first] = devices;
    assert.ok(first !== undefined);
    this.tenant = first.tenant;
    const from = midnight() - 90_000;
    this.devices = devices.map(
      (identity, i) =>
        new RestlessDevice({ identity, port, seed: seed + i, from, window, stepMsMax: 400 }),
    );
    t.after(() => {
      for (const device of this.devices) device.end();
    });
    this.running = Promise.all(this.devices.map((device) => device.run(everyMs)));
  }

  static at(
    t: TestContext,
    gateway: SpillwayProcess,
    options: Omit<LoadOptions, 'port'>,
  ): DeviceLoad {
    return new DeviceLoad(t, { ...options, port: () => gateway.mqttPort });
  }

  /** Messages. */
  get sent(): number {
    return this.sum((device) => device.sent);
  }

  get acknowledged(): number {
    return this.sum((device) => device.acknowledged);
  }

  /** Parts of messages that have to become dead letters. */
  get bad(): number {
    return this.sum((device) => device.bad);
  }

  /** Readings that were sent again on purpose. */
  get repeated(): number {
    return this.sum((device) => device.repeated);
  }

  get connects(): number {
    return this.sum((device) => device.connects);
  }

  get readings(): number {
    return this.sum((device) => device.readings.length);
  }

  /** Every good reading, by device. */
  get expected(): Expected {
    return new Map<string, readonly Measured[]>(
      this.devices.map(({ identity, readings }) => [identity.device, readings]),
    );
  }

  /** Waits until so many more messages are acknowledged. */
  async acknowledgesMore(count: number, timeoutMs: number): Promise<void> {
    const wanted = this.acknowledged + count;
    const until = performance.now() + timeoutMs;
    while (this.acknowledged < wanted) {
      assert.ok(
        performance.now() < until,
        `${this.tenant}: ${this.acknowledged} of ${wanted} messages acknowledged after ${timeoutMs} ms`,
      );
      await sleep(20);
    }
  }

  /** Ends publishing, and waits until everything is acknowledged. */
  async finish(timeoutMs: number): Promise<void> {
    for (const device of this.devices) device.stop();
    await this.running;
    await Promise.all(this.devices.map((device) => device.acknowledgedAll(timeoutMs)));
  }

  end(): void {
    for (const device of this.devices) device.end();
  }

  private sum(of: (device: RestlessDevice) => number): number {
    return this.devices.reduce((total, device) => total + of(device), 0);
  }
}
