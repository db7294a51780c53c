import assert from 'node:assert/strict';
import { deviceTypes } from '../../src/config/device-types.ts';
import { configSchema } from '../../src/config/schema.ts';
import type { Values } from '../../src/core/nouns.ts';
import type { LogConsumer } from '../../src/log/contract.ts';
import { audit } from '../../src/ops/ledger.ts';
import { recount } from '../../src/ops/recount.ts';
import { completenessOf } from '../../src/reports/completeness.ts';
import type { Store, StoredDeadLetter } from '../../src/store/contract.ts';
import { assertRollups } from '../system/naive.ts';
import { DAY, HOUR, RULES, TENANT, TYPES } from './fleet.ts';
import type { ModelGateway } from './gateway.ts';
import { type Counts, countKey, type Expected, type Letter, type Row } from './naive.ts';
import { type Plan, T0 } from './plan.ts';
import { GROUP } from './worker.ts';

/** Everything that the system says after the drain, against what it must say. */

export interface Findings {
  store: Store;
  consumer: LogConsumer;
  expected: Expected;
  plan: Plan;
  gateway: Pick<ModelGateway, 'dropped' | 'lostCounts' | 'sheds'>;
  /** Gateway time at the end, ms. */
  now: number;
}

/** Event times that a plan can come to. */
const ALWAYS = { from: T0 - 500 * DAY, to: T0 + 500 * DAY };

export async function assertRight(findings: Findings): Promise<void> {
  assertSheds(findings);
  await assertRaw(findings);
  await assertLetters(findings);
  await assertAccounts(findings);
  await assertLevels(findings);
  await assertAudits(findings);
  await assertCompleteness(findings);
}

function assertSheds({ gateway }: Findings): void {
  const counted = new Map<string, number>();
  for (const { device, count } of gateway.sheds()) {
    counted.set(device, (counted.get(device) ?? 0) + count);
  }
  for (const [device, count] of gateway.dropped) {
    const of = counted.get(device) ?? 0;
    assert.ok(of <= count, `${device}: ${of} drops counted of ${count}`);
    if (!gateway.lostCounts) assert.equal(of, count, `${device}: drops counted`);
  }
}

function sorted(values: Values): Values {
  return Object.fromEntries(Object.entries(values).sort(([a], [b]) => (a < b ? -1 : 1)));
}

function lineOf({ device, ts, received, seq, values }: Row): string {
  return JSON.stringify([device, ts, received, seq, sorted(values)]);
}

async function assertRaw({ store, expected }: Findings): Promise<void> {
  const raw = await store.readings({ tenant: TENANT, ...ALWAYS });
  const got = raw.map((row) => lineOf({ ...row, seq: row.seq }));
  assert.deepEqual(got.sort(), [...expected.rows.values()].map(lineOf).sort(), 'raw readings');
}

async function assertLetters({ store, expected }: Findings): Promise<void> {
  const kept = await store.deadLetters({ tenant: TENANT, ...ALWAYS });
  const text = ({ device, code, received }: Letter | StoredDeadLetter) =>
    `${device} ${received} ${code}`;
  assert.deepEqual(kept.map(text).sort(), expected.letters.map(text).sort(), 'dead letters');
  const bytes = (list: (string | undefined)[]) => list.filter((one) => one !== undefined).sort();
  const wholes = new Set(expected.letters.flatMap((one) => (one.payload ? [text(one)] : [])));
  assert.deepEqual(
    bytes(kept.map((one) => (wholes.has(text(one)) ? one.payload : undefined))),
    bytes(expected.letters.map(({ payload }) => payload?.toString('base64'))),
    'what dead letters hold',
  );
}

function linesOf(counts: Counts): string[] {
  return [...counts].map(([key, count]) => `${key}: ${count}`).sort();
}

async function assertAccounts({ store, consumer, expected }: Findings): Promise<void> {
  const ledger: Counts = new Map();
  for (const line of await store.ledger({ tenant: TENANT })) ledger.set(countKey(line), line.count);
  assert.deepEqual(linesOf(ledger), linesOf(expected.ledger), 'ledger');
  const received: Counts = new Map();
  for (const line of await consumer.received({ tenant: TENANT })) {
    received.set(countKey(line), line.count);
  }
  assert.deepEqual(linesOf(received), linesOf(expected.received), "the gateway's account");
}

