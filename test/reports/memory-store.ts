import type { DeviceType, LedgerCount, Outcome, RollupRow, Value } from '../../src/core/nouns.ts';
import { stateOf } from '../../src/rollup/aggregate.ts';
import type {
  DeadLetterGroup,
  DeadLetterPage,
  DeadLetterQuery,
  LatestQuery,
  LedgerQuery,
  RangeQuery,
  RecountQuery,
  RollupQuery,
  RowTimes,
  StoredDeadLetter,
  StoredReading,
  StoreReader,
} from '../../src/store/contract.ts';
import { eventTimes, keepNewest } from '../../src/store/newest-rows.ts';

/** A store in memory that makes its rollups from its readings, for reports, audit and HTTP. */
export class MemoryStore implements StoreReader {
  readonly raw: StoredReading[] = [];
  readonly letters: StoredDeadLetter[] = [];
  readonly lines: LedgerCount[] = [];
  readonly positions = new Map<number, number>();
  /** What `rollups` was asked for. */
  readonly asked: RollupQuery[] = [];

  add(
    device: string,
    ts: number,
    values: Record<string, Value>,
    more: Partial<StoredReading> = {},
  ) {
    this.raw.push({
      ...{ tenant: 'acme', device, type: 'probe', ts, received: ts + 250, values },
      ...{ partition: 0, offset: this.raw.length },
      ...more,
    });
  }

  addLetter(device: string, code: string, received: number, tenant = 'acme') {
    this.letters.push({
      ...{ tenant, device, type: 'probe', received, code, message: code },
      ...{ topic: `t/${tenant}/d/${device}/telemetry`, payload: 'e30=', payloadBytes: 2 },
      ...{ partition: 0, offset: 10_000 + this.letters.length },
    });
  }

  private match(query: RangeQuery): StoredReading[] {
    return this.raw.filter(
      (r) =>
        r.tenant === query.tenant &&
        (query.devices?.includes(r.device) ?? true) &&
        (query.metrics === undefined ||
          Object.keys(r.values).some((m) => query.metrics?.includes(m))) &&
        r.ts >= query.from &&
        r.ts < query.to,
    );
  }

  async readings(query: RangeQuery): Promise<StoredReading[]> {
    return this.match(query)
      .sort((a, b) => (a.device === b.device ? a.ts - b.ts : a.device < b.device ? -1 : 1))
      .slice(0, query.limit);
  }

