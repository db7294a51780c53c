import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Command, Option } from 'commander';
import { parse } from 'yaml';
import { deviceTypes } from '../config/device-types.ts';
import { systemClock } from '../core/clock.ts';
import { counted } from '../core/counted.ts';
import { SpillwayError } from '../core/errors.ts';
import { openExaminer } from '../engines/examiner.ts';
import { openStore } from '../engines.ts';
import {
  groupedBy,
  letterFilter,
  letterId,
  letterPage,
  letterSelection,
} from '../http/letter-parameters.ts';
import { groupsOf, letterJson, type ReplayJson } from '../http/letters-json.ts';
import { findLetter } from '../ops/letters/select.ts';
import { tryLetters } from '../ops/letters/trial.ts';
import type { StoreReader } from '../store/contract.ts';
import {
  letterArgument,
  nameArgument,
  numberArgument,
  repeated,
  tenantOption,
  typeVersionArgument,
} from './arguments.ts';
import { print, readConfig, remark } from './context.ts';
import { groupTable, letterTable, letterText, replayText, trialText } from './dead-letter-text.ts';
import { openClient, withServer } from './http-client.ts';
import { withRegistry } from './registry.ts';

const POLL_MS = 500;
const LISTED_MAX = 1_000;
const TRIED_MAX = 10_000;
const DETAILS_MAX = 20;

/** `spillway dead-letters …` */
export function addDeadLetterCommands(program: Command): void {
  const letters = program
    .command('dead-letters')
    .description('messages that were not taken: look, try again, replay, purge');
  addList(letters);
  addShow(letters);
  addTry(letters);
  addReplay(letters);
  addPurge(letters);
}

function withFilters(command: Command): Command {
  return command
    .addOption(tenantOption())
    .option('--device <name>', 'repeat for several; default: all', repeated(nameArgument), [])
    .option('--code <code>', 'refused with this code')
    .option('--type <name>', 'of devices of this type', nameArgument)
    .option('--type-version <hex>', 'checked against this version of the type', typeVersionArgument)
    .addOption(
      new Option('--state <state>', 'not yet replayed, or replayed').choices(['open', 'replayed']),
    )
    .option('--from <time>', 'gateway time: ISO 8601, or relative such as -7d; default: -24h')
    .option('--to <time>', 'default: now');
}

const format = () =>
  new Option('--format <format>', 'how to print it').choices(['table', 'json']).default('table');

interface Filters {
  tenant: string;
  device: string[];
  code?: string;
  type?: string;
  typeVersion?: string;
  state?: string;
  from?: string;
  to?: string;
}

/** The filters under the names that the API gives them. */
function filtersOf({ tenant, device, code, type, typeVersion, state, from, to }: Filters) {
  const given = { tenant, code, type, version: typeVersion, state, from, to };
  const present = Object.entries(given).filter(([, value]) => value !== undefined);
  return { ...Object.fromEntries(present), ...(device.length > 0 && { device }) };
}

async function withStore<T>(
  file: string | undefined,
  call: (store: StoreReader) => Promise<T>,
): Promise<T> {
  const store = await openStore(readConfig(file), { readOnly: true });
  try {
    return await call(store);
  } finally {
    await store.close();
  }
}

const json = (value: unknown): string => `${JSON.stringify(value, null, 2)}\n`;

function addList(letters: Command): void {
  withFilters(letters.command('list'))
    .description('the newest ones, or with --by how many there are of which kind')
    .option('--by <names>', 'count by some of device,code,type,version')
    .option('--limit <number>', 'at most so many letters', numberArgument(LISTED_MAX), 100)
    .addOption(format())
    .option('--config <file>', 'configuration file')
    .action(async (options) => {
      const now = systemClock.now();
      const filters = filtersOf(options);
      const text = await withStore(options.config, async (store) => {
        if (options.by !== undefined) {
          const by = groupedBy({ by: options.by });
          const found = await store.groupDeadLetters(letterFilter(filters, options.tenant, now));
          const groups = groupsOf(found, by);
          if (groups.length === 0) remark(nothingFound(options));
          return options.format === 'json' ? json(groups) : groupTable(groups, [...by]);
        }
        const page = letterPage({ ...filters, limit: options.limit }, options.tenant, now);
        const found = (await store.deadLetters(page)).map(letterJson);
        if (found.length === 0) remark(nothingFound(options));
        return options.format === 'json' ? json(found) : letterTable(found);
      });
      await print([text]);
    });
}

function nothingFound({ tenant, from }: Filters): string {
  const since = from === undefined ? ' in the last 24 hours; --from reaches further back' : '';
  return `No dead letters of ${tenant} match${since}.`;
}

