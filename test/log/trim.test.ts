import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ReceivedCount } from '../../src/core/nouns.ts';
import type { EmbeddedAppender } from '../../src/log/embedded/appender.ts';
import { message, range, seqs, take } from '../suites/log.ts';
import { openEmbedded } from './embedded-log.ts';

async function until(done: () => boolean, what: () => string): Promise<void> {
  // A few rounds of housekeeping.
  const end = Date.now() + 5_000;
  while (!done()) {
    assert.ok(Date.now() < end, what());
    await sleep(20);
  }
}

const firstOffset = (appender: EmbeddedAppender) => () =>
  `first offset ${appender.stats().firstOffset}`;

function counts(received: ReceivedCount[]): [string, number][] {
  return received.map(({ device, count }) => [device, count] as [string, number]).sort();
}

test('the account is dropped a day after its retention', async (t) => {
  const DAY = 86_400_000;
  const log = await openEmbedded(t, { accountForMs: 3 * DAY });
  const first = await log.appender();
  first.append(message('d1', 1), () => {});
  await first.close();
  const consumer = log.consumer();
  const before = (await consumer.received({})).length;
  log.edit((db) => {
    const hour = Math.floor(Date.now() / 3_600_000) * 3_600_000;
    const add = db.prepare("INSERT INTO received VALUES ('acme', 'old', ?, 'reading', '', 1)");
    for (let h = 1; h <= 10 * 24; h += 1) add.run(hour - h * 3_600_000);
  });
  const appender = await log.appender();
  const left = async () => (await consumer.received({})).length - before;
  const end = Date.now() + 5_000;
  while ((await left()) > 4 * 24) {
    assert.ok(Date.now() < end, `${await left()} lines`);
    await sleep(50);
  }
  await sleep(1_100);
  // The hour may have turned meanwhile.
  assert.ok((await left()) >= 4 * 24 - 1, `${await left()} lines`);
  await appender.close();
});

describe('trimming', { concurrency: true }, () => {
  test('trims by age what every group has consumed, in steps, and forgets no count', async (t) => {
    const log = await openEmbedded(t, { retainForMs: 0, commitRecordsMax: 1 });
    const appender = await log.appender();
    const consumer = log.consumer();
    for (const seq of range(0, 600)) appender.append(message('d1', seq), () => {});
    await appender.flush();
    const before = counts(await consumer.received({}));
    assert.deepEqual(before, [['d1', 600]]);
    // No group has consumed anything: nothing may go, however old.
    await sleep(1_200);
    assert.equal(appender.stats().firstOffset, 0);
    await consumer.commit('fast', 0, 600);
    await consumer.commit('slow', 0, 550);
    // More than one step of trimming, within one round of housekeeping.
    await until(() => appender.stats().firstOffset === 550, firstOffset(appender));
    assert.deepEqual(counts(await consumer.received({})), before);
    assert.deepEqual(seqs(await take(consumer, 'slow', 50), 'd1'), range(550, 600));
    // A group that comes late gets what is left.
    const late = await take(consumer, 'late', 50);
    assert.equal(late[0]?.firstOffset, 550);
    assert.deepEqual([...(await consumer.bounds()).values()], [{ first: 550, end: 600 }]);
    await consumer.commit('slow', 0, 600);
    await until(() => appender.stats().firstOffset === 600, firstOffset(appender));
    assert.deepEqual([...(await consumer.bounds()).values()], [{ first: 600, end: 600 }]);
    await appender.close();
    // An empty log goes on where it was.
    const again = await log.appender();
    assert.deepEqual([again.stats().firstOffset, again.stats().endOffset], [600, 600]);
    again.append(message('d1', 600), () => {});
    await again.flush();
    const [next] = await take(log.consumer(), 'fast', 1);
    assert.deepEqual(
      [next?.firstOffset, seqs(next === undefined ? [] : [next], 'd1')],
      [600, [600]],
    );
    assert.deepEqual(counts(await log.consumer().received({})), [['d1', 601]]);
  });

  test('trims by size what is younger', async (t) => {
    const log = await openEmbedded(t, {
      compression: 'none',
      retainForMs: 3_600_000,
      retainBytes: 400_000,
      commitRecordsMax: 1,
    });
    const appender = await log.appender();
    const consumer = log.consumer();
    const text = 'x'.repeat(10_000);
    for (const seq of range(0, 80)) appender.append(message('d1', seq, { text }), () => {});
    await appender.flush();
    assert.ok(appender.stats().diskBytes > 800_000);
    await consumer.commit('g', 0, 80);
    await until(() => appender.stats().diskBytes <= 400_000, firstOffset(appender));
    await sleep(1_100);
    const { firstOffset: first, diskBytes } = appender.stats();
    assert.ok(first > 40 && first < 60, `${first}`);
    assert.ok(diskBytes > 250_000, `${diskBytes}`);
    assert.deepEqual(counts(await consumer.received({})), [['d1', 80]]);
  });
});
