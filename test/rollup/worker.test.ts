import assert from 'node:assert/strict';
import { test } from 'node:test';
import { SpillwayError } from '../../src/core/errors.ts';
import { finish } from '../../src/rollup/aggregate.ts';
import { Crash } from './fakes.ts';
import { GroupLog } from './group-log.ts';
import { DAY, Harness, HOUR, MINUTE, reading, T0 } from './harness.ts';
import { assertStore } from './naive.ts';

const NOON = T0 + 12 * HOUR;

test('readings become raw rows, rows of three levels and ledger lines', async () => {
  const run = new Harness();
  run.start();
  await run.feed(
    reading('d1', NOON, { a: 1, ok: true, state: 'open' }),
    reading('d1', NOON + 1_000, { a: 3, ok: false, state: 'shut' }),
    reading('d1', NOON + MINUTE, { a: 8, ok: true, state: 'open' }),
    {
      kind: 'deadLetter',
      tenant: 'acme',
      device: 'd1',
      type: 'sensor',
      received: NOON,
      topic: 'x',
      payload: '',
      payloadBytes: 0,
      code: 'JSON_INVALID',
      message: '',
    },
    { kind: 'shed', tenant: 'acme', device: 'd1', received: NOON, code: 'LOG_FULL', count: 7 },
    { kind: 'event', tenant: 'acme', device: 'd1', received: NOON, event: 'connected' },
  );
  await run.stop();
  const { store } = run;
  assert.equal(store.rows.size, 3);
  assert.equal(finish(store.state('d1', 'a', MINUTE, NOON)).mean, 2);
  assert.equal(store.state('d1', 'a', MINUTE, NOON + MINUTE).sum, 8);
  for (const [length, start] of [
    [HOUR, NOON],
    [DAY, T0],
  ] as const) {
    const state = store.state('d1', 'a', length, start);
    assert.equal(state.count, 3);
    assert.equal(state.sum, 12);
    assert.deepEqual([state.first, state.last], [1, 8]);
    assert.equal(store.state('d1', 'state', length, start).last, 'open');
    assert.equal(store.state('d1', 'state', length, start).sketch, undefined);
    assert.equal(store.state('d1', 'ok', length, start).sum, 2);
  }
  assert.deepEqual(store.ledgerByDevice(), {
    'd1 stored': 3,
    'd1 deadLetter JSON_INVALID': 1,
    'd1 shed LOG_FULL': 7,
  });
  assert.equal(store.letters.size, 1);
  assert.equal(run.log.commits.get('rollup'), 6);
  assert.equal(run.stats?.lagOffsets, 0);
});

test('the writes keep the order of the contract', async () => {
  const run = new Harness();
  run.log.append([reading('d1', NOON, { a: 1 })]);
  run.start();
  await run.settle();
  await run.stop();
  const writes = run.store.calls.filter((call) => /^(write|commit)/.test(call));
  assert.deepEqual(writes, ['writeReadings', 'writeRollups', 'commit']);
});

test('repeated readings count once: identical, merged, conflict', async () => {
  const run = new Harness();
  run.start();
  await run.feed(reading('d1', NOON, { a: 1, b: 2 }), reading('d1', NOON + 1, { a: 5 }));
  await run.feed(reading('d1', NOON, { b: 2, a: 1 }));
  await run.feed(reading('d1', NOON, { a: 1 }));
  await run.feed(reading('d1', NOON, { c: 9 }));
  await run.feed(reading('d1', NOON, { a: 4, d: 1 }), reading('d1', NOON, { a: 4, d: 1 }));
  await run.stop();
  assert.deepEqual(run.store.ledgerByDevice(), {
    'd1 stored': 2,
    'd1 duplicate IDENTICAL': 3,
    'd1 duplicate MERGED': 1,
    'd1 duplicate CONFLICT': 1,
  });
  assert.deepEqual(run.store.values('d1', NOON), { a: 4, b: 2, c: 9, d: 1 });
  for (const [length, start] of [
    [MINUTE, NOON],
    [HOUR, NOON],
    [DAY, T0],
  ] as const) {
    assert.equal(run.store.state('d1', 'a', length, start).sum, 9);
    assert.equal(run.store.state('d1', 'b', length, start).count, 1);
    assert.equal(run.store.state('d1', 'c', length, start).sum, 9);
    assert.equal(run.store.row('d1', 'a', length, start)?.revision, 0);
  }
});

