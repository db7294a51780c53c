import assert from 'node:assert/strict';
import type { TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { openRegistry } from '../../src/engines.ts';
import { seeded } from '../helpers/seeded.ts';
import { type LiveHeap, SpillwayProcess } from '../system/spillway-process.ts';
import { type Visits, visit } from './visitors.ts';

const VISITORS = 24;
/** Few, so that what is remembered of each reaches its bounds within the first part. */
const DEVICES = 40;
/** Names of devices that are added and removed; they come again with another secret. */
const GUESTS = 100;
const SAMPLES_EVERY_MS = 3_000;
/** Connections until what is remembered of each device has reached its bounds, whatever the machine's pace. */
const WARM_CONNECTS = 3_000;
const WARM_MS_MAX = 150_000;
/** What may be live more at the end than in the second part: noise, and nothing that goes on growing. */
const GROWTH_MAX_SHARE = 0.02;
const GROWTH_MAX_MIB = 1.5;

const SETTINGS = {
  logging: { format: 'json', level: 'info' },
  gateway: { mqtt: { port: 0 }, connectTimeout: '2s', packetTimeout: '2s' },
  rollup: { baseWindow: '5s', lateness: '5s', devicesMax: 100 },
  log: { embedded: { retainFor: '10s', retainBytes: '8MiB' } },
  types: {
    meter: {
      metrics: {
        temperature: { kind: 'float', min: -40, max: 85, required: true },
        mode: { kind: 'string', values: ['auto', 'off'] },
      },
    },
  },
};

interface Sample extends LiveHeap {
  /** s since the start. */
  at: number;
}

/**
 * Churn of connections, sessions, topics, devices and malformed packets against the real program. What is
 * live after a forced collection must not grow: the least of the second part (a minute, or a quarter of a
 * shorter run) is compared with the least of the last, as in between there is always something under way.
 */
export async function soak(t: TestContext, seconds: number): Promise<void> {
  const seed = Number(process.env.SOAK_SEED ?? Math.floor(Math.random() * 2 ** 31));
  t.diagnostic(`seed ${seed} (SOAK_SEED=${seed} repeats the visits, not the machine's timing)`);
  const program = new SpillwayProcess(t, SETTINGS, { heapProbe: true });
  const names = Array.from({ length: DEVICES }, (_, i) => `meter-${i}`);
  const devices = program.addDevices('acme', 'meter', names);
  await program.start();
  const registry = openRegistry(program.config);
  t.after(() => registry.close());
  const { token } = registry.addToken({ role: 'tenant', tenant: 'acme' });
  const visits: Visits = { connects: 0, readings: 0, acknowledged: 0 };
  const random = seeded(seed);
  let added = 0;
  const place = {
    port: program.mqttPort ?? 0,
    random,
    visits,
    devices,
    addDevice: () =>
      registry.addDevice({ tenant: 'acme', device: `guest-${added++ % GUESTS}`, type: 'meter' }),
    removeDevice: ({ device }: { device: string }) => void registry.removeDevice('acme', device),
  };
  const stop = new AbortController();
  const running = [
    ...Array.from({ length: VISITORS }, () => visit(place, stop.signal)),
    read(program, token, visits, stop.signal),
  ];
  const warm = performance.now() + WARM_MS_MAX;
  while (visits.connects < WARM_CONNECTS && performance.now() < warm) await sleep(100);
  const samples: Sample[] = [];
  const started = performance.now();
  const elapsed = () => (performance.now() - started) / 1_000;
  while (elapsed() < seconds) {
    await sleep(SAMPLES_EVERY_MS);
    samples.push({ at: elapsed(), ...(await program.liveHeap()) });
  }
  stop.abort();
  await Promise.all(running);
  t.diagnostic(JSON.stringify(visits));
  for (const { at, liveMiB, rssMiB, threads } of everyFew(samples, 20)) {
    const byThread = Object.entries(threads).map(([name, mib]) => `${name} ${mib.toFixed(1)}`);
    t.diagnostic(
      `${at.toFixed(0)} s: ${liveMiB.toFixed(1)} MiB live (${byThread.join(', ')}), ${rssMiB.toFixed(0)} resident`,
    );
  }
  const part = Math.min(60, seconds / 4);
  const early = least(samples, part, 2 * part);
  const late = least(samples, seconds - part, Number.POSITIVE_INFINITY);
  const growth = late - early;
  t.diagnostic(`second part ${early.toFixed(2)} MiB, last part ${late.toFixed(2)} MiB`);
  assert.ok(visits.connects >= WARM_CONNECTS, `${visits.connects} connections`);
  assert.ok(visits.acknowledged > WARM_CONNECTS, `${visits.acknowledged} acknowledged`);
  assert.ok(
    growth < Math.max(GROWTH_MAX_MIB, GROWTH_MAX_SHARE * early),
    `what is live grew by ${growth.toFixed(2)} MiB`,
  );
  await program.stop();
}

/** Readers of the HTTP API: they have memory of their own. */
async function read(
  program: SpillwayProcess,
  token: string,
  visits: Visits,
  signal: AbortSignal,
): Promise<void> {
  const query = '/api/v1/query?metric=temperature&from=-1m&step=5s&format=';
  const paths = ['/metrics', '/healthz', '/', `${query}csv`, `${query}json`, '/api/v1/none'];
  for (let i = 0; !signal.aborted; i++) {
    const path = paths[i % paths.length] ?? '/';
    const headers: Record<string, string> = path.startsWith('/api')
      ? { Authorization: `Bearer ${token}` }
      : {};
    const response = await fetch(`${program.httpUrl}${path}`, { headers });
    await response.arrayBuffer();
    const what = `HTTP ${response.status}`;
    visits[what] = (visits[what] ?? 0) + 1;
    await sleep(100);
  }
}

function least(samples: readonly Sample[], from: number, to: number): number {
  const within = samples.filter(({ at }) => at >= from && at < to);
  assert.ok(within.length >= 2, `${within.length} samples from ${from} to ${to} s`);
  return Math.min(...within.map(({ liveMiB }) => liveMiB));
}

function everyFew<T>(items: readonly T[], count: number): T[] {
  const step = Math.max(1, Math.floor(items.length / count));
  return items.filter((_, index) => index % step === 0);
}
