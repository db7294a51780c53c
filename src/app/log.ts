import { Worker } from 'node:worker_threads';
import type { Logger } from 'pino';
import type { Config } from '../config/schema.ts';
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
const RESTART_MS = 5_000;

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
  const forwarder = startForwarding({ config, source: spoolName(config) }, logger, (offset) =>
    appender?.forwarded(offset),
  );
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

/** Runs the forwarder's thread and starts it anew when it fails; the spool keeps what comes meanwhile. */
function startForwarding(
  workerData: ForwarderThreadData,
  logger: Logger,
  onForwarded: (offset: number) => void,
) {
  let stats: ForwarderStats | undefined;
  let isStopping = false;
  let worker: Worker;
  let ended: Promise<boolean>;
  const start = () => {
    worker = new Worker(new URL('../forwarder-thread.ts', import.meta.url), {
      workerData,
      name: 'forwarder',
    });
    const running = worker;
    let drained = false;
    let reason: string | undefined;
    ended = new Promise((resolve) => {
      running.on('message', (message: FromForwarder) => {
        if (message.kind === 'forwarded') onForwarded(message.offset);
        else if (message.kind === 'stats') stats = message.stats;
        else if (message.kind === 'log') logLine(logger, 'forwarder', message);
        else if (message.kind === 'stopped') drained = message.drained;
        else {
          reason = `${message.code ?? ''} ${message.message}`.trim();
          void running.terminate();
        }
      });
      running.on('error', (error) => {
        reason = error.message;
      });
      running.once('exit', () => {
        resolve(drained);
        if (reason === undefined && isStopping) return;
        logger.error({ reason }, 'the forwarder stopped; it is started again');
        if (stats !== undefined) stats = { ...stats, lastError: reason ?? 'the forwarder stopped' };
        setTimeout(() => {
          if (!isStopping) start();
        }, RESTART_MS).unref();
      });
    });
  };
  start();
  return {
    stats: () => stats,
    stop(drainMs: number): Promise<boolean> {
      isStopping = true;
      worker.postMessage({ kind: 'stop', drainMs } satisfies ToForwarder);
      return ended;
    },
  };
}
