import { hostname } from 'node:os';
import { parentPort, workerData } from 'node:worker_threads';
import { Registry as MetricsRegistry } from 'prom-client';
import type { AppendFailure } from './app/append-for.ts';
import { deviceTypes, replaceTypes } from './config/device-types.ts';
import type { Config } from './config/schema.ts';
import { systemClock } from './core/clock.ts';
import { SpillwayError } from './core/errors.ts';
import { metricsTokenOf } from './engines/secret-file.ts';
import { openConsumer, openRegistry, openStore } from './engines.ts';
import type { DeviceView } from './gateway/contract.ts';
import { createHttpServer } from './http/server.ts';
import type { AppendRequest } from './log/contract.ts';
import { releaseMemory } from './memory.ts';
import type { LiveStatus } from './ops/counters.ts';
import type { Presence } from './ops/deadman.ts';
import { httpMetrics, MetricsHub, type MetricsMessage } from './ops/metrics-hub.ts';
import { eventLoopMetrics } from './ops/thread-metrics.ts';
import { type ProcessStatus, wholeStatus } from './ops/whole-status.ts';
import { Asking } from './thread-asking.ts';
import { type LogLine, threadLogger } from './thread-logger.ts';

/** The thread of HTTP: it reads the store beside its writer, so that no flood of messages reaches it. */

export type ToHttp =
  | { kind: 'status'; status: LiveStatus; others?: ProcessStatus[] }
  | MetricsMessage
  | { kind: 'types'; types: Config['types'] }
  | { kind: 'commandResult'; id: number; sent: boolean }
  | { kind: 'appended'; id: number; failed: AppendFailure | undefined }
  | { kind: 'viewed'; id: number; view: DeviceView | undefined }
  | { kind: 'presence'; id: number; devices: [device: string, Presence][] }
  | { kind: 'stop' };

export type FromHttp =
  | LogLine
  | { kind: 'listening'; port: number }
  | { kind: 'failed'; code: string | undefined; message: string }
  | { kind: 'command'; id: number; tenant: string; device: string; payload: string }
  | { kind: 'append'; id: number; request: AppendRequest }
  | { kind: 'view'; id: number; tenant: string; device: string }
  | { kind: 'presence'; id: number; tenant: string };

const ANSWER_TIMEOUT_MS = 2_000;
const COMMANDS_MAX = 1_000;
const APPENDS_MAX = 100;
const VIEWS_MAX = 100;
const PRESENCES_MAX = 100;
const TOO_MANY_APPENDS: AppendFailure = {
  code: 'LOG_SATURATED',
  message: 'too many appends wait',
};
/** Without news from the main thread for so long, readiness is no longer believed. */
const STATUS_STALE_MS = 10_000;

export interface HttpThreadData {
  config: Config;
  status: LiveStatus;
  /** This process among others. */
  processId: string;
}

async function openData(config: Config, said: ReturnType<typeof threadLogger>) {
  const logger = { ...said, debug: () => {} };
  const store = await openStore(config, { readOnly: true, logger });
  return { store, consumer: await openConsumer(config, logger) };
}

if (parentPort !== null) {
  const port = parentPort;
  const post = (message: FromHttp) => port.postMessage(message);
  const { config, status: first, processId: id } = workerData as HttpThreadData;
  try {
    const registry = openRegistry(config);
    const logger = threadLogger(post);
    const data = config.roles.includes('http') ? await openData(config, logger) : undefined;
    const metricsToken = metricsTokenOf(config);
    const own = new MetricsRegistry();
    eventLoopMetrics(own, 'http');
    const hub = new MetricsHub({ own });
    const commands = new Asking<boolean>(COMMANDS_MAX);
    const appends = new Asking<AppendFailure | undefined>(APPENDS_MAX);
    const views = new Asking<DeviceView | undefined>(VIEWS_MAX);
    const presences = new Asking<[device: string, Presence][]>(PRESENCES_MAX);
    const types = deviceTypes(config);
    let status = first;
    let statusAt = performance.now();
    let others: ProcessStatus[] | undefined;
    const server = await createHttpServer({
      config,
      ...(data !== undefined && { data }),
      types,
      ...(metricsToken !== undefined && { metricsToken }),
      tokens: { verify: (token) => registry.verifyToken(token) },
      status: () =>
        performance.now() - statusAt < STATUS_STALE_MS
          ? status
          : { ...status, ready: false, readyReason: 'the gateway does not answer' },
      wholeStatus: () =>
        others === undefined
          ? status
          : wholeStatus({ id, host: hostname(), at: Date.now(), status }, others),
      metrics: () => hub.text(),
      sendCommand: (tenant, device, payload) =>
        commands.ask(
          (id) => post({ kind: 'command', id, tenant, device, payload }),
          false,
          ANSWER_TIMEOUT_MS,
        ),
      async examine(definitions) {
        const { openExaminer } = await import('./engines/examiner.ts');
        return openExaminer(config, registry, types, definitions);
      },
      // Without a time-out: a log that gets full keeps what it took until there is space.
      async append(request) {
        const failed = await appends.ask(
          (id) => post({ kind: 'append', id, request }),
          TOO_MANY_APPENDS,
        );
        if (failed !== undefined) throw new SpillwayError(failed.code, failed.message);
      },
      view: (tenant, device) =>
        views.ask((id) => post({ kind: 'view', id, tenant, device }), undefined, ANSWER_TIMEOUT_MS),
      presence: (tenant) =>
        presences.ask((id) => post({ kind: 'presence', id, tenant }), [], ANSWER_TIMEOUT_MS),
      device: (tenant, device) => registry.device(tenant, device),
      devices: (tenant) => registry.devices(tenant),
      observe: httpMetrics(own),
      clock: systemClock,
      logger,
    });
    port.on('message', (message: ToHttp) => {
      if (message.kind === 'status') {
        status = message.status;
        others = message.others;
        statusAt = performance.now();
      } else if (message.kind === 'types') replaceTypes(types, message.types);
      else if (message.kind === 'metrics') hub.accept(message.source, message.metrics);
      else if (message.kind === 'commandResult') commands.settle(message.id, message.sent);
      else if (message.kind === 'appended') appends.settle(message.id, message.failed);
      else if (message.kind === 'viewed') views.settle(message.id, message.view);
      else if (message.kind === 'presence') presences.settle(message.id, message.devices);
      else {
        void server.close().then(async () => {
          await data?.store.close();
          await data?.consumer.close();
          registry.close();
          port.close();
        });
      }
    });
    setTimeout(releaseMemory, 2_000).unref();
    post({ kind: 'listening', port: (await server.listen()).port });
  } catch (error) {
    const { code, message } = error as { code?: string; message: string };
    post({ kind: 'failed', code, message });
    port.close();
  }
}
