import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ManualClock } from '../../src/core/clock.ts';
import { SpillwayError } from '../../src/core/errors.ts';
import type { DeviceType, EventRecord, LogRecord } from '../../src/core/nouns.ts';
import type { AppendRequest } from '../../src/log/contract.ts';
import { Deadman, type DeadmanOptions } from '../../src/ops/deadman.ts';
import { DEADMAN_GROUP, DeviceWatch } from '../../src/ops/device-watch.ts';
import type { RowTimes } from '../../src/store/contract.ts';

const T0 = Date.UTC(2026, 0, 5);
const SECOND = 1_000;
const MINUTE = 60 * SECOND;
const DAY = 1_440 * MINUTE;
const TENANT = 'acme';

function typeOf(name: string, periodMs: number): DeviceType {
  return {
    ...{ name, version: '00000000', metrics: {}, unknownMetrics: 'keep', periodMs },
    ...{ futureMs: 0, future: 'reject', pastMs: 0 },
  };
}

const TYPES = new Map([
  ['probe', typeOf('probe', MINUTE)],
  ['quick', typeOf('quick', SECOND)],
  ['button', typeOf('button', 0)],
]);

function deadman(more: Partial<DeadmanOptions> = {}): Deadman {
  return new Deadman({
    ...{ types: TYPES, periods: 3, minimumMs: 30 * SECOND, unknownPeriodMs: DAY },
    ...{ devicesMax: 100, typeOf: () => undefined, partitionOf: () => 0, ...more },
  });
}

function reading(device: string, received: number, type = 'probe', more = {}): LogRecord {
  return { kind: 'reading', tenant: TENANT, device, type, ts: 0, received, values: {}, ...more };
}

function event(
  device: string,
  received: number,
  name: EventRecord['event'],
  more: Partial<EventRecord> = {},
): LogRecord {
  return { kind: 'event', tenant: TENANT, device, received, event: name, ...more };
}

/** What a look finds, and tells the log of. */
function changes(of: Deadman, now: number): [device: string, status: string, since: number][] {
  const found = of.look(now);
  of.told(found);
  return found.map(({ device, status, since }) => [device, status, since]);
}

/** Looks as often as a worker does. */
function lookUntil(of: Deadman, from: number, to: number): ReturnType<typeof changes> {
  const found = [];
  for (let now = from; now <= to; now += 5 * SECOND) found.push(...changes(of, now));
  return found;
}

test('a device is offline after three periods without a message, and online with the next', () => {
  const watch = deadman();
  watch.take(reading('a', T0));
  assert.deepEqual(changes(watch, T0), [['a', 'online', T0]]);
  assert.deepEqual(lookUntil(watch, T0, T0 + 3 * MINUTE - 1), []);
  assert.deepEqual(watch.counts(), { online: 1, offline: 0, unwatched: 0 });
  assert.deepEqual(lookUntil(watch, T0 + 3 * MINUTE, T0 + 4 * MINUTE), [
    ['a', 'offline', T0 + 3 * MINUTE],
  ]);
  assert.deepEqual(watch.presence(TENANT, 'a'), {
    ...{ status: 'offline', since: T0 + 3 * MINUTE, heard: T0 },
  });
  assert.deepEqual(watch.counts(), { online: 0, offline: 1, unwatched: 0 });
  watch.take(reading('a', T0 + 5 * MINUTE));
  assert.deepEqual(changes(watch, T0 + 5 * MINUTE), [['a', 'online', T0 + 5 * MINUTE]]);
});

test('a change comes again until the log has it', () => {
  const watch = deadman();
  watch.take(reading('a', T0));
  const [first] = watch.look(T0);
  assert.equal(first?.status, 'online');
  assert.equal(watch.look(T0).length, 1);
  watch.told([{ ...first }]);
  assert.deepEqual(watch.look(T0), []);
});

