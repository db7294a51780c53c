import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { attemptAfter, type BackoffPolicy, backoffDelay } from '../../firmware-sim/backoff.ts';
import { createFleet } from '../../firmware-sim/index.ts';
import { createRandom } from '../../firmware-sim/random.ts';
import { TimerHeap } from '../../firmware-sim/timers.ts';
import { createTestBroker, credentialsOf } from './test-broker.ts';

const DEVICES = 10_000;
const POLICY: BackoffPolicy = { base: 500, cap: 30_000, resetAfter: 10_000 };

interface Storm {
  /** When the last device was in again, s after the connections broke. */
  allBackS: number;
  attempts: number;
  /** Most attempts in one second of those after the restart. */
  peak: number;
}

/**
 * A gateway that dies under 10,000 devices, is back after `downMs` and lets in `perSecond`; whom it turns
 * away comes again after its backoff. In virtual time.
 */
function storm(options: { downMs: number; perSecond: number; jitter: boolean }): Storm {
  let now = 0;
  let wake: { at: number; run: () => void } | undefined;
  const timers = new TimerHeap({
    now: () => now,
    wake: (delayMs, run) => {
      wake = { at: now + delayMs, run };
      return wake;
    },
    cancel: (handle) => {
      if (wake === handle) wake = undefined;
    },
  });
  const inSecond = new Map<number, { came: number; let: number }>();
  const random = createRandom(1);
  let back = 0;
  let attempts = 0;
  const tryAgain = (attempt: number) => {
    const delay = backoffDelay(attempt, POLICY, options.jitter ? random : () => 1);
    timers.after(delay, () => {
      attempts++;
      const second = Math.floor(now / 1_000);
      const of = inSecond.get(second) ?? { came: 0, let: 0 };
      inSecond.set(second, of);
      of.came++;
      if (now >= options.downMs && of.let < options.perSecond) {
        of.let++;
        back++;
      } else tryAgain(attemptAfter(attempt, 0, POLICY));
    });
  };
  for (let device = 0; device < DEVICES; device++) tryAgain(0);
  for (; wake !== undefined && now < 3_600_000; ) {
    const { at, run } = wake;
    wake = undefined;
    now = at;
    run();
  }
  assert.equal(back, DEVICES);
  const after = [...inSecond].filter(([second]) => second >= Math.floor(options.downMs / 1_000));
  return {
    allBackS: now / 1_000,
    attempts,
    peak: Math.max(...after.map(([, { came }]) => came)),
  };
}

test('a gateway that is back after 5 s and takes 500 a second: with jitter the storm spreads itself, without it never does', () => {
  const spread = storm({ downMs: 5_000, perSecond: 500, jitter: true });
  const herd = storm({ downMs: 5_000, perSecond: 500, jitter: false });
  // The figures of firmware-sim/README.md.
  assert.equal(Math.round(spread.allBackS), 48);
  assert.equal(spread.peak, 2_669);
  assert.equal(Math.round((10 * spread.attempts) / DEVICES), 58);
  assert.equal(Math.round(herd.allBackS), 542);
  assert.equal(herd.peak, 10_000);
  assert.equal(Math.round((10 * herd.attempts) / DEVICES), 135);
});

/** The most of `arrivals` that fall into 100 ms, as a share of all. */
function busiest(arrivals: readonly number[]): number {
  const buckets = new Map<number, number>();
  for (const at of arrivals) {
    const bucket = Math.floor(at / 100);
    buckets.set(bucket, (buckets.get(bucket) ?? 0) + 1);
  }
  return Math.max(...buckets.values()) / arrivals.length;
}

const METER = {
  type: 'meter',
  period: '1s',
  metrics: { t: { kind: 'float', base: 20 } },
} as const;

async function connections(t: TestContext, herd: boolean) {
  const COUNT = 300;
  const broker = await createTestBroker(t);
  const fleet = await createFleet({
    fleet: {
      connectOver: '0s',
      herd,
      backoff: { base: '3s', cap: '3s', resetAfter: '0s' },
      groups: [{ ...METER, count: COUNT }],
    },
    credentials: credentialsOf('meter', COUNT),
    url: broker.url,
  });
  t.after(() => fleet.stop());
  fleet.start();
  assert.equal(await fleet.untilConnected(30_000), true);
  broker.cut();
  broker.resume();
  await broker.until(() => fleet.snapshot().reconnects === COUNT, 30_000);
  const summary = await fleet.stop();
  assert.equal(summary.disconnects, COUNT);
  return { summary, busiest: busiest(broker.arrivals.slice(COUNT)) };
}

test('300 connections that break at once come back one by one with jitter, and all together as a herd', async (t) => {
  const spread = await connections(t, false);
  const herd = await connections(t, true);
  const figures = `${spread.busiest}, ${herd.busiest} in 100 ms`;
  assert.ok(spread.busiest < 0.7 * herd.busiest, figures);
  const [soon, late] = [spread.summary.awayP50Ms ?? 0, herd.summary.awayP50Ms ?? 0];
  assert.ok(soon < 0.8 * late && late >= 2_900, `${soon}, ${late} ms`);
});

test('connections break when the fleet says so, again and again', async (t) => {
  const broker = await createTestBroker(t);
  const fleet = await createFleet({
    fleet: {
      connectOver: '0s',
      backoff: { base: '10ms', cap: '20ms', resetAfter: '0s' },
      storms: [{ at: '50ms', every: '50ms' }],
      groups: [{ ...METER, period: '10ms', count: 3 }],
    },
    credentials: credentialsOf('meter', 3),
    url: broker.url,
  });
  t.after(() => fleet.stop());
  fleet.start();
  await broker.until(() => fleet.snapshot().reconnects >= 9, 10_000);
  const summary = await fleet.stop();
  assert.ok(summary.disconnects >= 9);
  assert.ok(summary.connectAttempts >= 12);
  assert.ok(summary.connectAttemptsPeak >= 3);
  assert.equal(summary.complete, true);
});