test('conflicts within one batch end with the later value', async () => {
  const run = new Harness();
  run.start();
  await run.feed(
    reading('d1', NOON, { a: 1 }),
    reading('d1', NOON, { a: 2 }),
    reading('d1', NOON, { b: 7 }),
    reading('d1', NOON, { a: 3 }),
  );
  await run.stop();
  assert.equal(run.store.state('d1', 'a', MINUTE, NOON).sum, 3);
  assert.equal(run.store.state('d1', 'b', MINUTE, NOON).sum, 7);
  assert.equal(run.store.ledgerByDevice()['d1 duplicate CONFLICT'], 2);
});

test('a device that always sends other values for the same time asks the store once', async () => {
  const run = new Harness();
  run.start();
  const records = [];
  for (let second = 0; second < 300; second += 1) {
    const now = NOON + second * 1_000;
    run.clock.set(now);
    const sent = [
      reading('d1', now, { a: second, b: second % 3 === 0, c: 'x' }),
      reading('d1', now, { a: second + 0.5, d: -second }),
      reading('d1', now - (second % 7) * 1_000, { a: second * 2, c: `y${second % 5}` }, now),
    ];
    records.push(...sent);
    await run.feed(...sent);
  }
  await run.stop();
  assertStore(run.store, records, MINUTE, true);
  // The first for what the device had before, the second for what came again.
  assert.equal(run.store.calls.filter((call) => call === 'readings').length, 2);
  for (const row of run.store.rollupRows.values()) assert.equal(row.revision, 0);
});

test('the value of the higher partition counts where two of them have the same time', async () => {
  for (const isFirst of [true, false]) {
    for (const restart of [true, false]) {
      const run = new Harness();
      const log = new GroupLog([0, 1]);
      const append = (partition: number, a: number) =>
        log.append(partition, [reading('d1', NOON, { a, [`p${partition}`]: 1 })], NOON);
      const settled = async (partition: number, end: number) => {
        while (run.store.positions.get(`rollup/${partition}`) !== end) {
          await new Promise((resolve) => setImmediate(resolve));
        }
      };
      const start = async () => {
        run.start({ consumer: log.consumer() });
        while (log.size === 0) await new Promise((resolve) => setImmediate(resolve));
        await log.rebalance(() => 0, { turns: 100 });
      };
      await start();
      append(isFirst ? 1 : 0, isFirst ? 20 : 10);
      await settled(isFirst ? 1 : 0, 1);
      if (restart) {
        await run.stop();
        await start();
      }
      append(isFirst ? 0 : 1, isFirst ? 10 : 20);
      await settled(isFirst ? 0 : 1, 1);
      await run.stop();
      assert.deepEqual(run.store.values('d1', NOON), { a: 20, p0: 1, p1: 1 });
      assert.equal(run.store.state('d1', 'a', MINUTE, NOON).sum, 20);
      assert.equal(run.store.ledgerByDevice()['d1 duplicate CONFLICT'], 1);
    }
  }
});

test('late data, days after, corrects its window, hour and day, and counts the revision', async () => {
  const run = new Harness();
  run.start();
  await run.feed(reading('d1', NOON, { a: 1 }), reading('d1', NOON + 1_000, { a: 2 }));
  run.clock.set(NOON + 3 * DAY);
  await run.feed(reading('d1', NOON + 3 * DAY, { a: 100 }));
  run.clock.advance(10 * MINUTE);
  await run.feed(reading('d1', NOON + 3 * DAY + 10 * MINUTE, { a: 100 }));
  await run.feed(reading('d1', NOON + 500, { a: 3 }, NOON + 3 * DAY + 10 * MINUTE));
  assert.equal(run.store.state('d1', 'a', MINUTE, NOON).sum, 6);
  assert.equal(run.store.row('d1', 'a', MINUTE, NOON)?.revision, 1);
  assert.equal(run.store.state('d1', 'a', HOUR, NOON).sum, 6);
  assert.equal(run.store.row('d1', 'a', HOUR, NOON)?.revision, 1);
  assert.equal(run.store.state('d1', 'a', DAY, T0).sum, 6);
  assert.equal(run.store.row('d1', 'a', DAY, T0)?.revision, 1);
  assert.equal(run.store.state('d1', 'a', DAY, T0 + 3 * DAY).sum, 200);
  assert.equal(run.store.row('d1', 'a', DAY, T0 + 3 * DAY)?.revision, 0);
  assert.equal(run.stats?.late, 1);
  assert.equal(run.stats?.rowsRevised, 3);
  // The same again changes nothing.
  const written = run.stats?.rowsWritten;
  await run.feed(reading('d1', NOON + 500, { a: 3 }, NOON + 3 * DAY + 11 * MINUTE));
  await run.stop();
  assert.equal(run.stats?.rowsWritten, written);
  assert.equal(run.store.row('d1', 'a', MINUTE, NOON)?.revision, 1);
});

