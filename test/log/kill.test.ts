import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { range, seqs, take } from '../suites/log.ts';
import { openEmbedded } from './embedded-log.ts';

const CHILD = fileURLToPath(new URL('appending-child.ts', import.meta.url));
const KILLS = 10;
/** Longer than a commit takes, so that kills fall before, into and behind one. */
const WITHIN_MS = 60;

test('kill -9 at any moment: what was called back is there, once, in order, whole', async (t) => {
  const log = await openEmbedded(t);
  let next = 0;
  for (let kill = 0; kill < KILLS; kill++) {
    const child = spawn(process.execPath, [CHILD, log.dir, String(next)], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    t.after(() => child.kill('SIGKILL'));
    let printed = '';
    child.stdout.setEncoding('utf8').on('data', (text) => {
      printed += text;
    });
    const closed = once(child, 'close');
    await once(child.stdout, 'data');
    await sleep(Math.random() * WITHIN_MS);
    // Every other time in the very moment in which something was called back.
    if (kill % 2 === 0) await once(child.stdout, 'data');
    child.kill('SIGKILL');
    await closed;
    const numbers = printed.split('\n').slice(0, -1).map(Number);
    assert.ok(numbers.length > 0);
    assert.deepEqual(numbers, range(next, next + numbers.length));

    const consumer = log.consumer();
    const [bounds] = (await consumer.bounds()).values();
    const end = bounds?.end ?? 0;
    const readings = seqs(await take(consumer, 'g', end), 'd1');
    assert.deepEqual(readings, range(0, end));
    assert.equal(end % 3, 0, 'a message is there in part');
    const acknowledged = next + numbers.length;
    assert.ok(end / 3 >= acknowledged, `${acknowledged} acknowledged, ${end / 3} there`);
    assert.deepEqual(
      (await consumer.received({})).map(({ count }) => count),
      [end],
    );
    await consumer.close();
    next = end / 3;
  }
});
