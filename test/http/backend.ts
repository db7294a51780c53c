import { type Config, configSchema } from '../../src/config/schema.ts';
import { ManualClock } from '../../src/core/clock.ts';
import type { Rights, TokenVerifier } from '../../src/http/access.ts';
import { createHttpServer, type HttpOptions } from '../../src/http/server.ts';
import { gatewayCounters, type LiveStatus } from '../../src/ops/counters.ts';
import { deadLetter, MovingSystem, reading } from '../ops/moving-system.ts';
import type { MemoryStore } from '../reports/memory-store.ts';

export const NOW = Date.parse('2026-10-26T12:00:00Z');
const MINUTE = 60_000;

/** Tokens by name: `op` is the operator's, `acme` and `beta` the tenants'. */
export const TOKENS: Readonly<Record<string, string>> = {
  op: 'token-of-the-operator',
  acme: 'token-of-acme',
  beta: 'token-of-beta',
};

export function bearer(name: string): { authorization: string } {
  return { authorization: `Bearer ${TOKENS[name]}` };
}

export const tokens: TokenVerifier = {
  async verify(token): Promise<Rights | undefined> {
    if (token === TOKENS.op) return { role: 'operator' };
    const tenant = ['acme', 'beta'].find((name) => TOKENS[name] === token);
    return tenant === undefined ? undefined : { role: 'tenant', tenant };
  },
};

export function liveStatus(more: Partial<LiveStatus> = {}): LiveStatus {
  return {
    ...{ startedAt: NOW - 3_600_000, version: '0.1.0', ready: true, readyReason: '' },
    roles: ['gateway', 'rollup', 'http'],
    ...{ connections: 2, messagesPerSecond: 1_234.5, readingsPerSecond: 2_469 },
    log: {
      ...{ pendingBytes: 0, pendingRecords: 0, endOffset: 100, firstOffset: 0 },
      ...{ diskBytes: 1_610_612_736, diskBytesMax: 4_294_967_296, full: false },
      ...{ commits: 10, commitMsLast: 1, commitMsMean: 0.92 },
    },
    rollup: {
      ...{ lagRecords: 42, openWindows: 6, openReadings: 100, devices: 3, processed: 58 },
      ...{
        stored: 50,
        duplicates: { IDENTICAL: 2 },
        lateCorrections: 1,
        flushMs: 12,
        loopDelayMs: 5,
      },
    },
    deadLettersByCode: { VALUE_BOUNDS: 17, JSON_INVALID: 3 },
    shedByReason: {},
    overload: { ...gatewayCounters().overload, since: NOW - 3_600_000 },
    ...more,
  };
}

function fill(system: MovingSystem): MemoryStore {
  const { store } = system;
  for (let m = 1; m <= 60; m += 1) {
    store.add('a', NOW - m * MINUTE, { temperature: 20 + m / 10 });
    store.add('z', NOW - m * MINUTE, { secret: 1 }, { tenant: 'beta' });
  }
  store.addLetter('a', 'VALUE_BOUNDS', NOW - 5 * MINUTE);
  store.addLetter('a', 'JSON_INVALID', NOW - 6 * MINUTE);
  store.addLetter('z', 'JSON_INVALID', NOW - 7 * MINUTE, 'beta');
  const at = NOW - MINUTE;
  system.append([reading('acme', 'a', at), reading('beta', 'z', at), deadLetter('acme', 'a', at)]);
  system.process(2);
  return store;
}

/** A server over data in memory; nothing listens. */
export async function backend(
  more: Partial<HttpOptions> & { http?: Partial<Config['http']> } = {},
) {
  const system = new MovingSystem();
  const store = fill(system);
  const config = configSchema.parse({});
  const { http, ...options } = more;
  Object.assign(config.http, { port: 0, ...http });
  const logged: unknown[] = [];
  const server = await createHttpServer({
    ...{ config, tokens, clock: new ManualClock(NOW), data: { store, consumer: system } },
    status: () => liveStatus(),
    metrics: async () => '# HELP spillway_up 1\n',
    logger: { error: (...words: unknown[]) => void logged.push(words) } as HttpOptions['logger'],
    ...options,
  });
  return { server, app: server.app, store, system, config, logged };
}
