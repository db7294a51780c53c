import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { replayCsv } from '../../firmware-sim/index.ts';
import { windowsOf as windowSizesOf } from '../../src/config/windows.ts';
import { audit } from '../../src/ops/ledger.ts';
import {
  assertRollups,
  assertStatistics,
  type Measured,
  type Statistics,
  statisticsOf,
  windowsOf,
} from './naive.ts';
import {
  RECORDED_ROWS,
  RECORDED_ZONE,
  RECORDING,
  RECORDING_MAP,
  RECORDING_SETTINGS,
  STATISTICS,
} from './recorded-year.ts';
import { command, SpillwayProcess } from './spillway-process.ts';

const GROUP = 'rollup';
/** Tables show six significant digits. */
const SIX_DIGITS = 1e-5;

test('a year of a weather station: in order, and shuffled with repeats, comes to the same right reports', {
  timeout: 300_000,
}, async (t) => {
  const readings = recorded();
  const program = new SpillwayProcess(t, RECORDING_SETTINGS);
  const [ordered] = program.addDevices('north', 'station', ['station-a']);
  const [shuffled] = program.addDevices('south', 'station', ['station-b']);
  assert.ok(ordered !== undefined && shuffled !== undefined);
  await program.start();

  const first = await replay(t, program, ordered);
  assert.equal(first.readingsAcknowledged, RECORDED_ROWS);
  const second = await replay(t, program, shuffled, { shuffle: 7, duplicate: 0.2, batch: 3 });
  assert.equal(second.readingsAcknowledged, RECORDED_ROWS);
  assert.ok(second.duplicates > 300, `${second.duplicates} messages were sent twice`);
  await program.backfilled();

  await t.test('every rollup equals an independent computation over the file', async () => {
    for (const { tenant, device } of [ordered, shuffled]) {
      await program.read(async (store) => {
        const of = { tenant, devices: [device], from: 0, to: Number.MAX_SAFE_INTEGER };
        const raw = await store.readings(of);
        assert.deepEqual(
          raw.map(({ ts }) => ts),
          readings.map(({ ts }) => ts),
          `times of ${device}`,
        );
        const line = ({ values }: Measured) => JSON.stringify(Object.entries(values).sort());
        assert.deepEqual(raw.map(line), readings.map(line), `values of ${device}`);
        for (const windowMs of windowSizesOf(program.config)) {
          assertRollups(await store.rollups({ ...of, windowMs }), readings, windowMs, device);
        }
      });
    }
  });

  await t.test('every message is accounted for', async () => {
    await program.read(async (store, consumer) => {
      const account = await audit({ store, consumer, group: GROUP });
      assert.equal(account.balanced, true);
      const [north, south] = account.rows;
      assert.deepEqual(
        [north?.received, north?.stored, north?.duplicate.size],
        [RECORDED_ROWS, RECORDED_ROWS, 0],
      );
      assert.equal(south?.stored, RECORDED_ROWS);
      const repeated = [...(south?.duplicate ?? [])];
      assert.deepEqual(repeated, [['IDENTICAL', (south?.received ?? 0) - RECORDED_ROWS]]);
    });
  });

  await t.test('the monthly table of the command line is right', async () => {
    const months = windowsOf(readings, startOfMonth);
    const table = await report(t, program, 'north', 'table');
    const seen = checkTable(table, months);
    assert.equal(seen, 36, 'twelve months of three metrics');
    assert.match(table, /^temperature$/m);
    assert.match(table, /mean °C/);
    assert.match(table, /^station-a +8759 +8759 +100\.0 % +0 +2010-12-31T23:00:00-08:00$/m);
    // Months begin at local midnight, in summer an hour earlier in UTC.
    assert.match(table, /^2010-03-01T00:00:00-08:00 /m);
    assert.match(table, /^2010-04-01T00:00:00-07:00 /m);
  });

  await t.test('both runs give the same report apart from the names', async () => {
    for (const format of ['table', 'csv']) {
      const north = await report(t, program, 'north', format);
      const south = await report(t, program, 'south', format);
      const renamed = south.replaceAll('station-b', 'station-a').replaceAll('south', 'north');
      // Sums of the same numbers in another order may differ in their last digits.
      assert.equal(rounded(renamed), rounded(north), format);
    }
  });

  await program.stop();
});

