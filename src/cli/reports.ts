import { type Command, Option } from 'commander';
import { deviceTypes } from '../config/device-types.ts';
import { retentionOf } from '../config/windows.ts';
import { systemClock } from '../core/clock.ts';
import { openStore } from '../engines.ts';
import { completenessLine, formatReport } from '../reports/format.ts';
import { FORMATS, type Format } from '../reports/parameters.ts';
import { runQuery } from '../reports/query.ts';
import { tenantOption } from './arguments.ts';
import { print, readConfig, remark } from './context.ts';
import { requireTenant } from './known-tenant.ts';
import { withRegistry } from './registry.ts';

const collect = (value: string, known: string[]) => [...known, value];

/** `spillway report` */
export function addReportCommand(program: Command): void {
  program
    .command('report')
    .description('statistics or raw readings of devices, from the store of this machine')
    .addOption(tenantOption())
    .option('--device <name>', 'repeat for several; default: all', collect, [])
    .option('--metric <name>', 'repeat for several; default: all', collect, [])
    .option(
      '--stat <name>',
      'count sum min max mean stddev first last p50 p90 p99; repeat for several',
      collect,
      [],
    )
    .option('--from <time>', 'ISO 8601, or relative such as -24h', '-24h')
    .option('--to <time>', 'ISO 8601, or relative', 'now')
    .option(
      '--step <step>',
      'raw, a duration, or 1d, 1w, 1mo of the time zone; default: chosen by the range',
    )
    .option('--tz <zone>', 'IANA name', 'UTC')
    .addOption(new Option('--format <format>', 'how to print it').choices(FORMATS).default('table'))
    .option('--config <file>', 'configuration file')
    .action(async ({ config: file, ...given }) => {
      const config = readConfig(file);
      const list = (values: string[]) => (values.length === 0 ? undefined : values);
      const { tenant, from, to, step, tz } = given;
      const format = given.format as Format;
      const store = await openStore(config, { readOnly: true });
      try {
        const { types, typeOf } = await withRegistry(config, ({ registry, types }) => ({
          types: deviceTypes({ types }),
          typeOf: new Map(registry.devices(tenant).map((one) => [one.device, one.type])),
        }));
        const report = await runQuery(
          store,
          {
            tenant,
            from,
            to,
            step,
            tz,
            format,
            device: list(given.device),
            metric: list(given.metric),
            stat: list(given.stat),
          },
          {
            types,
            clock: systemClock,
            baseWindowMs: config.rollup.baseWindow,
            rowsMax: config.http.queryRowsMax,
            retention: retentionOf(config),
            deviceType: (_, device) => typeOf.get(device),
          },
        );
        if (report.rows.length === 0) await requireTenant(config, store, tenant);
        const asked = report.completeness.devices.map(({ device }) => device);
        const unregistered = asked.filter((device) => !typeOf.has(device));
        const known = await store.latest(tenant, { devices: unregistered });
        for (const device of unregistered.filter((one) => !known.has(one))) {
          remark(`There is no device ${tenant}/${device}, and no reading of it.`);
        }
        await print(formatReport(report, format));
        if (format === 'csv')
          process.stderr.write(`${completenessLine(report, { bounded: false })}\n`);
      } finally {
        await store.close();
      }
    });
}
