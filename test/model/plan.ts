import type { Store } from '../../src/store/contract.ts';
import { Dice } from './dice.ts';
import {
  DAY,
  type DeviceSpec,
  HOUR,
  type Item,
  junk,
  type Message,
  MINUTE,
  messageOf,
  Source,
  state,
  type TypeName,
} from './fleet.ts';

/** Everything that happens in one run of the model, drawn from a seed. */

/** When the plan begins, gateway time. */
export const T0 = Date.UTC(2025, 2, 10, 21, 30);

export interface Settings {
  baseWindowMs: number;
  latenessMs: number;
  /** In looks at the clock. */
  flushEvery: number;
  openReadingsMax: number;
  devicesMax: number;
  batchRecordsMax: number;
  commitRecordsMax: number;
  pendingBytesMax: number;
  diskBytesMax: number;
  /** Readings that are older when they come take the lane of old ones; absent: there is none. */
  backfillAfterMs?: number;
  /** Of these, in a thousand looks at the clock. */
  backfillPerSecond: number;
}

/** What goes wrong in one life of the rollup worker. Numbers count occasions from its start. */
export interface LifeFaults {
  /** It dies at this fault point. */
  diesAtPoint?: number;
  /** It dies before or after this transaction of the store, or this call where the store is elsewhere. */
  diesAtWrite?: number;
  diesAfter: boolean;
  /** Calls of the store that fail, from the first on; only those of this kind are counted where it is named. */
  outageOf?: keyof Store;
  outageFrom?: number;
  outageCalls: number;
  /** Failing calls have done their work. */
  answersLost: boolean;
}

export type Step =
  | { kind: 'publish'; messages: Message[]; acknowledged: boolean; settles: boolean }
  | { kind: 'advance'; ms: number }
  /** A life of the worker begins, or goes on with other faults. */
  | { kind: 'work'; faults: LifeFaults; settles: boolean }
  | { kind: 'killWorker' }
  | { kind: 'stopWorker' }
  /** `hurries`: commits may be under way. */
  | { kind: 'killGateway'; hurries: boolean }
  | { kind: 'stopGateway' }
  | { kind: 'killAll' }
  | { kind: 'fill' }
  | { kind: 'audit' };

export interface Plan {
  seed: number;
  settings: Settings;
  devices: DeviceSpec[];
  steps: Step[];
}

export interface Scale {
  stepsMax: number;
  devicesMax: number;
}

export function planOf(seed: number, scale: Scale = { stepsMax: 40, devicesMax: 5 }): Plan {
  const dice = new Dice(seed);
  // Neighbouring seeds of the generator begin alike.
  for (let i = 0; i < 8; i += 1) dice.chance(0.5);
  const fills = dice.chance(0.06);
  const settings: Settings = {
    baseWindowMs: dice.pick([10_000, MINUTE, MINUTE, 10 * MINUTE, HOUR]),
    latenessMs: dice.pick([0, 30_000, 2 * MINUTE, 10 * MINUTE]),
    flushEvery: dice.pick([1, 3, 9]),
    openReadingsMax: dice.pick([5, 60, 100_000]),
    devicesMax: dice.pick([1, 3, 1_000]),
    batchRecordsMax: dice.pick([3, 40, 8_000]),
    commitRecordsMax: dice.pick([1, 7, 4_000]),
    pendingBytesMax: dice.pick([6_000, 2 ** 20, 2 ** 20]),
    diskBytesMax: fills ? 400_000 : 2 ** 30,
    backfillPerSecond: dice.pick([1_000_000, 400]),
  };
  const devices = fleetOf(dice, scale);
  let now = T0;
  const sources = devices.map((spec) => new Source(spec, dice, now));
  const sessions = devices.filter(({ via }) => via === undefined).map(({ name }) => name);
  const steps: Step[] = [];
  const count = dice.int(8, scale.stepsMax);
  for (let i = 0; i < count; i += 1) {
    // Sometimes to the first or last moment of an hour.
    const toHour = HOUR - (now % HOUR) - dice.int(0, 1);
    const ms = dice.chance(0.1) ? toHour : dice.pick([...ADVANCES]);
    now += ms;
    steps.push({ kind: 'advance', ms });
    const items = sources.filter(() => dice.chance(0.7)).flatMap((source) => source.measure(now));
    const messages = messagesOf(items, devices, dice);
    const [session] = dice.shuffle(sessions);
    if (session !== undefined && dice.chance(0.1)) messages.push(junk(session, dice));
    if (session !== undefined && dice.chance(0.05)) messages.push(state(session));
    steps.push({
      ...{ kind: 'publish', messages: interleaved(messages, dice) },
      ...{ acknowledged: dice.chance(0.85), settles: dice.chance(0.6) },
    });
    if (fills && dice.chance(0.1)) steps.push({ kind: 'fill' });
    steps.push(...troubles(dice));
  }
  const rest = messagesOf(
    sources.flatMap((source) => source.release()),
    devices,
    dice,
  );
  steps.push({ kind: 'publish', messages: rest, acknowledged: true, settles: true });
  const after = dice.pick([0, 10 * MINUTE, HOUR, DAY]);
  if (after > 0) settings.backfillAfterMs = after;
  return { seed, settings, devices, steps };
}

