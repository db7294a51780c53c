import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { quotasOf } from '../../../src/config/quotas.ts';
import { configSchema } from '../../../src/config/schema.ts';
import { Admission, OVERHEAD, type Turn } from '../../../src/gateway/overload/admission.ts';
import { UsageBook } from '../../../src/gateway/overload/usage.ts';

const PAYLOAD = 120;
const COST = PAYLOAD + OVERHEAD;
const WINDOW = { delayMs: 25, first: 400 * COST, min: 20 * COST, max: 100_000 * COST };

/**
 * Connections before a log that settles so many messages a ms, in their order, on a clock that is moved by
 * hand: everything but the sockets.
 */
function createWorld(
  t: TestContext,
  options: { perMs: number; delayMs?: number; quotas?: object; firstMessages?: number },
) {
  t.mock.timers.enable({ apis: ['setInterval', 'setTimeout', 'setImmediate'] });
  let now = 0;
  const limited: string[] = [];
  const admission = new Admission({
    now: () => now,
    window: { ...WINDOW, first: (options.firstMessages ?? 400) * COST },
    onLimited: (device, code) => limited.push(`${device.key} ${code}`),
  });
  t.after(() => admission.stop());
  const config = configSchema.parse({ quotas: options.quotas ?? {} });
  const book = new UsageBook({ quotaOf: quotasOf(config), idleMax: 100, now: () => now });
  const log: { of: Device; at: number }[] = [];
  const delayMs = options.delayMs ?? 0;
  let credit = 0;

  class Device {
    readonly turn: Turn;
    /** Sent and not yet taken. */
    queue: number[] = [];
    taken = 0;
    settled = 0;
    readonly latencies: number[] = [];
    private readonly underWay: number[] = [];

    constructor(tenant: string, name: string) {
      this.turn = admission.turn(book.open(tenant, name), () => this.take());
    }

    send(count: number) {
      for (let i = 0; i < count; i++) this.queue.push(now);
      this.take();
      this.turn.end();
    }

    settle() {
      this.settled++;
      this.latencies.push(now - (this.underWay.shift() ?? now));
      this.turn.release();
    }

    private take() {
      while (this.queue.length > 0 && this.turn.ready()) {
        this.turn.use(PAYLOAD);
        this.underWay.push(this.queue.shift() ?? now);
        this.taken++;
        log.push({ of: this, at: now });
      }
    }
  }

  return {
    admission,
    book,
    limited,
    device: (tenant: string, name: string) => new Device(tenant, name),
    /** Lets time go by; `each` is called every ms. */
    run(ms: number, each: (ms: number) => void = () => {}) {
      for (let i = 0; i < ms; i++) {
        now++;
        t.mock.timers.tick(1);
        each(now);
        credit = Math.min(credit + options.perMs, log.length);
        for (; credit >= 1 && (log[0]?.at ?? now) <= now - delayMs; credit--)
          log.shift()?.of.settle();
        if (now % 100 === 0) admission.window.look(admission.contended);
        if (now % 1_000 === 0) admission.look();
      }
    },
    get underWay() {
      return log.length;
    },
    set perMs(perMs: number) {
      options.perMs = perMs;
    },
  };
}

type World = ReturnType<typeof createWorld>;
type Device = ReturnType<World['device']>;

/** Keeps so many messages of each waiting, as a flood does. */
function flood(devices: Device[], depth = 500) {
  for (const device of devices) if (device.queue.length < depth) device.send(depth);
}

function total(devices: Device[]): number {
  return devices.reduce((sum, { settled }) => sum + settled, 0);
}

function quantile(values: number[], q: number): number {
  return values.sort((a, b) => a - b)[Math.floor(values.length * q)] ?? 0;
}

test('while there is room everything goes on at once', (t) => {
  const world = createWorld(t, { perMs: 10 });
  const device = world.device('a', 'd1');
  world.run(100, () => device.send(5));
  assert.equal(device.taken, 500);
  assert.equal(device.queue.length, 0);
  assert.equal(world.admission.contended, false);
  assert.deepEqual(world.limited, []);
});

