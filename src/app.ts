/**
 * The only wiring: the whole path on one screen.
 *
 *   devices ──MQTT──▶ gateway ──▶ log ──commit──▶ PUBACK          main thread; the log's writer has its own
 *                                  │
 *                                  ▼
 *                 [forwarder ──▶ Kafka]                           thread `forwarder`
 *                                  │
 *                      rollup worker ──▶ store                     thread `rollup`
 *                                          │
 *   people  ◀──HTTP── API, console ◀── reports, ledger, metrics    thread `http`
 *
 * `roles` say which of gateway, rollup and http this process is; what it needs between them is always
 * there: the log's writing end, and HTTP for health and metrics.
 *
 * Sinks start before sources and stop after them. Stopping: say so → take no more, close clients a few at
 * a time → commit what came → answer it
 * → bring it to Kafka → let the rollup worker finish the log → close the log → close HTTP.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import type { Registry as MetricsRegistry } from 'prom-client';
import { Backlog } from './app/backlog.ts';
import { shareBus } from './app/bus.ts';
import { hearCommand, sendCommand } from './app/commands.ts';
import { type HttpHandle, startHttp } from './app/http.ts';
import { type OpenLog, openLog } from './app/log.ts';
import { type Processes, shareStatus } from './app/processes.ts';
import { shareRegistry } from './app/registry.ts';
import { type RollupHandle, startRollup } from './app/rollup.ts';
import { LagWatch } from './app/rollup-lag.ts';
import { Views } from './app/views.ts';
import type { Config, Role } from './config/schema.ts';
import { monotonicClock, systemClock } from './core/clock.ts';
import { checkNamedFiles } from './engines/secret-file.ts';
import { openRegistry, spoolName } from './engines.ts';
import { openGateway } from './gateway/open.ts';
import type { Gateway } from './gateway/server.ts';
import { releaseAfterStorms, releaseMemory } from './memory.ts';
import { gatewayCounters } from './ops/counters.ts';
import { LiveView } from './ops/live-view.ts';
import { publishMetrics } from './ops/metrics-hub.ts';
import { forwardingMetrics, mainMetrics, rollupThreadMetrics } from './ops/thread-metrics.ts';
import { PasswordVerifier } from './tenants/passwords.ts';

export interface Spillway {
  /** Undefined without the role `gateway`. */
  mqttPort: number | undefined;
  httpPort: number;
  /** Drains and stops; resolves when everything acknowledged is in the store, or in Kafka. */
  stop(): Promise<void>;
  /** Rejects when the process can't go on and has to be started anew. */
  failed: Promise<never>;
}

const STATUS_INTERVAL_MS = 500;
const METRICS_INTERVAL_MS = 2_000;

