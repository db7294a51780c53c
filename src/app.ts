/**
 * The only wiring: the whole path on one screen.
 *
 *   devices ──MQTT──▶ gateway ──▶ log ──commit──▶ PUBACK          main thread; the log's writer has its own
 *                                  │
 *                                  ▼
 *                      rollup worker ──▶ store                     thread `rollup`
 *                                          │
 *   people  ◀──HTTP── API, console ◀── reports, ledger, metrics    thread `http`
 *
 * Sinks start before sources and stop after them. Stopping: take no more → commit what came → answer it
 * → let the rollup worker finish the log → close the log → close HTTP.
 */
import { Worker } from 'node:worker_threads';
import type { Logger } from 'pino';
import type { Registry } from 'prom-client';
import type { Config } from './config/schema.ts';
import { systemClock } from './core/clock.ts';
import { type ErrorCode, SpillwayError } from './core/errors.ts';
import { openAppender, openConsumer, openRegistry } from './engines.ts';
import { openGateway } from './gateway/open.ts';
import type { Gateway } from './gateway/server.ts';
import type { FromHttp, HttpThreadData, ToHttp } from './http-thread.ts';
import type { LogAppender } from './log/contract.ts';
import { logLine } from './logging.ts';
import { releaseAfterStorms, releaseMemory } from './memory.ts';
import { gatewayCounters, type RollupStatus } from './ops/counters.ts';
import { LiveView } from './ops/live-view.ts';
import { publishMetrics } from './ops/metrics-hub.ts';
import { mainMetrics, rollupThreadMetrics } from './ops/thread-metrics.ts';
import type { FromRollup, ToRollup } from './rollup-thread.ts';
import { PasswordVerifier } from './tenants/passwords.ts';
import type { LogLine } from './thread-logger.ts';

export interface Spillway {
  mqttPort: number;
  httpPort: number;
  /** Drains and stops; resolves when everything acknowledged is in the store. */
  stop(): Promise<void>;
  /** Rejects when the process can't go on and has to be started anew. */
  failed: Promise<never>;
}

const STATUS_INTERVAL_MS = 500;
const METRICS_INTERVAL_MS = 2_000;
const RESTART_MS = 5_000;

/** Throws what the engines and listeners throw when they start. */
export async function startSpillway(
  config: Config,
  logger: Logger,
  version: string,
): Promise<Spillway> {
  const counters = gatewayCounters();
  const view = new LiveView({ counters, startedAt: systemClock.now(), version });
  const metrics = mainMetrics(counters, () => appender.stats());
  let fail: (error: Error) => void = () => {};
  const failed = new Promise<never>((_, reject) => {
    fail = reject;
  });
  failed.catch(() => {});

  const registry = openRegistry(config);
  const appender: LogAppender = await openAppender(config, {
    onFull: (full, reason) => {
      if (full)
        logger.error(
          { code: 'LOG_FULL', reason },
          'the log is full: devices wait for their acknowledgement',
        );
      else logger.info('the log has space again');
    },
    onFailed: (error) => fail(error),
    onCommit: (ms, records) => metrics.commit(ms, records),
  });

  const rollup = await startRollup(config, logger, {
    onStatus: (status) => view.setRollup(status),
    onLog: (line) => logLine(logger, 'rollup', line),
  });
  let gateway: Gateway | undefined;
  const http = await startHttp(
    { config, status: view.status(appender.stats()) },
    logger,
    (tenant, device, payload) => gateway?.sendCommand(tenant, device, payload) === true,
  );
  gateway = await openGateway({
    config,
    appender,
    directory: registry,
    verifier: new PasswordVerifier(registry),
    counters,
    clock: systemClock,
    logger,
    observePuback: (ms) => metrics.puback(ms),
  });
  view.setReady(true, '');
  const publishStatus = () => http.post({ kind: 'status', status: view.status(appender.stats()) });
  publishStatus();
  const statusTimer = setInterval(publishStatus, STATUS_INTERVAL_MS);
  const publish = (source: string, of: Registry) =>
    publishMetrics(
      of,
      { postMessage: http.post },
      {
        source,
        intervalMs: METRICS_INTERVAL_MS,
        onError: (err) => logger.warn({ err }, 'metrics'),
      },
    );
  const publishing = [
    publish('main', metrics.registry),
    publish(
      'rollup',
      rollupThreadMetrics(() => view.rollup),
    ),
  ];

  setTimeout(releaseMemory, 2_000).unref();
  const releasing = releaseAfterStorms(() => counters.connectionsTotal);
  const stop = async () => {
    view.setReady(false, 'stopping');
    publishStatus();
    await gateway.stopReading();
    const deadline = Date.now() + config.shutdown.drainTimeout;
    const committed = await within(appender.flush(), deadline);
    if (!committed)
      logger.warn('the log could not commit in time; what is unacknowledged comes again');
    await gateway.close();
    await within(appender.flush(), deadline);
    const drained = await within(rollup.drain(), deadline);
    if (!drained)
      logger.warn('the rollup worker did not finish; it goes on from the log at the next start');
    await appender.close();
    clearInterval(statusTimer);
    releasing.stop();
    for (const metricsOf of publishing) metricsOf.stop();
    await http.stop();
    registry.close();
  };
  return { mqttPort: gateway.port, httpPort: http.port, stop, failed };
}

