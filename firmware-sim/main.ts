import { readFile, writeFile } from 'node:fs/promises';
import { Command, InvalidArgumentError, Option } from 'commander';
import { createFleet, DEFAULT_URL } from './fleet.ts';
import { FLOOD_NAMES } from './floods.ts';
import { replayCsv } from './replay.ts';
import { formatSummary, type Summary } from './summary.ts';
import { InputError, parseDuration } from './yaml-file.ts';

const EXIT_INCOMPLETE = 1;
const EXIT_INPUT = 2;
const EXIT_INTERRUPTED_TWICE = 130;
const PROGRESS_MS = 10_000;

/** Messages acknowledged when the last line of progress was printed. */
let progressBefore = 0;

interface CommonOptions {
  url: string;
  protocol: 4 | 5;
  ca?: string;
  summaryJson?: string;
  progress: boolean;
}

interface RunOptions extends CommonOptions {
  fleet: string;
  credentials: string;
  duration?: number;
  seed?: number;
  flood: string[];
  drain: number;
}

interface ReplayCommandOptions extends CommonOptions {
  csv: string;
  map: string;
  username: string;
  password: string;
  speed: number;
  inflight: number;
  batch: number;
  shuffle?: number;
  duplicate: number;
}

const program = new Command('firmware-sim').description(
  'A fleet of simulated devices that speaks MQTT, and a player of recorded measurements.',
);

common(program.command('run'))
  .description('run a fleet until the duration is over or Ctrl-C')
  .requiredOption('--fleet <file>', 'YAML file that describes the fleet')
  .requiredOption('--credentials <file>', 'CSV file with tenant,device,type,secret')
  .option('--duration <time>', 'such as 60s or 5m; without it until Ctrl-C', durationOption)
  .option('--seed <number>', "instead of the fleet's own", wholeOption)
  .option(
    '--flood <what>',
    `laid over the fleet, such as step,factor=10,at=30s,for=60s; several may be given: ${FLOOD_NAMES.join(', ')}`,
    (text: string, before: string[]) => [...before, text],
    [],
  )
  .option(
    '--drain <time>',
    'how long to wait for acknowledgements at the end',
    durationOption,
    5000,
  )
  .action((options: RunOptions) => finish(run(options), options));

common(program.command('replay'))
  .description('publish a CSV recording as one device')
  .requiredOption('--csv <file>', 'the recording')
  .requiredOption('--map <file>', 'YAML file that says which column is what')
  .requiredOption('--username <tenant/device>', 'who publishes')
  .addOption(
    new Option('--password <secret>', "the device's secret")
      .env('FIRMWARE_SIM_PASSWORD')
      .makeOptionMandatory(),
  )
  .option('--speed <number>', '0: as fast as acknowledged, N: N times real time', numberOption, 0)
  .option(
    '--inflight <number>',
    'messages that may wait for their acknowledgement',
    wholeOption,
    200,
  )
  .option('--batch <number>', 'readings in one message', wholeOption, 1)
  .option('--shuffle <seed>', 'send in a shuffled order', wholeOption)
  .option('--duplicate <probability>', 'send a message twice', numberOption, 0)
  .action((options: ReplayCommandOptions) => finish(replay(options), options));

await program.parseAsync();

async function run(options: RunOptions): Promise<Summary> {
  const fleet = await createFleet({
    fleet: options.fleet,
    credentials: options.credentials,
    url: options.url,
    protocolVersion: options.protocol,
    seed: options.seed,
    floods: options.flood,
    drainTimeoutMs: options.drain,
    ca: await readCa(options),
  });
  const stop = stopSignal();
  fleet.start();
  const progress = options.progress
    ? setInterval(() => printProgress(fleet.snapshot()), PROGRESS_MS)
    : undefined;
  await new Promise<void>((resolve) => {
    const timer =
      options.duration === undefined
        ? // Keeps the process alive even while no device is connected.
          setInterval(() => {}, 2 ** 30)
        : setTimeout(resolve, options.duration);
    stop.addEventListener('abort', () => {
      clearTimeout(timer);
      resolve();
    });
  });
  clearInterval(progress);
  return fleet.stop();
}

async function replay(options: ReplayCommandOptions): Promise<Summary> {
  return replayCsv({
    ...options,
    protocolVersion: options.protocol,
    ca: await readCa(options),
    signal: stopSignal(),
    onProgress: options.progress ? printProgress : undefined,
    progressMs: PROGRESS_MS,
  });
}

async function finish(work: Promise<Summary>, options: CommonOptions): Promise<never> {
  try {
    const summary = await work;
    if (options.summaryJson !== undefined) {
      await writeFile(options.summaryJson, `${JSON.stringify(summary, null, 2)}\n`);
    }
    console.log(formatSummary(summary));
    process.exit(summary.complete ? 0 : EXIT_INCOMPLETE);
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    console.error(error.message);
    process.exit(EXIT_INPUT);
  }
}

/** Aborted by the first SIGINT or SIGTERM; the second one ends the process. */
function stopSignal(): AbortSignal {
  const controller = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM'] as const) {
    process.on(name, () => {
      if (controller.signal.aborted) process.exit(EXIT_INTERRUPTED_TWICE);
      controller.abort();
    });
  }
  return controller.signal;
}

function printProgress(now: Summary): void {
  const rate = Math.round((now.acknowledged - progressBefore) / (PROGRESS_MS / 1000));
  progressBefore = now.acknowledged;
  const receipts = Object.values(now.receipts).reduce((sum, count) => sum + count, 0);
  console.error(
    [
      `[${Math.round(now.seconds)} s]`,
      `connected ${now.connectedAtEnd}/${now.connections}`,
      `sent ${now.sent}`,
      `acknowledged ${now.acknowledged} (${rate}/s)`,
      `waiting ${now.unacknowledged}`,
      `buffered ${now.leftInBuffer}`,
      `dropped ${now.droppedFromBuffer}`,
      `receipts ${receipts}`,
      `reconnects ${now.reconnects}`,
      `p99 ${now.pubackP99Ms ?? '-'} ms`,
    ].join('  '),
  );
}

function common(command: Command): Command {
  return command
    .option('--url <url>', 'the gateway: mqtt, mqtts, ws or wss', DEFAULT_URL)
    .addOption(
      new Option('--protocol <version>', 'MQTT 3.1.1 (4) or 5')
        .choices(['4', '5'])
        .default(4)
        .argParser((text) => (text === '5' ? 5 : text === '4' ? 4 : fail('4 or 5'))),
    )
    .option('--ca <file>', 'PEM certificates to trust, for mqtts and wss')
    .option('--summary-json <file>', 'write the summary here too')
    .option('--progress', 'a line every 10 s', false);
}

async function readCa({ ca }: CommonOptions): Promise<string | undefined> {
  if (ca === undefined) return undefined;
  try {
    return await readFile(ca, 'utf8');
  } catch (error) {
    throw new InputError(`${ca}: cannot be read: ${(error as Error).message}`);
  }
}

function durationOption(text: string): number {
  const ms = parseDuration(text);
  return ms !== undefined && ms >= 0 ? ms : fail('a duration such as 60s or 5m');
}

function numberOption(text: string): number {
  const value = text.trim() === '' ? Number.NaN : Number(text);
  return Number.isFinite(value) && value >= 0 ? value : fail('a number of at least 0');
}

function wholeOption(text: string): number {
  const value = numberOption(text);
  return Number.isInteger(value) ? value : fail('a whole number');
}

function fail(expected: string): never {
  throw new InvalidArgumentError(`Expected ${expected}.`);
}
