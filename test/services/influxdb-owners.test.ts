import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, describe, type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { SpillwayError } from '../../src/core/errors.ts';
import type { RollupRow } from '../../src/core/nouns.ts';
import type { Progress, Store } from '../../src/store/contract.ts';
import { InfluxUnavailableError } from '../../src/store/influxdb/errors.ts';
import { type InfluxStoreOptions, openInfluxStore } from '../../src/store/influxdb/store.ts';
import { reading, rollup } from '../suites/store.ts';
import { influxEnvironment, removeBuckets, SKIPPED, uniquePrefix } from './influx-env.ts';
import { InfluxProxy } from './influx-proxy.ts';

const MINUTE = 60_000;
const HOUR = 3_600_000;
const NOON = Date.UTC(2026, 2, 14, 12);
const LEASE = 50;

const env = influxEnvironment();

function isTakenOver(error: unknown): boolean {
  return error instanceof SpillwayError && error.code === 'STORE_TAKEN_OVER' && !error.retryable;
}

if (env === undefined) {
  test('several writers on InfluxDB', { skip: SKIPPED }, () => {});
} else {
  const prefix = uniquePrefix();
  after(() => removeBuckets(env, prefix));

  const open = async (
    t: TestContext,
    changes: Partial<InfluxStoreOptions> = {},
  ): Promise<Store> => {
    const store = await openInfluxStore({
      ...env,
      bucketPrefix: prefix,
      retention: { rawMs: 0, deadLettersMs: 0, rollupsMs: new Map() },
      windowsMs: [MINUTE],
      leaseMs: LEASE,
      ...changes,
    });
    t.after(() => store.close());
    return store;
  };

  const place = () => {
    const id = randomUUID().slice(0, 8);
    const tenant = `tenant-${id}`;
    const row = (device: string, count: number): RollupRow => {
      const { state } = rollup();
      return rollup({ tenant, device, state: { ...state, count } });
    };
    const raw = (device: string, partition: number, offset: number) =>
      reading({ tenant, device, partition, offset, ts: NOON + offset, values: { n: offset } });
    const progress = (partition: number, from: number, to: number): Progress => {
      const line = { tenant, device: 'd', hour: NOON, outcome: 'stored', code: '' } as const;
      const ledger = [{ ...line, count: to - from }];
      return { group: `group-${id}`, partition, nextOffset: to, ledger };
    };
    const counts = async (store: Store) => {
      const range = { tenant, windowMs: MINUTE, from: NOON, to: NOON + HOUR };
      const rows = await store.rollups(range);
      return Object.fromEntries(rows.map(({ device, state }) => [device, state.count]));
    };
    return { tenant, group: `group-${id}`, row, raw, progress, counts };
  };

  describe('several writers on InfluxDB', () => {
    test('one that was stopped cannot overwrite rows of its successor', async (t) => {
      const { group, row, raw, progress, counts } = place();
      const [first, second] = [await open(t), await open(t)];
      await first.position(group);
      await first.writeReadings([raw('moved', 0, 1), raw('kept', 1, 2)]);
      await first.writeRollups([row('moved', 1), row('kept', 1)]);
      await first.commit(progress(0, 0, 1));

      assert.deepEqual(await second.position(group), new Map([[0, 1]]));
      await second.writeReadings([raw('moved', 0, 3)]);
      await second.writeRollups([row('moved', 5)]);
      await sleep(LEASE * 2);
      await assert.rejects(first.writeRollups([row('moved', 2), row('kept', 2)]), isTakenOver);
      await assert.rejects(first.writeReadings([raw('moved', 0, 2)]), isTakenOver);
      assert.deepEqual(await counts(second), { moved: 5, kept: 1 });
      // What is still its own goes on.
      await first.writeRollups([row('kept', 3)]);
      await first.writeReadings([raw('kept', 1, 4)]);
      assert.deepEqual(await counts(second), { moved: 5, kept: 3 });

      // And when it gets the partition again, it has it.
      await second.commit(progress(0, 1, 4));
      assert.deepEqual(await first.position(group), new Map([[0, 4]]));
      await first.writeReadings([raw('moved', 0, 4)]);
      await first.writeRollups([row('moved', 6)]);
      await first.commit(progress(0, 4, 5));
      await sleep(LEASE * 2);
      await assert.rejects(second.writeRollups([row('moved', 5)]), isTakenOver);
      assert.deepEqual(await counts(second), { moved: 6, kept: 3 });
      assert.deepEqual(
        await second.ledgerTotals({ tenant: row('', 0).tenant }),
        new Map([['stored', 5]]),
      );
    });

    test('one that reads and writes notes of another group is held to its own all the same', async (t) => {
      const { group, row, raw, progress } = place();
      const [first, second] = [await open(t), await open(t)];
      await first.position(group);
      await first.writeReadings([raw('d', 0, 1)]);
      await first.commit(progress(0, 0, 1));
      const other = `${group}-other`;
      await first.position(other);
      await first.writeNotes(other, 0, ['a']);
      await second.position(group);
      await second.writeReadings([raw('d', 0, 2)]);
      await second.writeNotes(other, 0, ['b']);
      await sleep(LEASE * 2);
      await assert.rejects(first.writeRollups([row('d', 1)]), isTakenOver);
      await first.position(other);
      await assert.rejects(first.commit(progress(0, 1, 2)), isTakenOver);
      assert.deepEqual(await first.notes(other), new Map([[0, ['b']]]));
    });

    test('one that was stopped while it asked who has its partitions does not believe the answer', async (t) => {
      const { group, row, raw, progress, counts } = place();
      const proxy = await InfluxProxy.start(env.url);
      t.after(() => proxy.close());
      const [first, second] = [await open(t, { url: proxy.url, leaseMs: 500 }), await open(t)];
      await first.position(group);
      await first.writeReadings([raw('d', 0, 1)]);
      await first.commit(progress(0, 0, 1));
      // The answer is from before the other one took over, and lies there for longer than the lease.
      const released = Promise.withResolvers<void>();
      proxy.obey(({ index }) => (index === 0 ? { answerAfter: released.promise } : 'forward'));
      const renewed = first.position(group);
      while (proxy.seen.length === 0) await sleep(5);
      await sleep(100);
      await second.position(group);
      await second.writeReadings([raw('d', 0, 2)]);
      await second.writeRollups([row('d', 5)]);
      await sleep(600);
      released.resolve();
      await renewed;
      await assert.rejects(first.writeRollups([row('d', 2)]), isTakenOver);

      await second.commit(progress(0, 1, 3));
      await first.position(group);
      await first.writeReadings([raw('d', 0, 4)]);
      await sleep(600);
      const again = Promise.withResolvers<void>();
      proxy.obey(({ index }) => (index === 0 ? { answerAfter: again.promise } : 'forward'));
      const late = assert.rejects(first.writeRollups([row('d', 3)]), isTakenOver);
      while (proxy.seen.length === 0) await sleep(5);
      await sleep(100);
      await second.position(group);
      await second.writeReadings([raw('d', 0, 5)]);
      await second.writeRollups([row('d', 6)]);
      await sleep(600);
      again.resolve();
      await late;
      assert.deepEqual(await counts(second), { d: 6 });
    });

    test('one that was stopped cannot overwrite notes of its successor', async (t) => {
      const { group, raw, progress } = place();
      const [first, second] = [await open(t), await open(t)];
      await first.position(group);
      await first.writeReadings([raw('d', 0, 1)]);
      await first.commit(progress(0, 0, 1));
      await second.position(group);
      await second.writeReadings([raw('d', 0, 2)]);
      await second.writeNotes(group, 0, ['M2']);
      await sleep(LEASE * 2);
      await assert.rejects(first.writeNotes(group, 0, ['C1']), isTakenOver);
      assert.deepEqual(await first.notes(group), new Map([[0, ['M2']]]));
    });

    test('one whose commit failed before it was replaced knows nothing of rows when it is back', async (t) => {
      const { tenant, group, raw, progress } = place();
      const proxy = await InfluxProxy.start(env.url);
      t.after(() => proxy.close());
      const impatient = { giveUpMs: 0, backoffFirstMs: 0 };
      const [first, second] = [await open(t, { url: proxy.url, ...impatient }), await open(t)];
      await first.position(group);
      await first.writeReadings([raw('d', 0, 1)]);
      proxy.obey(({ isWrite }) => (isWrite ? { status: 503 } : 'forward'));
      await assert.rejects(first.commit(progress(0, 0, 2)), InfluxUnavailableError);
      proxy.obey(() => 'forward');
      await second.position(group);
      await second.writeReadings([raw('d', 0, 1), raw('d', 0, 2)]);
      await second.commit(progress(0, 0, 3));
      await first.position(group);
      await first.writeReadings([{ ...raw('d', 0, 3), ts: NOON + 2, values: { more: 1 } }]);
      const rows = await first.readings({ tenant, from: NOON + 2, to: NOON + 3 });
      assert.deepEqual(
        rows.map(({ offset, values }) => ({ offset, values })),
        [{ offset: 2, values: { n: 2, more: 1 } }],
      );
    });

    test('one whose beginning failed half-way has the partition all the same', async (t) => {
      const { group, row, raw, progress, counts } = place();
      const proxy = await InfluxProxy.start(env.url);
      t.after(() => proxy.close());
      const store = await open(t, { url: proxy.url, giveUpMs: 0, backoffFirstMs: 0 });
      await store.position(group);
      await store.writeReadings([raw('d', 0, 1), raw('other', 1, 1)]);
      proxy.obey(({ isWrite }) => (isWrite ? { status: 503 } : 'forward'));
      await assert.rejects(store.commit(progress(0, 0, 2)), InfluxUnavailableError);
      // Its next session is written, and nobody answers whether it is the last one.
      proxy.obey(({ index, isWrite }) => (index > 0 && !isWrite ? { status: 503 } : 'forward'));
      await assert.rejects(store.commit(progress(0, 0, 2)), InfluxUnavailableError);
      proxy.obey(() => 'forward');
      await sleep(LEASE * 2);
      await store.writeRollups([row('other', 1)]);
      await store.writeReadings([raw('d', 0, 2)]);
      await store.writeRollups([row('d', 2)]);
      await store.commit(progress(0, 0, 3));
      assert.deepEqual(await counts(store), { d: 2, other: 1 });
    });

    test('one that gets partitions knows what the one before wrote last', async (t) => {
      const { tenant, group, raw, progress } = place();
      const proxy = await InfluxProxy.start(env.url);
      t.after(() => proxy.close());
      const [first, second] = [await open(t), await open(t, { url: proxy.url })];
      await first.position(group);
      await first.writeReadings([raw('d', 0, 1)]);
      // An answer that took so long is kept for a while.
      proxy.obey(() => ({ answerAfter: sleep(400) }));
      assert.deepEqual(await second.latest(tenant), new Map([['d', NOON + 1]]));
      proxy.obey(() => 'forward');
      await first.writeReadings([raw('d', 0, 2)]);
      await first.commit(progress(0, 0, 3));
      await second.position(group);
      assert.deepEqual(await second.latest(tenant), new Map([['d', NOON + 2]]));
    });

    test('one whose partition moved while it waited does not send its request again', async (t) => {
      const { group, row, raw, counts } = place();
      const proxy = await InfluxProxy.start(env.url);
      t.after(() => proxy.close());
      const first = await open(t, { url: proxy.url, backoffFirstMs: 2_000, random: () => 1 });
      const second = await open(t);
      await first.position(group);
      await first.writeReadings([raw('d', 0, 1)]);
      // Its lease may be over, so that a question comes before the write.
      const writes = () => proxy.seen.filter(({ isWrite }) => isWrite).length;
      proxy.obey(({ isWrite }) => (isWrite && writes() === 1 ? { status: 503 } : 'forward'));
      const late = first.writeRollups([row('d', 1)]);
      const refused = assert.rejects(late, isTakenOver);
      while (writes() === 0) await sleep(5);
      await second.position(group);
      await second.writeReadings([raw('d', 0, 2)]);
      await second.writeRollups([row('d', 2)]);
      await refused;
      assert.deepEqual(await counts(second), { d: 2 });
    });

    test('one that does not know it was replaced does not take over again', async (t) => {
      const { tenant, group, progress } = place();
      const proxy = await InfluxProxy.start(env.url);
      t.after(() => proxy.close());
      const impatient = { giveUpMs: 0, backoffFirstMs: 0 };
      const [first, second] = [await open(t, { url: proxy.url, ...impatient }), await open(t)];
      await first.position(group);
      await first.commit(progress(0, 0, 4));
      await second.position(group);
      await second.commit(progress(0, 4, 6));
      proxy.obey(({ isWrite }) => (isWrite ? { status: 503 } : 'forward'));
      await assert.rejects(first.commit(progress(0, 4, 9)), InfluxUnavailableError);
      proxy.obey(() => 'forward');
      await assert.rejects(first.commit(progress(0, 4, 9)), isTakenOver);
      await second.commit(progress(0, 6, 7));
      assert.deepEqual(await second.position(group), new Map([[0, 7]]));
      assert.deepEqual(await second.ledgerTotals({ tenant }), new Map([['stored', 7]]));
    });

    test('one that goes on for a while after it was replaced leaves all counts readable', async (t) => {
      const { tenant, group, progress } = place();
      const [first, second] = [await open(t), await open(t)];
      await first.position(group);
      await first.commit(progress(0, 0, 4));
      assert.deepEqual(await second.position(group), new Map([[0, 4]]));
      await second.commit(progress(0, 4, 5));
      // As fast as it can, within every lease: more often than a cell remembers its values.
      const commits = async (): Promise<void> => {
        for (let to = 5; to < 20; to += 1) await first.commit(progress(0, to - 1, to));
      };
      await assert.rejects(commits, isTakenOver);
      await second.commit(progress(0, 5, 6));
      assert.deepEqual(await second.position(group), new Map([[0, 6]]));
      assert.deepEqual(await second.ledgerTotals({ tenant }), new Map([['stored', 6]]));
    });

    test('one that asked for the position before the last one had ended begins again', async (t) => {
      const { tenant, group, raw, progress } = place();
      const [late, next] = [await open(t), await open(t)];
      await late.position(group);
      await late.commit(progress(0, 0, 4));
      assert.deepEqual(await next.position(group), new Map([[0, 4]]));
      await late.commit(progress(0, 4, 6));
      await assert.rejects(next.writeReadings([raw('d', 0, 4)]), isTakenOver);
      await assert.rejects(next.commit(progress(0, 4, 9)), isTakenOver);
      assert.deepEqual(await next.position(group), new Map([[0, 6]]));
      assert.deepEqual(await next.writeReadings([raw('d', 0, 6)]), []);
      await next.commit(progress(0, 6, 9));
      assert.deepEqual(await next.ledgerTotals({ tenant }), new Map([['stored', 9]]));
    });

    test('that begin at the same moment never count the same cells', async (t) => {
      const { tenant, group, progress } = place();
      const proxy = await InfluxProxy.start(env.url);
      t.after(() => proxy.close());
      const [first, second] = [await open(t, { url: proxy.url }), await open(t)];
      await first.position(group);
      await second.position(group);
      let release = (): void => {};
      const released = new Promise<void>((resolve) => {
        release = resolve;
      });
      proxy.obey(({ isWrite }) => (isWrite ? { forwardAfter: released } : 'forward'));
      const late = first.commit(progress(0, 0, 3));
      const refused = assert.rejects(late, isTakenOver);
      while (!proxy.seen.some(({ isWrite }) => isWrite)) await sleep(5);
      await second.commit(progress(0, 0, 5));
      release();
      await refused;
      await second.commit(progress(0, 5, 6));
      assert.deepEqual(await second.position(group), new Map([[0, 6]]));
      assert.deepEqual(await second.ledgerTotals({ tenant }), new Map([['stored', 6]]));
    });

    test('one whose beginning arrives when another one has gone on takes away no count', async (t) => {
      const { tenant, group, raw, progress } = place();
      const proxy = await InfluxProxy.start(env.url);
      t.after(() => proxy.close());
      const [first, second] = [await open(t), await open(t)];
      const late = await open(t, {
        url: proxy.url,
        leaseMs: 60_000,
        giveUpMs: 0,
        backoffFirstMs: 0,
      });
      await first.position(group);
      await first.commit(progress(0, 0, 4));
      await late.position(group);
      // So that it does not choose the number that the other one chooses.
      proxy.obey(({ isWrite }) => (isWrite ? { status: 503 } : 'forward'));
      for (let times = 0; times < 2; times += 1) {
        await assert.rejects(late.commit(progress(0, 4, 9)), InfluxUnavailableError);
      }
      const released = Promise.withResolvers<void>();
      proxy.obey(({ isWrite }) => (isWrite ? { forwardAfter: released.promise } : 'forward'));
      const refused = assert.rejects(late.writeReadings([raw('d', 0, 4)]), isTakenOver);
      while (!proxy.seen.some(({ isWrite }) => isWrite)) await sleep(5);
      await first.commit(progress(0, 4, 6));
      assert.deepEqual(await second.position(group), new Map([[0, 6]]));
      await second.commit(progress(0, 6, 7));
      released.resolve();
      await refused;
      assert.deepEqual(await second.position(group), new Map([[0, 7]]));
      assert.deepEqual(await second.ledgerTotals({ tenant }), new Map([['stored', 7]]));
    });

    test('that fight for one partition count every record once', async (t) => {
      const { tenant, group, progress } = place();
      const end = 40;
      let refusals = 0;
      const work = async (seed: number): Promise<void> => {
        const store = await open(t);
        for (let turn = seed; ; turn += 1) {
          let from = (await store.position(group)).get(0) ?? 0;
          if (from >= end) return;
          try {
            // Now and then for several commits, now and then for one.
            for (let more = 1 + (turn % 3); more > 0 && from < end; more -= 1) {
              const to = Math.min(end, from + 1 + (turn % 4));
              await store.commit(progress(0, from, to));
              from = to;
            }
          } catch (error) {
            assert.ok(isTakenOver(error), String(error));
            refusals += 1;
          }
          await sleep((turn * 7) % 11);
        }
      };
      await Promise.all([1, 2, 3].map(work));
      const reader = await open(t, { readOnly: true });
      assert.deepEqual(await reader.position(group), new Map([[0, end]]));
      assert.deepEqual(await reader.ledgerTotals({ tenant }), new Map([['stored', end]]));
      const lines = await reader.ledger({ tenant });
      assert.equal(
        lines.reduce((sum, { count }) => sum + count, 0),
        end,
      );
      t.diagnostic(`${refusals} refusals`);
    });
  });
}
