import { Worker } from 'node:worker_threads';
import type { Logger } from 'pino';
import { type ErrorCode, SpillwayError } from '../core/errors.ts';
import type { DeviceView } from '../gateway/contract.ts';
import type { FromHttp, HttpThreadData, ToHttp } from '../http-thread.ts';
import type { LogAppender } from '../log/contract.ts';
import { logLine } from '../logging.ts';
import type { Presence } from '../ops/deadman.ts';
import { appendFor } from './append-for.ts';

export interface HttpHandle {
  port: number;
  post(message: ToHttp): void;
  stop(): Promise<void>;
}

export interface HttpServices {
  /** Resolves to true when a command is on its way to its device. */
  command(tenant: string, device: string, payload: string): Promise<boolean>;
  appender: LogAppender;
  /** What the gateways know of a device; undefined where there is none. */
  view(tenant: string, device: string): Promise<DeviceView | undefined>;
  /** Of the tenant's devices that this process watches. */
  presence(tenant: string): Promise<[device: string, Presence][]>;
}

/** Runs the thread of HTTP. */
export async function startHttp(
  workerData: HttpThreadData,
  logger: Logger,
  { command, appender, view, presence }: HttpServices,
): Promise<HttpHandle> {
  const worker = new Worker(new URL('../http-thread.ts', import.meta.url), {
    workerData,
    name: 'http',
  });
  const post = (message: ToHttp) => worker.postMessage(message);
  const answer = async ({ id, tenant, device, payload }: CommandRequest) => {
    const sent = await command(tenant, device, payload).catch((err: unknown) => {
      logger.warn({ err, tenant, device }, 'a command could not be sent');
      return false;
    });
    post({ kind: 'commandResult', id, sent });
  };
  const port = await new Promise<number>((resolve, reject) => {
    worker.on('error', reject);
    worker.on('message', (message: FromHttp) => {
      if (message.kind === 'listening') resolve(message.port);
      else if (message.kind === 'failed') {
        reject(new SpillwayError((message.code ?? 'LISTEN_FAILED') as ErrorCode, message.message));
      } else if (message.kind === 'log') logLine(logger, 'http', message);
      else if (message.kind === 'command') void answer(message);
      else if (message.kind === 'append') {
        const { id, request } = message;
        appendFor(appender, request, (failed) => post({ kind: 'appended', id, failed }));
      } else if (message.kind === 'view') {
        const { id, tenant, device } = message;
        void view(tenant, device).then((seen) => post({ kind: 'viewed', id, view: seen }));
      } else if (message.kind === 'presence') {
        const { id, tenant } = message;
        void presence(tenant).then((devices) => post({ kind: 'presence', id, devices }));
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

type CommandRequest = Extract<FromHttp, { kind: 'command' }>;
