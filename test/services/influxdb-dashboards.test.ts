import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { z } from 'zod';
import { systemClock } from '../../src/core/clock.ts';
import type { LogRecord } from '../../src/core/nouns.ts';
import { finish } from '../../src/rollup/aggregate.ts';
import { runRollupWorker } from '../../src/rollup/worker.ts';
import { openInfluxStore } from '../../src/store/influxdb/store.ts';
import { FakeLog } from '../rollup/fakes.ts';
import { flux, influxEnvironment, removeBuckets, SKIPPED, uniquePrefix } from './influx-env.ts';

/** Every query of the provisioned dashboard, as Grafana would send it, against what a worker has written. */

const MINUTE = 60_000;
const HOUR = 3_600_000;
const DAY = 86_400_000;

const ROOT = join(import.meta.dirname, '../..');
const text = readFileSync(join(ROOT, 'config/grafana/dashboards/devices.json'), 'utf8');
const dashboard = z
  .object({
    panels: z.array(
      z.object({
        title: z.string(),
        type: z.enum(['timeseries', 'table']),
        targets: z.tuple([z.object({ query: z.string() })]),
      }),
    ),
    templating: z.object({ list: z.array(z.object({ name: z.string(), query: z.string() })) }),
  })
  .parse(JSON.parse(text));

type Row = Record<string, string>;

/** Tables of an answer, each by its columns. */
function rowsOf(csv: string): Row[] {
  const rows: Row[] = [];
  let columns: string[] | undefined;
  for (const line of csv.split('\r\n')) {
    const cells = line.split(',');
    if (line === '') columns = undefined;
    else if (columns === undefined) columns = cells;
    else rows.push(Object.fromEntries(columns.map((name, index) => [name, cells[index] ?? ''])));
  }
  return rows;
}

const env = influxEnvironment();

