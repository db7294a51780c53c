import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, describe, type TestContext, test } from 'node:test';
import type { LedgerCount, Outcome } from '../../src/core/nouns.ts';
import type { Progress, Store } from '../../src/store/contract.ts';
import { type InfluxStoreOptions, openInfluxStore } from '../../src/store/influxdb/store.ts';
import { influxEnvironment, removeBuckets, SKIPPED, uniquePrefix } from './influx-env.ts';
import { type Action, InfluxProxy } from './influx-proxy.ts';

const HOUR = 3_600_000;
const NOON = Date.UTC(2026, 2, 14, 12);
const RECORDS = 24;

const env = influxEnvironment();
const prefix = uniquePrefix();

/** A log of records; the second time a record is processed it may come to another outcome. */
interface Scenario {
  group: string;
  tenant: string;
}

function scenario(): Scenario {
  const id = randomUUID().slice(0, 8);
  return { group: `group-${id}`, tenant: `tenant-${id}` };
}

function outcomeOf(offset: number, run: number): { outcome: Outcome; code: string } {
  if (offset % 7 === 3) return { outcome: 'duplicate', code: 'IDENTICAL' };
  if (run > 0 && offset % 5 === 1) return { outcome: 'deadLetter', code: 'STORE_REFUSED' };
  return { outcome: 'stored', code: '' };
}

function lineOf(of: Scenario, offset: number, run: number): LedgerCount {
  const device = `dev-${offset % 3}`;
  const hour = NOON + Math.floor(offset / 10) * HOUR;
  return { tenant: of.tenant, device, hour, count: 1, ...outcomeOf(offset, run) };
}

function progressOf(of: Scenario, from: number, to: number, run: number): Progress {
  const ledger: LedgerCount[] = [];
  for (let offset = from; offset < to; offset += 1) ledger.push(lineOf(of, offset, run));
  const sources = new Map([[`spool-${to % 2}`, to]]);
  return { group: of.group, partition: 2, nextOffset: to, ledger, sources };
}

const sumKey = ({ device, hour, outcome, code }: LedgerCount): string =>
  `${device} ${(hour - NOON) / HOUR} ${outcome} ${code}`;

function sums(lines: readonly LedgerCount[]): Record<string, number> {
  const totals: Record<string, number> = {};
  for (const line of lines) totals[sumKey(line)] = (totals[sumKey(line)] ?? 0) + line.count;
  return Object.fromEntries(Object.entries(totals).sort());
}

/** Everything that readers see must be what these records come to: each offset once. */
async function check(reader: Store, of: Scenario, runs: readonly number[]): Promise<void> {
  const lines = runs.map((run, offset) => lineOf(of, offset, run));
  const { tenant, group } = of;
  assert.deepEqual(sums(await reader.ledger({ tenant })), sums(lines));
  const totals: Record<string, number> = {};
  for (const { outcome } of lines) totals[outcome] = (totals[outcome] ?? 0) + 1;
  assert.deepEqual(Object.fromEntries(await reader.ledgerTotals({ tenant })), totals);
  const position = await reader.position(group);
  assert.equal(position.get(2), runs.length === 0 ? undefined : runs.length);
}

const CUTS = [4, 11, 12, RECORDS];
const OTHER_CUTS = [3, 7, 13, 19, 23, RECORDS];