/** The file as it stands: local times of -08:00 all year, no cell empty. */
function recorded(): Measured[] {
  const [header, ...lines] = readFileSync(RECORDING, 'utf8').trim().split(/\r?\n/);
  assert.equal(header, 'date,pressure,temperature,wind');
  const readings = lines.map((line) => {
    const [date, pressure, temperature, wind] = line.split(',');
    const values = {
      pressure: Number(pressure),
      temperature: Number(temperature),
      wind_speed: Number(wind),
    };
    return { ts: Date.parse(`${date}-08:00`), values };
  });
  assert.equal(readings.length, RECORDED_ROWS);
  return readings;
}

/** Publishes the recording and waits until all of it is in the store. */
async function replay(
  t: TestContext,
  program: SpillwayProcess,
  device: { tenant: string; device: string; secret: string },
  options: { shuffle?: number; duplicate?: number; batch?: number } = {},
) {
  const began = performance.now();
  const summary = await replayCsv({
    csv: RECORDING,
    map: RECORDING_MAP,
    url: program.url,
    username: `${device.tenant}/${device.device}`,
    password: device.secret,
    ...options,
  });
  assert.equal(summary.complete, true, JSON.stringify(summary));
  assert.deepEqual(summary.receipts, {});
  const acknowledged = performance.now();
  await program.read(async (store, consumer) => {
    const until = performance.now() + 120_000;
    const end = (await consumer.bounds()).get(0)?.end ?? 0;
    while (((await store.position(GROUP)).get(0) ?? 0) < end) {
      assert.ok(performance.now() < until, 'the rollup worker does not get on');
      await sleep(20);
    }
  });
  const stored = performance.now();
  t.diagnostic(
    `${device.tenant}: acknowledged after ${Math.round(acknowledged - began)} ms, ` +
      `rollups complete ${Math.round(stored - acknowledged)} ms later`,
  );
  return summary;
}

async function report(
  t: TestContext,
  program: SpillwayProcess,
  tenant: string,
  format: string,
): Promise<string> {
  const range = [
    '--from',
    '2010-01-01',
    '--to',
    '2011-01-01',
    '--step',
    '1mo',
    '--tz',
    RECORDED_ZONE,
  ];
  const stats = STATISTICS.flatMap((stat) => ['--stat', stat]);
  const args = ['report', '--config', program.file, '--tenant', tenant, ...range, ...stats];
  const { code, stdout, stderr } = await command(t, [...args, '--format', format]);
  assert.equal(code, 0, stderr);
  return stdout;
}

const LOCAL = new Intl.DateTimeFormat('en-CA', {
  timeZone: RECORDED_ZONE,
  year: 'numeric',
  month: '2-digit',
});

/** Where the month of the zone begins that holds `ts`, as the report writes it. */
function startOfMonth(ts: number): number {
  const month = LOCAL.format(ts);
  // In 2010 summer time began on 14 March and ended on 7 November: April to November begin in it.
  const summer = month >= '2010-04' && month <= '2010-11';
  return Date.parse(`${month}-01T00:00:00-0${summer ? 7 : 8}:00`);
}

/** Compares each row of the table; returns how many there were. */
function checkTable(table: string, months: ReturnType<typeof windowsOf>): number {
  let metric = '';
  let rows = 0;
  for (const line of table.split('\n')) {
    if (/^[a-z_]+$/.test(line)) metric = line;
    if (!/^2010-\d\d-01T/.test(line)) continue;
    const [time = '', device, ...cells] = line.split(/ +/);
    assert.equal(device, 'station-a');
    const points = months.get(`${metric} ${Date.parse(time)}`);
    assert.ok(points !== undefined, `${metric} ${time}`);
    const got = Object.fromEntries(STATISTICS.map((stat, i) => [stat, Number(cells[i])]));
    const label = `${metric} ${time}`;
    assertStatistics(got as unknown as Statistics, statisticsOf(points), label, SIX_DIGITS);
    rows += 1;
  }
  return rows;
}

/** Every number of the text to twelve significant digits. */
function rounded(text: string): string {
  return text.replace(/-?\d+\.\d{9,}/g, (number) => String(Number(Number(number).toPrecision(12))));
}
