import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { LogBatch } from '../../src/log/contract.ts';
import { appended, message, oldMessage, range, seqs } from '../suites/log.ts';
import { SKIP } from './kafka-env.ts';
import { openKafkaLog } from './kafka-log.ts';

const PATIENCE_MS = 60_000;
const OLD = 6_000;

describe('the lane of old readings', { skip: SKIP }, () => {
  test('held back it waits while live records pass; then it comes whole, a thousand at a time', async (t) => {
    const log = await openKafkaLog(t);
    const appender = await log.appender();
    const consumer = log.consumer();
    for (const from of range(0, OLD / 1_000)) {
      const part = range(from * 1_000, from * 1_000 + 1_000).map((seq) => oldMessage('d1', seq));
      await appended(appender, {
        records: part.flatMap(({ records }) => records),
        tallyKeys: part.flatMap(({ tallyKeys }) => tallyKeys),
        backfill: part.map(() => true),
      });
    }
    const stop = new AbortController();
    let isHeld = true;
    const live: LogBatch[] = [];
    const lane: LogBatch[] = [];
    const consuming = (async () => {
      const holdsBack = (partition: number) => isHeld && consumer.isBackfill?.(partition) === true;
      for await (const batch of consumer.consume('g', { signal: stop.signal, holdsBack })) {
        (consumer.isBackfill?.(batch.partition) === true ? lane : live).push(batch);
      }
    })();
    const until = async (done: () => boolean, what: () => string) => {
      const late = performance.now() + PATIENCE_MS;
      while (!done()) {
        assert.ok(performance.now() < late, what());
        await sleep(20);
      }
    };
    for (const seq of range(0, 50)) await appended(appender, message('d1', OLD + seq));
    await until(
      () => seqs(live, 'd1').length === 50,
      () => `${seqs(live, 'd1').length} live records`,
    );
    assert.equal(lane.length, 0);
    isHeld = false;
    await until(
      () => seqs(lane, 'd1').length === OLD,
      () => `${seqs(lane, 'd1').length} old records`,
    );
    stop.abort();
    await consuming;
    assert.deepEqual(seqs(lane, 'd1'), range(0, OLD));
    assert.ok(lane.every(({ records }) => records.length <= 1_000));
    // All of the device is in partitions of one number, which one worker has.
    const numbers = [...live, ...lane].map(({ partition }) => partition % 1_024);
    assert.equal(new Set(numbers).size, 1);
  });
});
