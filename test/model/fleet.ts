import type { Values } from '../../src/core/nouns.ts';
import type { RefusalCode } from '../../src/core/refusals.ts';
import type { Dice } from './dice.ts';

/** The devices of a plan: what they measure, what is wrong with them, and what they send when. */

export const TENANT = 'acme';
export const MINUTE = 60_000;
export const HOUR = 3_600_000;
export const DAY = 86_400_000;

/** Device types as they stand in the configuration. */
export const TYPES = {
  climate: {
    period: '10s',
    futureMax: '5m',
    pastMax: '10d',
    metrics: {
      temperature: { kind: 'float', min: -40, max: 85 },
      humidity: { kind: 'float', min: 0, max: 100 },
      open: { kind: 'bool' },
      mode: { kind: 'string', values: ['auto', 'off', 'eco'] },
      pulses: { kind: 'int', min: 0 },
    },
  },
  loose: { futureMax: '1m', future: 'useReceived', pastMax: '3d', unknownMetrics: 'keep' },
  strict: {
    period: '1m',
    futureMax: '10m',
    pastMax: '30d',
    unknownMetrics: 'drop',
    metrics: { pressure: { kind: 'float', required: true }, flow: { kind: 'float' } },
  },
} as const;
export type TypeName = keyof typeof TYPES;

/** The same in numbers, ms: what the model goes by. */
export const RULES: Record<
  TypeName,
  { periodMs: number; futureMs: number; usesReceived: boolean; pastMs: number; known?: string[] }
> = {
  climate: { periodMs: 10_000, futureMs: 5 * MINUTE, usesReceived: false, pastMs: 10 * DAY },
  loose: { periodMs: 0, futureMs: MINUTE, usesReceived: true, pastMs: 3 * DAY },
  strict: {
    ...{ periodMs: MINUTE, futureMs: 10 * MINUTE, usesReceived: false, pastMs: 30 * DAY },
    known: ['pressure', 'flow'],
  },
};

export interface DeviceSpec {
  name: string;
  type: TypeName;
  /** The device that it is reached through. */
  via?: string;
}

/** One reading as a device means it. */
export interface Item {
  device: string;
  /** By the device's clock; absent: it has none. */
  ts?: number;
  seq?: number;
  values: Values;
  /** What is wrong with it by itself, whatever the time. */
  flaw?: RefusalCode;
  /** In place of `values`, where these are what is wrong. */
  wrong?: Record<string, unknown>;
}

/** One publish. */
export interface Message {
  /** The device that is connected. */
  session: string;
  qos: 0 | 1;
  channel: 'telemetry' | 'state' | 'foreign';
  payload: Buffer;
  items: readonly Item[];
  /** What is wrong with the message as a whole. */
  flaw?: RefusalCode;
}

/** Readings of a device and time that it may send again or contradict. */
const REMEMBERED = 40;
const ITEMS_MAX = 10;

/** One device with its habits. */
export class Source {
  readonly spec: DeviceSpec;
  /** Its clock less that of the gateway, ms. */
  private readonly skewMs: number;
  private readonly dice: Dice;
  private readonly habits: Habits;
  private readonly memory: Item[] = [];
  private seq = 0;
  private last: number;
  private held: Item[] = [];

  constructor(spec: DeviceSpec, dice: Dice, now: number) {
    this.spec = spec;
    this.dice = dice;
    this.last = now;
    this.skewMs = skewOf(dice);
    this.habits = {
      stepMs: dice.pick([500, 1_000, 10_000, 10_000, MINUTE, 7 * MINUTE]),
      loses: dice.pick([0, 0, 0.1, 0.4]),
      repeats: dice.pick([0, 0.05, 0.3]),
      merges: dice.pick([0, 0.1, 0.5]),
      conflicts: dice.pick([0, 0.05, 0.3]),
      flawed: dice.pick([0, 0.05, 0.2]),
      shuffles: dice.chance(0.3),
      holds: dice.pick([0, 0, 0.2, 0.5]),
      timeless: dice.chance(0.1),
      counts: dice.chance(0.7),
    };
  }

