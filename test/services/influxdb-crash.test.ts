import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { StoredReading } from '../../src/store/contract.ts';
import { openInfluxStore } from '../../src/store/influxdb/store.ts';
import { reading, rollup } from '../suites/store.ts';
import { flux, type InfluxEnvironment, influxEnvironment, SKIPPED } from './influx-env.ts';
import { influxdProgram, OwnInfluxd } from './own-influxd.ts';

const NOON = Date.UTC(2026, 2, 14, 12);
const HOUR = 3_600_000;
const BATCH = 400;
const DEVICES = 20;

const env = influxEnvironment();
const program = env === undefined ? undefined : influxdProgram(env);
const skip =
  env === undefined
    ? SKIPPED
    : program === undefined
      ? 'influxd does not run on this machine; INFLUXD may name it'
      : false;

function batchOf(number: number): StoredReading[] {
  return Array.from({ length: BATCH }, (_, i) => {
    const offset = number * BATCH + i;
    const ts = NOON + Math.floor(offset / DEVICES) * 100;
    return reading({ device: `d-${offset % DEVICES}`, ts, offset, values: { n: offset } });
  });
}

/** By plain Flux: `[count, sum]` of the raw values, and the sum of what the ledger counts. */
async function stored(of: InfluxEnvironment): Promise<[number, number]> {
  const rows = `from(bucket: "own-raw") |> range(start: 0, stop: 2100-01-01T00:00:00Z)
    |> filter(fn: (r) => r._field == "n") |> group()`;
  const value = async (how: string): Promise<number> => {
    const csv = await flux(of, `${rows} |> ${how}() |> keep(columns: ["_value"])`);
    return Number(csv.trim().split('\n').at(-1)?.trim().split(',').at(-1));
  };
  return [await value('count'), await value('sum')];
}

/** What an operator sees: limits as they come, and a pause beyond the time that an attempt has. */
const LONG_PAUSE_MS = 31_000;
const QUICK = {
  ...{ batchLinesMax: 100, attemptTimeoutMs: 700 },
  ...{ backoffFirstMs: 20, backoffLongestMs: 200 },
};

for (const { fault, rounds, limits } of [
  { fault: 'killed', rounds: 3, limits: QUICK },
  { fault: 'paused', rounds: 3, limits: QUICK },
  { fault: 'paused for half a minute', rounds: 1, limits: {} },
]) {
  test(`an InfluxDB that is ${fault} in the middle of writing has everything once`, {
    skip,
  }, async (t) => {
    if (program === undefined) return;
    const own = await OwnInfluxd.start(program);
    t.after(() => own.remove());
    const retries: string[] = [];
    const store = await openInfluxStore({
      ...own.env,
      bucketPrefix: 'own',
      retention: { rawMs: 0, deadLettersMs: 0, rollupsMs: new Map() },
      windowsMs: [60_000],
      ...limits,
      logger: { warn: ({ reason }) => void retries.push(String(reason)) },
    });
    t.after(() => store.close());

    let batches = 0;
    let stopping = false;
    const writing = (async () => {
      while (!stopping) {
        assert.deepEqual(await store.writeReadings(batchOf(batches)), []);
        // The same row over and over, as an open window: the newest must be the last.
        const { state } = rollup();
        await store.writeRollups([rollup({ state: { ...state, count: batches } })]);
        const ledger = [
          {
            tenant: 'acme',
            device: 'd',
            hour: NOON,
            outcome: 'stored',
            code: '',
            count: BATCH,
          } as const,
        ];
        batches += 1;
        await store.commit({ group: 'g', partition: 0, nextOffset: batches * BATCH, ledger });
      }
    })();
    const wait = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
    for (let round = 0; round < rounds; round += 1) {
      const before = batches;
      await wait(150 + round * 77);
      if (fault === 'killed') {
        await own.kill();
        await wait(200);
        await own.run();
      } else {
        own.pause();
        await wait(fault === 'paused' ? 1_800 : LONG_PAUSE_MS);
        own.resume();
      }
      while (batches <= before + 2) await wait(20);
    }
    stopping = true;
    await writing;

    const total = batches * BATCH;
    assert.deepEqual(await stored(own.env), [total, (total * (total - 1)) / 2]);
    assert.deepEqual(await store.position('g'), new Map([[0, total]]));
    assert.deepEqual(await store.ledgerTotals({}), new Map([['stored', total]]));
    const [row] = await store.rollups({
      tenant: 'acme',
      windowMs: 60_000,
      from: NOON,
      to: NOON + HOUR,
    });
    assert.equal(row?.state.count, batches - 1);
    assert.ok(retries.length > 0, 'nothing went wrong');
  });
}
