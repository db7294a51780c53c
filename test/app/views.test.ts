import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { SharedBus } from '../../src/app/bus.ts';
import { Views } from '../../src/app/views.ts';
import type { DeviceView } from '../../src/gateway/contract.ts';

function view(at: number, more: Partial<DeviceView> = {}): DeviceView {
  return {
    connections: [],
    lastConnection: null,
    decisions: [{ at, what: 'accepted', code: '', count: 1 }],
    clock: { skewMs: at, spreadMs: 1, settled: true, readings: 1, measuredAt: at },
    backfill: null,
    ...more,
  };
}

const connection = (since: number, endedAt: number | null) => ({
  ...{ clientId: 'c', from: '10.0.0.1:1', protocol: 'MQTT 3.1.1', clean: true },
  ...{ keepAliveSeconds: 60, since, endedAt, reason: '' },
});

/** Processes on one bus, as Kafka would be: everybody hears everything, later. */
function processes(knows: (DeviceView | undefined)[], others?: number) {
  const hearing: ((key: string, message: Record<string, unknown>) => void)[] = [];
  const bus: SharedBus = {
    async send(tenant, device, message) {
      const text = JSON.stringify(message);
      for (const hear of hearing) setImmediate(hear, `${tenant}/${device}`, JSON.parse(text));
      return true;
    },
    async close() {},
  };
  const gateways = knows.filter((one) => one !== undefined).length;
  return knows.map((own) => {
    const rest = others ?? gateways - Number(own !== undefined);
    const views = new Views(
      () => own,
      bus,
      () => rest,
    );
    hearing.push((key, message) => views.hear(key, message));
    return views;
  });
}

test('one process alone asks nobody', async () => {
  const own = view(5);
  const views = new Views(
    () => own,
    undefined,
    () => 0,
  );
  assert.equal(await views.of('acme', 'd1'), own);
  const none = new Views(
    () => undefined,
    undefined,
    () => 0,
  );
  assert.equal(await none.of('acme', 'd1'), undefined);
});

test('a process without a gateway has what all gateways know, the newest first', async () => {
  const old = { readings: 3, since: 10, at: 20, ts: 1, oldest: 1 };
  const [http] = processes([
    undefined,
    view(10, { lastConnection: connection(1, 9), backfill: old }),
    view(30, { connections: [connection(25, null)], lastConnection: connection(11, 24) }),
    view(20, { backfill: { readings: 4, since: 5, at: 30, ts: 7, oldest: 2 } }),
  ]);
  const seen = await http?.of('acme', 'd1');
  assert.deepEqual(
    seen?.decisions.map(({ at }) => at),
    [30, 20, 10],
  );
  assert.deepEqual([seen?.connections.length, seen?.lastConnection?.endedAt], [1, 24]);
  assert.equal(seen?.clock?.measuredAt, 30);
  assert.deepEqual(seen?.backfill, { readings: 7, since: 5, at: 30, ts: 7, oldest: 1 });
});

test('a gateway adds what the others know to its own; who does not answer is not waited for long', async () => {
  const [first] = processes([view(1), view(2)], 2);
  const began = performance.now();
  const seen = await first?.of('acme', 'd1');
  assert.equal(seen?.decisions.length, 2);
  assert.ok(performance.now() - began < 10_000);
});

test('while nothing can be sent there is the own word', async () => {
  const bus: SharedBus = { send: async () => false, close: async () => {} };
  const own = view(1);
  const views = new Views(
    () => own,
    bus,
    () => 3,
  );
  const began = performance.now();
  assert.equal(await views.of('acme', 'd1'), own);
  assert.ok(performance.now() - began < 1_000);
  const broken = new Views(
    () => own,
    { ...bus, send: () => Promise.reject(new Error('away')) },
    () => 3,
  );
  assert.equal(await broken.of('acme', 'd1'), own);
});