/** Throws what the engines and listeners throw when they start. */
export async function startSpillway(
  configured: Config,
  logger: Logger,
  version: string,
): Promise<Spillway> {
  checkNamedFiles(configured);
  let config = configured;
  const isShared = config.log.engine === 'kafka';
  const has = (role: Role) => config.roles.includes(role);
  const counters = gatewayCounters();
  const view = new LiveView({
    counters,
    startedAt: systemClock.now(),
    version,
    roles: config.roles,
  });
  const metrics = mainMetrics(counters, () => log.appender.stats());
  let rollup: RollupHandle | undefined;
  let http: HttpHandle | undefined;
  let gateway: Gateway | undefined;
  let processes: Processes | undefined;
  let fail: (error: Error) => void = () => {};
  const failed = new Promise<never>((_, reject) => {
    fail = reject;
  });
  failed.catch(() => {});

  const registry = openRegistry(config);
  const sharing = isShared
    ? await shareRegistry(config, registry, logger, (types) => {
        gateway?.setTypes(types);
        rollup?.setTypes(types);
        http?.post({ kind: 'types', types });
      })
    : undefined;
  if (sharing !== undefined) config = { ...config, types: sharing.types };
  const log: OpenLog = await openLog(config, logger, {
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
  const { appender } = log;
  const status = () => view.status(appender.stats(), log.forwarding?.status());
  const backlog = new Backlog(() => appender.stats());
  // A worker on Kafka has partitions that others fill as well.
  const lag =
    has('rollup') && !isShared
      ? new LagWatch(
          () => appender.stats(),
          backlog,
          () => monotonicClock.now(),
        )
      : undefined;

  rollup = has('rollup')
    ? await startRollup(config, logger, appender, {
        status(told, usedMs) {
          view.setRollup(told);
          if (!isShared) backlog.told(told.lagRecords);
          lag?.flushed(usedMs);
        },
        demand: (demand) => lag?.heard(demand),
      })
    : undefined;
  const sendHere = (tenant: string, device: string, payload: string) =>
    gateway?.sendCommand(tenant, device, payload) === true;
  const bus = isShared
    ? shareBus(config, logger, (key, message) => {
        hearCommand(sendHere, key, message);
        views.hear(key, message);
      })
    : undefined;
  const views = new Views(
    (tenant, device) => gateway?.view(tenant, device),
    bus,
    () => processes?.others().filter(({ status }) => status.roles.includes('gateway')).length ?? 0,
  );
  const processId = isShared ? spoolName(config) : '';
  http = await startHttp({ config, status: status(), processId }, logger, {
    command: (tenant, device, payload) => sendCommand(sendHere, bus, { tenant, device, payload }),
    appender,
    view: (tenant, device) => views.of(tenant, device),
    presence: async (tenant) => (await rollup?.presence(tenant)) ?? [],
  });
  const { port: httpPort, post } = http;
  if (has('gateway')) {
    gateway = await openGateway({
      config,
      appender,
      directory: registry,
      verifier: new PasswordVerifier(registry),
      counters,
      clock: systemClock,
      logger,
      observePuback: (ms) => metrics.puback(ms),
      backlogShare: () => {
        const forwarding = log.forwarding?.status();
        if (forwarding !== undefined) backlog.told(forwarding.backlogRecords);
        return backlog.share();
      },
      rollupLag: lag && (() => lag.look()),
    });
  }
  view.setReady(true, '');
  processes = isShared ? shareStatus(config, logger, processId, status) : undefined;
  const publishStatus = () =>
    post({
      kind: 'status',
      status: status(),
      ...(processes !== undefined && { others: processes.others() }),
    });
  publishStatus();
  // The only load that takes readiness away, and for its dwell time at least: docs/overload.md.
  let stopping = false;
  gateway?.overload.onLevel((level) => {
    if (stopping) return;
    view.setReady(level !== 'refuse', level === 'refuse' ? 'overload: refuse' : '');
    publishStatus();
  });
  const statusTimer = setInterval(publishStatus, STATUS_INTERVAL_MS);
  const publish = (source: string, of: MetricsRegistry) =>
    publishMetrics(
      of,
      { postMessage: post },
      {
        source,
        intervalMs: METRICS_INTERVAL_MS,
        onError: (err) => logger.warn({ err }, 'metrics'),
      },
    );
  const { forwarding } = log;
  const publishing = [
    publish('main', metrics.registry),
    ...(rollup
      ? [
          publish(
            'rollup',
            rollupThreadMetrics(() => view.rollup),
          ),
        ]
      : []),
    ...(forwarding
      ? [
          publish(
            'forwarder',
            forwardingMetrics(() => forwarding.status()),
          ),
        ]
      : []),
  ];

  setTimeout(releaseMemory, 2_000).unref();
  const releasing = releaseAfterStorms(() => counters.connectionsTotal);
  const stop = async () => {
    stopping = true;
    view.setReady(false, 'stopping');
    publishStatus();
    const { readinessDelay, closesPerSecond, drainTimeout } = config.shutdown;
    if (gateway !== undefined) await sleep(readinessDelay);
    const deadline = Date.now() + drainTimeout;
    await gateway?.drain({ closesPerSecond, withinMs: drainTimeout / 2 });
    await gateway?.stopReading();
    const committed = await within(appender.flush(), deadline);
    if (!committed)
      logger.warn('the log could not commit in time; what is unacknowledged comes again');
    await gateway?.close();
    await within(appender.flush(), deadline);
    if (rollup !== undefined && !(await within(rollup.stop(), deadline)))
      logger.warn('the rollup worker did not finish; it goes on from the log at the next start');
    if (!(await log.stop(Math.max(0, deadline - Date.now()))))
      logger.warn('Kafka did not take everything in time; the spool keeps it for the next start');
    clearInterval(statusTimer);
    releasing.stop();
    for (const metricsOf of publishing) metricsOf.stop();
    await processes?.close();
    await bus?.close();
    await http?.stop();
    await sharing?.close();
    registry.close();
  };
  return { mqttPort: gateway?.port, httpPort, stop, failed };
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
