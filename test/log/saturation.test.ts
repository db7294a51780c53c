import assert from 'node:assert/strict';
import { test } from 'node:test';
import { message, range, seqs, take } from '../suites/log.ts';
import { openEmbedded } from './embedded-log.ts';

test('beyond its bound the log refuses; at half of it callers shall stop, and hear when to go on', async (t) => {
  const log = await openEmbedded(t, { pendingBytesMax: 100_000 });
  const appender = await log.appender();
  const text = 'x'.repeat(9_000);
  const results: (string | null)[] = [];
  let relieved = 0;
  const relief = new Promise<void>((resolve) => {
    appender.onRelief(() => {
      relieved++;
      assert.equal(appender.saturated, false);
      assert.ok(appender.stats().pendingBytes < 25_000);
      resolve();
    });
  });
  const saturatedAt: boolean[] = [];
  const settled = range(0, 20).map(
    (seq) =>
      new Promise<void>((resolve) => {
        appender.append(message('d1', seq, { text }), (error) => {
          results[seq] = error === null ? null : (error as Error & { code: string }).code;
          resolve();
        });
        saturatedAt.push(appender.saturated);
      }),
  );
  assert.equal(results.length, 0);
  assert.equal(saturatedAt[4], false);
  assert.equal(saturatedAt[5], true);
  await relief;
  await Promise.all(settled);
  const taken = results.filter((result) => result === null).length;
  assert.ok(taken >= 10 && taken <= 11, `${taken} were taken`);
  assert.deepEqual(
    results.slice(taken),
    range(taken, 20).map(() => 'LOG_SATURATED'),
  );
  assert.equal(relieved, 1);
  await new Promise<void>((resolve) => appender.append(message('d1', 20), () => resolve()));
  assert.deepEqual(seqs(await take(log.consumer(), 'g', taken + 1), 'd1'), [
    ...range(0, taken),
    20,
  ]);
});

test('what waits behind a commit is not committed as one, however much it is', async (t) => {
  const log = await openEmbedded(t, { commitRecordsMax: 100, commitBytesMax: 50_000 });
  const commits: number[] = [];
  const appender = await log.appender({}, { onCommit: (_ms, records) => commits.push(records) });
  for (const seq of range(0, 1_000)) appender.append(message('d1', seq), () => {});
  await appender.flush();
  assert.ok(commits.length >= 10);
  assert.ok(Math.max(...commits) <= 100);
  commits.length = 0;
  const text = 'x'.repeat(20_000);
  for (const seq of range(1_000, 1_030)) appender.append(message('d1', seq, { text }), () => {});
  await appender.flush();
  assert.ok(Math.max(...commits) <= 3, `${commits}`);
  assert.deepEqual(seqs(await take(log.consumer(), 'g', 1_030), 'd1'), range(0, 1_030));
});

test('a flood that appends from its callbacks keeps neither timers nor sockets waiting', async (t) => {
  const log = await openEmbedded(t);
  const appender = await log.appender();
  let running = true;
  let commits = 0;
  let turns = 0;
  const busy = (ms: number) => {
    const end = performance.now() + ms;
    while (performance.now() < end);
  };
  // A callback takes longer than a commit, and one of two is always on its way: its answer is there already
  // when the callback ends.
  const chain = () => {
    if (!running) return;
    appender.append(message('d1', commits++), () => {
      busy(20);
      chain();
    });
  };
  chain();
  await new Promise((done) => setImmediate(done));
  chain();
  let commitsMax = 0;
  let before = commits;
  while (turns < 20) {
    await new Promise((done) => setTimeout(done, 1));
    turns++;
    commitsMax = Math.max(commitsMax, commits - before);
    before = commits;
    if (commits > 500) break;
  }
  running = false;
  await appender.flush();
  assert.ok(commitsMax <= 5, `${commitsMax} commits in one turn of the event loop`);
});