  /** What it sends after the gateway's clock went on to `now`. */
  measure(now: number): Item[] {
    const { dice, habits } = this;
    const made: Item[] = [];
    const spanMs = Math.max(0, now - this.last);
    const count = Math.min(ITEMS_MAX, 1 + Math.floor(spanMs / habits.stepMs));
    // What it measured last; of a long time only as much as it remembers.
    for (let i = count - 1; i >= 0; i -= 1) {
      if (dice.chance(habits.loses)) {
        this.seq += 1;
        continue;
      }
      const at = now - i * habits.stepMs + dice.int(-400, 400);
      // Windows begin and end on whole minutes.
      const isOnEdge = dice.chance(0.15);
      const edge = Math.round(at / MINUTE) * MINUTE - dice.int(0, 1);
      made.push(...this.reading(isOnEdge ? edge - this.skewMs : at));
    }
    this.last = now;
    for (const item of [...made]) this.remember(item);
    if (dice.chance(habits.repeats)) made.push(...this.again());
    if (dice.chance(habits.conflicts)) made.push(...this.contradiction());
    if (dice.chance(habits.merges)) made.push(...this.more());
    const all = habits.shuffles ? dice.shuffle(made) : made;
    if (dice.chance(habits.holds)) {
      // Out of reach: it sends them once it is back, be it days later.
      this.held.push(...all);
      if (this.held.length < 60) return [];
    }
    const sent = dice.chance(0.5) ? [...this.held, ...all] : [...all, ...this.held];
    this.held = [];
    return sent;
  }

  /** What it still holds back. */
  release(): Item[] {
    return this.held.splice(0);
  }

  private reading(at: number): Item[] {
    const { dice, habits } = this;
    this.seq += 1;
    const item: Item = { device: this.spec.name, values: this.values() };
    if (!habits.timeless) item.ts = at + this.skewMs;
    if (habits.counts) item.seq = this.seq;
    if (dice.chance(habits.flawed)) return [this.spoil(item)];
    const names = Object.keys(item.values);
    if (item.ts === undefined || names.length < 2 || !dice.chance(habits.merges)) return [item];
    if (this.spec.type === 'strict') return [item];
    // Its sensors report apart from each other.
    const cut = dice.int(1, names.length - 1);
    return [names.slice(0, cut), names.slice(cut)].map((some) => ({
      ...item,
      values: Object.fromEntries(some.map((name) => [name, item.values[name] ?? 0])),
    }));
  }

  private values(): Values {
    const { dice } = this;
    const values: Values = {};
    const number = () => dice.pick([dice.int(-20, 60), dice.int(-400, 800) / 10, dice.int(0, 3)]);
    if (this.spec.type === 'climate') {
      values.temperature = number();
      if (dice.chance(0.4)) values.humidity = dice.int(0, 1_000) / 10;
      if (dice.chance(0.3)) values.open = dice.chance(0.5);
      if (dice.chance(0.2)) values.mode = dice.pick(['auto', 'off', 'eco']);
      if (dice.chance(0.3)) values.pulses = dice.int(0, 1_000_000);
    } else if (this.spec.type === 'loose') {
      for (const name of ['a', 'b.c', 'd:e']) if (dice.chance(0.5)) values[name] = number() * 1e6;
      if (Object.keys(values).length === 0) values.text = dice.pick(['x', 'yes', '']);
    } else {
      values.pressure = 1_000 + number();
      if (dice.chance(0.5)) values.flow = number();
      if (dice.chance(0.2)) values.unheard = 1;
    }
    return values;
  }

  private spoil(item: Item): Item {
    const { dice } = this;
    if (dice.chance(0.2)) return { ...item, ts: dice.pick([-5, 9e15]), flaw: 'TS_INVALID' };
    if (dice.chance(0.2)) return { ...item, wrong: {}, flaw: 'METRICS_NONE' };
    if (this.spec.type === 'climate') {
      return dice.pick<Item>([
        { ...item, wrong: { temperature: 85.5 }, flaw: 'VALUE_BOUNDS' },
        { ...item, wrong: { temperature: '20' }, flaw: 'VALUE_KIND' },
        { ...item, wrong: { temperature: 1, pressure: 2 }, flaw: 'METRIC_UNKNOWN' },
        { ...item, wrong: { pulses: 1.5 }, flaw: 'VALUE_KIND' },
      ]);
    }
    if (this.spec.type === 'strict') return { ...item, wrong: { flow: 1 }, flaw: 'METRIC_MISSING' };
    return { ...item, wrong: { a: null }, flaw: 'VALUE_KIND' };
  }

  private remember(item: Item): void {
    if (item.ts === undefined || item.flaw !== undefined) return;
    this.memory.push(item);
    if (this.memory.length > REMEMBERED) this.memory.shift();
  }

  private recalled(): Item | undefined {
    const { dice, memory } = this;
    if (memory.length === 0) return undefined;
    // Mostly the last ones.
    const back = dice.chance(0.6) ? dice.int(1, 4) : dice.int(1, memory.length);
    return memory.at(-Math.min(back, memory.length));
  }

  private again(): Item[] {
    const item = this.recalled();
    return item === undefined ? [] : Array.from({ length: this.dice.int(1, 3) }, () => item);
  }

