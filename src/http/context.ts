import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Config } from '../config/schema.ts';
import type { Clock } from '../core/clock.ts';
import type { DeviceType } from '../core/nouns.ts';
import type { DeviceView, Examine } from '../gateway/contract.ts';
import type { LogConsumer } from '../log/contract.ts';
import type { LiveStatus } from '../ops/counters.ts';
import type { Presence } from '../ops/deadman.ts';
import type { Append } from '../ops/letters/letter.ts';
import type { WholeStatus } from '../ops/whole-status.ts';
import type { StoreReader } from '../store/contract.ts';
import type { Need, Rights, TokenVerifier } from './access.ts';
import type { Turnstile } from './turnstile.ts';

export interface HttpOptions {
  config: Config;
  /** What the API and the console read; absent: health and metrics alone are served. */
  data?: { store: StoreReader; consumer: LogConsumer };
  /** Device types by name, which may change meanwhile; default: those of `config`. */
  types?: ReadonlyMap<string, DeviceType>;
  tokens: TokenVerifier;
  /** Opens `/metrics` and nothing else. */
  metricsToken?: string;
  /** Of this process: health and readiness. */
  status: () => LiveStatus;
  /** Of all processes together, for people; default: `status`. */
  wholeStatus?: () => WholeStatus;
  /** The Prometheus text form. */
  metrics: () => Promise<string>;
  /** Sends a JSON text to a device; false when the device is not connected. */
  sendCommand?: (tenant: string, device: string, payload: string) => Promise<boolean>;
  /** The gateway's checks, with other definitions of some types as they would stand in the configuration. */
  examine?: (definitions?: unknown) => Promise<Examine>;
  /** Appends to the log. */
  append?: Append;
  /** What the gateway of this process knows of a device; undefined where there is none. */
  view?: (tenant: string, device: string) => Promise<DeviceView | undefined>;
  /** Of the tenant's devices that this process watches. */
  presence?: (tenant: string) => Promise<Iterable<readonly [device: string, Presence]>>;
  /** The directory's entry of a device. */
  device?: (
    tenant: string,
    device: string,
  ) => { type: string; via?: string; createdAt: number } | undefined;
  /** Devices that are registered, so that those without data are listed too. */
  devices?: (tenant?: string) => readonly { tenant: string; device: string; type: string }[];
  /** Called for each answer with the route's pattern and the status. */
  observe?: (route: string, status: number) => void;
  clock: Clock;
  logger: { error(fields: Record<string, unknown>, message: string): void };
}

/** What routes share. */
export interface HttpContext extends Omit<HttpOptions, 'data'> {
  rights(request: FastifyRequest, need: Need): Promise<Rights>;
  queries: Turnstile;
}

/** What routes to data share. */
export interface DataContext extends HttpContext {
  store: StoreReader;
  consumer: LogConsumer;
}

/** Parameters of a URL as fastify gives them: texts, or lists where a name is repeated. */
export function parametersOf(request: FastifyRequest): Record<string, unknown> {
  return request.query as Record<string, unknown>;
}

export type { FastifyReply, FastifyRequest };
