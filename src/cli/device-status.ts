import { type Command, Option } from 'commander';
import type { listDevices } from '../http/device-list.ts';
import { alignedLines, printable } from '../reports/table.ts';
import { nameArgument } from './arguments.ts';
import { print, remark } from './context.ts';
import { openClient, withServer } from './http-client.ts';

type Listed = Awaited<ReturnType<typeof listDevices>>;

/** `spillway device status` */
export function addDeviceStatusCommand(device: Command): void {
  withServer(
    device
      .command('status')
      .description(
        'which devices are online or offline, since when, and when each was last heard of',
      )
      .option(
        '--tenant <name>',
        'of one tenant; default: all that the token may see',
        nameArgument,
      ),
  )
    .addOption(new Option('--status <status>', 'those alone').choices(['online', 'offline']))
    .addOption(
      new Option('--format <format>', 'how to print it')
        .choices(['table', 'json'])
        .default('table'),
    )
    .action(async ({ tenant, status, format, ...server }) => {
      const answer = await openClient(server).get('/api/v1/devices', { tenant, status });
      const listed = answer as Listed;
      await print([format === 'json' ? `${JSON.stringify(listed, null, 2)}\n` : table(listed)]);
      if (listed.devices.length === 0) {
        const whose = tenant === undefined ? '' : ` of tenant ${tenant}`;
        remark(`There are no ${status === undefined ? '' : `${status} `}devices${whose}.`);
      }
    });
}

function table({ devices, truncated }: Listed): string {
  const rows = devices.map(({ tenant, device, type, status, since, heard }) =>
    [tenant, device, type ?? '', status ?? 'unknown', since ?? '', heard ?? ''].map(printable),
  );
  const names = ['tenant', 'device', 'type', 'status', 'since', 'last heard of'];
  const lines = alignedLines(names, rows, new Set());
  if (truncated) lines.push(`the first ${devices.length}; --tenant tells more`);
  return `${lines.join('\n')}\n`;
}
