import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import mqtt from 'mqtt';
import type { Explanation } from '../../src/http/explain.ts';
import { command, SpillwayProcess } from './spillway-process.ts';

const PATIENCE_MS = 90_000;

test('numbers that are missing are named by explain, after a kill too, and counted', {
  timeout: 200_000,
}, async (t) => {
  const program = new SpillwayProcess(t, {
    rollup: { flushInterval: '200ms' },
    types: { probe: { metrics: { v: { max: 10 } } } },
  });
  const [device] = program.addDevices('acme', 'probe', ['d1']);
  assert.ok(device !== undefined);
  const operator = await command(t, ['token', 'add', '--operator', '--config', program.file]);
  const token = operator.stdout.trim();
  const explain = async (format: 'json' | 'text') => {
    const args = ['explain', 'acme/d1', '--url', program.httpUrl, '--format', format];
    const { code, stdout, stderr } = await command(t, args, { SPILLWAY_TOKEN: token });
    assert.equal(code, 0, stderr);
    return stdout;
  };
  const from = Date.now() - 60_000;
  const send = async (seqs: readonly number[], v = 1) => {
    const client = await mqtt.connectAsync(program.url, {
      ...{ username: 'acme/d1', password: device.secret, clientId: 'acme/d1', reconnectPeriod: 0 },
    });
    for (const seq of seqs) {
      const payload = JSON.stringify({ ts: from + seq * 100, seq, values: { v } });
      await client.publishAsync('me/telemetry', payload, { qos: 1 });
    }
    await client.endAsync();
  };
  await program.start();
  await send([0, 1, 2, 5, 6, 9]);
  await program.kill();
  await program.start();
  // Over the kill 10 to 12 are missing, after it 15; 7 is refused, and 3 comes late.
  await send([13, 14, 16, 3]);
  await send([7], 99);
  const late = performance.now() + PATIENCE_MS;
  const until = async (done: () => Promise<boolean>, what: string) => {
    while (!(await done())) {
      assert.ok(performance.now() < late, what);
      await sleep(200);
    }
  };
  const seen: NonNullable<Explanation['sequence']>[] = [];
  await until(async () => {
    const { sequence } = JSON.parse(await explain('json')) as Explanation;
    if (sequence?.readings !== 10 || sequence.refused !== 1) return false;
    seen.push(sequence);
    return true;
  }, 'not all is in the store');
  const [{ missing, gaps, restarts, firstSeq, lastSeq }] = seen as [(typeof seen)[number]];
  assert.deepEqual([missing, restarts, firstSeq, lastSeq], [7, 0, 0, 16]);
  assert.deepEqual(
    gaps.map(({ first, last, refused }) => [first, last, refused]),
    [
      [4, 4, 0],
      [7, 8, 1],
      [10, 12, 0],
      [15, 15, 0],
    ],
  );
  const text = await explain('text');
  assert.match(
    text,
    /^by its own counter 10 readings from 0 to 16, 7 missing in 4 gaps, 1 of them/m,
  );
  assert.match(text, /^ {2}10 to 12 \(3\) between \S+ and \S+$/m);
  assert.match(text, /^ {2}partition 0: log to \d+, store to \d+$/m);
  await until(async () => {
    const metrics = await (await fetch(`${program.httpUrl}/metrics`)).text();
    return /^spillway_sequence_missing_readings [1-9]/m.test(metrics);
  }, 'nothing is missing in the metrics');
  await program.stop();
});
