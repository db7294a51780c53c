import { DeviceClock } from './device-clock.ts';
import type {
  Behaviour,
  FirmwareSpec,
  FleetSpec,
  GroupSpec,
  PayloadSpec,
  RateSpec,
} from './fleet-schema.ts';
import { encodeMalformed, type MalformedKind } from './malformed.ts';
import { Sensors } from './models.ts';
import { BATCH_MAX, encodeReadings, pad, type Reading } from './payload.ts';
import { createRandom, pickWeighted, type Random } from './random.ts';
import { rateFactor } from './rate.ts';
import { ReadingBuffer } from './reading-buffer.ts';
import type { Tally } from './tally.ts';
import type { Timer, TimerHeap } from './timers.ts';
import { type Identity, type Link, Uplink } from './uplink.ts';

/** Readings held back at once on purpose; more are sent in time. */
const HELD_MAX = 50;
/** A single reading younger than this may go without its time. */
const FRESH_MS = 1000;
/** Later than this many periods, samples are given up and counted as missed. */
const BEHIND_PERIODS_MAX = 2;

/** What all devices of a fleet share. */
export interface FleetContext {
  fleet: FleetSpec;
  link: Link;
  timers: TimerHeap;
  tally: Tally;
  /** On the timers' clock, ms. */
  startedMs: number;
  /** True time, ms since the epoch. */
  wallNow(): number;
}

interface Entry extends Reading {
  /** When it was measured, on the timers' clock. */
  takenAt: number;
  spoilt?: MalformedKind;
}

interface Unit {
  name: string;
  clock: DeviceClock;
  sensors: Sensors;
  seq: number;
}

/**
 * One connection and what it measures: a device, or a gateway with the devices that it speaks for.
 * Readings go into a ring; whenever the uplink has room they are sent from there, so being offline,
 * being slowed by the gateway and being fine are the same code.
 */
export class Device {
  readonly #context: FleetContext;
  readonly #group: GroupSpec;
  readonly #behaviour: Behaviour;
  readonly #firmware: FirmwareSpec;
  readonly #rate: RateSpec;
  readonly #payloads: readonly PayloadSpec[];
  readonly #random: Random;
  readonly #isGateway: boolean;
  readonly #type: string;
  readonly #units: Unit[];
  readonly #uplink: Uplink;
  readonly #buffer: ReadingBuffer<Entry>;
  readonly #held: { entry: Entry; due: number }[] = [];
  readonly #onTick = (): void => this.#tick();
  readonly #timers = new Set<Timer>();
  #tickTimer: Timer | undefined;
  /** What the next message shall look like. */
  #next: PayloadSpec;
  #draining = false;
  #bootedAt = 0;
  #dueAt = 0;
  #sampledAt = 0;

