import kafkajs, { type Cluster, type Kafka } from 'kafkajs';
import RequestQueue from 'kafkajs/src/network/requestQueue/index.js';
import { clientConfig, type KafkaLogger, type KafkaSettings } from './settings.ts';
import type { Sockets } from './sockets.ts';

/**
 * What is used of kafkajs 2.2.4 (pinned; nothing has been released since 2023): connections with TLS and
 * SASL, metadata, the requests of consumer groups and the admin calls. Records are encoded and decoded
 * here (`record-batch.ts`): measured with seven headers on a record, kafkajs takes 24 µs of CPU to produce
 * one. Membership in groups is here, too (`membership.ts`).
 *
 * Three places reach behind its interface, in this file and `wire.ts`:
 * - the cluster object, which it hands to assigners of partitions only;
 * - requests of a broker, which its types leave out;
 * - the queue of a connection, which otherwise arms a timer of 1 ms for ever, also while nothing waits
 *   (tulios/kafkajs#1751: about 5 % of a core, and a warning of a negative timeout).
 */
RequestQueue.prototype.scheduleCheckPendingRequests = function (this: RequestQueue): void {
  if (this.throttleCheckTimeoutId !== null || this.pending.length === 0) return;
  const throttledMs = this.throttledUntil - Date.now();
  this.throttleCheckTimeoutId = setTimeout(
    () => {
      this.throttleCheckTimeoutId = null;
      this.checkPendingRequests();
    },
    Math.max(throttledMs, 10),
  );
};

/** `brokers`: asked for whenever one is needed that is not known yet; default: the settings' in turn. */
export function createKafka(
  settings: KafkaSettings,
  logger: KafkaLogger,
  { sockets, brokers = () => settings.brokers }: { sockets: Sockets; brokers?: () => string[] },
): Kafka {
  const config = clientConfig(settings, logger);
  return new kafkajs.Kafka({ ...config, socketFactory: sockets.factory, brokers });
}

/**
 * The cluster object behind a consumer of kafkajs, which it hands to assigners of partitions. Ours by
 * that: connections and metadata of their own, not shared with any other part.
 */
export function captureCluster(kafka: Kafka): Cluster {
  let captured: Cluster | undefined;
  kafka.consumer({
    groupId: 'unused',
    allowAutoTopicCreation: false,
    metadataMaxAge: 60_000,
    partitionAssigners: [
      ({ cluster }) => {
        captured = cluster;
        return {
          name: 'unused',
          version: 0,
          assign: async () => [],
          protocol: () => ({ name: 'unused', metadata: Buffer.alloc(0) }),
        };
      },
    ],
  });
  if (captured === undefined) throw new Error('kafkajs did not hand over its cluster');
  return captured;
}
