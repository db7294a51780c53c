import { assignCredentials, type Credential, readCredentials } from './credentials.ts';
import { Device, type FleetContext } from './device.ts';
import { type Behaviour, type FleetInput, fleetSchema, type GroupSpec } from './fleet-schema.ts';
import { layFlood } from './floods.ts';
import { createRandom } from './random.ts';
import { type Summary, summarize } from './summary.ts';
import { Tally } from './tally.ts';
import { type Timer, TimerHeap } from './timers.ts';
import type { Link } from './uplink.ts';
import { checkShape, InputError, readYaml } from './yaml-file.ts';

export const DEFAULT_URL = 'mqtt://127.0.0.1:1883';
/** How long `stop` waits for what was sent to be acknowledged. */
const DRAIN_MS = 5000;
const DRAIN_LOOK_MS = 20;

export interface FleetOptions {
  /** Path of a YAML file, or what would be in it. */
  fleet: string | FleetInput;
  /** Path of a CSV file, or its rows. */
  credentials: string | readonly Credential[];
  url?: string | undefined;
  protocolVersion?: 4 | 5 | undefined;
  /** Instead of the fleet's own seed. */
  seed?: number | undefined;
  /** Laid over the fleet, as `--flood` writes them: `step,factor=10,at=30s,for=60s`. */
  floods?: readonly string[] | undefined;
  /** How long `stop` waits for acknowledgements, ms; 5,000 by default. */
  drainTimeoutMs?: number | undefined;
  /** PEM certificates to trust, for mqtts: URLs. */
  ca?: string | undefined;
}

export interface Fleet {
  /** Begins to connect; returns at once. */
  start(): void;
  /** Resolves true when every connection is up, false when `timeoutMs` has passed before. */
  untilConnected(timeoutMs: number): Promise<boolean>;
  /** How it stands now. */
  snapshot(): Summary;
  /** Stops measuring, sends what is buffered, waits for acknowledgements, disconnects. */
  stop(): Promise<Summary>;
}

/**
 * Reads and checks the fleet and its credentials; connects to nothing yet.
 * @throws InputError that says which file and key is wrong
 */
export async function createFleet(options: FleetOptions): Promise<Fleet> {
  const fleet =
    typeof options.fleet === 'string'
      ? await readYaml(options.fleet, fleetSchema)
      : checkShape(fleetSchema, options.fleet, 'fleet');
  if (options.seed !== undefined) fleet.seed = options.seed;
  for (const flood of options.floods ?? []) layFlood(fleet, flood);
  const rows =
    typeof options.credentials === 'string'
      ? await readCredentials(options.credentials)
      : options.credentials;
  const source = typeof options.credentials === 'string' ? options.credentials : 'credentials';
  const assigned = assignCredentials(fleet, rows, source);
  const link: Link = {
    url: checkUrl(options.url ?? DEFAULT_URL),
    protocolVersion: options.protocolVersion ?? 4,
    keepalive: fleet.keepalive,
    connectTimeout: fleet.connectTimeout,
    backoff: fleet.backoff,
    herd: fleet.herd,
    ca: options.ca,
  };
  return new RunningFleet(
    { fleet, link, timers: new TimerHeap(), tally: new Tally(), startedMs: 0, wallNow: Date.now },
    (context) =>
      fleet.groups.flatMap((group, index) => {
        const own = assigned[index];
        return own === undefined ? [] : createGroup(context, group, own.devices, own.gateways);
      }),
    options.drainTimeoutMs ?? DRAIN_MS,
  );
}

/** @throws InputError unless it is a URL that MQTT runs over */
export function checkUrl(url: string): string {
  const scheme = /^(mqtts?|tcp|ssl|wss?):\/\/[^/]/.exec(url);
  if (scheme !== null && URL.canParse(url)) return url;
  throw new InputError(`url: expected a URL such as ${DEFAULT_URL}, got "${url}"`);
}

function createGroup(
  context: FleetContext,
  group: GroupSpec,
  devices: readonly Credential[],
  gateways: readonly Credential[],
): Device[] {
  const size = group.gateway?.devices;
  if (size === undefined) {
    return devices.map(
      (identity, index) => new Device(context, group, behaviourOf(group, index), identity),
    );
  }
  return gateways.map((identity, index) => {
    const children = devices.slice(index * size, (index + 1) * size).map(({ device }) => device);
    const behaviour = behaviourOf(group, index * size);
    return new Device(context, group, behaviour, identity, children);
  });
}

/** The last devices of a group are its exceptions, in the order in which they are written. */
function behaviourOf(group: GroupSpec, index: number): Behaviour {
  let end = group.count;
  for (const exception of group.exceptions.toReversed()) {
    if (index >= end - exception.count && index < end) return exception.behaviour;
    end -= exception.count;
  }
  return group.behaviour;
}

class RunningFleet implements Fleet {
  readonly #context: FleetContext;
  readonly #createDevices: (context: FleetContext) => Device[];
  readonly #drainTimeoutMs: number;
  #devices: Device[] = [];
  #starts: Timer[] = [];
  #started = false;
  #stopped: Promise<Summary> | undefined;

  constructor(
    context: FleetContext,
    createDevices: (context: FleetContext) => Device[],
    drainTimeoutMs: number,
  ) {
    this.#context = context;
    this.#createDevices = createDevices;
    this.#drainTimeoutMs = drainTimeoutMs;
  }

  start(): void {
    if (this.#started) throw new Error('a fleet starts only once');
    this.#started = true;
    const { fleet, timers } = this.#context;
    this.#context.startedMs = timers.now();
    this.#context.tally.begin();
    this.#devices = this.#createDevices(this.#context);
    const random = createRandom(fleet.seed, 'start');
    this.#starts = this.#devices.map((device) =>
      timers.after(fleet.herd ? 0 : random() * fleet.connectOver, () => device.start()),
    );
  }

  async untilConnected(timeoutMs: number): Promise<boolean> {
    return this.#until(timeoutMs, () => this.#devices.every((device) => device.connected));
  }

  snapshot(): Summary {
    return summarize(this.#context.tally, {
      devices: sum(this.#devices, (device) => device.units),
      connections: this.#devices.length,
      connectedAtEnd: sum(this.#devices, (device) => Number(device.connected)),
      leftInBuffer: sum(this.#devices, (device) => device.buffered),
    });
  }

  stop(): Promise<Summary> {
    this.#stopped ??= this.#stop();
    return this.#stopped;
  }

  async #stop(): Promise<Summary> {
    const { timers } = this.#context;
    for (const start of this.#starts) timers.cancel(start);
    for (const device of this.#devices) device.beginDrain();
    await this.#until(this.#drainTimeoutMs, () => this.#devices.every((device) => device.drained));
    const summary = this.snapshot();
    await Promise.all(this.#devices.map((device) => device.close()));
    timers.clear();
    return summary;
  }

  #until(timeoutMs: number, done: () => boolean): Promise<boolean> {
    const { timers } = this.#context;
    const deadline = timers.now() + timeoutMs;
    return new Promise((resolve) => {
      const look = (): void => {
        if (done()) resolve(true);
        else if (timers.now() >= deadline) resolve(false);
        else timers.after(DRAIN_LOOK_MS, look);
      };
      look();
    });
  }
}

function sum<T>(items: readonly T[], value: (item: T) => number): number {
  let total = 0;
  for (const item of items) total += value(item);
  return total;
}