test('a correction of one metric leaves the revision of the others', async () => {
  const run = new Harness();
  run.start();
  await run.feed(reading('d1', NOON, { a: 1, b: 1 }), reading('d1', NOON + HOUR, { b: 1 }));
  await run.feed(reading('d1', NOON, { a: 2 }, NOON + HOUR));
  await run.feed(reading('d1', NOON, { a: 3 }, NOON + HOUR));
  await run.stop();
  assert.equal(run.store.state('d1', 'a', MINUTE, NOON).sum, 3);
  for (const [metric, revision] of [
    ['a', 2],
    ['b', 0],
  ] as const) {
    assert.equal(run.store.row('d1', metric, MINUTE, NOON)?.revision, revision);
    // The hour of noon is not past its lateness: the newest reading lies at its end.
    assert.equal(run.store.row('d1', metric, HOUR, NOON)?.revision, 0);
  }
});

test('late windows of one hour revise the hour only where they change it', async () => {
  const run = new Harness();
  run.start();
  const later = NOON + 2 * HOUR;
  await run.feed(
    reading('d1', NOON, { a: 1, b: 1 }),
    reading('d1', NOON + 30 * MINUTE, { b: 1 }),
    reading('d1', later, { a: 1, b: 1 }),
  );
  run.clock.advance(10_000);
  await run.feed(reading('d1', later + 1, { a: 1, b: 1 }));
  assert.equal(run.stats?.openWindows, 1);
  await run.feed(reading('d1', NOON + 5 * MINUTE, { a: 2 }, later));
  await run.feed(reading('d1', NOON + 10 * MINUTE, { a: 4 }, later));
  await run.stop();
  assert.equal(run.store.state('d1', 'a', HOUR, NOON).sum, 7);
  assert.equal(run.store.row('d1', 'a', HOUR, NOON)?.revision, 2);
  assert.equal(run.store.row('d1', 'b', HOUR, NOON)?.revision, 0);
});

test('a window that fills over many flushes is not revised before its lateness', async () => {
  const run = new Harness();
  run.start();
  for (let second = 0; second < 180; second += 10) {
    run.clock.set(NOON + second * 1_000);
    await run.feed(reading('d1', NOON + second * 1_000, { a: second }));
  }
  await run.feed(reading('d1', NOON + 5_000, { a: 1 }, NOON + 179_000));
  await run.stop();
  assert.equal(run.store.state('d1', 'a', MINUTE, NOON).count, 7);
  for (const row of run.store.rollupRows.values()) assert.equal(row.revision, 0);
});

test('a restart in the middle of a window goes on where it was', async () => {
  const run = new Harness();
  run.start();
  await run.feed(reading('d1', NOON - HOUR, { a: 5 }, NOON), reading('d1', NOON, { a: 1 }));
  await run.stop();
  run.start();
  await run.feed(reading('d1', NOON + 1_000, { a: 2 }), reading('d1', NOON, { a: 1 }));
  await run.stop();
  assert.equal(run.store.state('d1', 'a', MINUTE, NOON).sum, 3);
  assert.equal(run.store.state('d1', 'a', HOUR, NOON).sum, 3);
  assert.equal(run.store.state('d1', 'a', DAY, T0).sum, 8);
  assert.deepEqual(run.store.ledgerByDevice(), { 'd1 stored': 3, 'd1 duplicate IDENTICAL': 1 });
});

test('rows that a crash left of windows that come again are not counted with them', async () => {
  const run = new Harness({ flushEvery: 1_000 });
  // Not at the start of the hour, so that the hour's other windows come from the store.
  for (const minute of [10, 11, 12]) {
    run.log.append([reading('d1', NOON + minute * MINUTE, { a: 1 })]);
  }
  const applied = run.passes('applied', 3);
  run.start();
  await applied;
  run.faultPoint = (name) => {
    if (name === 'rollupsWritten') throw new Crash();
  };
  await assert.rejects(run.stop(), Crash);
  assert.equal(run.store.state('d1', 'a', HOUR, NOON).count, 3);
  assert.equal(run.store.positions.size, 0);
  const again = new Harness();
  Object.assign(again, { log: run.log, store: run.store });
  again.start();
  await again.settle();
  await again.stop();
  assert.ok((again.stats?.flushes ?? 0) > 2);
  assert.equal(run.store.state('d1', 'a', HOUR, NOON).count, 3);
  assert.equal(run.store.state('d1', 'a', DAY, T0).count, 3);
  assert.deepEqual(run.store.ledgerByDevice(), { 'd1 stored': 3 });
});

