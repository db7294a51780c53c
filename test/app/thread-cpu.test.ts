import assert from 'node:assert/strict';
import { once } from 'node:events';
import { describe, test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { CpuDemand } from '../../src/thread-cpu.ts';

const skip = process.platform === 'linux' ? false : 'only Linux tells';

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