  /** @param children names of the devices that it speaks for; without them it speaks for itself */
  constructor(
    context: FleetContext,
    group: GroupSpec,
    behaviour: Behaviour,
    identity: Identity & { type: string },
    children?: readonly string[],
  ) {
    const { fleet } = context;
    const name = `${identity.tenant}/${identity.device}`;
    this.#context = context;
    this.#group = group;
    this.#behaviour = behaviour;
    this.#type = identity.type;
    this.#isGateway = children !== undefined;
    this.#random = createRandom(fleet.seed, name);
    this.#firmware = pickWeighted(group.firmware, ({ share }) => share, this.#random);
    this.#rate = fleet.tenantRates[identity.tenant] ?? fleet.rate;
    this.#payloads = behaviour.payloads ?? [
      { weight: 1, form: behaviour.form, readings: 1, bytes: 0 },
    ];
    this.#next = this.#pickPayload();
    this.#buffer = new ReadingBuffer(behaviour.buffer);
    const metrics = { ...group.metrics, ...this.#firmware.metrics };
    this.#units = (children ?? [identity.device]).map((unit) => ({
      name: unit,
      clock: new DeviceClock(behaviour.clock.offset, behaviour.clock.drift, context.wallNow()),
      sensors: new Sensors(metrics, fleet.seed, `${identity.tenant}/${unit}`, fleet.dayLength),
      seq: 0,
    }));
    this.#uplink = new Uplink({
      link: context.link,
      identity,
      qos: behaviour.qos,
      telemetryTopic:
        behaviour.topic === 'me'
          ? 'me/telemetry'
          : `t/${identity.tenant}/d/${identity.device}/telemetry`,
      window: behaviour.inflight,
      timers: context.timers,
      random: this.#random,
      tally: context.tally,
      listener: { up: () => this.#onUp(), freed: () => this.#pump() },
    });
  }

  get connected(): boolean {
    return this.#uplink.connected;
  }

  /** Devices that this connection measures for. */
  get units(): number {
    return this.#units.length;
  }

  get buffered(): number {
    return this.#buffer.length + this.#held.length;
  }

  /** Nothing is waiting to be sent or acknowledged. */
  get drained(): boolean {
    return this.buffered === 0 && this.#uplink.pending === 0;
  }

  /** Boots, connects and begins to measure at a random place in its period. */
  start(): void {
    const { timers, startedMs } = this.#context;
    this.#bootedAt = timers.now();
    this.#sampledAt = this.#bootedAt;
    this.#dueAt = this.#bootedAt + this.#random() * this.#group.period;
    this.#tickTimer = timers.at(this.#dueAt, this.#onTick);
    for (const outage of this.#behaviour.outages) {
      if (this.#random() < outage.share) this.#planOutage(outage, startedMs + outage.at);
    }
    for (const storm of this.#context.fleet.storms) {
      if (this.#random() < storm.share) this.#planStorm(storm, startedMs + storm.at);
    }
    this.#uplink.connect();
  }

  /** Measures no more, ends every outage and sends what there is. */
  beginDrain(): void {
    const { timers } = this.#context;
    this.#draining = true;
    timers.cancel(this.#tickTimer);
    for (const timer of this.#timers) timers.cancel(timer);
    this.#timers.clear();
    this.#releaseHeld(Number.POSITIVE_INFINITY);
    if (!this.drained) this.#uplink.connect();
    this.#pump();
  }

  close(): Promise<void> {
    return this.#uplink.close();
  }

  #tick(): void {
    const { timers, tally, startedMs } = this.#context;
    const now = timers.now();
    const factor = rateFactor(this.#rate, now - startedMs);
    const period = this.#group.period / factor;
    this.#sample(now);
    this.#releaseHeld(now);
    this.#pump();
    this.#dueAt += period * (1 + this.#group.jitter * (2 * this.#random() - 1));
    if (now - this.#dueAt > BEHIND_PERIODS_MAX * period) {
      tally.missed += Math.floor((now - this.#dueAt) / period) * this.#units.length;
      this.#dueAt = now + period;
    }
    this.#tickTimer = timers.at(this.#dueAt, this.#onTick);
  }

  #sample(now: number): void {
    const { tally } = this.#context;
    const { malformed, late } = this.#behaviour;
    const wall = this.#context.wallNow();
    for (const unit of this.#units) {
      const ts = unit.clock.read(wall);
      const moment = { clockMs: ts, upMs: now - this.#bootedAt, sinceMs: now - this.#sampledAt };
      const values = unit.sensors.sample(moment);
      const entry: Entry = { device: unit.name, ts, seq: unit.seq++, values, takenAt: now };
      tally.sampled++;
      if (malformed !== undefined && this.#random() < malformed.probability) {
        const kind = malformed.kinds[Math.floor(this.#random() * malformed.kinds.length)];
        if (kind !== undefined) entry.spoilt = kind;
      }
      if (late !== undefined && this.#random() < late.probability && this.#held.length < HELD_MAX) {
        this.#held.push({ entry, due: now + this.#random() * late.by });
        tally.late++;
      } else {
        this.#keep(entry);
      }
    }
    this.#sampledAt = now;
  }

  #keep(entry: Entry): void {
    if (this.#buffer.push(entry) !== undefined) this.#context.tally.dropped++;
  }

  #releaseHeld(now: number): void {
    for (let i = 0; i < this.#held.length; ) {
      const held = this.#held[i];
      if (held === undefined || held.due > now) {
        i++;
        continue;
      }
      this.#held.splice(i, 1);
      this.#keep(held.entry);
    }
  }

  #pump(): void {
    while (this.#uplink.room > 0) {
      // A full ring has no room for what is still to be collected.
      const enough = Math.min(this.#next.readings, this.#buffer.limit);
      if (this.#buffer.length < enough && !this.#draining) return;
      const first = this.#buffer.shift();
      if (first === undefined) return;
      if (first.spoilt !== undefined) this.#sendSpoilt(first, first.spoilt);
      else this.#sendBatch(first);
      this.#next = this.#pickPayload();
    }
  }

  #pickPayload(): PayloadSpec {
    const [only] = this.#payloads;
    if (this.#payloads.length === 1 && only !== undefined) return only;
    return pickWeighted(this.#payloads, ({ weight }) => weight, this.#random);
  }

  #sendSpoilt(entry: Entry, kind: MalformedKind): void {
    const style = { flat: this.#next.form === 'flat', gateway: this.#isGateway };
    this.#context.tally.countMalformed(kind);
    this.#uplink.send(encodeMalformed(entry, kind, this.#random, style), 'malformed', 1);
  }

  #sendBatch(first: Entry): void {
    const batch = [first];
    for (let next = this.#buffer.peek(); next !== undefined; next = this.#buffer.peek()) {
      if (batch.length === BATCH_MAX || next.spoilt !== undefined) break;
      batch.push(next);
      this.#buffer.shift();
    }
    const fresh = this.#context.timers.now() - first.takenAt < FRESH_MS;
    const flat = this.#next.form === 'flat' && fresh;
    const text = encodeReadings(batch, { flat, gateway: this.#isGateway });
    const payload = pad(text, this.#next.bytes);
    this.#uplink.send(payload, 'reading', batch.length);
    if (this.#random() < this.#behaviour.duplicates) {
      this.#context.tally.duplicates++;
      this.#uplink.send(payload, 'duplicate', batch.length);
    }
  }

  #onUp(): void {
    const { timers, wallNow } = this.#context;
    const { clock } = this.#behaviour;
    this.#uplink.sendState(
      JSON.stringify({
        type: this.#type,
        firmware: this.#firmware.version,
        ts: wallNow() + clock.offset,
        uptimeMs: Math.round(timers.now() - this.#bootedAt),
        buffered: this.#buffer.length,
      }),
    );
    this.#pump();
  }

  #planOutage(outage: Behaviour['outages'][number], at: number): void {
    this.#later(at, () => {
      this.#uplink.goOff();
      this.#later(at + outage.for, () => this.#uplink.goOn());
      if (outage.every !== undefined) this.#planOutage(outage, at + outage.every);
    });
  }

  #planStorm(storm: FleetSpec['storms'][number], at: number): void {
    this.#later(at, () => {
      this.#uplink.lose();
      if (storm.every !== undefined) this.#planStorm(storm, at + storm.every);
    });
  }

  #later(at: number, run: () => void): void {
    const timer = this.#context.timers.at(at, () => {
      this.#timers.delete(timer);
      run();
    });
    this.#timers.add(timer);
  }
}