test('a clock a year ahead harms neither other devices nor its own later windows', async () => {
  const run = new Harness();
  run.start();
  const year = 365 * DAY;
  await run.feed(
    reading('wrong', NOON + year, { a: 1 }, NOON),
    reading('good', NOON, { a: 1 }),
    reading('wrong', NOON, { a: 2 }),
  );
  run.clock.set(NOON + 10 * MINUTE);
  await run.feed(
    reading('good', NOON + 10 * MINUTE, { a: 2 }),
    reading('wrong', NOON + 10 * MINUTE, { a: 3 }),
  );
  const queries = run.store.calls.filter((call) => call === 'readings').length;
  for (let minute = 11; minute < 20; minute += 1) {
    run.clock.set(NOON + minute * MINUTE);
    await run.feed(
      reading('wrong', NOON + minute * MINUTE, { a: minute }),
      reading('good', NOON + minute * MINUTE, { a: minute }),
    );
  }
  await run.stop();
  assert.equal(run.store.calls.filter((call) => call === 'readings').length, queries);
  const days = [run.store.state('good', 'a', DAY, T0), run.store.state('wrong', 'a', DAY, T0)];
  assert.deepEqual(
    days.map((state) => state.count),
    [11, 11],
  );
  assert.equal(run.store.state('wrong', 'a', MINUTE, NOON + year).sum, 1);
  for (const row of run.store.rollupRows.values()) assert.equal(row.revision, 0);
});

test('a device that nobody knows costs a query once; a slow clock too', async () => {
  const run = new Harness();
  run.start();
  for (let minute = 0; minute < 30; minute += 1) {
    const now = NOON + minute * MINUTE;
    run.clock.set(now);
    await run.feed(
      reading('new', now, { a: minute }),
      reading('slow', now - 3 * DAY, { a: minute }, now),
    );
  }
  await run.stop();
  assert.equal(run.store.calls.filter((call) => call === 'readings').length, 2);
  assert.equal(run.store.state('slow', 'a', DAY, T0 - 3 * DAY).count, 30);
  assert.equal(run.store.row('slow', 'a', DAY, T0 - 3 * DAY)?.revision, 0);
});

test('devices of one batch share the queries after a restart', async () => {
  const run = new Harness();
  const devices = Array.from({ length: 30 }, (_, index) => `d${index}`);
  run.start();
  await run.feed(...devices.map((device) => reading(device, NOON, { a: 1 })));
  await run.stop();
  run.store.calls.length = 0;
  run.start();
  await run.feed(...devices.map((device) => reading(device, NOON + 1, { a: 1 })));
  await run.stop();
  const reads = run.store.calls.filter((call) => call === 'readings' || call === 'rollups');
  assert.deepEqual(reads, ['readings', 'rollups', 'rollups', 'rollups']);
  for (const device of devices) assert.equal(run.store.state(device, 'a', DAY, T0).count, 2);
});

test('final windows leave memory by the watermark, and of silent devices by the clock', async () => {
  const run = new Harness();
  run.start();
  await run.feed(reading('busy', NOON, { a: 1 }), reading('silent', NOON, { a: 1 }));
  assert.equal(run.stats?.openWindows, 2);
  run.clock.set(NOON + 3 * MINUTE - 1);
  await run.feed(reading('busy', NOON + 3 * MINUTE - 1, { a: 1 }));
  assert.equal(run.stats?.openWindows, 3);
  run.clock.set(NOON + 4 * MINUTE);
  await run.feed(reading('busy', NOON + 4 * MINUTE, { a: 1 }));
  run.clock.advance(5_000);
  await run.feed(reading('busy', NOON + 4 * MINUTE + 1, { a: 1 }));
  await run.feed(reading('busy', NOON + 4 * MINUTE + 2, { a: 1 }));
  // Left: two of the busy device.
  assert.equal(run.stats?.openWindows, 2);
  assert.equal(run.stats?.openReadings, 4);
  await run.stop();
});