test('a flood fills the window, and the window what the machine does within the delay', (t) => {
  const world = createWorld(t, { perMs: 10 });
  const devices = ['d1', 'd2', 'd3'].map((name) => world.device('a', name));
  let most = 0;
  world.run(3_000, (ms) => {
    flood(devices);
    if (ms > 1_000) most = Math.max(most, world.underWay);
  });
  // 25 ms at 10 a ms, and no more than one grant beyond.
  assert.ok(most >= 250 && most < 250 + 260, `${most} under way`);
  const before = total(devices);
  world.run(1_000, () => flood(devices));
  // Never idle.
  assert.equal(total(devices) - before, 10_000);
  // A machine that is half as fast gets half the window, and one that is ten times as fast the tenfold.
  world.perMs = 5;
  world.run(25_000, () => flood(devices));
  assert.ok(world.underWay < 125 + 260, `${world.underWay} under way`);
  world.perMs = 100;
  world.run(3_000, () => flood(devices));
  const slow = total(devices);
  world.run(1_000, () => flood(devices));
  assert.equal(total(devices) - slow, 100_000);
});

test('a log that needs 100 ms for a commit is kept busy all the same', (t) => {
  const world = createWorld(t, { perMs: 20, delayMs: 100 });
  const devices = ['d1', 'd2', 'd3'].map((name) => world.device('a', name));
  world.run(15_000, () => flood(devices));
  let most = 0;
  const before = total(devices);
  world.run(30_000, () => {
    flood(devices);
    most = Math.max(most, world.underWay);
  });
  assert.ok(total(devices) - before > 0.95 * 600_000, `${total(devices) - before} settled`);
  // Four times what such a log holds by itself.
  assert.ok(most < 9_000, `${most} under way`);
});

test('tenants share by weight, whatever the number of their connections', (t) => {
  const quotas = { tenants: { c: { weight: 2 } } };
  const world = createWorld(t, { perMs: 20, quotas });
  const a = Array.from({ length: 40 }, (_, i) => world.device('a', `d${i}`));
  const b = [world.device('b', 'd1')];
  const c = Array.from({ length: 3 }, (_, i) => world.device('c', `d${i}`));
  world.run(2_000, () => flood([...a, ...b, ...c]));
  const before = [a, b, c].map(total);
  world.run(4_000, () => flood([...a, ...b, ...c]));
  const shares = [a, b, c].map((of, i) => (total(of) - (before[i] ?? 0)) / 80_000);
  for (const [i, wanted] of [0.25, 0.25, 0.5].entries()) {
    assert.ok(Math.abs((shares[i] ?? 0) - wanted) < 0.02, `shares ${shares}`);
  }
});

test('a tenant gets its part though its sockets have to be read between its turns', (t) => {
  const quotas = { tenants: { heavy: { weight: 3 } } };
  const world = createWorld(t, { perMs: 20, quotas });
  const light = Array.from({ length: 24 }, (_, i) => world.device('light', `d${i}`));
  const heavy = Array.from({ length: 3 }, (_, i) => world.device('heavy', `d${i}`));
  const emptyAt = new Map<Device, number>();
  const each = (ms: number) => {
    flood(light);
    for (const device of heavy) {
      if (device.queue.length > 0) emptyAt.delete(device);
      else if (!emptyAt.has(device)) emptyAt.set(device, ms);
      else if (ms - (emptyAt.get(device) ?? ms) >= 4) device.send(60);
    }
  };
  world.run(2_000, each);
  const before = [light, heavy].map(total);
  world.run(4_000, each);
  const [lightTaken = 0, heavyTaken = 0] = [light, heavy].map(
    (of, i) => total(of) - (before[i] ?? 0),
  );
  const ratio = heavyTaken / lightTaken;
  assert.ok(ratio > 2.6 && ratio < 3.4, `heavy ${heavyTaken}, light ${lightTaken}`);
});

