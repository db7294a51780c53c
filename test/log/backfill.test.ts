import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { AppendRequest, LogBatch } from '../../src/log/contract.ts';
import type { EmbeddedAppender } from '../../src/log/embedded/appender.ts';
import { appended, message, oldMessage, range, seqs, take } from '../suites/log.ts';
import { type EmbeddedLog, openEmbedded } from './embedded-log.ts';

const PATIENCE_MS = 10_000;

async function until(done: () => boolean | Promise<boolean>, what: () => string): Promise<void> {
  const end = performance.now() + PATIENCE_MS;
  while (!(await done())) {
    assert.ok(performance.now() < end, what());
    await sleep(20);
  }
}

function both(...requests: AppendRequest[]): AppendRequest {
  const backfill = requests.flatMap((one) => one.records.map((_, i) => one.backfill?.[i] === true));
  return {
    records: requests.flatMap(({ records }) => records),
    tallyKeys: requests.flatMap(({ tallyKeys }) => tallyKeys),
    backfill,
  };
}

const versionOf = (log: EmbeddedLog): unknown =>
  log.edit((db) => db.prepare("SELECT value FROM meta WHERE key = 'version'").get())?.value;

const ofLane = (batches: LogBatch[], partition: number): LogBatch[] =>
  batches.filter((one) => one.partition === partition);

const opened = (log: EmbeddedLog): Promise<EmbeddedAppender> =>
  log.appender({ hasBackfill: true, retainForMs: 0 });

test('old readings of a mixed message stand in a lane of their own, durable together', async (t) => {
  const log = await openEmbedded(t);
  const appender = await opened(log);
  const consumer = log.consumer();
  await appended(appender, message('d1', 0));
  assert.deepEqual([...(await consumer.bounds()).keys()], [0]);
  await appended(appender, both(message('d1', 1), oldMessage('d1', 100), message('d1', 2)));
  await appended(appender, oldMessage('d1', 101));
  assert.deepEqual(
    [...(await consumer.bounds())],
    [
      [0, { first: 0, end: 3 }],
      [1, { first: 0, end: 2 }],
    ],
  );
  const batches = await take(consumer, 'g', 5, { commit: true });
  assert.deepEqual(seqs(ofLane(batches, 0), 'd1'), [0, 1, 2]);
  assert.deepEqual(seqs(ofLane(batches, 1), 'd1'), [100, 101]);
  assert.deepEqual([...(await consumer.committed('g'))].sort(), [
    [0, 3],
    [1, 2],
  ]);
  const received = (await consumer.received({})).reduce((sum, { count }) => sum + count, 0);
  assert.equal(received, 5);
  await until(
    async () => (await consumer.bounds()).get(1)?.first === 2,
    () => 'what was consumed of the lane is not trimmed',
  );
  assert.equal((await consumer.received({}))[0]?.count, 5);
});

test('a log without the lane has old readings among the others', async (t) => {
  const log = await openEmbedded(t);
  const appender = await log.appender();
  await appended(appender, both(message('d1', 0), oldMessage('d1', 1), message('d1', 2)));
  const batches = await take(log.consumer(), 'g', 3);
  assert.deepEqual(seqs(ofLane(batches, 0), 'd1'), range(0, 3));
  assert.equal(appender.stats().backfillWaiting, undefined);
});

test('a lane that is held back waits while live records pass, and is read when it may', async (t) => {
  const log = await openEmbedded(t);
  const appender = await opened(log);
  for (const seq of range(0, 10)) await appended(appender, oldMessage('d1', seq));
  let isHeld = true;
  const stop = new AbortController();
  const seen: LogBatch[] = [];
  const consuming = (async () => {
    const options = { signal: stop.signal, holdsBack: (p: number) => isHeld && p === 1 };
    for await (const batch of log.consumer().consume('g', options)) seen.push(batch);
  })();
  for (const seq of range(50, 60)) await appended(appender, message('d1', seq));
  await until(
    () => seqs(seen, 'd1').length === 10,
    () => `${seqs(seen, 'd1')}`,
  );
  assert.deepEqual(ofLane(seen, 1), []);
  isHeld = false;
  await until(
    () => ofLane(seen, 1).length > 0 && seqs(ofLane(seen, 1), 'd1').length === 10,
    () => `${seqs(seen, 'd1')}`,
  );
  stop.abort();
  await consuming;
});

test('the lane never overtakes what was committed before it', async (t) => {
  const log = await openEmbedded(t);
  const appender = await opened(log);
  for (const seq of range(0, 30)) {
    await appended(appender, message('d1', seq));
    await appended(appender, oldMessage('d1', 100 + seq));
    await appended(appender, both(oldMessage('d1', 200 + seq), message('d1', 300 + seq)));
  }
  const batches = await take(log.consumer(), 'g', 120, { recordsMax: 1 });
  const seen = seqs(batches, 'd1');
  for (const seq of range(0, 30)) {
    assert.ok(seen.indexOf(100 + seq) > seen.indexOf(seq), `${100 + seq} before ${seq}`);
    assert.ok(seen.indexOf(200 + seq) > seen.indexOf(300 + seq), `${200 + seq} before its message`);
  }
});

test('the release before is refused while old readings wait, and may start when none do', async (t) => {
  const log = await openEmbedded(t);
  const first = await opened(log);
  assert.equal(versionOf(log), 1);
  await appended(first, message('d1', 0));
  assert.equal(versionOf(log), 1);
  await appended(first, both(oldMessage('d1', 1), oldMessage('d1', 2)));
  assert.equal(versionOf(log), 2);
  assert.equal(first.stats().backfillWaiting, 2);
  await first.close();
  // Whoever comes next finds it so, and has the rest of them.
  assert.equal(versionOf(log), 2);
  const second = await opened(log);
  await until(
    () => second.stats().backfillWaiting === 2,
    () => `${second.stats().backfillWaiting} wait`,
  );
  const consumer = log.consumer();
  await consumer.commit('g', 1, 1);
  await until(
    () => second.stats().backfillWaiting === 1,
    () => `${second.stats().backfillWaiting} wait`,
  );
  assert.equal(versionOf(log), 2);
  await consumer.commit('g', 1, 2);
  await until(
    () => versionOf(log) === 1,
    () => `version ${versionOf(log)}`,
  );
  assert.equal(second.stats().backfillWaiting, 0);
  await appended(second, oldMessage('d1', 3));
  assert.equal(versionOf(log), 2);
  await consumer.commit('g', 1, 3);
  // At the stop nobody waits for the next look.
  await second.close();
  assert.equal(versionOf(log), 1);
  assert.equal((await consumer.received({}))[0]?.count, 4);
});

test('a group that is ahead of the lane is refused', async (t) => {
  const log = await openEmbedded(t);
  const appender = await opened(log);
  await appended(appender, oldMessage('d1', 0));
  await log.consumer().commit('g', 1, 5);
  await appender.close();
  await assert.rejects(opened(log), { code: 'LOG_CORRUPT', message: /ends at offset 1.*up to 5/ });
});
