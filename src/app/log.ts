import { Worker } from 'node:worker_threads';
import type { Logger } from 'pino';
import type { Config } from '../config/schema.ts';
import { type ErrorCode, SpillwayError } from '../core/errors.ts';
import { openAppender, openLocalConsumer, spoolName } from '../engines.ts';
import type { ForwarderThreadData, FromForwarder, ToForwarder } from '../forwarder-thread.ts';
import type { LogAppender } from '../log/contract.ts';
import type { AppenderEvents } from '../log/embedded/appender.ts';
import type { ForwarderStats } from '../log/kafka/forwarder.ts';
import { logLine } from '../logging.ts';
import type { ForwardingStatus } from '../ops/counters.ts';

/** The writing end of the log: what is on this machine's disk, and with Kafka its way there. */
export interface OpenLog {
  appender: LogAppender;
  /** Undefined on the embedded engine. */
  forwarding?: { status(): ForwardingStatus };
  /** Brings what is in the spool to Kafka, for `drainMs` at most; false when something is left for the next start. */
  stop(drainMs: number): Promise<boolean>;
}

/** Messages that wait for Kafka with `acknowledge: replicated`; from half on sockets are not read. */
const REPLICATED_RECORDS_MAX = 200_000;
const REPLICATED_BYTES_MAX = 64 * 2 ** 20;
const FORWARDER_GROUP = 'forwarder';

/** Throws DATA_DIR_LOCKED, LOG_VERSION, LOG_CORRUPT, LOG_WRITE_FAILED. */
export async function openLog(
  config: Config,
  logger: Logger,
  events: AppenderEvents,
): Promise<OpenLog> {
  const local = await openAppender(config, events);
  if (config.log.engine === 'embedded') {
    return {
      appender: local,
      async stop() {
        await local.close();
        return true;
      },
    };
  }
  const appender =
    config.log.kafka.acknowledge === 'replicated' ? await replicated(config, local) : undefined;
  const forwarder = startForwarding({ config, source: spoolName(config) }, logger, {
    onForwarded: (offset) => appender?.forwarded(offset),
    onFailed: (error) => events.onFailed?.(error),
  });
  return {
    appender: appender ?? local,
    forwarding: { status: () => statusOf(forwarder.stats(), local.stats().endOffset) },
    async stop(drainMs) {
      const drained = await forwarder.stop(drainMs);
      await (appender ?? local).close();
      return drained;
    },
  };
}

function statusOf(stats: ForwarderStats | undefined, endOffset: number): ForwardingStatus {
  return {
    backlogRecords: Math.max(0, endOffset - (stats?.forwardedOffset ?? 0)),
    records: stats?.records ?? 0,
    bytes: stats?.packedBytes ?? 0,
    refused: stats?.refused ?? 0,
    retries: stats?.retries ?? 0,
    error: stats === undefined ? 'starting' : (stats.lastError ?? ''),
  };
}

async function replicated(config: Config, spool: LogAppender) {
  const { ReplicatedAppender } = await import('../log/kafka/replicated-appender.ts');
  const appender = new ReplicatedAppender({
    spool,
    pendingRecordsMax: REPLICATED_RECORDS_MAX,
    pendingBytesMax: REPLICATED_BYTES_MAX,
    closeTimeoutMs: config.shutdown.drainTimeout,
  });
  const consumer = openLocalConsumer(config);
  for (const offset of (await consumer.committed(FORWARDER_GROUP)).values()) {
    appender.forwarded(offset);
  }
  await consumer.close();
  return appender;
}

function startForwarding(
  workerData: ForwarderThreadData,
  logger: Logger,
  on: { onForwarded(offset: number): void; onFailed(error: SpillwayError): void },
) {
  const worker = new Worker(new URL('../forwarder-thread.ts', import.meta.url), {
    workerData,
    name: 'forwarder',
  });
  let stats: ForwarderStats | undefined;
  let stopped = false;
  const ended = new Promise<boolean>((resolve) => {
    worker.on('message', (message: FromForwarder) => {
      if (message.kind === 'forwarded') on.onForwarded(message.offset);
      else if (message.kind === 'stats') stats = message.stats;
      else if (message.kind === 'log') logLine(logger, 'forwarder', message);
      else if (message.kind === 'stopped') {
        stopped = true;
        resolve(message.drained);
      } else if (message.kind === 'failed') {
        const code = (message.code ?? 'LOG_UNAVAILABLE') as ErrorCode;
        on.onFailed(new SpillwayError(code, `the forwarder failed: ${message.message}`));
      }
    });
    worker.on('error', (error) =>
      on.onFailed(
        new SpillwayError('LOG_UNAVAILABLE', `the forwarder failed: ${error.message}`, {
          cause: error,
        }),
      ),
    );
    worker.once('exit', () => {
      if (!stopped) resolve(false);
    });
  });
  return {
    stats: () => stats,
    stop(drainMs: number): Promise<boolean> {
      worker.postMessage({ kind: 'stop', drainMs } satisfies ToForwarder);
      return ended;
    },
  };
}
