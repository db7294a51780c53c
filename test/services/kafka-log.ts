import type { TestContext } from 'node:test';
import type { LogConsumer } from '../../src/log/contract.ts';
import type { Forwarder, ForwarderOptions } from '../../src/log/kafka/forwarder.ts';
import { ReplicatedAppender } from '../../src/log/kafka/replicated-appender.ts';
import { type EmbeddedLog, openEmbedded } from '../log/embedded-log.ts';
import type { LogUnderTest } from '../suites/log.ts';
import { type KafkaPlace, openKafka, type PlaceOptions } from './kafka-env.ts';

export interface KafkaLog extends LogUnderTest {
  place: KafkaPlace;
  spool: EmbeddedLog;
  appender(): Promise<ReplicatedAppender>;
  forwarder(): Forwarder;
}

/** A spool, a forwarder behind it, and Kafka: `acknowledge: replicated`. */
export async function openKafkaLog(
  t: TestContext,
  options: Partial<ForwarderOptions> = {},
  where: PlaceOptions = {},
): Promise<KafkaLog> {
  const spool = await openEmbedded(t);
  const place = await openKafka(t, where);
  let current: ReplicatedAppender | undefined;
  let forwarder: Forwarder | undefined;
  const start = () => {
    forwarder ??= place.forwarder(spool.consumer(), {
      ...options,
      onForwarded: (offset) => current?.forwarded(offset),
    });
    return forwarder;
  };
  return {
    place,
    spool,
    forwarder: start,
    async appender() {
      current = new ReplicatedAppender({
        spool: await spool.appender(),
        pendingRecordsMax: 50_000,
        pendingBytesMax: 64 * 2 ** 20,
        closeTimeoutMs: 3_000,
      });
      start();
      return current;
    },
    consumer(): LogConsumer {
      const consumer = place.consumer();
      // The suite asks for the account as soon as its appends are durable.
      const received: LogConsumer['received'] = async (filter) => {
        await start().drained();
        return consumer.received(filter);
      };
      return Object.assign(Object.create(consumer) as LogConsumer, { received });
    },
  };
}