const ADVANCES = [
  ...([0, 1_000, 7_000, 7_000, 30_000, 30_000, 2 * MINUTE, 11 * MINUTE] as const),
  ...([HOUR, 5 * HOUR, DAY, 4 * DAY] as const),
] as const;

function fleetOf(dice: Dice, { devicesMax }: Scale): DeviceSpec[] {
  const devices: DeviceSpec[] = Array.from({ length: dice.int(1, devicesMax) }, (_, i) => ({
    name: `d-${i}`,
    type: dice.pick<TypeName>(['climate', 'climate', 'loose', 'strict']),
  }));
  const hub = devices[0];
  // Some are reached through the first.
  for (const device of devices.slice(1)) {
    if (hub !== undefined && dice.chance(0.3)) device.via = hub.name;
  }
  return devices;
}

function messagesOf(items: readonly Item[], devices: readonly DeviceSpec[], dice: Dice): Message[] {
  const bySession = new Map<string, Item[]>();
  for (const item of items) {
    const session = devices.find(({ name }) => name === item.device)?.via ?? item.device;
    bySession.set(session, [...(bySession.get(session) ?? []), item]);
  }
  const messages: Message[] = [];
  for (const [session, list] of bySession) {
    for (let at = 0; at < list.length; ) {
      const size = dice.pick([1, 1, 3, 12]);
      messages.push(messageOf(session, list.slice(at, at + size), dice));
      at += size;
    }
  }
  return messages;
}

/** Sessions in any order, each of them in its own. */
function interleaved(messages: readonly Message[], dice: Dice): Message[] {
  const queues = new Map<string, Message[]>();
  for (const message of messages) {
    queues.set(message.session, [...(queues.get(message.session) ?? []), message]);
  }
  const order = dice.shuffle(messages.map(({ session }) => session));
  return order.flatMap((session) => queues.get(session)?.shift() ?? []);
}

function troubles(dice: Dice): Step[] {
  const steps: Step[] = [];
  if (dice.chance(0.5)) {
    steps.push({ kind: 'work', faults: faultsOf(dice), settles: dice.chance(0.4) });
  }
  if (dice.chance(0.06)) steps.push({ kind: 'killWorker' });
  if (dice.chance(0.04)) steps.push({ kind: 'stopWorker' });
  if (dice.chance(0.03)) steps.push({ kind: 'killGateway', hurries: dice.chance(0.6) });
  if (dice.chance(0.01)) steps.push({ kind: 'stopGateway' });
  if (dice.chance(0.02)) steps.push({ kind: 'killAll' });
  if (dice.chance(0.04)) steps.push({ kind: 'audit' });
  return steps;
}

const WRITES = ['commit', 'writeNotes', 'writeReadings', 'writeRollups'] as const;

function faultsOf(dice: Dice): LifeFaults {
  return {
    ...(dice.chance(0.2) && { diesAtPoint: dice.int(1, 25) }),
    ...(dice.chance(0.25) && { diesAtWrite: dice.int(1, 40) }),
    diesAfter: dice.chance(0.5),
    ...(dice.chance(0.15) && { outageFrom: dice.int(1, 30) }),
    ...(dice.chance(0.15) && { outageOf: dice.pick(WRITES), outageFrom: dice.int(1, 3) }),
    outageCalls: dice.int(1, 6),
    answersLost: dice.chance(0.5),
  };
}