test('at the bounds the devices that were longest silent leave memory, and nothing is lost', async () => {
  const run = new Harness({ devicesMax: 10, openReadingsMax: 40 });
  run.start();
  for (let round = 0; round < 6; round += 1) {
    for (let device = 0; device < 20; device += 1) {
      run.clock.advance(1);
      run.log.append([reading(`d${device}`, NOON + round * 1_000, { a: round }, NOON + round)]);
    }
    await run.settle();
    assert.ok((run.stats?.devices ?? 99) <= 20);
  }
  await run.stop();
  assert.ok((run.stats?.devices ?? 99) <= 10);
  assert.ok((run.stats?.openReadings ?? 99) <= 40);
  for (let device = 0; device < 20; device += 1) {
    for (const [length, start] of [
      [MINUTE, NOON],
      [HOUR, NOON],
      [DAY, T0],
    ] as const) {
      assert.equal(run.store.state(`d${device}`, 'a', length, start).sum, 15);
    }
  }
});

test('one window may hold more readings than the bound', async () => {
  const run = new Harness({ openReadingsMax: 50 });
  run.start();
  for (let at = 0; at < 2_000; at += 100) {
    const batch = Array.from({ length: 100 }, (_, n) => reading('d1', NOON + at + n, { a: 1 }));
    await run.feed(...batch);
  }
  await run.stop();
  assert.equal(run.store.state('d1', 'a', MINUTE, NOON).count, 2_000);
});

test('a refused reading becomes a dead letter; the rest is written and the window right', async () => {
  const run = new Harness();
  run.store.refuses = ({ values }) => (values.a === 13 ? 'field type conflict' : undefined);
  run.start();
  await run.feed(
    reading('d1', NOON, { a: 1 }),
    reading('d1', NOON + 1, { a: 13 }),
    reading('d1', NOON + 2, { a: 2 }),
    reading('d1', NOON + 2, { a: 13 }),
  );
  await run.stop();
  assert.equal(run.store.state('d1', 'a', MINUTE, NOON).sum, 3);
  assert.deepEqual(run.store.ledgerByDevice(), {
    'd1 stored': 2,
    'd1 deadLetter STORE_REFUSED': 2,
  });
  const letter = run.store.letters.get('0/1');
  assert.match(letter?.message ?? '', /field type conflict/);
  const payload = JSON.parse(Buffer.from(letter?.payload ?? '', 'base64').toString());
  assert.deepEqual(payload, { ts: NOON + 1, values: { a: 13 } });
});

test('readings older than raw data is kept become dead letters', async () => {
  const run = new Harness({ rawMs: DAY });
  run.start();
  await run.feed(
    reading('d1', NOON - 2 * DAY, { a: 1 }, NOON),
    reading('d1', NOON - HOUR, { a: 1 }, NOON),
  );
  await run.stop();
  assert.deepEqual(run.store.ledgerByDevice(), { 'd1 stored': 1, 'd1 deadLetter TS_PAST': 1 });
});

test('errors that may pass are retried, others end the worker', async () => {
  const { SpillwayError } = await import('../../src/core/errors.ts');
  const run = new Harness();
  let failures = 3;
  run.store.before = (call) => {
    if (call === 'position' || failures === 0) return;
    failures -= 1;
    throw failures === 1 ? new Error('unknown') : new SpillwayError('STORE_BUSY', 'busy');
  };
  run.start();
  await run.feed(reading('d1', NOON, { a: 1 }));
  assert.equal(run.stats?.retries, 3);
  run.store.before = () => {
    throw new SpillwayError('STORE_CORRUPT', 'broken');
  };
  await assert.rejects(run.feed(reading('d1', NOON, { a: 1 })), { code: 'STORE_CORRUPT' });
});

test('a flush that waited an hour for the store is followed by another one soon', {
  timeout: 10_000,
}, async () => {
  const run = new Harness();
  let now = 0;
  run.start({
    monotonicNow: () => {
      now += 5_000;
      return now;
    },
  });
  run.store.before = (call) => {
    if (call === 'commit' && run.store.positions.get('rollup/0') === undefined) now += HOUR;
  };
  await run.feed(reading('d1', NOON, { a: 1 }));
  await run.feed(reading('d1', NOON + 1, { a: 2 }));
  await run.stop();
});

test('a log that is away holds up no flush for its figures', { timeout: 10_000 }, async () => {
  const run = new Harness();
  run.start();
  await run.feed(reading('d1', NOON, { a: 1 }));
  const { bounds } = run.log;
  run.log.bounds = async () => {
    throw new SpillwayError('LOG_UNAVAILABLE', 'away');
  };
  await run.feed(reading('d1', NOON + 1, { a: 2 }));
  run.log.bounds = bounds;
  await run.stop();
});

