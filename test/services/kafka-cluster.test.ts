import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { SKIP, TOPICS } from './kafka-env.ts';
import { openKafkaLog } from './kafka-log.ts';
import { assertExact, DeviceStream, Follower, seqsInKafka, until } from './kafka-stream.ts';
import { kafkaProgram, NO_PROGRAM, OwnKafka } from './own-kafka.ts';

const program = SKIP === false ? kafkaProgram() : undefined;
const skip = SKIP || (program === undefined && NO_PROGRAM);
const SETTINGS = { connectTimeoutMs: 1_000, requestTimeoutMs: 3_000 };
const TOPIC = { ...TOPICS.readings, partitions: 4, replication: 2 };
const TABLE = { ...TOPICS.registry, replication: 2 };

describe('a cluster of two brokers', { skip }, () => {
  let kafka: OwnKafka;

  before(async () => {
    if (program !== undefined) kafka = await OwnKafka.start(program, { nodes: 2 });
  });
  after(() => kafka?.remove());

  test('when a broker dies others lead its partitions; all goes on without it, and when it is back', async (t) => {
    const log = await openKafkaLog(
      t,
      { acknowledgeTimeoutMs: 1_500 },
      {
        brokers: kafka.brokers,
        settings: SETTINGS,
        topics: {
          readings: TOPIC,
          'dead-letters': TOPIC,
          presence: TOPIC,
          backfill: TOPIC,
          commands: TOPIC,
          registry: TABLE,
          received: TABLE,
          processes: TABLE,
        },
      },
    );
    const { place } = log;
    const leaders = async () => {
      const { topics } = await place.admin.fetchTopicMetadata({ topics: [place.name('readings')] });
      return new Set(topics[0]?.partitions.map(({ leader }) => leader));
    };
    await until('both lead something', 20_000, async () => (await leaders()).size === 2);
    const stream = place.own(new DeviceStream(await log.spool.appender(), 20, 1));
    const forwarder = log.forwarder();
    const follower = place.own(new Follower(place.consumer(), 'g'));
    await until('something comes', 20_000, () => follower.count > 1_000);
    await kafka.kill(1);
    const died = performance.now();
    const sent = stream.sent;
    await until('what came afterwards is consumed', 60_000, () => follower.count > sent + 500);
    t.diagnostic(`all goes on ${Math.round(performance.now() - died)} ms after the death`);
    assert.deepEqual(await leaders(), new Set([1]));
    await kafka.run(1);
    await sleep(2_000);
    await stream.stop();
    assert.equal(await forwarder.drained(), true);
    assertExact(await seqsInKafka(place), stream.counts());
    await until('all is consumed', 30_000, () => follower.count >= stream.sent);
    assertExact(follower.seqs, stream.counts());
  });
});
