import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { getPriority } from 'node:os';
import { describe, type TestContext, test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { CpuDemand } from '../../src/thread-cpu.ts';
import { Child, SpillwayProcess } from '../system/spillway-process.ts';

const skip = process.platform === 'linux' ? false : 'priorities of threads are a matter of Linux';

/** Niceness of each thread of a process, by name; those that share a name have the list of it (proc(5), `stat`). */
function nicenesses(pid: number): Map<string, number[]> {
  const found = new Map<string, number[]>();
  for (const thread of readdirSync(`/proc/${pid}/task`)) {
    const stat = readFileSync(`/proc/${pid}/task/${thread}/stat`, 'utf8');
    const name = stat.slice(stat.indexOf('(') + 1, stat.lastIndexOf(')'));
    const niceness = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[16]);
    found.set(name, [...(found.get(name) ?? []), niceness]);
  }
  return found;
}

async function nicenessesOf(t: TestContext, rollup: object) {
  const program = new SpillwayProcess(t, { rollup });
  const { process: child } = await program.start();
  const found = nicenesses(child.pid ?? 0);
  await program.stop();
  const collectors = found.get('V8Worker') ?? [];
  const others = [...found].flatMap(([name, all]) =>
    name === 'rollup' || name === 'V8Worker' ? [] : all,
  );
  return { rollup: found.get('rollup'), collectors, others };
}

describe('priority of the rollup thread', { skip, concurrency: true }, () => {
  const own = skip === false ? getPriority() : 0;
  const nicer = (by: number) => Math.min(19, own + by);

  test('is lower than that of all others, but those that collect garbage', async (t) => {
    const { rollup, collectors, others } = await nicenessesOf(t, { niceness: 10 });
    assert.deepEqual(rollup, [nicer(10)]);
    assert.ok(collectors.length > 0);
    assert.deepEqual(new Set(collectors), new Set([nicer(10)]));
    assert.ok(others.length > 4);
    assert.deepEqual(new Set(others), new Set([own]));
  });

  test('is theirs where that is configured', async (t) => {
    const { rollup, collectors, others } = await nicenessesOf(t, { niceness: 0 });
    assert.deepEqual(rollup, [own]);
    assert.deepEqual(new Set([...collectors, ...others]), new Set([own]));
  });
});

/** A process whose first thread to need the pool of libuv is the one that steps back; waits then. */
const FIRST_USER = `
  const { Worker } = require('node:worker_threads');
  new Worker(
    "import(process.argv.at(-1)).then(({ lowerPriority }) => lowerPriority(5))" +
      ".then(() => require('node:fs/promises').stat('/')).then(() => console.log('pool'));" +
      "setInterval(() => {}, 1_000)",
    { eval: true, argv: [process.argv.at(-1)], name: 'behind' },
  );
`;

test('threads of the pool keep theirs, whoever needs them first', { skip }, async (t) => {
  const source = new URL('../../src/thread-cpu.ts', import.meta.url).href;
  const child = new Child(t, ['-e', FIRST_USER, source], {});
  await child.printed(/pool/);
  const found = nicenesses(child.process.pid ?? 0);
  assert.deepEqual(found.get('behind'), [Math.min(19, getPriority() + 5)]);
  assert.deepEqual(new Set(found.get('libuv-worker')), new Set([getPriority()]));
});

/** What a thread demands while it does `what` for some hundred ms. */
async function demandOf(what: string): Promise<number> {
  const source = new URL('../../src/thread-cpu.ts', import.meta.url).href;
  const worker = new Worker(
    `import(${JSON.stringify(source)}).then(async ({ CpuDemand }) => {
       const demand = new CpuDemand();
       const until = performance.now() + 400;
       ${what}
       require('node:worker_threads').parentPort.postMessage(demand.share());
     })`,
    { eval: true },
  );
  const [share] = await once(worker, 'message');
  await worker.terminate();
  return Number(share);
}

describe('what a thread demands of the CPU', () => {
  test('is all when it computes, however little it gets', async () => {
    assert.ok((await demandOf('while (performance.now() < until);')) > 0.7);
  });

  test('is next to nothing when it waits for an answer', async () => {
    const share = await demandOf('await new Promise((done) => setTimeout(done, 400));');
    assert.ok(share < 0.3, String(share));
  });

  test('or stands in a call that waits for a disk', { skip }, async () => {
    const share = await demandOf(
      'Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 400);',
    );
    assert.ok(share < 0.3, String(share));
  });

  test('is taken from the event loop where the kernel does not say', async () => {
    const demand = new CpuDemand(() => undefined);
    const until = performance.now() + 100;
    while (performance.now() < until);
    assert.ok(demand.share() > 0.7);
    await new Promise((done) => setTimeout(done, 200));
    const share = demand.share();
    assert.ok(share < 0.3, String(share));
  });
});
