import { setTimeout as sleep } from 'node:timers/promises';
import { parentPort, workerData } from 'node:worker_threads';
import type { Config } from './config/schema.ts';
import { startForwarder } from './engines/kafka.ts';
import { openLocalConsumer } from './engines.ts';
import type { ForwarderStats } from './log/kafka/forwarder.ts';
import { releaseMemory } from './memory.ts';
import { type LogLine, threadLogger } from './thread-logger.ts';

/** The thread that brings the spool to Kafka, apart from the one that serves devices. */

export interface ForwarderThreadData {
  config: Config;
  source: string;
}

/** `drainMs`: how long to try to bring everything that is in the spool to Kafka first. */
export type ToForwarder = { kind: 'stop'; drainMs: number };

export type FromForwarder =
  | LogLine
  | { kind: 'forwarded'; offset: number }
  | { kind: 'stats'; stats: ForwarderStats }
  | { kind: 'stopped'; drained: boolean }
  | { kind: 'failed'; code: string | undefined; message: string };

const STATS_INTERVAL_MS = 500;

if (parentPort !== null) {
  const port = parentPort;
  const post = (message: FromForwarder) => port.postMessage(message);
  const fail = (error: unknown) => {
    const { code, message } = error as { code?: string; message: string };
    post({ kind: 'failed', code, message });
  };
  const { config, source } = workerData as ForwarderThreadData;
  const spool = openLocalConsumer(config);
  const logger = { ...threadLogger(post), debug: () => {} };
  const forwarder = startForwarder(config, {
    spool,
    source,
    logger,
    onForwarded: (offset) => post({ kind: 'forwarded', offset }),
    onFailed: fail,
  });
  const stats = setInterval(
    () => post({ kind: 'stats', stats: forwarder.stats() }),
    STATS_INTERVAL_MS,
  );
  setTimeout(releaseMemory, 2_000).unref();
  port.on('message', ({ drainMs }: ToForwarder) => {
    void (async () => {
      const late = sleep(drainMs, false, { ref: false });
      const drained = await Promise.race([forwarder.drained(), late]);
      clearInterval(stats);
      await forwarder.close();
      await spool.close();
      post({ kind: 'stopped', drained });
      port.close();
    })().catch(fail);
  });
}
