import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { appended, message, range, seqs, take } from '../suites/log.ts';
import { openEmbedded } from './embedded-log.ts';

const BUDGET = 512 * 2 ** 10;
const MESSAGES = 120;
const text = 'x'.repeat(16_000);

/** A log of 512 KiB with 120 messages of 16 kB appended, full. */
async function openFull(t: TestContext) {
  const log = await openEmbedded(t, {
    compression: 'none',
    commitRecordsMax: 2,
    diskBytesMax: BUDGET,
  });
  const events: string[] = [];
  const full = new EventTarget();
  const appender = await log.appender(
    {},
    {
      onFull: (isFull, reason) => {
        events.push(isFull ? `full ${reason}` : 'space');
        full.dispatchEvent(new Event(isFull ? 'full' : 'space'));
      },
    },
  );
  const order: number[] = [];
  const errors: string[] = [];
  const isFull = once(full, 'full');
  const all = range(0, MESSAGES).map(
    (seq) =>
      new Promise<void>((resolve) => {
        appender.append(message('d1', seq, { text }), (error) => {
          if (error === null) order.push(seq);
          else errors.push((error as Error & { code: string }).code);
          resolve();
        });
      }),
  );
  await isFull;
  return { log, appender, events, order, errors, all: Promise.all(all) };
}

test('a used-up budget: acknowledgements wait until the consumers have made room', async (t) => {
  const { log, appender, events, order, errors, all } = await openFull(t);
  const acknowledged = order.length;
  assert.ok(acknowledged > 20 && acknowledged < 40, `${acknowledged} fit`);
  // Beyond several tries.
  await sleep(800);
  assert.equal(order.length, acknowledged);
  assert.deepEqual(events, ['full budget']);
  assert.equal(appender.full, true);
  const stats = appender.stats();
  assert.equal(stats.full, true);
  assert.ok(stats.diskBytes >= BUDGET && stats.diskBytes < BUDGET + 40_000, `${stats.diskBytes}`);
  assert.equal(stats.pendingRecords, MESSAGES - acknowledged);
  assert.ok(stats.pendingBytes > (MESSAGES - acknowledged) * 16_000);

  // A consumer that does not commit makes no room.
  const consumer = log.consumer();
  await take(consumer, 'g', acknowledged);
  await sleep(400);
  assert.equal(order.length, acknowledged);

  const batches = await take(consumer, 'g', MESSAGES, { recordsMax: 1, commit: true });
  await all;
  assert.deepEqual(errors, []);
  assert.deepEqual(order, range(0, MESSAGES));
  assert.deepEqual(seqs(batches, 'd1'), range(0, MESSAGES));
  assert.equal(appender.full, false);
  assert.ok(appender.stats().firstOffset > 0);
  assert.equal(appender.stats().pendingRecords, 0);
  assert.equal(events.at(-1), 'space');
  events.forEach((event, i) => {
    assert.equal(event, i % 2 === 0 ? 'full budget' : 'space');
  });
  assert.deepEqual(
    (await consumer.received({})).map(({ count }) => count),
    [MESSAGES],
  );
});

test('a full log closes at once: what waits is refused, what was acknowledged is there', async (t) => {
  const { log, appender, order, errors, all } = await openFull(t);
  const acknowledged = order.length;
  const flushed = appender.flush();
  await appender.close();
  await assert.rejects(flushed, { code: 'LOG_CLOSED' });
  await all;
  assert.deepEqual(
    errors,
    range(acknowledged, MESSAGES).map(() => 'LOG_CLOSED'),
  );
  const again = await log.appender({ diskBytesMax: 2 ** 30 });
  await appended(again, message('d1', 1_000));
  const batches = await take(log.consumer(), 'g', acknowledged + 1);
  assert.deepEqual(seqs(batches, 'd1'), [...range(0, acknowledged), 1_000]);
});

test('a log that becomes full while it closes, closes', async (t) => {
  const log = await openEmbedded(t, {
    compression: 'none',
    commitRecordsMax: 2,
    diskBytesMax: BUDGET,
  });
  const appender = await log.appender();
  const results: (string | undefined)[] = [];
  for (const seq of range(0, MESSAGES)) {
    appender.append(message('d1', seq, { text }), (error) => {
      results.push((error as { code?: string } | null)?.code);
    });
  }
  await appender.close();
  assert.equal(results.length, MESSAGES);
  const acknowledged = results.filter((code) => code === undefined).length;
  assert.deepEqual(
    results.slice(acknowledged),
    range(acknowledged, MESSAGES).map(() => 'LOG_CLOSED'),
  );
  await log.appender({ diskBytesMax: 2 ** 30 });
  const batches = await take(log.consumer(), 'g', acknowledged);
  assert.deepEqual(seqs(batches, 'd1'), range(0, acknowledged));
});
