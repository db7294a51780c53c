import { EmbeddedConsumer } from '../../src/log/embedded/consumer.ts';
import { Forwarder } from '../../src/log/kafka/forwarder.ts';
import type { KafkaSettings } from '../../src/log/kafka/settings.ts';
import { FORWARDER, TOPICS } from './kafka-env.ts';

/** A forwarder in a process of its own, which commits the spool's offset only when it ends in peace. */

export interface ForwarderChildOptions {
  dir: string;
  settings: KafkaSettings;
}

const [, , text] = process.argv;
if (text !== undefined) {
  const { dir, settings } = JSON.parse(text) as ForwarderChildOptions;
  const silent = () => {};
  const spool = new EmbeddedConsumer({ dir });
  const forwarder = new Forwarder({
    ...FORWARDER,
    commitIntervalMs: 3_600_000,
    settings,
    topics: TOPICS,
    spool,
    logger: { debug: silent, info: silent, warn: silent },
    onForwarded: (offset) => process.stdout.write(`${offset}\n`),
  });
  process.once('SIGTERM', () => {
    void forwarder.close().then(() => spool.close());
  });
}
