import type { DeviceType } from '../core/nouns.ts';
import { formatDuration } from '../core/units.ts';
import type { DeviceView } from '../gateway/contract.ts';
import { completenessOf, typesOf } from '../reports/completeness.ts';
import { sequenceOf } from '../reports/sequence.ts';
import type { DataContext } from './context.ts';
import { presenceOf, type ShownPresence } from './presence.ts';

/** Everything that is known of one device, for those who ask why. */

/** Dead letters that are looked through for numbers that are missing. */
const LETTERS_MAX = 1_000;
const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;

export interface Explanation {
  tenant: string;
  device: string;
  /** Null when it is not registered. */
  identity: { type: string; via: string | null; registered: string } | null;
  /** Null when nobody declares it. */
  type: {
    name: string;
    version: string;
    period: string | null;
    future: string;
    futureMax: string;
    pastMax: string;
  } | null;
  presence: ShownPresence;
  /** Null where this process has no gateway. */
  gateway: ShownView | null;
  /** Of the last 24 hours, event time; dead letters by gateway time. */
  completeness: {
    from: string;
    to: string;
    expected: number | null;
    received: number;
    deadLettered: Record<string, number>;
  };
  /** Hours of these in which less came than should have; without a period, in which nothing came. */
  gaps: { from: string; to: string; expected: number | null; received: number }[];
  /** By the device's own counter, over the same 24 hours; null where no reading has a number. */
  sequence: ShownSequence | null;
  /** The newest reading by event time, and the place of its record in the log; null without any. */
  newest: { ts: string; received: string; partition: number; offset: number } | null;
  /** How far log and store have come with the partitions of the device; for operators alone. */
  offsets?: {
    partition: number;
    isBackfill: boolean;
    logEnd: number;
    storePosition: number | null;
  }[];
}

interface ShownSequence {
  /** Readings with a number; of the first and the last by event time, that number. */
  readings: number;
  firstSeq: number;
  lastSeq: number;
  missing: number;
  /** Of the missing ones, how many were refused and are dead letters. */
  refused: number;
  restarts: number;
  /** The newest, oldest first; `gapCount` in all. Times are those of the readings around it. */
  gaps: {
    first: number;
    last: number;
    missing: number;
    refused: number;
    after: string;
    before: string;
  }[];
  gapCount: number;
  /** False: there were more readings than are looked at. */
  complete: boolean;
}

interface ShownConnection {
  clientId: string;
  from: string;
  protocol: string;
  clean: boolean;
  keepAliveSeconds: number;
  since: string;
  endedAt: string | null;
  reason: string;
}

interface ShownView {
  connections: ShownConnection[];
  lastConnection: ShownConnection | null;
  decisions: { at: string; what: string; code: string; count: number }[];
  clock: {
    skewMs: number;
    spreadMs: number;
    settled: boolean;
    readings: number;
    measuredAt: string;
  } | null;
  /** Readings that came long after they were measured; null when none did. */
  backfill: { readings: number; since: string; at: string; ts: string; oldest: string } | null;
}

const iso = (ms: number): string => new Date(ms).toISOString();

export async function explainDevice(
  context: DataContext,
  types: ReadonlyMap<string, DeviceType>,
  name: { tenant: string; device: string },
  isOperator: boolean,
): Promise<Explanation | undefined> {
  const { tenant, device } = name;
  const { store } = context;
  const entry = context.device?.(tenant, device);
  const newest = await store.newest(tenant, { devices: [device] });
  const latest = new Map([...newest].map(([name, { ts }]) => [name, ts]));
  const view = await context.view?.(tenant, device);
  const isKnown = entry !== undefined || latest.size > 0 || (view?.decisions.length ?? 0) > 0;
  if (!isKnown) return undefined;
  const known = await typesOf(store, tenant, latest, types, () => entry?.type);
  const type = known.get(device) ?? (entry === undefined ? undefined : types.get(entry.type));
  return {
    ...name,
    identity:
      entry === undefined
        ? null
        : { type: entry.type, via: entry.via ?? null, registered: iso(entry.createdAt) },
    type: type === undefined ? null : shownType(type),
    presence: presenceOf(
      context,
      new Map(await context.presence?.(tenant)).get(device),
      type,
      newest.get(device)?.received,
    ),
    gateway: view === undefined ? null : shownView(view),
    ...(await wholeness(context, name, latest, type)),
    sequence: await shownSequence(context, name),
    newest: await newestOf(context, name, latest.get(device)),
    ...(isOperator && { offsets: await offsetsOf(context, name) }),
  };
}

function shownType(type: DeviceType): Explanation['type'] {
  return {
    name: type.name,
    version: type.version,
    period: type.periodMs === 0 ? null : formatDuration(type.periodMs),
    future: type.future,
    futureMax: formatDuration(type.futureMs),
    pastMax: formatDuration(type.pastMs),
  };
}