  /** The same time with another value, sometimes several, sometimes the first one again. */
  private contradiction(): Item[] {
    const { dice } = this;
    const item = this.recalled();
    if (item === undefined) return [];
    const [name] = dice.shuffle(Object.keys(item.values));
    if (name === undefined) return [];
    const other = (): Item => {
      const fresh = this.values()[name];
      const value = fresh ?? (typeof item.values[name] === 'number' ? dice.int(0, 60) : 'off');
      const values = dice.chance(0.5) ? { ...item.values, [name]: value } : { [name]: value };
      if (this.spec.type === 'strict') values.pressure ??= item.values.pressure ?? 0;
      return { ...item, values: valid(values, item.values) };
    };
    const some = Array.from({ length: dice.int(1, 3) }, other);
    const all = dice.chance(0.3) ? [...some, item] : some;
    for (const one of all) this.remember(one);
    return all;
  }

  /** More metrics of a time that was reported before. */
  private more(): Item[] {
    const item = this.recalled();
    return item === undefined ? [] : [{ ...item, values: this.values() }];
  }
}

interface Habits {
  stepMs: number;
  /** Probabilities. */
  loses: number;
  repeats: number;
  merges: number;
  conflicts: number;
  flawed: number;
  holds: number;
  shuffles: boolean;
  /** It has no clock. */
  timeless: boolean;
  /** It numbers its readings. */
  counts: boolean;
}

function skewOf(dice: Dice): number {
  return dice.pick([
    ...([0, 0, 0, dice.int(-2_000, 2_000), -90 * MINUTE, 3 * MINUTE] as const),
    ...([5 * MINUTE, 7 * MINUTE, 365 * DAY] as const),
    ...([-2 * DAY, -3 * DAY, -10 * DAY, -400 * DAY] as const),
  ]);
}

/** Texts stay texts: a conflict is to be valid. */
function valid(values: Values, like: Values): Values {
  const kept: Values = {};
  for (const [name, value] of Object.entries(values)) {
    const old = like[name];
    kept[name] = old === undefined || typeof old === typeof value ? value : old;
  }
  return kept;
}

/** A message of some items; all of one session. */
export function messageOf(session: string, items: readonly Item[], dice: Dice): Message {
  const own = items.every(({ device }) => device === session);
  const parts = items.map((item) => part(item, dice));
  let data: unknown;
  if (own) data = parts.length === 1 && dice.chance(0.7) ? parts[0] : parts;
  else data = { devices: byDevice(items, parts) };
  const qos = dice.chance(0.1) ? 0 : 1;
  // In a message of several devices the items come by device.
  const ordered = own ? items : [...groups(items).values()].flat();
  const payload = Buffer.from(JSON.stringify(data));
  return { session, qos, channel: 'telemetry', payload, items: ordered };
}

function part({ ts, seq, values, wrong }: Item, dice: Dice): Record<string, unknown> {
  const sent = wrong ?? values;
  const isText = ts !== undefined && ts > 0 && ts < 8e15 && dice.chance(0.1);
  const time = isText ? new Date(ts).toISOString() : ts;
  const head = { ...(time !== undefined && { ts: time }), ...(seq !== undefined && { seq }) };
  return dice.chance(0.5) && Object.keys(sent).length > 0
    ? { ...head, ...sent }
    : { ...head, values: sent };
}

function groups(items: readonly Item[]): Map<string, Item[]> {
  const map = new Map<string, Item[]>();
  for (const item of items) map.set(item.device, [...(map.get(item.device) ?? []), item]);
  return map;
}

function byDevice(items: readonly Item[], parts: readonly unknown[]): Record<string, unknown> {
  const devices: Record<string, unknown[]> = {};
  items.forEach(({ device }, index) => {
    devices[device] = [...(devices[device] ?? []), parts[index]];
  });
  return devices;
}

/** Messages with nothing right in them. */
export function junk(session: string, dice: Dice): Message {
  const of = (payload: string | Buffer, flaw: RefusalCode, channel: Message['channel']) => ({
    ...{ session, qos: 1 as const, channel, items: [], flaw, payload: Buffer.from(payload) },
  });
  return dice.pick([
    of('{"temperature": 21.5', 'JSON_INVALID', 'telemetry'),
    of('', 'PAYLOAD_EMPTY', 'telemetry'),
    of('[]', 'SHAPE_INVALID', 'telemetry'),
    of(Buffer.alloc(9_000, 32), 'PAYLOAD_TOO_LARGE', 'telemetry'),
    of('{"a":1}', 'TOPIC_NOT_ALLOWED', 'foreign'),
    of('not JSON', 'STATE_INVALID', 'state'),
    of(`{"devices":{"stranger":{"a":1}}}`, 'DEVICE_NOT_ALLOWED', 'telemetry'),
  ]);
}

/** A state message: an event, no part of the ledger. */
export function state(session: string): Message {
  const payload = Buffer.from('{"battery":3}');
  return { session, qos: 1, channel: 'state', payload, items: [] };
}
