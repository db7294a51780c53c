import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { ReadingRecord } from '../../src/core/nouns.ts';
import { PROTOCOL } from '../../src/log/kafka/errors.ts';
import { range } from '../suites/log.ts';
import { type ForeignRecord, readTopic, SKIP } from './kafka-env.ts';
import { openKafkaLog } from './kafka-log.ts';
import { FETCH, failProduce, KafkaProxy, PRODUCE } from './kafka-proxy.ts';
import { assertExact, DeviceStream, Follower, seqsInKafka, until } from './kafka-stream.ts';
import { kafkaProgram, NO_PROGRAM, OwnKafka } from './own-kafka.ts';

const program = SKIP === false ? kafkaProgram() : undefined;
const skip = SKIP || (program === undefined && NO_PROGRAM);
const SETTINGS = { connectTimeoutMs: 500, requestTimeoutMs: 1_000 };
/** The records are appended, but not enough replicas have them. */
const NOT_ENOUGH_REPLICAS_AFTER_APPEND = 20;
const NOT_LEADER = 6;

function byDevice(records: readonly ForeignRecord[]): Map<string, number[]> {
  const found = new Map<string, number[]>();
  for (const { value } of records) {
    const { device, seq = -1 } = JSON.parse(value ?? '') as ReadingRecord;
    found.set(device, [...(found.get(device) ?? []), seq]);
  }
  return found;
}

describe('answers that are lost or bad', { skip }, () => {
  let proxy: KafkaProxy;
  let kafka: OwnKafka;

  before(async () => {
    if (program === undefined) return;
    proxy = await KafkaProxy.open();
    kafka = await OwnKafka.start(program, { advertised: proxy.port });
    const [address = ''] = kafka.brokers;
    proxy.lead(Number(address.split(':')[1]));
  });
  after(async () => {
    await proxy?.close();
    await kafka?.remove();
  });

  const open = (t: Parameters<typeof openKafkaLog>[0]) =>
    openKafkaLog(
      t,
      { acknowledgeTimeoutMs: 500, lingerMs: 1 },
      { brokers: [`127.0.0.1:${proxy.port}`], settings: SETTINGS },
    );

  test('what is sent again because its answer was lost stands once in Kafka', async (t) => {
    const log = await open(t);
    const stream = log.place.own(new DeviceStream(await log.spool.appender(), 20, 1));
    const forwarder = log.forwarder();
    await until(
      'something is forwarded',
      20_000,
      () => (forwarder.stats().forwardedOffset ?? 0) > 0,
    );
    let lost = 0;
    let answers = 0;
    proxy.onAnswer = (apiKey) => {
      if (apiKey !== PRODUCE || lost >= 6 || ++answers % 5 !== 0) return 'pass';
      lost += 1;
      // In turn: the connection ends, or nothing ever comes.
      if (lost % 2 === 0) proxy.cut();
      return 'swallow';
    };
    await until('6 answers were lost', 60_000, () => lost === 6);
    proxy.onAnswer = () => 'pass';
    await stream.stop();
    assert.equal(await forwarder.drained(), true);
    assert.ok(forwarder.stats().retries >= 6);
    assertExact(await seqsInKafka(log.place), stream.counts());
  });

  for (const [what, code, isOnce] of [
    [
      'says that replicas are missing after it has appended',
      NOT_ENOUGH_REPLICAS_AFTER_APPEND,
      true,
    ],
    ['says that it leads the partition no more', NOT_LEADER, true],
    ['has forgotten the producer', PROTOCOL.UNKNOWN_PRODUCER_ID, false],
    ['misses a batch of the producer', PROTOCOL.OUT_OF_ORDER_SEQUENCE_NUMBER, false],
  ] as const) {
    test(`a broker that ${what} gets the batch again; readers see it once`, async (t) => {
      const log = await open(t);
      const stream = log.place.own(new DeviceStream(await log.spool.appender(), 20, 1));
      const forwarder = log.forwarder();
      await until(
        'something is forwarded',
        20_000,
        () => (forwarder.stats().forwardedOffset ?? 0) > 0,
      );
      let bad = 0;
      let answers = 0;
      proxy.onAnswer = (apiKey, body) => {
        if (apiKey === PRODUCE && bad < 6 && ++answers % 4 === 0) {
          bad += 1;
          failProduce(body, code);
        }
        return 'pass';
      };
      await until('6 bad answers', 60_000, () => bad === 6);
      proxy.onAnswer = () => 'pass';
      await stream.stop();
      assert.equal(await forwarder.drained(), true);
      const all = await readTopic(log.place, 'readings');
      // The broker knows a batch by its producer's number; after a new identity only readers do.
      if (isOnce) assert.equal(all.length, stream.sent);
      else assert.ok(all.length > stream.sent, 'some came twice');
      const last = new Map<number, number>();
      const once = all.filter(({ partition, headers }) => {
        const number = Number(headers.number);
        if (number <= (last.get(partition) ?? -1)) return false;
        last.set(partition, number);
        return true;
      });
      assertExact(byDevice(once), stream.counts());
    });
  }

  test('a connection that has gone silent is given up, and reading goes on', async (t) => {
    const log = await open(t);
    const stream = log.place.own(new DeviceStream(await log.spool.appender(), 20, 1));
    log.forwarder();
    const follower = log.place.own(new Follower(log.place.consumer(), 'g'));
    await until('something comes', 20_000, () => follower.count > 500);
    for (const _ of range(0, 2)) {
      proxy.silence();
      const before = follower.count;
      const began = performance.now();
      await until('something comes again', 20_000, () => follower.count > before + 2_000);
      t.diagnostic(`again after ${Math.round(performance.now() - began)} ms`);
    }
    await stream.stop();
    await until('all is consumed', 20_000, () => follower.count >= stream.sent);
    assertExact(follower.seqs, stream.counts());
    // The test's own client does not know yet.
    proxy.cut();
  });

  test('fetches that are answered with nothing for ever make reading begin anew', async (t) => {
    const log = await open(t);
    const appender = await log.appender();
    const follower = log.place.own(new Follower(log.place.consumer(), 'g'));
    const stream = log.place.own(new DeviceStream(appender, 20, 1));
    await until('something comes', 20_000, () => follower.count > 500);
    // As from a broker that has lost its way: there is more, it says, but here is nothing of it.
    let isBlind = true;
    proxy.onAnswer = (apiKey, body) => {
      if (apiKey === FETCH && isBlind) emptyFetch(body);
      return 'pass';
    };
    const { logger } = log.place;
    const restarted = () => logger.lines.some(({ message }) => /make no progress/.test(message));
    await until('the watchdog has seen it', 30_000, restarted);
    isBlind = false;
    await stream.stop();
    await until('all is consumed', 20_000, () => follower.count >= stream.sent);
    assertExact(follower.seqs, stream.counts());
  });
});

/** Makes the records of an answer to Fetch (version 11) a part of no batch. */
function emptyFetch(body: Buffer): void {
  let at = 4 + 2 + 4;
  const int32 = () => {
    at += 4;
    return body.readInt32BE(at - 4);
  };
  for (let topics = int32(); topics > 0; topics--) {
    at += 2 + body.readInt16BE(at);
    for (let partitions = int32(); partitions > 0; partitions--) {
      at += 4 + 2 + 8 + 8 + 8;
      const aborted = Math.max(0, int32());
      at += aborted * 16 + 4;
      const length = Math.max(0, int32());
      // A batch that is longer than what came is a cut off one.
      if (length >= 12) body.writeInt32BE(0x7fffff, at + 8);
      at += length;
    }
  }
}
