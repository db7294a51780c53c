import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { CompactedTable } from '../../src/log/kafka/compacted-table.ts';
import { appended, message, range } from '../suites/log.ts';
import { openKafka, SKIP } from './kafka-env.ts';
import { openKafkaLog } from './kafka-log.ts';
import { assertExact, DeviceStream, Follower, seqsInKafka, until } from './kafka-stream.ts';
import { kafkaProgram, NO_PROGRAM, OwnKafka } from './own-kafka.ts';

const program = SKIP === false ? kafkaProgram() : undefined;
const skip = SKIP || (program === undefined && NO_PROGRAM);
const SETTINGS = { connectTimeoutMs: 1_000, requestTimeoutMs: 4_000 };

describe('a Kafka that fails', { skip }, () => {
  let kafka: OwnKafka;

  before(async () => {
    if (program !== undefined) kafka = await OwnKafka.start(program);
  });
  after(() => kafka.remove());

  for (const [how, seconds] of [
    ['killed and started again', 2],
    ['paused for 30 s', 30],
  ] as const) {
    test(`while Kafka is ${how}, devices are answered; nothing is lost, repeated or reordered`, async (t) => {
      const where = { brokers: kafka.brokers, settings: SETTINGS };
      const log = await openKafkaLog(t, { acknowledgeTimeoutMs: 2_000 }, where);
      const appender = await log.spool.appender();
      const forwarder = log.forwarder();
      const follower = log.place.own(new Follower(log.place.consumer(), 'g'));
      const stream = log.place.own(new DeviceStream(appender, 20, 1));
      await until('something comes', 20_000, () => follower.count > 1_000);
      if (seconds === 2) await kafka.kill();
      else kafka.pause();
      const before = stream.acknowledged;
      await sleep(seconds * 1_000);
      assert.ok(stream.acknowledged - before > seconds * 500, 'devices were answered meanwhile');
      const { forwardedOffset: away = 0 } = forwarder.stats();
      if (seconds === 2) await kafka.run();
      else kafka.resume();
      const began = performance.now();
      await until('Kafka takes records again', 30_000, () => {
        const { forwardedOffset = 0, lastError } = forwarder.stats();
        return forwardedOffset > away && lastError === undefined;
      });
      const back = performance.now() - began;
      await sleep(500);
      await stream.stop();
      assert.equal(await forwarder.drained(), true);
      t.diagnostic(
        `taken again after ${Math.round(back)} ms, all in after ${Math.round(performance.now() - began)} ms`,
      );
      assertExact(await seqsInKafka(log.place), stream.counts());
      await until('all is consumed', 30_000, () => follower.count >= stream.sent);
      assertExact(follower.seqs, stream.counts());
    });
  }

  test('with `acknowledge: replicated` devices wait for Kafka, within bounds', async (t) => {
    const where = { brokers: kafka.brokers, settings: SETTINGS };
    const log = await openKafkaLog(t, {}, where);
    const appender = await log.appender();
    await appended(appender, message('d0', 0));
    await kafka.kill();
    const errors: (Error | null)[] = [];
    const order: number[] = [];
    for (const seq of range(1, 60_000)) {
      appender.append(message('d0', seq), (error) => {
        errors.push(error);
        if (error === null) order.push(seq);
      });
      if (seq % 5_000 === 0) await sleep(5);
    }
    await log.spool.consumer().bounds();
    await sleep(2_000);
    // 50,000 may wait; what came after them is refused at once, and nothing is acknowledged.
    assert.deepEqual(order, []);
    assert.equal(appender.saturated, true);
    assert.equal(errors.length, 59_999 - 50_001);
    assert.ok(errors.every((error) => (error as { code?: string }).code === 'LOG_SATURATED'));
    assert.ok(appender.stats().pendingRecords <= 50_001);
    const relieved = new Promise<void>((resolve) => appender.onRelief(resolve));
    await kafka.run();
    await relieved;
    await appender.flush();
    assert.deepEqual(order, range(1, 50_002));
    assert.equal(appender.saturated, false);
    assertExact(await seqsInKafka(log.place), new Map([['d0', 50_002]]));
  });

  test('a table of all processes is the same everywhere within 2 s, also after a restart of Kafka', async (t) => {
    const place = await openKafka(t, { brokers: kafka.brokers, settings: SETTINGS });
    const { settings, logger } = place;
    const open = () =>
      place.own(new CompactedTable<number>({ settings, logger, topic: place.name('registry') }));
    const [one, other] = [open(), open()];
    await Promise.all([one.ready(), other.ready()]);
    const seen = (key: string, value: number | undefined) =>
      until(`${key} is ${value}`, 2_000, () => other.get(key) === value);
    await one.put('a', 1);
    assert.equal(one.get('a'), 1);
    await seen('a', 1);
    await kafka.kill();
    const put = one.put('b', 2);
    await sleep(500);
    await kafka.run();
    await put;
    await until('the other one reads again', 15_000, () => other.get('b') === 2);
    await one.putAll([
      ['a', null],
      ['c', 3],
    ]);
    await seen('a', undefined);
    await seen('c', 3);
    const late = open();
    await late.ready();
    assert.deepEqual(
      new Map(late.entries()),
      new Map([
        ['b', 2],
        ['c', 3],
      ]),
    );
  });
});