if (env === undefined) {
  test('the dashboard of InfluxDB', { skip: SKIPPED }, () => {});
} else {
  describe('the dashboard of InfluxDB', () => {
    const prefix = uniquePrefix();
    const end = Math.floor(Date.now() / MINUTE) * MINUTE;
    const start = end - 30 * MINUTE;
    const devices = ['roof-1', 'roof-2'];
    const readings = 180;

    before(async () => {
      const store = await openInfluxStore({
        ...env,
        bucketPrefix: prefix,
        retention: { rawMs: 0, deadLettersMs: 0, rollupsMs: new Map(), ledgerMs: 0 },
        windowsMs: [MINUTE, HOUR, DAY],
        describe: finish,
      });
      const log = new FakeLog();
      const records: LogRecord[] = [];
      for (let i = 0; i < readings; i += 1) {
        const ts = start + i * 10_000;
        const of = { tenant: 'acme', type: 'climate', received: ts };
        for (const [nth, device] of devices.entries()) {
          const values = { temperature: 20 + nth + (i % 6), door: i % 2 === 0 ? 'open' : 'shut' };
          records.push({ kind: 'reading', ...of, device, ts, values });
        }
        records.push({
          kind: 'reading',
          ...of,
          tenant: 'other',
          device: 'roof-1',
          ts,
          values: { x: 1 },
        });
        if (i % 60 === 7) {
          const refusal = {
            code: 'JSON_INVALID',
            message: 'not JSON',
            topic: 't',
            payload: 'eA==',
          };
          records.push({
            kind: 'deadLetter',
            ...of,
            device: 'roof-2',
            ...refusal,
            payloadBytes: 1,
          });
        }
      }
      log.append(records, start);
      const stopping = new AbortController();
      await runRollupWorker({
        consumer: log,
        store,
        clock: systemClock,
        config: {
          rollup: {
            ...{ baseWindow: MINUTE, lateness: 2 * MINUTE, flushInterval: 100 },
            ...{ openReadingsMax: 100_000, devicesMax: 1_000, batchRecordsMax: 1_000 },
          },
          types: {},
          store: { retention: { raw: 0 } },
        },
        signal: stopping.signal,
        onStats: ({ lagOffsets }) => {
          if (lagOffsets === 0) stopping.abort();
        },
      });
      await store.close();
    });
    after(() => removeBuckets(env, prefix));

    /** Grafana's variables and macros: values of names, or the pattern of all. */
    const ask = async (query: string, device = '.*', windowPeriod = '1m'): Promise<Row[]> => {
      const filled = query
        .replaceAll('"spillway-', `"${prefix}-`)
        .replaceAll('$' + '{tenant:doublequote}', '"acme"')
        .replaceAll('$' + '{metric:doublequote}', '"temperature"')
        .replaceAll('$' + '{device:regex}', device)
        .replaceAll('v.timeRangeStart', new Date(end - 6 * HOUR).toISOString())
        .replaceAll('v.timeRangeStop', new Date(end + MINUTE).toISOString())
        .replaceAll('v.windowPeriod', windowPeriod);
      assert.doesNotMatch(filled, /\$\{|\bv\.[a-z]/i);
      return rowsOf(await flux(env, filled));
    };
    const panel = (title: string): string => {
      const found = dashboard.panels.find((one) => one.title === title);
      assert.ok(found, title);
      return found.targets[0].query;
    };
    const sum = (rows: Row[], column: string): number =>
      rows.reduce((total, row) => total + Number(row[column]), 0);
    const distinct = (rows: Row[], column: string): string[] =>
      [...new Set(rows.map((row) => row[column] ?? ''))].sort();

    test('offers tenants, metrics and devices to choose from', async () => {
      const offered: Record<string, string[]> = {};
      for (const { name, query } of dashboard.templating.list) {
        offered[name] = distinct(await ask(query), '_value');
      }
      assert.deepEqual(offered, {
        tenant: ['acme', 'other'],
        metric: ['door', 'temperature'],
        device: devices,
      });
    });

    for (const { title, type, targets } of dashboard.panels) {
      test(`shows ${title}, of all devices or some`, async () => {
        const rows = await ask(targets[0].query);
        assert.ok(rows.length > 0);
        const of = rows.filter((row) => 'device' in row);
        if (of.length > 0) {
          const some = await ask(targets[0].query, '(roof-2)');
          assert.deepEqual(distinct(some, 'device'), ['roof-2']);
          assert.ok(distinct(rows, 'device').includes('roof-2'));
        }
        if (type === 'timeseries') {
          for (const row of rows) assert.ok(Date.parse(row._time ?? '') >= start - HOUR, row._time);
        }
        assert.deepEqual(await ask(targets[0].query, '(none)'), []);
      });
    }

    test('has the right figures', async () => {
      const mean = await ask(panel('Mean'));
      assert.equal(mean.length, 2 * 30);
      for (const { device, mean: value } of mean) {
        assert.equal(Number(value), device === 'roof-1' ? 22.5 : 23.5);
      }
      // The same over longer spans.
      const zoomed = await ask(panel('Mean'), '(roof-1)', '7m');
      assert.ok(zoomed.length >= 4 && zoomed.length <= 6);
      for (const row of zoomed) assert.equal(Number(row.mean), 22.5);

      const extremes = await ask(panel('Minimum and maximum'), '(roof-1)', '10m');
      for (const row of extremes) assert.equal(row._value, row._field === 'min' ? '20' : '25');
      assert.deepEqual(distinct(extremes, '_field'), ['max', 'min']);
      const quantiles = await ask(panel('p50 and p99'), '(roof-1)');
      for (const { _field, _value } of quantiles) {
        const exact = _field === 'p50' ? 22 : 24;
        assert.ok(Math.abs(Number(_value) - exact) <= exact / 100, `${_field} ${_value}`);
      }

      assert.equal(sum(await ask(panel('Readings by device')), 'readings'), 2 * readings);
      const letters = await ask(panel('Dead letters by reason'));
      assert.deepEqual(distinct(letters, 'code'), ['JSON_INVALID']);
      assert.equal(sum(letters, 'letters'), 3);
      const latest = await ask(panel('Latest dead letters'));
      assert.deepEqual(
        latest.map(({ device, code, message }) => [device, code, message]),
        [0, 1, 2].map(() => ['roof-2', 'JSON_INVALID', 'not JSON']),
      );
      const outcomes = await ask(panel('Messages by outcome'));
      const messages = (outcome: string): number =>
        sum(
          outcomes.filter((row) => row.outcome === outcome),
          'messages',
        );
      assert.equal(messages('stored'), 2 * readings);
      assert.equal(messages('deadLetter'), 3);
      const hours = await ask(panel('Hours'));
      assert.equal(sum(hours, 'count'), 2 * readings);
      assert.deepEqual(distinct(hours, 'min'), ['20', '21']);
    });
  });
}
