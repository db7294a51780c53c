import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createFleet } from '../../firmware-sim/index.ts';
import { createTestBroker, credentialsOf } from './test-broker.ts';

test('500 devices connect at once, measure and end in seconds, in one process', async (t) => {
  const broker = await createTestBroker(t);
  const fleet = await createFleet({
    fleet: {
      herd: true,
      groups: [
        {
          type: 'meter',
          count: 500,
          period: '1s',
          metrics: { t: { kind: 'float', base: 20, noise: 1 } },
        },
      ],
    },
    credentials: credentialsOf('meter', 500),
    url: broker.url,
  });
  fleet.start();
  assert.equal(await fleet.untilConnected(15_000), true);
  await broker.until(() => broker.taken.length >= 1000, 15_000);
  const summary = await fleet.stop();
  assert.equal(summary.connected, 500);
  assert.equal(summary.complete, true);
  assert.equal(summary.acknowledged, broker.taken.length);
  assert.equal(new Set(broker.taken.map(({ device }) => device)).size, 500);
});