test('refused and shed messages and states are signs of life; replays and wills are none', () => {
  const letter: LogRecord = {
    ...{ kind: 'deadLetter', tenant: TENANT, device: 'a', type: 'probe', code: 'VALUE_KIND' },
    ...{ received: 0, topic: '', payload: '', payloadBytes: 0, message: '' },
  };
  const signs: [string, (at: number) => LogRecord, boolean][] = [
    ['dead letter', (received) => ({ ...letter, received }), true],
    ['shed', (received) => ({ ...SHED, received }), true],
    ['state', (received) => event('a', received, 'state'), true],
    ['will', (received) => event('a', received, 'state', { will: true }), false],
    ['replayed reading', (received) => reading('a', received, 'probe', { attempt: 1 }), false],
    ['replayed letter', (received) => ({ ...letter, received, attempt: 1 }), false],
    ['connection', (received) => event('a', received, 'connected'), false],
    ['its own news', (received) => event('a', received, 'offline'), false],
  ];
  for (const [what, make, isSign] of signs) {
    const watch = deadman();
    watch.take(reading('a', T0));
    lookUntil(watch, T0, T0 + 2 * MINUTE);
    watch.take(make(T0 + 2 * MINUTE));
    const found = lookUntil(watch, T0 + 2 * MINUTE, T0 + 4 * MINUTE);
    const wentOffline = found.some(([, status]) => status === 'offline');
    assert.equal(wentOffline, !isSign, what);
  }
});

const SHED = { kind: 'shed', tenant: TENANT, device: 'a', code: 'X', count: 1 } as const;

test('a message that is refused makes nobody a watched device', () => {
  const watch = deadman();
  watch.take({ ...SHED, received: T0 });
  assert.deepEqual(changes(watch, T0), []);
});

test('one whose connection broke is missed earlier, unless it comes back or said farewell', () => {
  const whenOffline = (...then: LogRecord[]) => {
    const watch = deadman();
    watch.take(event('a', T0, 'connected', { data: { clientId: 'x', since: 1 } }));
    watch.take(reading('a', T0 + 1));
    for (const record of then) watch.take(record);
    const found = lookUntil(watch, T0, T0 + 10 * MINUTE);
    return ((found.find(([, status]) => status === 'offline')?.[2] ?? 0) - T0 - 1) / MINUTE;
  };
  const ended = (reason: string, since = 1) =>
    event('a', T0 + 2, 'disconnected', { data: { clientId: 'x', since, reason } });
  assert.equal(whenOffline(), 3);
  assert.equal(whenOffline(ended('CONNECTION_LOST')), 1.5);
  assert.equal(whenOffline(ended('DISCONNECT')), 3);
  assert.equal(whenOffline(ended('STOPPING')), 3);
  assert.equal(whenOffline(event('a', T0 + 2, 'state', { will: true }), ended('KEEP_ALIVE')), 1.5);
  // By another gateway already, which the old one noticed late.
  const back = event('a', T0 + 1, 'connected', { data: { clientId: 'x', since: 2 } });
  assert.equal(whenOffline(back, ended('KEEP_ALIVE', 1)), 3);
  assert.equal(whenOffline(ended('CONNECTION_LOST'), back), 3);
  assert.equal(whenOffline(ended('CONNECTION_LOST'), reading('a', T0 + 3)), 3 + 2 / MINUTE);
});

test('a short period has a minimum; the type may change', () => {
  const watch = deadman();
  watch.take(reading('a', T0, 'quick'));
  assert.deepEqual(lookUntil(watch, T0, T0 + MINUTE), [
    ['a', 'online', T0],
    ['a', 'offline', T0 + 30 * SECOND],
  ]);
});

test('a device without a period is online while it is connected, and a while after', () => {
  const watch = deadman();
  const data = { clientId: 'x', since: 1 };
  watch.take(event('b', T0, 'connected', { data }));
  watch.take(reading('b', T0, 'button'));
  const looks = (from: number, to: number) => {
    const found = [];
    for (let now = from; now <= to; now += 20 * SECOND) found.push(...changes(watch, now));
    return found;
  };
  assert.deepEqual(looks(T0, T0 + 3 * DAY), [['b', 'online', T0]]);
  watch.take(event('b', T0 + 3 * DAY, 'disconnected', { data: { ...data, reason: 'DISCONNECT' } }));
  assert.deepEqual(looks(T0 + 3 * DAY, T0 + 5 * DAY), [['b', 'offline', T0 + 4 * DAY]]);
  watch.take(event('b', T0 + 5 * DAY, 'connected', { data }));
  assert.deepEqual(changes(watch, T0 + 5 * DAY), [['b', 'online', T0 + 5 * DAY]]);
});

test('after a time in which nobody looked, everybody has as long again', () => {
  const watch = deadman();
  watch.take(reading('a', T0));
  changes(watch, T0);
  const later = T0 + 60 * MINUTE;
  assert.deepEqual(changes(watch, later), []);
  assert.deepEqual(lookUntil(watch, later, later + 4 * MINUTE), [
    ['a', 'offline', later + 3 * MINUTE],
  ]);
});

