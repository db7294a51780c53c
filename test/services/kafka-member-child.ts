import { KafkaLogConsumer } from '../../src/log/kafka/consumer.ts';
import type { ConsumptionLimits } from '../../src/log/kafka/consumption.ts';

/** A member of a group in a process of its own: says on its output what it is told and gets. */

export interface MemberOptions {
  brokers: string[];
  topicPrefix: string;
  limits: ConsumptionLimits;
}

export interface MemberEvent {
  what: 'assigned' | 'revoking' | 'revoked' | 'next';
  partitions: readonly number[];
}

function say(what: MemberEvent['what'], partitions: readonly number[]): void {
  process.stdout.write(`${JSON.stringify({ what, partitions } satisfies MemberEvent)}\n`);
}

const [, , text] = process.argv;
if (text !== undefined) {
  const { brokers, topicPrefix, limits } = JSON.parse(text) as MemberOptions;
  const silent = () => {};
  const consumer = new KafkaLogConsumer({
    settings: {
      brokers,
      topicPrefix,
      clientId: 'member',
      connectTimeoutMs: 2_000,
      requestTimeoutMs: 10_000,
    },
    limits,
    logger: { debug: silent, info: silent, warn: silent },
  });
  const batches = consumer.consume('g', {
    signal: new AbortController().signal,
    onAssigned: async (partitions) => {
      say('assigned', partitions);
      return undefined;
    },
    onRevoking: async (partitions) => say('revoking', partitions),
    onRevoked: (partitions) => say('revoked', partitions),
  });
  for await (const { partition, nextOffset } of batches) {
    say('next', [partition]);
    await consumer.commit('g', partition, nextOffset);
  }
}
