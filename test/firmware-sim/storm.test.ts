import assert from 'node:assert/strict';
import { test } from 'node:test';
import { attemptAfter, type BackoffPolicy, backoffDelay } from '../../firmware-sim/backoff.ts';
import { createFleet, type Summary } from '../../firmware-sim/index.ts';
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

/** How many of the first arrivals after `since` fall into the busiest 100 ms, as a share. */
function busiest(arrivals: readonly number[], since: number, first: number): number {
  const after = arrivals.filter((at) => at >= since).slice(0, first);
  const buckets = new Map<number, number>();
  for (const at of after) {
    const bucket = Math.floor((at - since) / 100);
    buckets.set(bucket, (buckets.get(bucket) ?? 0) + 1);
  }
  return Math.max(...buckets.values()) / after.length;
}

for (const herd of [false, true]) {
  const how = herd ? 'a herd comes back at once' : 'with jitter they come back one by one';
  test(`300 devices whose connections break at once: ${how}`, async (t) => {
    const broker = await createTestBroker(t);
    const fleet = await createFleet({
      fleet: {
        connectOver: '0s',
        herd,
        backoff: { base: '3s', cap: '3s', resetAfter: '0s' },
        storms: [{ at: '1s' }],
        groups: [
          {
            type: 'meter',
            count: 300,
            period: '1s',
            metrics: { t: { kind: 'float', base: 20 } },
          },
        ],
      },
      credentials: credentialsOf('meter', 300),
      url: broker.url,
    });
    fleet.start();
    await broker.until(() => fleet.snapshot().disconnects === 300, 10_000);
    const lost = performance.now() - 100;
    await broker.until(() => fleet.snapshot().reconnects === 300, 20_000);
    const share = busiest(broker.arrivals, lost, 300);
    const summary: Summary = await fleet.stop();
    assert.equal(summary.complete, true);
    assert.equal(summary.connectAttempts, 600);
    if (herd) assert.ok(share > 0.3, `${share} of them in 100 ms`);
    else assert.ok(share < 0.15, `${share} of them in 100 ms`);
    assert.ok((summary.awayMaxMs ?? 0) >= (herd ? 3_000 : 2_500), String(summary.awayMaxMs));
    if (herd) assert.ok((summary.awayP50Ms ?? 0) >= 2_950, String(summary.awayP50Ms));
    else assert.ok((summary.awayP50Ms ?? 0) < 2_400, String(summary.awayP50Ms));
  });
}