test('what comes too late to matter makes nobody online', () => {
  const watch = deadman();
  watch.take(reading('a', T0));
  lookUntil(watch, T0, T0 + 10 * MINUTE);
  watch.take(reading('a', T0 + MINUTE));
  assert.deepEqual(changes(watch, T0 + 10 * MINUTE), []);
  assert.equal(watch.presence(TENANT, 'a')?.heard, T0 + MINUTE);
});

test('devices beyond the bound are not watched, and counted', () => {
  const watch = deadman({ devicesMax: 2 });
  for (const device of ['a', 'b', 'c']) watch.take(reading(device, T0));
  watch.take(reading('c', T0));
  assert.equal(changes(watch, T0).length, 2);
  assert.equal(watch.counts().unwatched, 2);
  watch.forget(({ device }) => device === 'a');
  watch.take(reading('c', T0));
  assert.deepEqual(changes(watch, T0), [['c', 'online', T0]]);
});

/** A watch whose log is a list, and whose store remembers what was put in. */
class Bench {
  readonly clock = new ManualClock(T0);
  readonly events: EventRecord[] = [];
  /** The rows of each device. */
  readonly rows = new Map<string, RowTimes[]>();
  /** How far the clocks of devices are ahead, ms. */
  aheadMs = 0;
  readonly marks = new Map<number, number>();
  readonly registered = ['a', 'b', 'c'];
  readonly warnings: string[] = [];
  failAppends = false;
  failStore = false;
  beforeAnswer = async () => {};
  beforeAppend = async () => {};
  watch = this.start();

  start(partitionOf: (tenant: string, device: string) => number = () => 0): DeviceWatch {
    this.watch = new DeviceWatch({
      deadman: deadman({ partitionOf, devicesMax: 1_000 }),
      clock: this.clock,
      partitionOf,
      devices: () => this.registered.map((device) => ({ tenant: TENANT, device, type: 'probe' })),
      store: {
        newest: async (_, { devices, before = Number.POSITIVE_INFINITY } = {}) => {
          await this.beforeAnswer();
          if (this.failStore) throw new SpillwayError('STORE_BUSY', 'away');
          const found = new Map<string, RowTimes>();
          for (const [device, rows] of this.rows) {
            if (devices?.includes(device) === false) continue;
            const row = rows.findLast(({ ts }) => ts < before);
            if (row !== undefined) found.set(device, row);
          }
          return found;
        },
        notes: async (group) => {
          assert.equal(group, DEADMAN_GROUP);
          return new Map([...this.marks].map(([partition, mark]) => [partition, [`${mark}`]]));
        },
        writeNotes: async (group, partition, notes) => {
          assert.equal(group, DEADMAN_GROUP);
          if (this.failStore) throw new SpillwayError('STORE_BUSY', 'away');
          this.marks.set(partition, Number(notes[0]));
        },
      },
      append: async ({ records, tallyKeys }: AppendRequest) => {
        await this.beforeAppend();
        if (this.failAppends) throw new SpillwayError('LOG_FULL', 'no room');
        assert.ok(tallyKeys.every((key) => key === ''));
        for (const record of records) this.events.push(JSON.parse(record));
      },
      logger: { warn: (_, message) => this.warnings.push(message) },
    });
    return this.watch;
  }

  /** Lets time pass, and looks as a worker does. */
  async pass(ms: number): Promise<void> {
    await turn();
    for (let passed = 0; passed < ms; passed += 5 * SECOND) {
      this.clock.advance(5 * SECOND);
      this.watch.look(this.clock.now());
      await turn();
    }
  }

  hear(device: string): void {
    this.store(device, this.clock.now());
    this.watch.take(reading(device, this.clock.now()));
  }

  store(device: string, received: number): void {
    const row = { ts: received + this.aheadMs, received };
    this.rows.set(device, [...(this.rows.get(device) ?? []), row]);
  }

  told(): string[] {
    return this.events.splice(0).map(({ device, event: status }) => `${device} ${status}`);
  }
}

const turn = () => new Promise((resolve) => setImmediate(resolve));

