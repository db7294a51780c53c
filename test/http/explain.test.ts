import assert from 'node:assert/strict';
import { test } from 'node:test';
import { deviceTypes } from '../../src/config/device-types.ts';
import { configSchema } from '../../src/config/schema.ts';
import type { DeviceView } from '../../src/gateway/contract.ts';
import type { HttpOptions } from '../../src/http/server.ts';
import { backend, bearer, NOW } from './backend.ts';

const MINUTE = 60_000;
const VIEW: DeviceView = {
  connections: [
    {
      ...{ clientId: 'a-1', from: '10.0.0.7:5123', protocol: 'MQTT 3.1.1', clean: false },
      ...{ keepAliveSeconds: 60, since: NOW - MINUTE, endedAt: null, reason: '' },
    },
  ],
  lastConnection: null,
  decisions: [
    { at: NOW - 1_000, what: 'refused', code: 'VALUE_BOUNDS', count: 3 },
    { at: NOW - 2_000, what: 'accepted', code: '', count: 9 },
  ],
  clock: { skewMs: 1_500, spreadMs: 20, settled: true, readings: 90, measuredAt: NOW - 1_000 },
  backfill: null,
};

const types = deviceTypes(
  configSchema.parse({ types: { probe: { period: '1m', metrics: { temperature: {} } } } }),
);

async function explain(
  path: string,
  who: string,
  more: Partial<HttpOptions> = {},
): Promise<{ status: number; body: Record<string, never> & { error: { code: string } } }> {
  const { app } = await backend({
    types,
    view: async () => VIEW,
    device: (_, device) =>
      device === 'a' ? { type: 'probe', createdAt: NOW - 9 * MINUTE } : undefined,
    ...more,
  });
  const response = await app.inject({ url: `/api/v1/devices/${path}`, headers: bearer(who) });
  return { status: response.statusCode, body: response.json() };
}

test('a device is explained from directory, gateway, store and log', async () => {
  const { status, body } = await explain('a/explain', 'acme');
  assert.equal(status, 200);
  assert.deepEqual(body.identity, {
    ...{ type: 'probe', via: null, registered: new Date(NOW - 9 * MINUTE).toISOString() },
  });
  assert.deepEqual(body.type, {
    ...{ name: 'probe', version: types.get('probe')?.version, period: '1m', future: 'reject' },
    ...{ futureMax: '5m', pastMax: '1w' },
  });
  const gateway = body.gateway as unknown as DeviceView & { clock: { measuredAt: string } };
  assert.equal(gateway.connections[0]?.from, '10.0.0.7:5123');
  assert.deepEqual(gateway.decisions[0], {
    ...{ at: new Date(NOW - 1_000).toISOString(), what: 'refused', code: 'VALUE_BOUNDS', count: 3 },
  });
  assert.deepEqual([gateway.clock.skewMs, gateway.clock.settled], [1_500, true]);
  const completeness = body.completeness as unknown as Record<string, unknown>;
  assert.deepEqual(
    [completeness.received, completeness.expected, completeness.deadLettered],
    [60, 60, { VALUE_BOUNDS: 1, JSON_INVALID: 1 }],
  );
  assert.deepEqual(body.gaps, []);
  assert.deepEqual(body.newest, {
    ts: new Date(NOW - MINUTE).toISOString(),
    received: new Date(NOW - MINUTE + 250).toISOString(),
    partition: 0,
    offset: 0,
  });
  assert.equal(body.offsets, undefined);
});

test('numbers that are missing are named, with those that were refused', async () => {
  const { app, store } = await backend({
    types,
    view: async () => ({
      ...VIEW,
      backfill: {
        ...{ readings: 7, since: NOW - 5_000, at: NOW - 1_000 },
        ...{ ts: NOW - 90_000_000, oldest: NOW - 99_000_000 },
      },
    }),
    device: () => ({ type: 'probe', createdAt: 0 }),
  });
  store.raw.length = 0;
  store.letters.length = 0;
  for (const [minute, seq] of [
    [50, 7],
    [49, 8],
    [45, 12],
    [44, 13],
    [40, 20],
  ] as const) {
    store.add('b', NOW - minute * MINUTE, { temperature: 1 }, { seq });
  }
  for (const payload of [
    '{"seq":10,"values":{}}',
    '[{"seq":15},{"seq":16},{"seq":2}]',
    '{"seq":9',
  ]) {
    store.addLetter('b', 'VALUE_BOUNDS', NOW - 30 * MINUTE);
    Object.assign(store.letters.at(-1) ?? {}, { payload: Buffer.from(payload).toString('base64') });
  }
  const url = '/api/v1/devices/b/explain';
  const { sequence, gateway } = (await app.inject({ url, headers: bearer('acme') })).json();
  const at = (minute: number) => new Date(NOW - minute * MINUTE).toISOString();
  assert.deepEqual(sequence, {
    ...{ readings: 5, firstSeq: 7, lastSeq: 20, missing: 9, refused: 3, restarts: 0 },
    ...{ gapCount: 2, complete: true },
    gaps: [
      { first: 9, last: 11, missing: 3, refused: 1, after: at(49), before: at(45) },
      { first: 14, last: 19, missing: 6, refused: 2, after: at(44), before: at(40) },
    ],
  });
  assert.deepEqual([gateway.backfill.readings, gateway.backfill.ts], [7, at(1_500)]);
  store.raw.length = 0;
  store.add('b', NOW - MINUTE, { temperature: 1 });
  assert.equal((await app.inject({ url, headers: bearer('acme') })).json().sequence, null);
});

test('hours in which less came than should have are gaps', async () => {
  const { app, store } = await backend({
    types,
    device: () => ({ type: 'probe', createdAt: 0 }),
  });
  for (let m = 200; m < 500; m += 1) {
    if (m >= 300 && m < 310) continue;
    store.add('a', NOW - m * MINUTE, { temperature: 1 });
  }
  const url = '/api/v1/devices/a/explain';
  const { gaps, gateway } = (await app.inject({ url, headers: bearer('acme') })).json();
  assert.equal(gateway, null);
  assert.deepEqual(
    gaps.map((gap: { from: string; received: number; expected: number }) => [
      (NOW - Date.parse(gap.from)) / MINUTE / 60,
      gap.received,
      gap.expected,
    ]),
    [
      [6, 51, 60],
      [5, 59, 60],
      [4, 41, 60],
      [3, 0, 60],
      [2, 0, 60],
    ],
  );
});

test('an operator names the tenant and sees how far log and store are', async () => {
  assert.equal((await explain('a/explain', 'op')).status, 400);
  const { body } = await explain('a/explain?tenant=acme', 'op');
  assert.deepEqual(body.offsets, [
    { partition: 0, isBackfill: false, logEnd: 3, storePosition: 2 },
  ]);
});

test('what nobody knows is not there; other tenants are closed', async () => {
  const quiet = { view: async () => ({ ...VIEW, decisions: [] }) };
  const unknown = await explain('nobody/explain', 'acme', quiet);
  assert.deepEqual([unknown.status, unknown.body.error.code], [404, 'DEVICE_UNKNOWN']);
  // A device that is only known of by its refused messages is explained too.
  assert.equal((await explain('nobody/explain', 'acme')).status, 200);
  assert.equal((await explain('z/explain?tenant=beta', 'acme')).status, 403);
  assert.equal((await explain('a%2Fb/explain', 'acme')).status, 400);
});
