import { fork } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { EmbeddedEngines } from './engines.ts';
import { planOf } from './plan.ts';
import { runPlan, type Summary } from './run.ts';

/**
 * Runs plans of many seeds on the embedded engines, in a process for each core, and compares all that
 * the system says with a naive model:
 *
 *     npm run test:model -- --seeds 500 --seed 1
 *
 * A seed that fails is printed with the command that repeats it.
 */

const USAGE = 'test:model -- [--seeds N] [--seed FIRST] [--processes N] [--verbose]';
const FAILURES_MAX = 10;
/** Each life of a log has a thread of its own, which would strip its files' types anew: half of the CPU. */
const COMPILED = fileURLToPath(new URL('../../node_modules/.cache/spillway', import.meta.url));

type Report = { seed: number } & ({ summary: Summary } | { failure: string });

/** What Node 24 and the console may say on several lines, cut where it gets too long to read. */
const FAILURE_CHARS_MAX = 4_000;

async function runSeeds(seeds: Iterable<number>, report: (one: Report) => void): Promise<void> {
  for (const seed of seeds) {
    const plan = planOf(seed);
    try {
      report({ seed, summary: await runPlan(plan, new EmbeddedEngines(plan.settings)) });
    } catch (error) {
      const failure = error instanceof Error ? (error.stack ?? error.message) : String(error);
      report({ seed, failure: failure.slice(0, FAILURE_CHARS_MAX) });
    }
  }
}

/** The seeds that the child of this number has. */
function* everyNth(first: number, count: number, of: number, number: number): Iterable<number> {
  for (let at = number; at < count; at += of) yield first + at;
}

const { values } = parseArgs({
  options: {
    seeds: { type: 'string', default: '50' },
    seed: { type: 'string', default: String(1 + Math.floor(Math.random() * 1e6)) },
    processes: { type: 'string', default: String(Math.min(4, availableParallelism())) },
    child: { type: 'string' },
    verbose: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});
if (values.help) {
  console.log(`npm run ${USAGE}`);
  process.exit(0);
}
const [first, count, processes] = [values.seed, values.seeds, values.processes].map(Number);
if (first === undefined || count === undefined || processes === undefined) throw new Error(USAGE);
if (![first, count, processes].every((one) => Number.isSafeInteger(one) && one >= 0)) {
  console.error(USAGE);
  process.exit(2);
}

if (values.child !== undefined) {
  const mine = everyNth(first, count, processes, Number(values.child));
  await runSeeds(mine, (one) => process.send?.(one));
  process.disconnect();
} else {
  const began = performance.now();
  console.log(`seeds ${first} to ${first + count - 1} in ${processes} processes`);
  const totals = new Map<string, number>();
  const failed: number[] = [];
  let done = 0;
  const take = (one: Report) => {
    done += 1;
    if ('failure' in one) {
      failed.push(one.seed);
      if (failed.length > FAILURES_MAX) return;
      console.log(`\nseed ${one.seed} FAILED: npm run test:model -- --seeds 1 --seed ${one.seed}`);
      console.log(one.failure);
      return;
    }
    for (const [name, of] of Object.entries(one.summary)) {
      totals.set(name, (totals.get(name) ?? 0) + of);
    }
    if (values.verbose) console.log(`seed ${one.seed}: ${JSON.stringify(one.summary)}`);
  };
  const children = Array.from({ length: processes }, (_, number) => {
    const args = ['--seed', `${first}`, '--seeds', `${count}`, '--processes', `${processes}`];
    const child = fork(import.meta.filename, [...args, '--child', `${number}`], {
      env: { ...process.env, NODE_COMPILE_CACHE: COMPILED },
    });
    child.on('message', (message) => take(message as Report));
    return new Promise<number | null>((resolve) => child.once('close', resolve));
  });
  const codes = await Promise.all(children);
  const seconds = Math.round((performance.now() - began) / 1_000);
  const text = [...totals].map(([name, of]) => `${name} ${of}`).join(', ');
  console.log(`${done - failed.length} of ${count} seeds are right, ${seconds} s: ${text}`);
  if (failed.length > 0) console.log(`failed: ${failed.join(' ')}`);
  if (failed.length > 0 || done < count || codes.some((code) => code !== 0)) process.exit(1);
}