async function assertLevels({ store, expected, plan }: Findings): Promise<void> {
  const rows = [...expected.rows.values()];
  for (const { name } of plan.devices) {
    const own = rows.filter(({ device }) => device === name);
    for (const windowMs of new Set([plan.settings.baseWindowMs, HOUR, DAY])) {
      const of = { tenant: TENANT, devices: [name], windowMs, ...ALWAYS };
      assertRollups(await store.rollups(of), own, windowMs, name);
    }
  }
}

function deviceTypesOf() {
  return deviceTypes(configSchema.parse({ types: TYPES }));
}

async function assertAudits({ store, consumer, now }: Findings): Promise<void> {
  const account = await audit({ store, consumer, group: GROUP, by: 'hour' });
  assert.equal(account.balanced, true, `audit ${JSON.stringify(account.rows)}`);
  for (const row of account.rows) assert.equal(row.inFlight, 0, 'in flight');
  const proof = await recount({
    ...{ store, group: GROUP, tenants: [TENANT], from: T0 - DAY, to: now + DAY, now },
    retention: { rawMs: 0, deadLettersMs: 0, rollupsMs: new Map() },
    types: deviceTypesOf(),
  });
  assert.equal(proof.proven, true, `recount ${JSON.stringify(proof.differences)}`);
}

/** Of the whole time of the plan, and of a part in the middle. */
async function assertCompleteness(findings: Findings): Promise<void> {
  const { store, expected, plan, now } = findings;
  const names = plan.devices.map(({ name }) => name);
  const types = deviceTypesOf();
  const latest = await store.latest(TENANT);
  for (const name of names) {
    const times = timesOf(expected, name);
    assert.equal(latest.get(name), times.at(-1), `${name}: the latest reading`);
  }
  const middle = T0 + Math.floor((now - T0) / 2);
  for (const range of [
    { from: T0 - 20 * DAY, to: now },
    { from: middle - HOUR, to: middle + HOUR },
  ]) {
    const { devices } = await completenessOf(
      store,
      { tenant: TENANT, devices: undefined, ...range },
      {
        ...{ now, keptFrom: 0, latest, listed: names },
        types: new Map(
          plan.devices.flatMap(({ name, type }) => {
            const of = types.get(type);
            return of === undefined ? [] : [[name, of] as const];
          }),
        ),
      },
    );
    const got = devices.map(({ device, expected, received, deadLettered }) => ({
      ...{ device, expected, received },
      deadLettered: [...deadLettered].sort(),
    }));
    const want = plan.devices.map(({ name, type }) =>
      completeness(expected, name, RULES[type].periodMs, range.from, range.to, now),
    );
    want.sort((a, b) => (a.device < b.device ? -1 : 1));
    assert.deepEqual(got, want, 'completeness');
  }
}

function timesOf(expected: Expected, name: string): number[] {
  const times = [...expected.rows.values()].filter(({ device }) => device === name);
  return times.map(({ ts }) => ts).sort((a, b) => a - b);
}

function completeness(
  all: Expected,
  device: string,
  periodMs: number,
  from: number,
  to: number,
  now: number,
) {
  const times = timesOf(all, device);
  const codes = new Map<string, number>();
  for (const letter of all.letters) {
    if (letter.device !== device || letter.received < from || letter.received >= to) continue;
    codes.set(letter.code, (codes.get(letter.code) ?? 0) + 1);
  }
  const end = Math.min(to, now);
  const [first] = times;
  let expected: number | null = null;
  if (periodMs > 0) {
    if (first === undefined || first >= end) expected = 0;
    else if (first >= from) expected = Math.ceil((end - first) / periodMs);
    else expected = Math.floor((end - from) / periodMs);
  }
  return {
    ...{ device, expected },
    received: times.filter((ts) => ts >= from && ts < to).length,
    deadLettered: [...codes].sort(),
  };
}
