import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { SkewEstimate } from '../../src/gateway/clock-skew.ts';
import {
  ACCEPTED,
  DECISIONS_KEPT,
  decision,
  Histories,
  type History,
} from '../../src/gateway/history.ts';

const T0 = 1_800_000_000_000;
const BOUNDS = decision('refused', 'VALUE_BOUNDS');

function present(history: History | undefined): History {
  assert.ok(history !== undefined);
  return history;
}

describe('decisions', () => {
  test('are kept newest first, equal ones of a second as one', () => {
    const history = present(new Histories({ devicesMax: 1 }).of('acme/a'));
    assert.deepEqual(history.decisions(), []);
    for (const ms of [0, 400, 999]) history.note(ACCEPTED, T0 + ms);
    history.note(ACCEPTED, T0 + 1_000, 5);
    history.note(BOUNDS, T0 + 1_001);
    history.note(ACCEPTED, T0 + 1_002);
    assert.deepEqual(history.decisions(), [
      { at: T0 + 1_002, what: 'accepted', code: '', count: 1 },
      { at: T0 + 1_001, what: 'refused', code: 'VALUE_BOUNDS', count: 1 },
      { at: T0 + 1_000, what: 'accepted', code: '', count: 5 },
      { at: T0, what: 'accepted', code: '', count: 3 },
    ]);
  });

  test('the last hundred are kept', () => {
    const history = present(new Histories({ devicesMax: 1 }).of('acme/a'));
    for (let i = 0; i < 1_234; i += 1)
      history.note(i % 2 ? ACCEPTED : BOUNDS, T0 + i * 2_000, i + 1);
    const kept = history.decisions();
    assert.equal(kept.length, DECISIONS_KEPT);
    assert.deepEqual(
      kept.map(({ count }) => count),
      Array.from({ length: DECISIONS_KEPT }, (_, i) => 1_234 - i),
    );
    assert.equal(kept.at(-1)?.at, T0 + 1_134 * 2_000);
  });
});

describe('devices that are remembered', () => {
  test('make room when they were quiet', () => {
    const histories = new Histories({ devicesMax: 3 });
    const names = ['t/a', 't/b', 't/c'];
    const [a, b] = names.map((name) => present(histories.of(name)));
    // All are new: they have a chance to be used before they go.
    assert.equal(histories.of('t/d'), undefined);
    a?.note(ACCEPTED, T0);
    const d = present(histories.of('t/d'));
    assert.deepEqual([histories.size, b?.evicted, a?.evicted], [3, true, false]);
    assert.equal(histories.find('t/b'), undefined);
    assert.deepEqual(d.decisions(), []);
  });

  test('nobody gives way while all are busy', () => {
    const histories = new Histories({ devicesMax: 50 });
    const kept = Array.from({ length: 50 }, (_, i) => present(histories.of(`t/${i}`)));
    for (let round = 0; round < 500; round += 1) {
      for (const history of kept) history.note(ACCEPTED, T0 + round * 1_000);
      histories.of(`u/${round}`);
    }
    assert.equal(histories.size, 50);
    assert.equal(kept.filter(({ evicted }) => evicted).length, 0);
  });

  test('what one had is not shown for the next', () => {
    const histories = new Histories({ devicesMax: 1 });
    present(histories.of('t/a')).note(BOUNDS, T0);
    histories.of('t/b');
    const b = present(histories.of('t/b'));
    assert.deepEqual(b.view(), {
      ...{ decisions: [], clock: null, lastConnection: null, backfill: null },
    });
    b.note(ACCEPTED, T0 + 1);
    assert.equal(b.decisions().length, 1);
  });
});

describe('clock skew', () => {
  /** Feeds readings that arrive `delay` later than they were measured, by a clock that is off by `skew`. */
  function feed(
    estimate: SkewEstimate,
    count: number,
    options: { skew: (i: number) => number; delay: (i: number) => number; everyMs?: number },
  ) {
    for (let i = 0; i < count; i += 1) {
      const measured = T0 + i * (options.everyMs ?? 1_000);
      estimate.observe(measured + options.skew(i), measured + options.delay(i));
    }
    const view = estimate.view();
    assert.ok(view !== undefined);
    return view;
  }

  test('is the offset of the clock, less the shortest delay', () => {
    const view = feed(new SkewEstimate(), 500, {
      skew: () => 90_000,
      delay: (i) => 20 + ((i * 7_919) % 3_000),
    });
    assert.ok(view.settled);
    assert.ok(Math.abs(view.skewMs - 90_000) < 300, `${view.skewMs}`);
    assert.equal(view.readings, 500);
  });

  test('a year ahead and a day behind are found as well', () => {
    for (const skew of [365 * 86_400_000, -86_400_000, 0]) {
      const view = feed(new SkewEstimate(), 200, { skew: () => skew, delay: () => 40 });
      assert.deepEqual([view.skewMs, view.settled], [skew - 40, true]);
    }
  });

  test('single wild times do not move it', () => {
    const view = feed(new SkewEstimate(), 320, {
      skew: (i) => (i % 80 === 3 ? 10 ** 9 : 500),
      delay: () => 10,
    });
    assert.equal(view.skewMs, 490);
  });

  test('buffered readings that are sent now are no skew that is settled', () => {
    const view = feed(new SkewEstimate(), 600, {
      skew: () => 0,
      // Two hours late at first, and less with each.
      delay: (i) => 7_200_000 - i * 10_000,
    });
    assert.equal(view.settled, false);
  });

  test('a device that rarely sends settles too; nothing is said before the first reading', () => {
    const estimate = new SkewEstimate();
    assert.equal(estimate.view(), undefined);
    estimate.observe(T0 + 700, T0);
    assert.deepEqual(estimate.view(), {
      ...{ skewMs: 700, spreadMs: 0, settled: false, readings: 1, measuredAt: T0 },
    });
    const rare = feed(new SkewEstimate(), 6, {
      ...{ skew: () => -3_000, delay: () => 50, everyMs: 3_600_000 },
    });
    assert.deepEqual([rare.skewMs, rare.settled], [-3_050, true]);
  });
});