test('a window that begins far too large finds its size, though nobody waits for it', (t) => {
  const world = createWorld(t, { perMs: 10, firstMessages: 100_000 });
  const devices = Array.from({ length: 50 }, (_, i) => world.device('a', `d${i}`));
  const quiet = world.device('quiet', 'd1');
  // 100 of each are under way or wait at any time: 500 ms for who comes behind them.
  const each = (ms: number) => {
    for (const device of devices) {
      const missing = 100 + device.settled - device.taken - device.queue.length;
      if (missing > 0) device.send(missing);
    }
    if (ms % 10 === 0) quiet.send(1);
  };
  // Nothing is settled at first, so that no short delay was ever measured.
  world.perMs = 0;
  world.run(600, each);
  world.perMs = 10;
  world.run(20_000, each);
  quiet.latencies.length = 0;
  world.run(5_000, each);
  assert.ok(quantile(quiet.latencies, 0.9) < 100, `${quantile(quiet.latencies, 0.9)} ms`);
});

test('devices of a tenant share alike', (t) => {
  const world = createWorld(t, { perMs: 20 });
  const loud = Array.from({ length: 3 }, () => world.device('a', 'loud'));
  const others = Array.from({ length: 3 }, (_, i) => world.device('a', `d${i}`));
  world.run(6_000, () => flood([...loud, ...others]));
  const shares = [total(loud), ...others.map(({ settled }) => settled)].map((n) => n / 120_000);
  for (const share of shares) assert.ok(Math.abs(share - 0.25) < 0.02, `shares ${shares}`);
});

test('who is below its share never waits for those who flood', (t) => {
  const world = createWorld(t, { perMs: 20 });
  const noisy = Array.from({ length: 50 }, (_, i) => world.device('noisy', `d${i}`));
  const quiet = world.device('quiet', 'd1');
  world.run(10_000, (ms) => {
    flood(noisy);
    if (ms % 2 === 0) quiet.send(1);
  });
  assert.equal(quiet.taken, 5_000);
  assert.ok(quiet.settled >= 4_900);
  // No more than the window itself.
  assert.ok(quantile(quiet.latencies, 0.99) <= 45, `${quantile(quiet.latencies, 0.99)} ms`);
  // And the others lose nothing by it.
  assert.ok(total(noisy) + quiet.settled > 199_000);
});

test('rates hold to the message, and the limit that was reached is named', (t) => {
  const quotas = {
    default: { device: { messages: ['10/1s', '300/1m'] } },
    tenants: {
      big: { tenant: { messages: ['100/1s'] }, device: { messages: [], bytes: ['12KB/1s'] } },
    },
  };
  quotas.tenants.big.device.bytes = ['12000B/1s'];
  const world = createWorld(t, { perMs: 20, quotas });
  const small = world.device('small', 'd1');
  const big = Array.from({ length: 5 }, (_, i) => world.device('big', `d${i}`));
  world.run(60_000, () => flood([small, ...big], 50));
  // A burst of 10, then 10 a second until 300 are used up, then 5 a second.
  assert.ok(small.taken >= 595 && small.taken <= 601, `${small.taken} taken`);
  assert.ok(Math.abs(total(big) - 6_100) <= 10, `${total(big)} of the tenant`);
  for (const { settled } of big)
    assert.ok(Math.abs(settled - 1_220) < 60, `${settled} of a device`);
  assert.deepEqual([...new Set(world.limited)].sort(), [
    ...big.map((_, i) => `big/d${i} TENANT_MESSAGES`),
    'small/d1 DEVICE_MESSAGES',
  ]);
});

test('a rate of bytes holds too', (t) => {
  const quotas = { default: { device: { bytes: ['12000B/1s'] } } };
  const world = createWorld(t, { perMs: 20, quotas });
  const device = world.device('a', 'd1');
  world.run(10_000, () => flood([device], 300));
  assert.ok(Math.abs(device.taken - 1_100) <= 2, `${device.taken} taken`);
  assert.deepEqual([...new Set(world.limited)], ['a/d1 DEVICE_BYTES']);
});

test('a device over its rate does not hold up others of its tenant', (t) => {
  const quotas = { default: { device: { messages: ['10/1s'] } } };
  const world = createWorld(t, { perMs: 20, quotas });
  const loud = world.device('a', 'loud');
  const others = Array.from({ length: 5 }, (_, i) => world.device('a', `d${i}`));
  world.run(5_000, (ms) => {
    flood([loud]);
    if (ms % 200 === 0) for (const other of others) other.send(1);
  });
  for (const { taken } of others) assert.equal(taken, 25);
  assert.ok(loud.taken <= 61);
});

