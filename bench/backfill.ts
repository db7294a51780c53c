import { setTimeout as sleep } from 'node:timers/promises';
import { openStore, ROLLUP_GROUP } from '../src/engines.ts';
import { load } from './processes.ts';
import { openProgram, TENANT } from './program.ts';

/**
 * Fifty devices come back with six days of readings, two a minute: 864,000 readings in 432,000 windows. They
 * send them as fast as they are acknowledged, beside fifty that send live ones.
 */
const LIVE_RATE = 2_000;
const LIVE = 50;
const LATE = 50;
const DAY_MS = 86_400_000;
const STEP_MS = 30_000;
/** Left out at the beginning, so that new code is fast code. */
const WARM_MS = 5_000;

export interface BackfillFigures {
  /** Of live publishes. */
  pubackP99Ms: number;
  /** From the event time of a live reading until its rollup row is there. */
  visibleP50Ms: number;
  visibleP99Ms: number;
  /** Old readings acknowledged, and processed by then, a second. */
  acknowledgedPerSecond: number;
  processedPerSecond: number;
}

/** `device`: `none` sends nothing old, `lane` and `noLane` do; the last with `backfill.enabled: false`. */
export async function benchBackfill(options: {
  seconds: number;
  device: 'none' | 'lane' | 'noLane';
}): Promise<BackfillFigures> {
  const { seconds } = options;
  const program = await openProgram(LIVE + LATE, {
    backfill: { enabled: options.device === 'lane' },
  });
  const { config, port } = program;
  const store = await openStore(config, { readOnly: true });
  const late = program.clients.slice(0, LATE);
  const clients = program.clients.slice(LATE);
  const live = load({
    ...{ port, clients, seconds: seconds + WARM_MS / 1_000, window: 100, rate: LIVE_RATE, qos: 1 },
    ...{ startTs: 0, stepMs: 0 },
  });
  await sleep(WARM_MS);
  const old =
    options.device === 'none'
      ? undefined
      : load({
          ...{ port, clients: late, seconds: seconds - 5, window: 50, rate: 0, qos: 1 },
          ...{ startTs: Date.now() - 6 * DAY_MS, stepMs: STEP_MS },
        });
  const device = clients[0]?.username.split('/')[1] ?? '';
  const delays = await visibleDelays(
    store,
    device,
    config.rollup.baseWindow,
    seconds * 1_000 - 2_000,
  );
  const partition = options.device === 'lane' ? 1 : 0;
  const devices = late.map(({ username }) => username.split('/')[1] ?? '');
  const counts = await store.countReadings({ tenant: TENANT, devices, from: 0, to: Date.now() });
  const processed = [...counts.values()].reduce((sum, count) => sum + count, 0);
  const position = (await store.position(ROLLUP_GROUP)).get(partition) ?? 0;
  if (options.device === 'lane' && position === 0) throw new Error('nothing took the lane');
  const { p99Ms } = await live;
  const acknowledged = (await old)?.acknowledged ?? 0;
  await store.close();
  await program.close();
  delays.sort((a, b) => a - b);
  const at = (q: number) => delays[Math.floor((delays.length - 1) * q)] ?? Number.NaN;
  return {
    pubackP99Ms: p99Ms,
    ...{ visibleP50Ms: at(0.5), visibleP99Ms: at(0.99) },
    acknowledgedPerSecond: Math.round(acknowledged / (seconds - 5)),
    processedPerSecond: Math.round(processed / (seconds - 2)),
  };
}

/** How old a device's newest reading in its rollup row is, whenever that has changed. */
async function visibleDelays(
  store: Awaited<ReturnType<typeof openStore>>,
  device: string,
  windowMs: number,
  forMs: number,
): Promise<number[]> {
  const delays: number[] = [];
  const seen = new Set<number>();
  const end = Date.now() + forMs;
  let seenInRollup = 0;
  while (Date.now() < end) {
    await sleep(20);
    const now = Date.now();
    const query = { tenant: TENANT, devices: [device], to: now + 1_000 };
    const rows = await store.rollups({
      ...{ ...query, from: now - 10 * windowMs, metrics: ['temperature'], windowMs },
    });
    const last = Math.max(0, ...rows.map(({ state }) => state.lastTs));
    if (last === seenInRollup) continue;
    seenInRollup = last;
    for (const { ts } of await store.readings({ ...query, from: now - 30_000 })) {
      if (ts > last || seen.has(ts)) continue;
      seen.add(ts);
      if (seen.size > 1) delays.push(now - ts);
    }
  }
  return delays;
}
