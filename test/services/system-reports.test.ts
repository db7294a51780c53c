import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { replayCsv } from '../../firmware-sim/index.ts';
import {
  RECORDED_ZONE,
  RECORDING,
  RECORDING_MAP,
  RECORDING_SETTINGS,
  STATISTICS,
} from '../system/recorded-year.ts';
import type { SpillwayProcess, TestDevice } from '../system/spillway-process.ts';
import { Balancer } from './balancer.ts';
import { NO_SERVICES, Topology } from './topology.ts';

/**
 * The same recording on every pair of engines: in order, and shuffled with repeats while the program is
 * killed. Reports have to be the same to the byte.
 */

type Engines = { log: 'embedded' | 'kafka'; store: 'embedded' | 'influxdb' };

const PAIRS: Engines[] = [
  { log: 'embedded', store: 'embedded' },
  { log: 'kafka', store: 'influxdb' },
  { log: 'kafka', store: 'embedded' },
  { log: 'embedded', store: 'influxdb' },
];
const RUNS = [
  { tenant: 'north', options: {} },
  { tenant: 'south', options: { shuffle: 7, duplicate: 0.2, batch: 3 } },
];
/** The first quarter of the recorded year, with the change to summer time: hours of each of 83 days. */
const ROWS = 2_000;
const QUARTER = { from: '2010-01-01', to: '2010-04-01' };
const QUERIES = [
  { ...QUARTER, step: '1mo', tz: RECORDED_ZONE, stat: STATISTICS.join() },
  { ...QUARTER, step: '1d', tz: 'Asia/Kolkata', stat: STATISTICS.join() },
  { from: '2010-03-13', to: '2010-03-16', step: '6h', tz: RECORDED_ZONE, stat: 'mean,p90,count' },
];
const FORMATS = ['csv', 'json', 'ndjson', 'table'];
const PATIENCE_MS = 60_000;

test('the same recording gives the same reports on every pair of engines, to the byte', {
  skip: NO_SERVICES,
  timeout: 300_000,
}, async (t) => {
  const all: { pair: Engines; reports: Map<string, string> }[] = [];
  for (const pair of PAIRS) {
    await t.test(`${pair.log} log, ${pair.store} store`, async (sub) => {
      all.push({ pair, reports: await reportsOf(sub, pair) });
    });
  }
  const [first, ...others] = all;
  assert.ok(first !== undefined);
  assert.equal(others.length, PAIRS.length - 1);
  for (const { pair, reports } of others) {
    await t.test(`${pair.log} log and ${pair.store} store against the embedded engines`, () => {
      assert.deepEqual([...reports.keys()], [...first.reports.keys()]);
      for (const [name, report] of reports) {
        const wanted: string = first.reports.get(name) ?? '';
        if (name.startsWith('north ')) assert.equal(report, wanted, name);
        else assertSameButForRounding(report, wanted, name);
      }
    });
  }
});

/**
 * What came shuffled was added in another order each time, which shows in the last digits of a standard
 * deviation and nowhere else: fractions of 13 digits and more are compared as numbers, the rest as text.
 */
function assertSameButForRounding(report: string, wanted: string, name: string): void {
  const long = /(\b\d+\.\d{13,}\b)/;
  const parts = report.split(long);
  const others = wanted.split(long);
  assert.equal(parts.length, others.length, name);
  for (const [i, part] of parts.entries()) {
    const other = others[i] ?? '';
    if (i % 2 === 0) assert.equal(part, other, name);
    else
      assert.ok(Math.abs(Number(part) / Number(other) - 1) < 1e-12, `${name}: ${part}, ${other}`);
  }
}