/** Runs the rollup worker's thread and starts it anew when it fails; the log keeps what comes meanwhile. */
async function startRollup(
  config: Config,
  logger: Logger,
  on: { onStatus(status: RollupStatus): void; onLog(line: LogLine): void },
) {
  let worker: Worker;
  let ended: Promise<void>;
  let stopping = false;
  let failed = false;
  const start = () =>
    new Promise<void>((resolve, reject) => {
      failed = false;
      worker = new Worker(new URL('./rollup-thread.ts', import.meta.url), {
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
        else if (message.kind === 'stats') on.onStatus(message.status);
        else if (message.kind === 'log') on.onLog(message);
        else if (message.kind === 'failed') onFailed(message.message, message.code);
      });
    });
  await start();
  return {
    /** Rejects when the worker is down or fails on the way: the log is not processed to its end then. */
    async drain(): Promise<void> {
      stopping = true;
      const consumer = openConsumer(config);
      const bounds = await consumer.bounds();
      await consumer.close();
      const until = new Map([...bounds].map(([partition, { end }]) => [partition, end]));
      worker.postMessage({ kind: 'drain', until } satisfies ToRollup);
      await ended;
      if (failed) throw new SpillwayError('STORE_BUSY', 'the rollup worker is down');
    },
  };
}

async function startHttp(
  workerData: HttpThreadData,
  logger: Logger,
  command: (tenant: string, device: string, payload: string) => boolean,
) {
  const worker = new Worker(new URL('./http-thread.ts', import.meta.url), {
    workerData,
    name: 'http',
  });
  const post = (message: ToHttp) => worker.postMessage(message);
  const port = await new Promise<number>((resolve, reject) => {
    worker.on('error', reject);
    worker.on('message', (message: FromHttp) => {
      if (message.kind === 'listening') resolve(message.port);
      else if (message.kind === 'failed') {
        reject(new SpillwayError((message.code ?? 'LISTEN_FAILED') as ErrorCode, message.message));
      } else if (message.kind === 'log') logLine(logger, 'http', message);
      else if (message.kind === 'command') {
        const { id, tenant, device, payload } = message;
        post({ kind: 'commandResult', id, sent: command(tenant, device, payload) });
      }
    });
  });
  return {
    port,
    post,
    async stop(): Promise<void> {
      const ended = new Promise((resolve) => worker.once('exit', resolve));
      post({ kind: 'stop' });
      await ended;
    },
  };
}

/** False when the promise did not settle by `deadline` (ms since the epoch) or rejected. */
async function within(promise: Promise<unknown>, deadline: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<false>((resolve) => {
    timer = setTimeout(() => resolve(false), Math.max(0, deadline - Date.now()));
  });
  const done = promise.then(
    () => true,
    () => false,
  );
  try {
    return await Promise.race([done, late]);
  } finally {
    clearTimeout(timer);
  }
}