function shownView(view: DeviceView): ShownView {
  const { connections, lastConnection, decisions, clock, backfill } = view;
  const connection = (one: DeviceView['connections'][number]): ShownConnection => ({
    ...one,
    since: iso(one.since),
    endedAt: one.endedAt === null ? null : iso(one.endedAt),
  });
  return {
    connections: connections.map(connection),
    lastConnection: lastConnection === null ? null : connection(lastConnection),
    decisions: decisions.map((one) => ({ ...one, at: iso(one.at) })),
    backfill:
      backfill === null
        ? null
        : {
            readings: backfill.readings,
            since: iso(backfill.since),
            at: iso(backfill.at),
            ts: iso(backfill.ts),
            oldest: iso(backfill.oldest),
          },
    clock: clock === null ? null : { ...clock, measuredAt: iso(clock.measuredAt) },
  };
}

async function wholeness(
  { store, config, clock }: DataContext,
  { tenant, device }: { tenant: string; device: string },
  latest: ReadonlyMap<string, number>,
  type: DeviceType | undefined,
): Promise<Pick<Explanation, 'completeness' | 'gaps'>> {
  const now = clock.now();
  const rawMs = config.store.retention.raw;
  const known = {
    ...{ now, latest, listed: [device], keptFrom: rawMs > 0 ? now - rawMs : 0 },
    types: new Map(type === undefined ? [] : [[device, type]]),
  };
  const count = async (from: number, to: number) => {
    const { devices } = await completenessOf(store, { tenant, devices: [device], from, to }, known);
    return devices.find((one) => one.device === device);
  };
  const from = now - DAY_MS;
  const whole = await count(from, now);
  const gaps: Explanation['gaps'] = [];
  const firstHour = Math.ceil(from / HOUR_MS) * HOUR_MS;
  for (let hour = firstHour; hour + HOUR_MS <= now; hour += HOUR_MS) {
    const of = await count(hour, hour + HOUR_MS);
    const { expected = null, received = 0 } = of ?? {};
    const isShort = expected === null ? received === 0 : received < expected;
    if (isShort) gaps.push({ from: iso(hour), to: iso(hour + HOUR_MS), expected, received });
  }
  return {
    completeness: {
      from: iso(from),
      to: iso(now),
      expected: whole?.expected ?? null,
      received: whole?.received ?? 0,
      deadLettered: Object.fromEntries(whole?.deadLettered ?? []),
    },
    gaps,
  };
}

async function shownSequence(
  { store, clock }: DataContext,
  { tenant, device }: { tenant: string; device: string },
): Promise<ShownSequence | null> {
  const to = clock.now();
  const range = { from: to - DAY_MS, to };
  const sequence = await sequenceOf(store, { tenant, device, ...range });
  if (sequence === undefined) return null;
  const letters =
    sequence.gaps.length === 0
      ? []
      : await store.deadLetters({ tenant, devices: [device], ...range, limit: LETTERS_MAX });
  const refused = letters.flatMap(({ payload }) => numbersIn(payload));
  const gaps = sequence.gaps.map(({ after, before, ...gap }) => {
    const its = new Set(refused.filter((seq) => seq >= gap.first && seq <= gap.last));
    return { ...gap, refused: its.size, after: iso(after), before: iso(before) };
  });
  const sum = gaps.reduce((total, gap) => total + gap.refused, 0);
  return { ...sequence, gaps, refused: sum };
}

/** The numbers of the readings in a dead letter's bytes (base64), which may be cut or anything at all. */
function numbersIn(payload: string): number[] {
  try {
    const value: unknown = JSON.parse(Buffer.from(payload, 'base64').toString('utf8'));
    return [value].flat().flatMap((one: unknown) => {
      const seq = typeof one === 'object' && one !== null && 'seq' in one ? one.seq : undefined;
      return typeof seq === 'number' ? seq : [];
    });
  } catch {
    return [];
  }
}

async function newestOf(
  { store }: DataContext,
  { tenant, device }: { tenant: string; device: string },
  ts: number | undefined,
): Promise<Explanation['newest']> {
  if (ts === undefined) return null;
  const range = { tenant, devices: [device], from: ts, to: ts + 1, limit: 1 };
  const [reading] = await store.readings(range);
  if (reading === undefined) return null;
  const { received, partition, offset } = reading;
  return { ts: iso(ts), received: iso(received), partition, offset };
}

async function offsetsOf(
  { store, consumer }: DataContext,
  { tenant, device }: { tenant: string; device: string },
): Promise<NonNullable<Explanation['offsets']>> {
  const [bounds, positions] = await Promise.all([consumer.bounds(), store.position('rollup')]);
  const own = consumer.partitionsOf?.(tenant, device);
  const its = [...bounds].filter(([partition]) => own === undefined || own.includes(partition));
  return its
    .sort(([a], [b]) => a - b)
    .map(([partition, { end }]) => ({
      ...{ partition, isBackfill: consumer.isBackfill?.(partition) === true, logEnd: end },
      storePosition: positions.get(partition) ?? null,
    }));
}