test('the log is told who went and who came back, once, over restarts', async () => {
  const bench = new Bench();
  bench.watch.gained([0]);
  await turn();
  bench.hear('a');
  bench.hear('b');
  await bench.pass(MINUTE);
  assert.deepEqual(bench.told(), ['a online', 'b online']);
  bench.hear('b');
  await bench.pass(2 * MINUTE + 30 * SECOND);
  assert.deepEqual(bench.told(), ['a offline']);
  bench.hear('b');
  await bench.pass(SECOND);

  bench.start().gained([0]);
  await bench.pass(MINUTE);
  assert.deepEqual(bench.told(), []);
  assert.deepEqual(
    [...bench.watch.list(TENANT)].map(([device, { status }]) => [device, status]),
    [
      ['a', 'offline'],
      ['b', 'online'],
    ],
  );
  bench.hear('a');
  await bench.pass(SECOND);
  assert.deepEqual(bench.told(), ['a online']);

  // Who goes while nothing runs is told of afterwards, when it had its time to be heard of.
  bench.clock.advance(60 * MINUTE);
  bench.start().gained([0]);
  await bench.pass(MINUTE);
  bench.hear('a');
  await bench.pass(2 * MINUTE + 5 * SECOND);
  assert.deepEqual(bench.told(), ['b offline']);
});

test('what comes while the store is away is compared with what was known before', async () => {
  const bench = new Bench();
  bench.store('a', T0 - MINUTE);
  bench.store('b', T0 - DAY);
  bench.marks.set(0, T0 - MINUTE);
  bench.failStore = true;
  bench.watch.gained([0]);
  for (const device of ['a', 'b', 'c']) bench.watch.take(reading(device, T0));
  await bench.pass(20 * SECOND);
  assert.deepEqual(bench.told(), []);
  assert.ok(bench.warnings.length > 0);
  bench.failStore = false;
  await bench.pass(20 * SECOND);
  // Of these three, a was there all the time, b had been gone, and c is new.
  assert.deepEqual(bench.told(), ['b online', 'c online']);
});

test('who came before a crash is told of after it, and who was told of is not', async () => {
  const bench = new Bench();
  bench.watch.gained([0]);
  await turn();
  bench.hear('a');
  await bench.pass(4 * MINUTE);
  bench.hear('b');
  await bench.pass(10 * SECOND);
  assert.deepEqual(bench.told(), ['a online', 'a offline', 'b online']);
  // In the store, and nobody looked any more: b is still there, a is back, c is new.
  bench.clock.advance(SECOND);
  for (const device of ['a', 'b', 'c']) bench.store(device, bench.clock.now());
  bench.start().gained([0]);
  await bench.pass(MINUTE);
  assert.deepEqual(bench.told().sort(), ['a online', 'c online']);
  bench.start().gained([0]);
  await bench.pass(MINUTE);
  assert.deepEqual(bench.told(), []);
});

test('the clocks of devices make no difference', async () => {
  for (const aheadMs of [-DAY, -10 * MINUTE, -1_234, 0, 500, 10 * MINUTE, DAY]) {
    const bench = new Bench();
    bench.aheadMs = aheadMs;
    bench.registered.push('d');
    bench.watch.gained([0]);
    await turn();
    // One lives, one dies before the restart and one with it, one comes back before it, unseen.
    for (const device of ['a', 'b', 'c', 'd']) bench.hear(device);
    await bench.pass(2 * MINUTE);
    for (const device of ['a', 'c']) bench.hear(device);
    await bench.pass(2 * MINUTE);
    for (const device of ['a', 'c']) bench.hear(device);
    await bench.pass(10 * SECOND);
    const before = ['a online', 'b online', 'c online', 'd online', 'b offline', 'd offline'];
    assert.deepEqual(bench.told(), before, `${aheadMs}`);
    bench.clock.advance(SECOND);
    bench.store('d', bench.clock.now());
    bench.start().gained([0]);
    for (let minutes = 0; minutes < 4; minutes += 1) {
      for (const device of ['a', 'd']) bench.hear(device);
      await bench.pass(MINUTE);
    }
    assert.deepEqual(bench.told(), ['d online', 'c offline'], `${aheadMs}`);
  }
});

test('what is stored while the store is asked is not taken for known', async () => {
  for (const mark of [undefined, T0]) {
    const bench = new Bench();
    if (mark !== undefined) bench.marks.set(0, mark);
    bench.clock.advance(SECOND);
    bench.watch.gained([0]);
    bench.hear('a');
    await bench.pass(5 * SECOND);
    assert.deepEqual(bench.told(), ['a online'], `${mark}`);
  }
});