test('a store that stays broken does not keep the worker from stopping', async () => {
  const run = new Harness();
  run.start({ retry: { firstMs: 1, longestMs: 1, attemptsAfterAbort: 2 } });
  const failing = new Promise<void>((resolve) => {
    run.store.before = (call) => {
      if (call === 'position') return;
      resolve();
      throw new Error('down');
    };
  });
  run.log.append([reading('d1', NOON, { a: 1 })]);
  await failing;
  await assert.rejects(run.stop(), /down/);
});

test('an error of the log is reported after what came before it is in the store', async () => {
  const run = new Harness({ flushEvery: 1_000 });
  run.log.append([reading('d1', NOON, { a: 1 })]);
  run.log.corruptAt = 1;
  run.start();
  await assert.rejects(run.ended(), /corrupt/);
  assert.equal(run.store.positions.get('rollup/0'), 1);
});

test('a log that does not belong to the store is not read', async () => {
  const run = new Harness();
  run.store.positions.set('rollup/0', 5);
  run.start();
  await assert.rejects(run.stop(), { code: 'LOG_CORRUPT' });
});

test('records before the position of the store are skipped, trimmed ones are reported', async () => {
  const run = new Harness();
  run.log.append([1, 2, 3, 4].map((n) => reading('d1', NOON + n, { a: n })));
  run.store.positions.set('rollup/0', 2);
  run.start();
  await run.settle();
  await run.stop();
  assert.deepEqual(run.store.ledgerByDevice(), { 'd1 stored': 2 });
  assert.deepEqual(run.warnings, []);
  run.store.positions.set('rollup/0', 1);
  run.log.first = 3;
  run.start();
  await run.stop();
  assert.equal(run.warnings.length, 1);
});

test('the raw readings of a long interval are written before they are many', async () => {
  const run = new Harness({ flushEvery: 1_000, batchRecordsMax: 10 });
  for (let n = 0; n < 5; n += 1) {
    run.log.append(
      Array.from({ length: 10 }, (_, index) => reading('d1', NOON + n * 10 + index, { a: 1 })),
    );
  }
  const applied = run.passes('applied', 5);
  run.start();
  await applied;
  await run.stop();
  const writes = run.store.calls.filter((call) => /^(write|commit)/.test(call));
  assert.deepEqual(writes, [
    ...new Array<string>(5).fill('writeReadings'),
    'writeRollups',
    'commit',
  ]);
});

test('retention is applied at its interval', async () => {
  const run = new Harness();
  run.start();
  await run.feed(reading('d1', NOON, { a: 1 }));
  run.clock.advance(9 * MINUTE);
  await run.feed(reading('d1', NOON + 1, { a: 1 }));
  run.clock.advance(2 * MINUTE);
  await run.feed(reading('d1', NOON + 2, { a: 1 }));
  await run.feed(reading('d1', NOON + 3, { a: 1 }));
  await run.stop();
  assert.deepEqual(run.store.retentionCalls, [NOON, NOON + 11 * MINUTE]);
});

test('a base window that does not divide an hour is refused', async () => {
  const run = new Harness({ baseWindow: 7 * MINUTE });
  run.start();
  await assert.rejects(run.stop(), { code: 'CONFIG_INVALID' });
});

test('what a sender sends again counts nowhere, also after a crash', async () => {
  const run = new Harness();
  const sent = [1, 2, 3, 4].map((n) => reading('d1', NOON + n, { a: n }));
  const from = (source: string, ...numbers: number[]) =>
    numbers.map((number) => ({ source, number }));
  run.log.append(sent.slice(0, 2), NOON, from('g1', 10, 11));
  run.log.append(sent.slice(0, 3), NOON, from('g1', 10, 11, 12));
  run.start();
  await run.settle();
  await run.stop();
  assert.equal(run.stats?.retransmitted, 2);
  // Another process goes on; what it must know is in the store.
  run.log.append(sent.slice(2), NOON, from('g1', 12, 13));
  // The same reading from another source is a repetition by the device, and counts as one.
  run.log.append(sent.slice(3), NOON, from('g2', 1));
  run.start();
  await run.settle();
  await run.stop();
  assert.equal(run.stats?.retransmitted, 1);
  assert.deepEqual(run.store.ledgerByDevice(), { 'd1 stored': 4, 'd1 duplicate IDENTICAL': 1 });
});
