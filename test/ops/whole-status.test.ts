import assert from 'node:assert/strict';
import { test } from 'node:test';
import { wholeStatus } from '../../src/ops/whole-status.ts';
import { liveStatus } from '../http/backend.ts';

const forwarding = { backlogRecords: 3, records: 9, bytes: 90, refused: 0, retries: 1, error: '' };

test('several processes are shown as one: sums, the worst of times, and a line for each', () => {
  const gateway = liveStatus({
    roles: ['gateway'],
    connections: 5,
    readingsPerSecond: 10,
    deadLettersByCode: { JSON_INVALID: 1 },
    forwarding,
  });
  const rollup = liveStatus({ roles: ['rollup'], connections: 0, readingsPerSecond: 0 });
  rollup.log.commitMsMean = 7;
  rollup.rollup.lagRecords = 100;
  const whole = wholeStatus({ id: 'b', host: 'one', at: 0, status: gateway }, [
    { id: 'a', host: 'two', at: 0, status: rollup },
  ]);
  assert.equal(whole.connections, 5);
  assert.equal(whole.readingsPerSecond, 10);
  assert.equal(whole.log.commitMsMean, 7);
  assert.equal(whole.rollup.lagRecords, 142);
  assert.deepEqual(whole.deadLettersByCode, { JSON_INVALID: 4, VALUE_BOUNDS: 17 });
  assert.deepEqual(whole.forwarding, forwarding);
  assert.deepEqual(
    whole.processes?.map(({ id, roles, waitingRecords, lagRecords }) => ({
      id,
      roles,
      waitingRecords,
      lagRecords,
    })),
    [
      { id: 'a', roles: ['rollup'], waitingRecords: 0, lagRecords: 100 },
      { id: 'b', roles: ['gateway'], waitingRecords: 3, lagRecords: 42 },
    ],
  );
});

test('of several processes the one that is most loaded is shown, and the level of each', () => {
  const calm = liveStatus();
  const worst = liveStatus();
  worst.overload = { ...worst.overload, level: 'shed', cause: 'memory' };
  const whole = wholeStatus({ id: 'a', host: 'one', at: 0, status: calm }, [
    { id: 'b', host: 'two', at: 0, status: worst },
  ]);
  assert.equal(whole.overload.cause, 'memory');
  assert.deepEqual(
    whole.processes?.map(({ level }) => level),
    ['normal', 'shed'],
  );
});