test('a partition that goes and comes back while the store is asked is asked for anew', async () => {
  const bench = new Bench();
  bench.store('a', T0 - MINUTE);
  bench.marks.set(0, T0 - 30 * SECOND);
  bench.clock.advance(10 * MINUTE);
  const asked = Promise.withResolvers<void>();
  const answer = Promise.withResolvers<void>();
  bench.beforeAnswer = () => {
    asked.resolve();
    return answer.promise;
  };
  bench.watch.gained([0]);
  await asked.promise;
  bench.watch.lost([0]);
  // Another worker tells meanwhile that it went.
  bench.marks.set(0, T0 + 5 * MINUTE);
  bench.watch.gained([0]);
  answer.resolve();
  await bench.pass(5 * MINUTE);
  assert.deepEqual(bench.told(), []);
  assert.deepEqual(
    [...bench.watch.list(TENANT)].map(([device, { status }]) => [device, status]),
    [['a', 'offline']],
  );
});

test('what is still to be told of a partition that goes and comes back meanwhile is judged anew', async () => {
  const bench = new Bench();
  const many = Array.from({ length: 600 }, (_, n) => `d${n}`);
  bench.registered.push(...many);
  bench.watch.gained([0]);
  await turn();
  for (const device of many) bench.hear(device);
  await bench.pass(10 * SECOND);
  assert.equal(bench.told().length, 600);
  const room = Promise.withResolvers<void>();
  bench.beforeAppend = () => room.promise;
  await bench.pass(3 * MINUTE);
  // The first of two appends is under way. Another worker hears of all, and tells that they are there.
  bench.watch.lost([0]);
  for (const device of many) bench.store(device, bench.clock.now());
  const mark = bench.clock.now() + SECOND;
  bench.marks.set(0, mark);
  bench.watch.gained([0]);
  room.resolve();
  await turn();
  await turn();
  assert.equal(bench.told().length, 500);
  assert.equal(bench.marks.get(0), mark);
});

test('the mark follows while nobody goes or comes', async () => {
  const bench = new Bench();
  bench.watch.gained([0, 3]);
  bench.hear('a');
  await bench.pass(5 * SECOND);
  bench.hear('a');
  await bench.pass(20 * SECOND);
  const until = T0 + 10 * SECOND;
  assert.deepEqual(
    [...bench.marks],
    [
      [0, until],
      [3, until],
    ],
  );
});

test('a mark that could not be written is written later, and nothing is told twice', async () => {
  const bench = new Bench();
  bench.watch.gained([0]);
  await turn();
  bench.failStore = true;
  bench.hear('a');
  await bench.pass(5 * SECOND);
  assert.deepEqual([...bench.marks], []);
  bench.failStore = false;
  await bench.pass(10 * SECOND);
  assert.ok((bench.marks.get(0) ?? 0) > T0);
  assert.deepEqual(bench.told(), ['a online']);
});

test('a log without room is told later', async () => {
  const bench = new Bench();
  bench.watch.gained([0]);
  bench.hear('a');
  bench.failAppends = true;
  await bench.pass(4 * MINUTE);
  assert.deepEqual(bench.told(), []);
  bench.failAppends = false;
  await bench.pass(5 * SECOND);
  assert.deepEqual(bench.told(), ['a offline']);
  assert.deepEqual(bench.watch.events, { online: 0, offline: 1 });
});

test('each worker watches the devices of its partitions', async () => {
  const bench = new Bench();
  const partitionOf = (_: string, device: string) => (device === 'a' ? 1 : 2);
  bench.store('a', T0);
  bench.store('b', T0);
  bench.start(partitionOf).gained([1]);
  await bench.pass(4 * MINUTE);
  assert.deepEqual(bench.told(), ['a offline']);
  bench.watch.gained([2]);
  await bench.pass(MINUTE);
  bench.watch.lost([2]);
  await bench.pass(10 * MINUTE);
  assert.deepEqual(bench.told(), []);
  assert.deepEqual([...bench.marks], [[1, T0 + 3 * MINUTE]]);
  bench.watch.gained([2]);
  await bench.pass(4 * MINUTE);
  assert.deepEqual(bench.told(), ['b offline']);
});

test('who is taken from the directory is not watched any more', async () => {
  const bench = new Bench();
  bench.watch.gained([0]);
  await turn();
  bench.hear('a');
  await bench.pass(5 * SECOND);
  bench.registered.splice(0, 1);
  await bench.pass(10 * MINUTE);
  assert.deepEqual(bench.told(), ['a online']);
  assert.deepEqual([...bench.watch.list(TENANT)], []);
});
