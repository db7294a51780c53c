import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { ManualClock } from '../../src/core/clock.ts';
import type { ShedRecord } from '../../src/core/nouns.ts';
import { Histories } from '../../src/gateway/history.ts';
import { Ingest } from '../../src/gateway/ingest.ts';
import { Session } from '../../src/gateway/session.ts';
import type { AppendRequest, LogAppender } from '../../src/log/contract.ts';
import { gatewayCounters } from '../../src/ops/counters.ts';
import { MemoryDirectory } from '../tenants/directory.ts';

/** An ingest in front of a log that is full or fails as the test says. */
function createIngest(t: TestContext) {
  t.mock.timers.enable({ apis: ['setInterval'] });
  const requests: AppendRequest[] = [];
  const log = { full: false, saturated: false, error: null as Error | null };
  const appender = {
    get full() {
      return log.full;
    },
    get saturated() {
      return log.saturated;
    },
    append(request: AppendRequest, done: (error: Error | null) => void) {
      requests.push(request);
      done(log.error);
    },
  } as unknown as LogAppender;
  const counters = gatewayCounters();
  const ingest = new Ingest({
    appender,
    directory: new MemoryDirectory(),
    types: new Map(),
    counters,
    clock: new ManualClock(1_000),
    histories: new Histories({ devicesMax: 10 }),
    limits: {
      payloadBytesMax: 1_000,
      readingsPerMessageMax: 10,
      metricsPerReadingMax: 10,
      textMax: 10,
      deadLetterPayloadBytesMax: 100,
    },
  });
  const session = (device: string) => {
    const identity = { tenant: 'acme', device, type: 't' };
    return new Session({
      identity,
      clientId: 'c',
      connection: { send: () => false, notice() {}, end() {} },
      own: ingest.target(identity),
      secretHash: '',
    });
  };
  const drop = (device: string) =>
    ingest.publish(
      session(device),
      {
        topic: 'me/telemetry',
        channel: 'telemetry',
        payload: Buffer.from('{'),
        payloadBytes: 1,
        qos: 0,
        retain: false,
      },
      () => {},
    );
  const shed = () =>
    requests
      .splice(0)
      .flatMap(({ records }) => records.map((record) => JSON.parse(record) as ShedRecord));
  return { log, counters, ingest, drop, shed, tick: () => t.mock.timers.tick(1_000) };
}

test('what is shed is counted together, and kept until the log takes the count', (t) => {
  const { log, counters, ingest, drop, shed, tick } = createIngest(t);
  log.full = true;
  for (let i = 0; i < 7; i++) drop('d1');
  drop('d2');
  tick();
  assert.deepEqual(shed(), []);
  log.full = false;
  log.saturated = true;
  log.error = new Error('saturated');
  drop('d1');
  tick();
  assert.equal(shed().length, 3);
  log.error = null;
  tick();
  assert.deepEqual(
    shed().map(({ device, code, count }) => [device, code, count]),
    [
      ['d1', 'LOG_FULL', 7],
      ['d2', 'LOG_FULL', 1],
      ['d1', 'LOG_SATURATED', 1],
    ],
  );
  tick();
  assert.deepEqual(shed(), []);
  drop('d3');
  ingest.close();
  assert.deepEqual(
    shed().map(({ device }) => device),
    ['d3'],
  );
  assert.deepEqual(
    [...counters.shed],
    [
      ['LOG_FULL', 8],
      ['LOG_SATURATED', 2],
    ],
  );
});

test('what is shed of more devices than are remembered is counted without their names', (t) => {
  const { log, ingest, drop, shed, tick } = createIngest(t);
  log.full = true;
  for (let round = 0; round < 2; round++) for (let i = 0; i < 10_005; i++) drop(`d${i}`);
  log.full = false;
  tick();
  const counts = shed();
  assert.equal(counts.length, 10_001);
  assert.equal(
    counts.reduce((sum, { count }) => sum + count, 0),
    2 * 10_005,
  );
  assert.deepEqual(
    counts.filter(({ count }) => count !== 2).map(({ device, count }) => [device, count]),
    [['_other', 10]],
  );
  ingest.close();
});