  async rollups(query: RollupQuery): Promise<RollupRow[]> {
    this.asked.push(query);
    const groups = new Map<string, { ts: number; value: Value }[]>();
    const end = Math.ceil(query.to / query.windowMs) * query.windowMs;
    for (const reading of this.match({ ...query, to: end })) {
      const start = Math.floor(reading.ts / query.windowMs) * query.windowMs;
      if (start < query.from || start >= query.to) continue;
      for (const [metric, value] of Object.entries(reading.values)) {
        if (!(query.metrics?.includes(metric) ?? true)) continue;
        const key = `${reading.device}/${metric}/${String(start).padStart(15, '0')}`;
        const group = groups.get(key) ?? [];
        group.push({ ts: reading.ts, value });
        groups.set(key, group);
      }
    }
    return [...groups]
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, values]) => {
        const [device = '', metric = '', start] = key.split('/');
        return {
          ...{ tenant: query.tenant, device, metric, windowMs: query.windowMs },
          ...{ start: Number(start), state: stateOf(values), revision: 0, changedAt: 0 },
        };
      });
  }

  async countReadings(query: RangeQuery): Promise<Map<string, number>> {
    const counts = new Map<string, number>();
    for (const { device } of this.match(query)) counts.set(device, (counts.get(device) ?? 0) + 1);
    return counts;
  }

  async latest(tenant: string, query?: LatestQuery): Promise<Map<string, number>> {
    return eventTimes(await this.newest(tenant, query));
  }

  async newest(tenant: string, query: LatestQuery = {}): Promise<Map<string, RowTimes>> {
    const { devices, before = Number.POSITIVE_INFINITY } = query;
    const latest = new Map<string, RowTimes>();
    for (const r of this.raw) {
      if (r.tenant !== tenant || !(devices?.includes(r.device) ?? true)) continue;
      if (r.ts >= before) continue;
      keepNewest(latest, r.device, { ts: r.ts, received: r.received });
    }
    return latest;
  }

  async deadLetters(query: DeadLetterPage): Promise<StoredDeadLetter[]> {
    return this.letters
      .filter(
        (l) =>
          l.tenant === query.tenant &&
          (query.devices?.includes(l.device) ?? true) &&
          (query.code === undefined || l.code === query.code) &&
          (query.type === undefined || l.type === query.type) &&
          (query.typeVersion === undefined || (l.typeVersion ?? '') === query.typeVersion) &&
          (query.state === undefined || (l.replayed === undefined) === (query.state === 'open')) &&
          l.received >= query.from &&
          l.received < query.to,
      )
      .sort((a, b) => (query.oldestFirst === true ? inTime(a, b) : inTime(b, a)))
      .filter(
        (l) =>
          query.after === undefined ||
          (query.oldestFirst === true ? inTime(l, query.after) : inTime(query.after, l)) > 0,
      )
      .slice(0, query.limit);
  }

  async groupDeadLetters(query: DeadLetterQuery): Promise<DeadLetterGroup[]> {
    const groups = new Map<string, DeadLetterGroup>();
    for (const letter of await this.deadLetters({ ...query, limit: 1e9 })) {
      const { device, code, type, typeVersion = '', received, replayed } = letter;
      const key = `${device}/${code}/${type}/${typeVersion}`;
      const group = groups.get(key) ?? {
        ...{ device, code, type, typeVersion, count: 0, open: 0 },
        ...{ oldest: received, newest: received },
      };
      group.count += 1;
      group.open += replayed === undefined ? 1 : 0;
      group.oldest = Math.min(group.oldest, received);
      group.newest = Math.max(group.newest, received);
      groups.set(key, group);
    }
    return [...groups].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, group]) => group);
  }

  async countDeadLetters(query: DeadLetterQuery) {
    const counts = new Map<string, { device: string; code: string; count: number }>();
    for (const { device, code } of await this.deadLetters({ ...query, limit: 1e9 })) {
      const row = counts.get(`${device}/${code}`) ?? { device, code, count: 0 };
      row.count += 1;
      counts.set(`${device}/${code}`, row);
    }
    return [...counts.values()];
  }

  async series(tenant: string) {
    const metrics = new Map<string, Set<string>>();
    for (const r of this.raw) {
      if (r.tenant !== tenant) continue;
      const known = metrics.get(r.device) ?? new Set<string>();
      for (const name of Object.keys(r.values)) known.add(name);
      metrics.set(r.device, known);
    }
    return [...metrics].map(([device, names]) => ({ device, metrics: [...names] }));
  }

  async ledger(query: LedgerQuery): Promise<LedgerCount[]> {
    return this.lines.filter(
      (line) =>
        (query.tenant === undefined || line.tenant === query.tenant) &&
        (query.device === undefined || line.device === query.device) &&
        line.hour >= (query.from ?? 0) &&
        line.hour < (query.to ?? Number.POSITIVE_INFINITY),
    );
  }

  async ledgerTotals(query: LedgerQuery): Promise<Map<Outcome, number>> {
    const totals = new Map<Outcome, number>();
    for (const { outcome, count } of await this.ledger(query)) {
      totals.set(outcome, (totals.get(outcome) ?? 0) + count);
    }
    return totals;
  }

  async recount({ tenant, from, to, before }: RecountQuery): Promise<LedgerCount[]> {
    const lines: LedgerCount[] = [];
    const count = (row: StoredReading | StoredDeadLetter, code: string | undefined) => {
      const { device, received, partition, offset } = row;
      if (row.tenant !== tenant || received < from || received >= to) return;
      if (offset >= (before.get(partition) ?? 0)) return;
      const hour = Math.floor(received / 3_600_000) * 3_600_000;
      const outcome = code === undefined ? 'stored' : 'deadLetter';
      lines.push({ tenant, device, hour, outcome, code: code ?? '', count: 1 });
    };
    for (const row of this.raw) count(row, undefined);
    for (const row of this.letters) count(row, row.code);
    return lines;
  }

  async position(): Promise<Map<number, number>> {
    return new Map(this.positions);
  }

  async close(): Promise<void> {}
}

type Place = Pick<StoredDeadLetter, 'received' | 'partition' | 'offset'>;

function inTime(a: Place, b: Place): number {
  return a.received - b.received || a.partition - b.partition || a.offset - b.offset;
}

export function probeType(periodMs: number): DeviceType {
  return {
    name: 'probe',
    version: '00000000',
    metrics: {
      temperature: { kind: 'float', unit: '°C', required: false },
      door: { kind: 'string', required: false },
    },
    unknownMetrics: 'keep',
    periodMs,
    futureMs: 300_000,
    future: 'reject',
    pastMs: 604_800_000,
  };
}