if (env === undefined) {
  test('commits on InfluxDB', { skip: SKIPPED }, () => {});
} else {
  const options = (changes: Partial<InfluxStoreOptions> = {}): InfluxStoreOptions => ({
    ...env,
    bucketPrefix: prefix,
    retention: { rawMs: 0, deadLettersMs: 0, rollupsMs: new Map() },
    windowsMs: [60_000],
    ...changes,
  });

  /** A store whose calls fail with their first request that fails. */
  const impatient = { giveUpMs: 0, backoffFirstMs: 0, attemptTimeoutMs: 10_000 };

  let proxy: InfluxProxy;

  const open = async (t: TestContext, changes?: Partial<InfluxStoreOptions>): Promise<Store> => {
    proxy.obey(() => 'forward');
    const store = await openInfluxStore(options(changes));
    t.after(() => store.close());
    return store;
  };

  describe('a commit on InfluxDB', () => {
    before(async () => {
      proxy = await InfluxProxy.start(env.url);
    });
    after(async () => {
      await proxy.close();
      await removeBuckets(env, prefix);
    });

    for (const fault of ['refuse', 'lose'] as const) {
      test(`counts once when the writer dies at any request (${fault})`, async (t) => {
        const survivor = await open(t);
        const reader = await open(t, { readOnly: true });
        let crashes = 0;
        for (let at = 0; ; at += 1) {
          const of = scenario();
          const dying = await open(t, { url: proxy.url, ...impatient });
          proxy.obey(({ index }): Action => {
            return index < at ? 'forward' : index === at ? fault : 'refuse';
          });
          let from = 0;
          let died = false;
          try {
            for (const to of CUTS) {
              await dying.commit(progressOf(of, from, to, 0));
              from = to;
            }
          } catch {
            died = true;
          }
          await dying.close();
          if (!died) break;
          crashes += 1;

          const reached = (await reader.position(of.group)).get(2) ?? 0;
          assert.ok(reached === from || (fault === 'lose' && CUTS.includes(reached)), `${at}`);
          const runs = Array.from({ length: reached }, () => 0);
          await check(reader, of, runs);
          let resumed = (await survivor.position(of.group)).get(2) ?? 0;
          for (const to of OTHER_CUTS) {
            if (to <= resumed) continue;
            await survivor.commit(progressOf(of, resumed, to, 1));
            for (; resumed < to; resumed += 1) runs.push(1);
          }
          await check(reader, of, runs);
          const numbers = (await reader.sources?.(of.group))?.get(2);
          assert.equal(Math.max(...(numbers?.values() ?? [])), RECORDS);
        }
        // Taking over: a query, a record and a query; each commit: cells and position.
        assert.equal(crashes, 3 + 2 * CUTS.length);
      });

      test(`counts once when the same writer goes on after any request (${fault})`, async (t) => {
        const reader = await open(t, { readOnly: true });
        const store = await open(t, { url: proxy.url, ...impatient });
        let failures = 0;
        for (let at = 0; ; at += 1) {
          const of = scenario();
          proxy.obey(({ index }) => (index === at ? fault : 'forward'));
          let from = 0;
          let failed = 0;
          for (const to of CUTS) {
            const progress = progressOf(of, from, to, 0);
            for (;;) {
              try {
                await store.commit(progress);
                break;
              } catch {
                failed += 1;
              }
            }
            from = to;
            await check(
              reader,
              of,
              Array.from({ length: to }, () => 0),
            );
          }
          if (failed === 0) break;
          failures += failed;
        }
        assert.equal(failures, 3 + 2 * CUTS.length);
      });
    }

    test('that arrives after another writer took over changes nothing', async (t) => {
      const reader = await open(t, { readOnly: true });
      for (const late of ['cells', 'position'] as const) {
        const of = scenario();
        const old = await open(t, { url: proxy.url, attemptTimeoutMs: 20_000 });
        await old.commit(progressOf(of, 0, 8, 0));
        let release = (): void => {};
        const released = new Promise<void>((resolve) => {
          release = resolve;
        });
        const held = late === 'cells' ? 0 : 1;
        proxy.obey(({ index }) => (index === held ? { forwardAfter: released } : 'forward'));
        const pending = old.commit(progressOf(of, 8, 16, 0));
        while (proxy.seen.length <= held) await new Promise((resolve) => setTimeout(resolve, 5));

        const successor = await open(t);
        assert.equal((await successor.position(of.group)).get(2), 8);
        await successor.commit(progressOf(of, 8, 13, 1));
        release();
        await pending;
        const runs: number[] = Array.from({ length: 13 }, (_, offset) => (offset < 8 ? 0 : 1));
        await check(reader, of, runs);
        await successor.commit(progressOf(of, 13, RECORDS, 1));
        runs.push(...Array.from({ length: RECORDS - 13 }, () => 1));
        await check(reader, of, runs);
        // The old writer learns it when it asks, and can take over again.
        assert.equal((await old.position(of.group)).get(2), RECORDS);
        await old.commit({ ...progressOf(of, RECORDS, RECORDS + 1, 1) });
        await check(reader, of, [...runs, 1]);
      }
    });

    test('remembers a bounded number of lines and stays exact', async (t) => {
      const store = await open(t, { ledgerCellsMax: 3 });
      const reader = await open(t, { readOnly: true });
      const of = scenario();
      const runs: number[] = [];
      for (let from = 0; from < RECORDS; from += 2) {
        await store.commit(progressOf(of, from, from + 2, 0));
        runs.push(0, 0);
      }
      await check(reader, of, runs);
    });

    test('is seen whole or not at all by readers', async (t) => {
      const store = await open(t);
      const reader = await open(t, { readOnly: true });
      const { tenant, group } = scenario();
      const devices = Array.from({ length: 40 }, (_, index) => `dev-${index}`);
      const commits = 25;
      let next = 0;
      const writing = (async () => {
        while (next < commits) {
          const ledger = devices.map(
            (device): LedgerCount => ({ ...lineOf({ tenant, group }, 0, 0), device, count: 1 }),
          );
          await store.commit({ group, partition: 0, nextOffset: next + 1, ledger });
          next += 1;
          // A reader that is slower than several commits is told so.
          await new Promise((resolve) => setTimeout(resolve, 10));
        }
      })();
      let reads = 0;
      const reading = (async () => {
        while (next < commits) {
          const counts = new Set((await reader.ledger({ tenant })).map(({ count }) => count));
          assert.ok(counts.size <= 1, `mixed: ${[...counts].join(' ')}`);
          reads += 1;
        }
      })();
      await Promise.all([writing, reading]);
      assert.ok(reads > 0);
    });
  });
}
