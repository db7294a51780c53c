import { Worker } from 'node:worker_threads';
import type { Logger } from 'pino';
import type { Config } from '../config/schema.ts';
import { type ErrorCode, SpillwayError } from '../core/errors.ts';
import { openLocalConsumer } from '../engines.ts';
import type { LogAppender } from '../log/contract.ts';
import { logLine } from '../logging.ts';
import type { RollupStatus } from '../ops/counters.ts';
import type { Presence } from '../ops/deadman.ts';
import type { FromRollup, ToRollup } from '../rollup-thread.ts';
import { Asking } from '../thread-asking.ts';
import { appendFor } from './append-for.ts';

const RESTART_MS = 5_000;
/** Part of the time to stop for which the lane of old readings is waited for. */
const BACKFILL_SHARE = 0.25;
const PRESENCES_MAX = 100;
const PRESENCE_TIMEOUT_MS = 2_000;

export interface RollupHandle {
  /** From now on; a worker that starts anew has them from its beginning. */
  setTypes(types: Config['types']): void;
  /** Of the tenant's devices that this worker watches; none when it does not answer. */
  presence(tenant: string): Promise<[device: string, Presence][]>;
  /**
   * Ends the worker. On the embedded log it first processes what is there; a shared log is the other
   * workers' from here on. Rejects when the worker is down or fails on the way.
   */
  stop(): Promise<void>;
}

/** Runs the rollup worker's thread and starts it anew when it fails; the log keeps what comes meanwhile. */
export async function startRollup(
  configured: Config,
  logger: Logger,
  appender: LogAppender,
  hear: {
    /** `usedMs`: CPU time that its thread has had. */
    status(status: RollupStatus, usedMs: number): void;
    /** Part of about the last second for which the thread ran or waited for the CPU, 0 to 1. */
    demand(demand: number): void;
  },
): Promise<RollupHandle> {
  let config = configured;
  let worker: Worker;
  let ended: Promise<void>;
  let stopping = false;
  let failed = false;
  const presences = new Asking<[device: string, Presence][]>(PRESENCES_MAX);
  const post = (message: ToRollup) => worker.postMessage(message);
  const start = () =>
    new Promise<void>((resolve, reject) => {
      failed = false;
      worker = new Worker(new URL('../rollup-thread.ts', import.meta.url), {
        workerData: { config },
        name: 'rollup',
      });
      ended = new Promise((done) => worker.once('exit', () => done()));
      const onFailed = (message: string, code: string | undefined) => {
        failed = true;
        reject(new SpillwayError((code ?? 'STORE_BUSY') as ErrorCode, message));
        logger.error({ code, reason: message }, 'the rollup worker stopped; it is started again');
        setTimeout(() => {
          if (!stopping) void start().catch(() => {});
        }, RESTART_MS).unref();
      };
      worker.on('error', (error) => onFailed(error.message, undefined));
      worker.on('message', (message: FromRollup) => {
        if (message.kind === 'ready') resolve();
        else if (message.kind === 'stats') hear.status(message.status, message.usedMs);
        else if (message.kind === 'cpu') hear.demand(message.demand);
        else if (message.kind === 'log') logLine(logger, 'rollup', message);
        else if (message.kind === 'append') {
          const { id, request } = message;
          appendFor(appender, request, (failure) =>
            post({ kind: 'appended', id, failed: failure }),
          );
        } else if (message.kind === 'presence') presences.settle(message.id, message.devices);
        else if (message.kind === 'failed') onFailed(message.message, message.code);
      });
    });
  await start();
  return {
    setTypes(types) {
      config = { ...config, types };
      post({ kind: 'types', types });
    },
    presence: (tenant) =>
      presences.ask((id) => post({ kind: 'presence', id, tenant }), [], PRESENCE_TIMEOUT_MS),
    async stop(): Promise<void> {
      stopping = true;
      post({
        kind: 'drain',
        until: await whereToEnd(config),
        backfillMs: Math.ceil(config.shutdown.drainTimeout * BACKFILL_SHARE),
      });
      await ended;
      if (failed) throw new SpillwayError('STORE_BUSY', 'the rollup worker is down');
    },
  };
}

/** Offsets that the worker has to reach; none where others go on. */
async function whereToEnd(config: Config): Promise<Map<number, number>> {
  if (config.log.engine !== 'embedded') return new Map();
  const consumer = openLocalConsumer(config);
  try {
    return new Map([...(await consumer.bounds())].map(([partition, { end }]) => [partition, end]));
  } finally {
    await consumer.close();
  }
}
