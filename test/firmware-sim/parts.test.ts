import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { DeviceClock } from '../../firmware-sim/device-clock.ts';
import { LatencyHistogram } from '../../firmware-sim/latency.ts';
import { encodeMalformed, MALFORMED_KINDS } from '../../firmware-sim/malformed.ts';
import { encodeReadings } from '../../firmware-sim/payload.ts';
import { createRandom } from '../../firmware-sim/random.ts';
import { rateFactor } from '../../firmware-sim/rate.ts';
import { ReadingBuffer } from '../../firmware-sim/reading-buffer.ts';
import { parseTime } from '../../firmware-sim/recording-map.ts';
import { NamedCounts, Tally } from '../../firmware-sim/tally.ts';
import { TimerHeap, type TimerHost } from '../../firmware-sim/timers.ts';

describe('timers', () => {
  class ManualHost implements TimerHost {
    time = 0;
    wakes = 0;
    #due: { at: number; run: () => void } | undefined;
    now() {
      return this.time;
    }
    wake(delayMs: number, run: () => void) {
      this.wakes++;
      this.#due = { at: this.time + delayMs, run };
      return this.#due;
    }
    cancel(handle: unknown) {
      if (handle === this.#due) this.#due = undefined;
    }
    advanceTo(time: number) {
      while (this.#due !== undefined && this.#due.at <= time) {
        const { at, run } = this.#due;
        this.#due = undefined;
        this.time = Math.max(this.time, at);
        run();
      }
      this.time = time;
    }
  }

  test('run in order of time, ties in order of scheduling, and not when cancelled', () => {
    const host = new ManualHost();
    const heap = new TimerHeap(host);
    const random = createRandom(3);
    const expected: [number, number][] = [];
    const ran: [number, number][] = [];
    for (let i = 0; i < 500; i++) {
      const at = Math.floor(random() * 100);
      const timer = heap.at(at, () => ran.push([at, i]));
      if (random() < 0.3) heap.cancel(timer);
      else expected.push([at, i]);
    }
    expected.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
    host.advanceTo(1000);
    assert.deepEqual(ran, expected);
    assert.equal(heap.size, 0);
  });

  test('an earlier timer brings the wake-up forward; a timer may set and cancel others', () => {
    const host = new ManualHost();
    const heap = new TimerHeap(host);
    const ran: string[] = [];
    const victim = heap.after(60, () => ran.push('victim'));
    heap.after(100, () => ran.push('late'));
    heap.after(50, () => {
      ran.push('early');
      heap.cancel(victim);
      heap.after(10, () => ran.push('set by early'));
    });
    host.advanceTo(49);
    assert.deepEqual(ran, []);
    host.advanceTo(200);
    assert.deepEqual(ran, ['early', 'set by early', 'late']);
  });

  test('many timers need one system timer', () => {
    const host = new ManualHost();
    const heap = new TimerHeap(host);
    for (let i = 0; i < 10_000; i++) heap.at(1000 + i, () => {});
    assert.equal(host.wakes, 1);
    heap.clear();
    assert.equal(heap.size, 0);
  });
});

test('the ring keeps order, drops the oldest and counts them', () => {
  const ring = new ReadingBuffer<number>(5);
  const lost: number[] = [];
  for (let i = 0; i < 12; i++) {
    const gone = ring.push(i);
    if (gone !== undefined) lost.push(gone);
    if (i === 2) assert.equal(ring.shift(), 0);
  }
  assert.deepEqual(lost, [1, 2, 3, 4, 5, 6]);
  assert.equal(ring.dropped, 6);
  const rest = [];
  for (let next = ring.shift(); next !== undefined; next = ring.shift()) rest.push(next);
  assert.deepEqual(rest, [7, 8, 9, 10, 11]);
  assert.equal(ring.length, 0);
});

test('a device clock is off by its offset and drift, and never shows a time twice', () => {
  const clock = new DeviceClock(-60_000, 100, 1_000_000);
  assert.equal(clock.read(1_000_000), 940_000);
  assert.equal(clock.read(1_000_000), 940_001);
  // 100 ppm of 1,000 s are 100 ms.
  assert.equal(clock.read(2_000_000), 1_940_100);
});

test('rate profiles', () => {
  const step = { profile: 'step', factor: 5, at: 1000, for: 500 } as const;
  assert.deepEqual(
    [0, 999, 1000, 1499, 1500].map((t) => rateFactor(step, t)),
    [1, 1, 5, 5, 1],
  );
  const ramp = { profile: 'ramp', factor: 3, at: 1000, over: 1000 } as const;
  assert.deepEqual(
    [0, 1000, 1500, 2000, 9000].map((t) => rateFactor(ramp, t)),
    [1, 1, 2, 3, 3],
  );
  const sine = { profile: 'sine', factor: 3, every: 1000 } as const;
  assert.deepEqual(
    [0, 250, 500, 1000].map((t) => Math.round(rateFactor(sine, t))),
    [1, 2, 3, 1],
  );
  assert.equal(rateFactor({ profile: 'steady', factor: 2 }, 5), 2);
});

test('percentiles are right within the width of a bucket', () => {
  const histogram = new LatencyHistogram();
  assert.equal(histogram.percentile(0.5), null);
  for (let i = 1; i <= 1000; i++) histogram.record(i);
  for (const share of [0.01, 0.5, 0.99]) {
    const found = histogram.percentile(share) ?? 0;
    assert.ok(Math.abs(found / (share * 1000) - 1) < 0.03, `${share}: ${found}`);
  }
  assert.equal(histogram.maxMs, 1000);
});

test('forms of a payload', () => {
  const reading = (device: string, seq: number) => ({
    device,
    ts: 100 + seq,
    seq,
    values: { t: seq },
  });
  const one = [reading('a', 1)];
  const several = [reading('a', 1), reading('b', 2), reading('a', 3)];
  assert.equal(encodeReadings(one, { flat: true, gateway: false }), '{"t":1}');
  const stamped = '{"ts":101,"seq":1,"values":{"t":1}}';
  assert.equal(encodeReadings(one, { flat: false, gateway: false }), stamped);
  assert.deepEqual(JSON.parse(encodeReadings(several, { flat: true, gateway: false })).length, 3);
  assert.deepEqual(JSON.parse(encodeReadings(several, { flat: false, gateway: true })), {
    devices: {
      a: [
        { ts: 101, seq: 1, values: { t: 1 } },
        { ts: 103, seq: 3, values: { t: 3 } },
      ],
      b: { ts: 102, seq: 2, values: { t: 2 } },
    },
  });
});

test('each kind of malformed message is wrong in its own way', () => {
  const reading = { device: 'a', ts: 1, seq: 2, values: { t: 20.5, on: true, mode: 'x' } };
  for (let seed = 0; seed < 50; seed++) {
    const random = createRandom(seed);
    const style = { flat: false, gateway: false };
    const text = Object.fromEntries(
      MALFORMED_KINDS.map((kind) => [kind, encodeMalformed(reading, kind, random, style)]),
    );
    assert.throws(() => JSON.parse(text.notJson ?? ''));
    assert.throws(() => JSON.parse(text.nan ?? ''));
    assert.match(text.nan ?? '', /"t":NaN/);
    const wrong = JSON.parse(text.wrongKind ?? '').values;
    const kinds = (values: object) => Object.values(values).map((value) => typeof value);
    assert.notDeepEqual(kinds(wrong), kinds(reading.values));
    assert.equal(JSON.parse(text.outOfBounds ?? '').values.t, -1e9);
    assert.deepEqual(JSON.parse(text.unknownMetric ?? '').values, {
      ...reading.values,
      undocumented_metric: 1,
    });
  }
});

test('times of a recording, with offsets, zones and clock changes', () => {
  const iso = (text: string, zone: string) => {
    const ms = parseTime(text, 'iso', zone);
    return ms === undefined ? undefined : new Date(ms).toISOString();
  };
  assert.equal(iso('2010-01-01T01:00:00', '-08:00'), '2010-01-01T09:00:00.000Z');
  assert.equal(iso('2010-01-01 01:00', 'UTC'), '2010-01-01T01:00:00.000Z');
  assert.equal(iso('2010-01-01T01:00:00.5+02:00', '-08:00'), '2009-12-31T23:00:00.500Z');
  assert.equal(iso('2010-07-01T12:00:00', 'Europe/Paris'), '2010-07-01T10:00:00.000Z');
  assert.equal(iso('2010-01-01T12:00:00', 'Europe/Paris'), '2010-01-01T11:00:00.000Z');
  // An hour before and after the clock goes forward at 02:00 -08:00.
  assert.equal(iso('2010-03-14T01:30:00', 'America/Los_Angeles'), '2010-03-14T09:30:00.000Z');
  assert.equal(iso('2010-03-14T03:30:00', 'America/Los_Angeles'), '2010-03-14T10:30:00.000Z');
  assert.equal(iso('yesterday', 'UTC'), undefined);
  assert.equal(parseTime('1262307600', 'epochS', 'UTC'), 1_262_307_600_000);
  assert.equal(parseTime('1262307600000', 'epochMs', 'UTC'), 1_262_307_600_000);
  assert.equal(parseTime('', 'epochMs', 'UTC'), undefined);
});

test('counts by name are bounded; receipts are counted by code, unreadable ones too', () => {
  const counts = new NamedCounts();
  for (let i = 0; i < 1000; i++) counts.add(`code-${i}`);
  assert.equal(Object.keys(counts.toObject()).length, 101);
  assert.equal(counts.toObject()['(other)'], 900);
  const tally = new Tally();
  tally.countReceipt(Buffer.from('{"code":"out-of-bounds","severity":"refused","message":"m"}'));
  tally.countReceipt(Buffer.from('{"code":"out-of-bounds","severity":"refused"}'));
  tally.countReceipt(Buffer.from('nonsense'));
  assert.deepEqual(tally.receipts.toObject(), { 'out-of-bounds': 2, '(unreadable)': 1 });
  assert.deepEqual(tally.receiptSeverities.toObject(), { refused: 2, '(none)': 1 });
  assert.match(tally.receiptExamples.get('out-of-bounds') ?? '', /"message":"m"/);
});
