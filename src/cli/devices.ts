import { readFileSync } from 'node:fs';
import { type Command, Option } from 'commander';
import { CsvError, parse } from 'csv-parse/sync';
import { counted } from '../core/counted.ts';
import { SpillwayError } from '../core/errors.ts';
import type { NewDevice } from '../tenants/registry.ts';
import { deviceArgument, nameArgument, numberArgument, tenantOption } from './arguments.ts';
import { readConfig, remark } from './context.ts';
import { addDeviceStatusCommand } from './device-status.ts';
import { withRegistry } from './registry.ts';

const COLUMNS = ['tenant', 'device', 'type', 'secret'] as const;
/** By one command; the registry takes no more at once. */
const DEVICES_MAX = 1_000_000;
const IMPORT_BYTES_MAX = 256 * 2 ** 20;

/** `spillway device …` */
export function addDeviceCommands(program: Command): void {
  const device = program.command('device').description('devices and their secrets');
  device
    .command('add')
    .description('add devices with generated secrets and print them as CSV, once')
    .addOption(tenantOption())
    .requiredOption('--type <name>', 'a device type of the configuration', nameArgument)
    .option(
      '--count <number>',
      'how many, named <prefix>-01 and so on',
      numberArgument(DEVICES_MAX),
      1,
    )
    .option('--prefix <name>', 'default: the type', nameArgument)
    .addOption(
      new Option('--name <name>', 'one device of this very name')
        .argParser(nameArgument)
        .conflicts(['count', 'prefix']),
    )
    .option('--via <device>', 'a device of the tenant that may report for these', nameArgument)
    .option('--config <file>', 'configuration file')
    .action(async (options) => {
      const { tenant, type, name, prefix, via, count } = options;
      const rows = await withRegistry(readConfig(options.config), ({ registry }) =>
        name === undefined
          ? registry.addDevices({ tenant, type, prefix, via, count })
          : [registry.addDevice({ tenant, device: name, type, via })],
      );
      printDevices(rows);
    });
  device
    .command('import <file>')
    .description('add devices that have their secrets, from CSV: tenant,device,type,secret')
    .option('--config <file>', 'configuration file')
    .action(async (file, options) => {
      const rows = readDevices(file);
      await withRegistry(readConfig(options.config), ({ registry }) =>
        registry.importDevices(rows),
      );
      process.stdout.write(`${counted(rows.length, 'device')} imported.\n`);
    });
  device
    .command('list')
    .description('tenant, device, type and who reports for it')
    .option('--tenant <name>', 'of one tenant', nameArgument)
    .option('--config <file>', 'configuration file')
    .action(async (options) => {
      const entries = await withRegistry(readConfig(options.config), ({ registry }) =>
        registry.devices(options.tenant),
      );
      const lines = entries.map((entry) =>
        [entry.tenant, entry.device, entry.type, entry.via ?? ''].join(','),
      );
      process.stdout.write(`${['tenant,device,type,via', ...lines].join('\n')}\n`);
      if (lines.length === 0) {
        const whose = options.tenant === undefined ? '' : ` of tenant ${options.tenant}`;
        remark(`There are no devices${whose}; \`spillway device add\` adds some.`);
      }
    });
  addDeviceStatusCommand(device);
  device
    .command('remove')
    .argument('<tenant/device>', 'such as acme/thermostat-01', deviceArgument)
    .description('remove a device; its connections end within a second, its data stays')
    .option('--config <file>', 'configuration file')
    .action(async ({ tenant, device: name }, options) => {
      await withRegistry(readConfig(options.config), ({ registry }) =>
        registry.removeDevice(tenant, name),
      );
    });
}

/** `spillway token …` */
export function addTokenCommands(program: Command): void {
  const token = program.command('token').description('bearer tokens of the HTTP API');
  token
    .command('add')
    .description('make a token and print it, once')
    .option('--tenant <name>', 'it may read the data of this tenant', nameArgument)
    .option('--operator', 'it may read everything')
    .option('--config <file>', 'configuration file')
    .action(async (options) => {
      const whose = 'whose token? Expected either --tenant <name> or --operator';
      if ((options.tenant === undefined) === (options.operator !== true)) {
        throw new SpillwayError('ARGUMENT_INVALID', whose, {
          next: 'See `spillway token add --help`.',
        });
      }
      const rights =
        options.operator === true
          ? ({ role: 'operator' } as const)
          : ({ role: 'tenant', tenant: String(options.tenant) } as const);
      const added = await withRegistry(readConfig(options.config), ({ registry }) =>
        registry.addToken(rights),
      );
      process.stdout.write(`${added.token}\n`);
    });
  token
    .command('list')
    .description('id, role and tenant')
    .option('--config <file>', 'configuration file')
    .action(async (options) => {
      const entries = await withRegistry(readConfig(options.config), ({ registry }) =>
        registry.tokens(),
      );
      const lines = entries.map(({ id, rights, createdAt }) =>
        [
          id,
          rights.role,
          rights.role === 'tenant' ? rights.tenant : '',
          new Date(createdAt).toISOString(),
        ].join(','),
      );
      process.stdout.write(`${['id,role,tenant,created', ...lines].join('\n')}\n`);
    });
  token
    .command('remove <id>')
    .description('revoke a token')
    .option('--config <file>', 'configuration file')
    .action(async (id, options) => {
      await withRegistry(readConfig(options.config), ({ registry }) =>
        registry.removeToken(String(id)),
      );
    });
}

function printDevices(rows: NewDevice[]): void {
  const lines = rows.map((row) => COLUMNS.map((column) => row[column]).join(','));
  process.stdout.write(`${[COLUMNS.join(','), ...lines].join('\n')}\n`);
}

/** Throws IMPORT_INVALID with the line; a secret is never part of the message. */
function readDevices(file: string): NewDevice[] {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    throw new SpillwayError('IMPORT_INVALID', `${file} can't be read (${code})`, {
      cause,
      next: `Name a CSV file with the columns ${COLUMNS.join(',')}.`,
    });
  }
  if (text.length > IMPORT_BYTES_MAX)
    throw new SpillwayError('IMPORT_INVALID', `${file} is larger than 256 MiB`);
  try {
    const rows = parse(text, {
      columns: true,
      bom: true,
      skip_empty_lines: true,
      trim: true,
    }) as Record<string, string>[];
    return rows.map((row, index) => {
      const missing = COLUMNS.filter((column) => (row[column] ?? '') === '');
      if (missing.length > 0) throw new Error(`row ${index + 1} lacks ${missing.join(', ')}`);
      const { tenant = '', device = '', type = '', secret = '' } = row;
      return { tenant, device, type, secret };
    });
  } catch (cause) {
    const reason = cause instanceof CsvError ? csvReason(cause) : (cause as Error).message;
    throw new SpillwayError(
      'IMPORT_INVALID',
      `${file}: ${reason}; expected the columns ${COLUMNS.join(',')}`,
      { cause },
    );
  }
}

/** The parser's own message quotes the field that it stumbled over, which may be a secret. */
function csvReason(error: CsvError): string {
  const [what = ''] = error.message.split(':');
  return `${what} at line ${error.lines}`;
}