async function reportsOf(t: TestContext, { log, store }: Engines): Promise<Map<string, string>> {
  const topology = new Topology(t, { settings: RECORDING_SETTINGS });
  const program = topology.process(['gateway', 'rollup', 'http'], {
    log: { engine: log },
    store: { engine: store, ...RECORDING_SETTINGS.store },
  });
  await program.start();
  const balancer = await Balancer.start([() => program.mqttPort]);
  t.after(() => balancer.close());
  const token = (await topology.command(program, 'token', 'add', '--operator')).trim();
  const lines = readFileSync(RECORDING, 'utf8').split('\n', ROWS + 1);
  const csv = topology.file(program, 'recording.csv', `${lines.join('\n')}\n`);
  for (const { tenant, options } of RUNS) {
    const [device] = await topology.addDevices(program, {
      ...{ tenant, type: 'station', prefix: 'station', count: 1 },
    });
    assert.ok(device !== undefined);
    const replayed = replay(csv, `mqtt://127.0.0.1:${balancer.port}`, device, options);
    if ('shuffle' in options) {
      // Killed with a part of the recording on its way.
      await stored(program, token, tenant, 500);
      await program.kill();
      await program.start();
    }
    await replayed;
    await stored(program, token, tenant, ROWS);
  }
  const reports = await ask(program, token);
  for (const format of ['csv', 'json']) {
    const [query] = QUERIES;
    assert.ok(query !== undefined);
    const { from, to, step, tz } = query;
    const range = ['--from', from, '--to', to, '--step', step, '--tz', tz];
    const stats = STATISTICS.flatMap((stat) => ['--stat', stat]);
    const args = ['report', '--tenant', 'north', ...range, ...stats, '--format', format];
    const printed = await topology.command(program, ...args);
    assert.equal(printed, reports.get(`north ${JSON.stringify(query)} ${format}`));
  }
  await program.stop();
  return reports;
}

async function replay(
  csv: string,
  url: string,
  device: TestDevice,
  options: object,
): Promise<void> {
  const summary = await replayCsv({
    ...{ csv, map: RECORDING_MAP, url },
    ...{ username: `${device.tenant}/${device.device}`, password: device.secret },
    ...options,
  });
  assert.equal(summary.complete, true, JSON.stringify(summary));
  assert.deepEqual(summary.receipts, {});
}

/** Waits until so many readings are stored, or with all of them: until nothing is on its way. */
async function stored(
  program: SpillwayProcess,
  token: string,
  tenant: string,
  count: number,
): Promise<void> {
  const until = performance.now() + PATIENCE_MS;
  for (;;) {
    const account = JSON.parse(await get(program, `/api/v1/audit?tenant=${tenant}`, token));
    const row = account.rows[0] ?? { stored: 0, inFlight: 0 };
    const isAll = account.balanced === true && row.inFlight === 0;
    if (row.stored >= count && (count < ROWS || isAll)) return;
    assert.ok(performance.now() < until, JSON.stringify(account));
    await sleep(50);
  }
}

async function ask(program: SpillwayProcess, token: string): Promise<Map<string, string>> {
  const reports = new Map<string, string>();
  for (const { tenant } of RUNS) {
    for (const query of QUERIES) {
      for (const format of FORMATS) {
        const parameters = new URLSearchParams({ ...query, tenant, format });
        const report = await get(program, `/api/v1/query?${parameters}`, token);
        reports.set(`${tenant} ${JSON.stringify(query)} ${format}`, report);
      }
    }
    const parameters = new URLSearchParams({ ...QUARTER, tenant, step: 'raw', format: 'csv' });
    const raw = await get(program, `/api/v1/query?${parameters}`, token);
    // When the gateway took a reading is not the same in two runs.
    reports.set(`${tenant} raw`, raw.replace(/^([^,]+),[^,]+,/gm, '$1,'));
  }
  return reports;
}

async function get(program: SpillwayProcess, path: string, token: string): Promise<string> {
  const headers = { authorization: `Bearer ${token}` };
  const answer = await fetch(`${program.httpUrl}${path}`, { headers });
  const text = await answer.text();
  assert.equal(answer.status, 200, text);
  return text;
}