function addShow(letters: Command): void {
  letters
    .command('show')
    .argument('<id>', 'as the list shows it', letterArgument)
    .description('one letter with its reason and its original bytes')
    .addOption(tenantOption())
    .option('--raw', 'write the original bytes alone')
    .addOption(format())
    .option('--config <file>', 'configuration file')
    .action(async (id, options) => {
      const letter = await withStore(options.config, (store) =>
        findLetter(store, options.tenant, letterId('id', id)),
      );
      if (letter === undefined) {
        throw new SpillwayError('NOT_FOUND', `There is no letter ${id}, or it was purged.`, {
          next: `See the ids with \`spillway dead-letters list --tenant ${options.tenant}\`.`,
        });
      }
      const payload = Buffer.from(letter.payload, 'base64');
      if (options.raw === true) process.stdout.write(payload);
      else if (options.format === 'json') await print([json(letterJson(letter))]);
      else await print([letterText(letterJson(letter), payload)]);
    });
}

function addTry(letters: Command): void {
  withFilters(letters.command('try'))
    .description(
      'what a replay would do with the types of the configuration, or other ones; nothing is written',
    )
    .option('--letter <id>', 'this one; repeat for several', repeated(letterArgument), [])
    .option('--types <file>', 'YAML with definitions of types as they stand under `types`')
    .option('--limit <number>', 'at most so many letters', numberArgument(TRIED_MAX), 1_000)
    .addOption(format())
    .option('--config <file>', 'configuration file')
    .action(async (options) => {
      const config = readConfig(options.config);
      const definitions = options.types === undefined ? undefined : readTypes(options.types);
      const selection = selectionOf(options);
      const trial = await withRegistry(config, ({ registry, types }) =>
        withStore(options.config, (store) =>
          tryLetters({
            store,
            selection: {
              ...{ state: 'open' as const },
              ...letterSelection(selection, options.tenant, systemClock.now()),
              limit: options.limit,
            },
            examine: openExaminer(config, registry, deviceTypes({ types }), definitions),
            attemptsMax: config.deadLetters.attemptsMax,
            detailsMax: DETAILS_MAX,
            signal: new AbortController().signal,
          }),
        ),
      );
      await print([options.format === 'json' ? json(trial) : trialText(trial)]);
    });
}

function addReplay(letters: Command): void {
  withServer(withFilters(letters.command('replay')))
    .description(
      'send letters that are open through the checks again, and what passes into the log; by the running program',
    )
    .option('--letter <id>', 'this one; repeat for several', repeated(letterArgument), [])
    .option('--limit <number>', 'at most so many letters', numberArgument(Number.MAX_SAFE_INTEGER))
    .option(
      '--rate <number>',
      'letters a second; default and most: deadLetters.replaysPerSecondMax',
      numberArgument(Number.MAX_SAFE_INTEGER),
    )
    .option('--detach', 'do not wait for its end')
    .action(async (options) => {
      const client = openClient(options);
      const order = {
        ...selectionOf(options),
        ...(options.limit !== undefined && { limit: options.limit }),
        ...(options.rate !== undefined && { rate: options.rate }),
      };
      let replay = (await client.post('/api/v1/dead-letters/replays', order)) as ReplayJson;
      while (replay.state === 'running' && options.detach !== true) {
        await sleep(POLL_MS);
        replay = (await client.get(`/api/v1/dead-letters/replays/${replay.id}`)) as ReplayJson;
        if (process.stderr.isTTY)
          process.stderr.write(`\r${counted(replay.counts.letters, 'letter')}`);
      }
      if (process.stderr.isTTY) process.stderr.write('\r');
      await print([replayText(replay)]);
      if (replay.state === 'failed') process.exitCode = 1;
    });
}

function addPurge(letters: Command): void {
  withServer(withFilters(letters.command('purge')))
    .description('remove the contents of letters for good; by the running program')
    .option('--letter <id>', 'this one; repeat for several', repeated(letterArgument), [])
    .action(async (options) => {
      const { tenant: _, ...narrower } = selectionOf(options);
      if (Object.keys(narrower).length === 0) {
        throw new SpillwayError('ARGUMENT_INVALID', 'expected --letter, or at least one filter', {
          next: 'To purge all of a time give --from, such as --from -30d.',
        });
      }
      const purged = (await openClient(options).post(
        '/api/v1/dead-letters/purge',
        selectionOf(options),
      )) as { letters: number; devices: number };
      await print([
        `Purged: ${counted(purged.letters, 'letter')} of ${counted(purged.devices, 'device')}.\n`,
      ]);
    });
}

function selectionOf(options: Filters & { letter: string[] }): Record<string, unknown> {
  const { letter } = options;
  return { ...filtersOf(options), ...(letter.length > 0 && { letters: letter }) };
}

/** Throws QUERY_INVALID. */
function readTypes(file: string): unknown {
  try {
    const read: unknown = parse(readFileSync(file, 'utf8'));
    const isWhole = typeof read === 'object' && read !== null && 'types' in read;
    return isWhole ? read.types : read;
  } catch (cause) {
    const reason = (cause as NodeJS.ErrnoException).code ?? 'it is no YAML';
    throw new SpillwayError('QUERY_INVALID', `types: ${file} can't be read (${reason}).`, {
      cause,
    });
  }
}
