import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { replayCsv } from '../../firmware-sim/index.ts';
import { createTestBroker, readingsOf, type TestBroker } from './test-broker.ts';

const recording = 'firmware-sim/recordings/seattle-weather-hourly-normals';
const identity = { username: 'demo/station-1', password: 'secret' };
const seattle = { csv: `${recording}.csv`, map: `${recording}.map.yaml`, ...identity };

/** The recording as it has to arrive, read in another way than the simulator's. */
async function expectedRows() {
  const [, ...lines] = (await readFile(`${recording}.csv`, 'utf8')).trim().split('\n');
  return lines.map((line, seq) => {
    const [date, pressure, temperature, wind] = line.split(',');
    return {
      ts: Date.parse(`${date}-08:00`),
      seq,
      values: {
        temperature: Number(temperature),
        pressure: Number(pressure),
        wind_speed: Number(wind),
      },
    };
  });
}

const arrived = (broker: TestBroker) =>
  broker.taken.flatMap(({ payload }) => readingsOf(payload) ?? []);

async function csvOf(t: TestContext, text: string): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'firmware-sim-'));
  t.after(() => rm(folder, { recursive: true }));
  const path = join(folder, 'r.csv');
  await writeFile(path, text);
  return path;
}

test('all 8,759 rows of the recording arrive with the right values and times', async (t) => {
  const broker = await createTestBroker(t);
  const summary = await replayCsv({ ...seattle, url: broker.url });
  assert.equal(summary.rows, 8759);
  assert.equal(summary.sent, 8759);
  assert.equal(summary.acknowledged, 8759);
  assert.equal(summary.rowsSkipped + summary.badCells, 0);
  assert.equal(summary.complete && summary.finished, true);
  assert.deepEqual(arrived(broker), await expectedRows());
  assert.equal(new Set(arrived(broker).map(({ ts }) => ts)).size, 8759, 'no two rows at one time');
  assert.equal(broker.taken[0]?.topic, 't/demo/d/station-1/telemetry');
});

test('shuffled, doubled and in batches it is the same set of readings', async (t) => {
  const broker = await createTestBroker(t);
  const summary = await replayCsv({
    ...seattle,
    url: broker.url,
    shuffle: 5,
    duplicate: 0.2,
    batch: 50,
  });
  const messages = Math.ceil(8759 / 50);
  assert.equal(summary.sent, messages + summary.duplicates);
  assert.ok(summary.duplicates > 10 && summary.duplicates < 80, String(summary.duplicates));
  assert.equal(summary.readingsAcknowledged, 8759);
  assert.equal(summary.complete, true);
  const all = arrived(broker);
  const times = all.map(({ ts }) => ts);
  assert.notDeepEqual(
    times,
    times.toSorted((a, b) => a - b),
  );
  const distinct = new Map(all.map(({ ts, values }) => [ts, values]));
  const expected = new Map((await expectedRows()).map(({ ts, values }) => [ts, values]));
  assert.deepEqual(distinct, expected);
});

test('no more messages wait than the window allows, and a broken connection loses none', async (t) => {
  const broker = await createTestBroker(t);
  broker.acknowledge = false;
  const replay = replayCsv({ ...seattle, url: broker.url, inflight: 30, batch: 10 });
  await broker.until(() => broker.taken.length === 30);
  broker.acknowledge = true;
  broker.cut();
  broker.resume();
  const summary = await replay;
  assert.equal(summary.reconnects, 1);
  assert.equal(summary.retransmitted, 30);
  assert.equal(summary.complete, true);
  const distinct = new Map(arrived(broker).map((reading) => [reading.seq, reading]));
  assert.deepEqual([...distinct.values()], await expectedRows());
});

test('speed N keeps the pace of the recording', async (t) => {
  const broker = await createTestBroker(t);
  const csv = await csvOf(t, 'time,t\n0,1\n10,2\n20,3\n30,4\n');
  const started = performance.now();
  const summary = await replayCsv({
    csv,
    map: {
      time: { column: 'time', format: 'epochS' },
      metrics: { t: { column: 't', kind: 'int' } },
    },
    ...identity,
    url: broker.url,
    speed: 100,
  });
  const took = performance.now() - started;
  assert.equal(summary.acknowledged, 4);
  assert.ok(took >= 299 && took < 1500, `${took} ms for 30 s a hundred times as fast`);
});

test('scale, offset, kinds, empty cells, bad cells and rows without time', async (t) => {
  const broker = await createTestBroker(t);
  const csv = await csvOf(
    t,
    'at,f,on,mode\n1000,68,yes,"a, b"\n2000,,0,\n3000,warm,,x\nnever,1,1,1\n4000,,,\n',
  );
  const summary = await replayCsv({
    csv,
    map: {
      time: { column: 'at', format: 'epochMs' },
      metrics: {
        celsius: { column: 'f', kind: 'float', scale: 5 / 9, offset: -160 / 9, decimals: 2 },
        on: { column: 'on', kind: 'bool' },
        mode: { column: 'mode', kind: 'string' },
      },
    },
    ...identity,
    url: broker.url,
  });
  assert.deepEqual(
    arrived(broker).map(({ ts, values }) => [ts, values]),
    [
      [1000, { celsius: 20, on: true, mode: 'a, b' }],
      [2000, { on: false }],
      [3000, { mode: 'x' }],
    ],
  );
  assert.equal(summary.rows, 5);
  assert.equal(summary.rowsSkipped, 2);
  assert.equal(summary.badCells, 1);
});

test('a gateway that never answers ends the replay in bounded time, incomplete', async (t) => {
  const broker = await createTestBroker(t);
  broker.refuse = true;
  const started = performance.now();
  const summary = await replayCsv({ ...seattle, url: broker.url, stallTimeoutMs: 200 });
  assert.ok(performance.now() - started < 2000);
  assert.equal(summary.finished, false);
  assert.equal(summary.complete, false);
  assert.equal(summary.sent, 0);
});

test('aborting ends it: what was sent is waited for', async (t) => {
  const broker = await createTestBroker(t);
  const controller = new AbortController();
  const replay = replayCsv({
    ...seattle,
    url: broker.url,
    speed: 36_000,
    signal: controller.signal,
  });
  await broker.until(() => broker.taken.length >= 3);
  controller.abort();
  const summary = await replay;
  assert.equal(summary.finished, false);
  assert.equal(summary.complete, false);
  assert.equal(summary.unacknowledged, 0);
  assert.ok(summary.sent >= 3 && summary.sent < 100);
});

test('what is wrong is told before anything is sent', async (t) => {
  const broker = await createTestBroker(t);
  const bad = [
    [{ username: 'station' }, /username: expected <tenant>\/<device>, got "station"/],
    [{ batch: 101 }, /batch: expected a number from 1 to 100, got 101/],
    [{ shuffle: 1, speed: 2 }, /shuffle: expected speed 0/],
    [{ csv: 'no.csv' }, /no\.csv: cannot be read/],
    [
      {
        map: {
          time: { column: 'day', format: 'iso' },
          metrics: { t: { column: 'x', kind: 'float' } },
        },
      },
      /hourly-normals\.csv:1: time\.column: expected one of the columns date, pressure.*, got "day"/,
    ],
  ] as const;
  for (const [wrong, expected] of bad) {
    await assert.rejects(replayCsv({ ...seattle, url: broker.url, ...wrong }), expected);
  }
  assert.equal(broker.taken.length, 0);
});
