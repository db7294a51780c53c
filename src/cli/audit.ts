import { type Command, Option } from 'commander';
import { deviceTypes } from '../config/device-types.ts';
import type { Config } from '../config/schema.ts';
import { ledgerFrom, retentionOf } from '../config/windows.ts';
import { systemClock } from '../core/clock.ts';
import { counted } from '../core/counted.ts';
import { SpillwayError } from '../core/errors.ts';
import { openConsumer, openStore, ROLLUP_GROUP } from '../engines.ts';
import { auditJson, auditTable, recountJson, recountText } from '../ops/audit-format.ts';
import { type Audit, assertBalanced, audit } from '../ops/ledger.ts';
import { type Recount, recount } from '../ops/recount.ts';
import type { StoreReader } from '../store/contract.ts';
import { durationArgument, nameArgument } from './arguments.ts';
import { print, readConfig } from './context.ts';
import { requireTenant } from './known-tenant.ts';
import { withRegistry } from './registry.ts';

/** A look at every row takes as long as it takes; the account itself is read in seconds. */
const AUDIT_MS = 300_000;

/** `spillway audit` */
export function addAuditCommand(program: Command): void {
  program
    .command('audit')
    .description(
      'what became of every message: received = stored + dead-lettered + shed + duplicate + in flight; exits 1 on a difference',
    )
    .option('--tenant <name>', 'one customer; default: all', nameArgument)
    .option(
      '--last <duration>',
      'gateway time, in whole hours; default: as far back as it is kept',
      durationArgument,
    )
    .addOption(
      new Option(
        '--by <what>',
        'a row for each; hour: of a device. Default: hour with --tenant and --last, else tenant',
      ).choices(['tenant', 'device', 'hour']),
    )
    .option('--by-device', 'the same as --by device')
    .option('--recount', 'prove it against the data: count every row, as far as it is kept')
    .addOption(
      new Option('--format <format>', 'how to print it')
        .choices(['table', 'json'])
        .default('table'),
    )
    .option('--config <file>', 'configuration file')
    .action(async ({ config: file, tenant, last, ...options }) => {
      const config = readConfig(file);
      const now = systemClock.now();
      const from = last === undefined ? undefined : now - last;
      const keptFrom = ledgerFrom(config, now);
      const isNarrow = tenant !== undefined && last !== undefined;
      const by = options.by ?? (options.byDevice ? 'device' : isNarrow ? 'hour' : 'tenant');
      const store = await openStore(config, { readOnly: true });
      const consumer = await openConsumer(config);
      try {
        const account = await audit({
          ...{ store, consumer, group: ROLLUP_GROUP, by },
          ...(tenant !== undefined && { tenant }),
          ...(from !== undefined && { from }),
          ...(keptFrom !== undefined && { keptFrom }),
          signal: AbortSignal.timeout(AUDIT_MS),
        });
        const proof =
          options.recount === true ? await prove(config, store, account, now) : undefined;
        if (tenant !== undefined && account.rows.length === 0) {
          await requireTenant(config, store, tenant);
        }
        await print([textOf(account, proof, options.format)]);
        assertBalanced(account);
        assertProven(proof);
      } finally {
        await consumer.close();
        await store.close();
      }
    });
}

async function prove(
  config: Config,
  store: StoreReader,
  account: Audit,
  now: number,
): Promise<Recount> {
  const types = await withRegistry(config, (open) => deviceTypes({ types: open.types }));
  return recount({
    ...{ store, group: ROLLUP_GROUP, types, now, retention: retentionOf(config) },
    tenants: [...new Set(account.rows.map(({ tenant }) => tenant))],
    from: account.from ?? 0,
    to: account.to ?? Number.POSITIVE_INFINITY,
  });
}

function textOf(account: Audit, proof: Recount | undefined, format: string): string {
  if (format === 'json') {
    const both = { ...auditJson(account), ...(proof && { recount: recountJson(proof) }) };
    return `${JSON.stringify(both, null, 2)}\n`;
  }
  return auditTable(account) + (proof === undefined ? '' : `\n${recountText(proof)}`);
}

/** Throws AUDIT_UNBALANCED. */
function assertProven(proof: Recount | undefined): void {
  if (proof?.proven !== false) return;
  const { length } = proof.differences;
  throw new SpillwayError(
    'AUDIT_UNBALANCED',
    `The data differs from the ledger in ${counted(length, 'line')}.`,
  );
}