test('a tenant whose rate is used up gives each of its devices its turn', (t) => {
  const quotas = { tenants: { a: { tenant: { messages: ['1000/1s'] } } } };
  const world = createWorld(t, { perMs: 20, quotas });
  const loud = Array.from({ length: 20 }, (_, i) => world.device('a', `loud${i}`));
  const meek = world.device('a', 'meek');
  const other = world.device('b', 'd1');
  world.run(10_000, (ms) => {
    flood(loud);
    if (ms % 100 === 0) for (const device of [meek, other]) device.send(1);
  });
  assert.ok(meek.settled >= 98, `${meek.settled} of the meek one`);
  assert.ok(quantile(meek.latencies.slice(10), 0.99) < 60);
  assert.ok(quantile(other.latencies, 0.99) < 30);
});

test('the pace holds for all together, and the window goes on without it', (t) => {
  const world = createWorld(t, { perMs: 20 });
  const devices = ['d1', 'd2'].map((name) => world.device('a', name));
  world.admission.pace.rate = 4 * COST;
  world.run(5_000, () => flood(devices));
  assert.ok(Math.abs(total(devices) - 20_000) < 700, `${total(devices)} settled`);
  world.admission.pace.rate = undefined;
  world.run(500, () => flood(devices));
  const before = total(devices);
  world.run(1_000, () => flood(devices));
  assert.equal(total(devices) - before, 20_000);
});

test('shares: over is who takes more than its weight, and always somebody', (t) => {
  const world = createWorld(t, { perMs: 20 });
  const loud = world.device('loud', 'd1');
  const meek = world.device('meek', 'd1');
  const over = () => [loud, meek].map(({ turn }) => turn.device.tenant.overShare);
  world.run(2_000, () => {
    flood([loud]);
    meek.send(1);
  });
  assert.deepEqual(over(), [true, false]);
  world.run(2_000, () => meek.send(1));
  assert.deepEqual(over(), [false, true]);
  world.run(2_000);
  assert.deepEqual(over(), [false, false]);
});

test('who leaves takes its turn and what it had under way along', (t) => {
  const world = createWorld(t, { perMs: 0 });
  const stays = world.device('a', 'stays');
  const leaves = world.device('b', 'leaves');
  world.run(10, () => flood([stays, leaves]));
  assert.ok(world.admission.inflightCost > 0);
  leaves.turn.leave();
  world.run(10, () => flood([stays]));
  stays.turn.leave();
  assert.equal(world.admission.inflightCost, 0);
  assert.equal(world.admission.contended, false);
  // Late answers of the log change nothing.
  leaves.turn.release();
  assert.equal(world.admission.inflightCost, 0);
});

test('a message larger than every bucket passes, and is paid for', (t) => {
  const quotas = { default: { device: { bytes: ['100B/1s'] } } };
  const world = createWorld(t, { perMs: 20, quotas });
  const device = world.device('a', 'd1');
  device.send(3);
  world.run(3_000);
  assert.equal(device.taken, 3);
});

test('usage is remembered after the last connection, for a bounded number of devices', () => {
  const config = configSchema.parse({ quotas: { default: { device: { messages: ['10/1s'] } } } });
  const book = new UsageBook({ quotaOf: quotasOf(config), idleMax: 3, now: () => 0 });
  const first = book.open('a', 'd0');
  book.close(first);
  assert.equal(book.open('a', 'd0'), first);
  book.close(first);
  const stays = book.open('b', 'stays');
  for (let i = 1; i <= 3; i++) book.close(book.open('a', `d${i}`));
  assert.equal(book.find('a', 'd0'), undefined);
  assert.equal(book.find('b', 'stays'), stays);
  assert.notEqual(book.find('a', 'd3'), undefined);
  book.close(stays);
  for (let i = 4; i <= 9; i++) book.close(book.open('c', `d${i}`));
  assert.equal(book.find('b', 'stays'), undefined);
});
