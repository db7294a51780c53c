import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { EventRecord, LogRecord } from '../../src/core/nouns.ts';
import { Crash } from './fakes.ts';
import { Harness, reading, T0 } from './harness.ts';

function event(name: EventRecord['event'], data: unknown, device = 'a'): LogRecord {
  return { kind: 'event', tenant: 'acme', device, received: T0 + 9, event: name, data };
}

const LETTER: LogRecord = {
  ...{ kind: 'deadLetter', tenant: 'acme', device: 'a', type: 'sensor', received: T0 },
  ...{ code: 'VALUE_KIND', message: '', topic: '', payload: '', payloadBytes: 0 },
};
const KEY = { partition: 0, offset: 0, received: T0, code: 'VALUE_KIND', type: 'sensor' };

test('replays are noted and purges carried out after the letters, before the position', async () => {
  const harness = new Harness();
  harness.start();
  await harness.feed(
    LETTER,
    event('letterReplayed', { ...KEY, attempt: 1, taken: true }),
    event('letterReplayed', { ...KEY, attempt: 2, taken: false }),
    event('lettersPurged', { from: 0, to: T0 + 5, code: 'VALUE_KIND' }, 'b'),
    event('state', { from: 0, to: 1 }),
    event('letterReplayed', { nonsense: true }),
    event('lettersPurged', null),
  );
  const named = { ...KEY, tenant: 'acme', device: 'a' };
  assert.deepEqual(harness.store.marks, [
    { ...named, attempt: 1, replayed: T0 + 9 },
    { ...named, attempt: 2 },
  ]);
  assert.deepEqual(harness.store.purges, [
    { tenant: 'acme', device: 'b', from: 0, to: T0 + 5, code: 'VALUE_KIND', purged: T0 + 9 },
  ]);
  const order = ['writeDeadLetters', 'markDeadLetters', 'purgeDeadLetters', 'commit'];
  assert.deepEqual(
    harness.store.calls.filter((call) => order.includes(call)),
    order,
  );
  assert.deepEqual(harness.store.ledgerByDevice(), { 'a deadLetter VALUE_KIND': 1 });
  await harness.stop();
});

test('a crash before the position applies them again', async () => {
  const harness = new Harness();
  harness.log.append([event('letterReplayed', { ...KEY, attempt: 1, taken: true })]);
  for (const point of ['deadLettersWritten', 'lettersChanged'] as const) {
    harness.faultPoint = (name) => {
      if (name === point) throw new Crash(point);
    };
    harness.start();
    await assert.rejects(harness.ended(), Crash);
  }
  harness.faultPoint = () => {};
  harness.start();
  await harness.settle();
  await harness.stop();
  assert.equal(harness.store.marks.length, 2);
});

test('a dead letter that is made of a replayed reading counts the attempt', async () => {
  const harness = new Harness({ rawMs: 60_000 });
  harness.store.refuses = ({ device }) => (device === 'b' ? 'no room' : undefined);
  harness.start({ types: new Map() });
  await harness.feed(
    { ...reading('a', T0, { v: 1 }, T0 + 600_000), attempt: 2 },
    { ...reading('b', T0, { v: 1 }), attempt: 3 },
    reading('b', T0 + 1, { v: 1 }),
  );
  await harness.stop();
  const letters = [...harness.store.letters.values()];
  assert.deepEqual(
    letters.map(({ device, code, attempt }) => [device, code, attempt]),
    [
      ['a', 'TS_PAST', 2],
      ['b', 'STORE_REFUSED', 3],
      ['b', 'STORE_REFUSED', undefined],
    ],
  );
});
