import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ManualClock } from '../../src/core/clock.ts';
import type { ReceivedCount } from '../../src/core/nouns.ts';
import type { Producer, Shipment } from '../../src/log/kafka/producer.ts';
import { TallyWriter } from '../../src/log/kafka/received-tally.ts';
import { RecordCursor } from '../../src/log/kafka/record-batch.ts';

const HOUR = 3_600_000;
const DAY = 24 * HOUR;
const NOW = 1_800_000_000_000;
const BASE = NOW - (NOW % HOUR);

function line(hour: number, count = 1): ReceivedCount {
  return { tenant: 'acme', device: 'd1', hour, outcome: 'reading', code: '', count };
}

/** A writer, what a compacted topic would hold of what it sent, and the spool's account. */
function createTally(keepMs: number) {
  const counts: ReceivedCount[] = [];
  const topic = new Map<string, unknown>();
  const clock = new ManualClock(NOW);
  const writer = new TallyWriter({
    spool: {
      receivedBefore: async ({ from, to = Number.MAX_SAFE_INTEGER }) =>
        counts.filter(({ hour }) => hour >= from && hour < to),
    },
    ...{ gateway: 'gw', topic: 'received', partitions: 1, codec: 'none', keepMs, clock },
    logger: { debug() {}, info() {}, warn() {} },
  });
  const producer = {
    async send(shipments: Shipment[]) {
      for (const { records } of shipments) {
        const cursor = new RecordCursor(Buffer.from(await records));
        while (cursor.next()) {
          const value = cursor.value();
          if (value === null) topic.delete(String(cursor.key()));
          else topic.set(String(cursor.key()), JSON.parse(value));
        }
      }
      return shipments.map(() => ({ baseOffset: 0 }));
    },
  } as unknown as Producer;
  const write = (oldest: number) => writer.write(producer, { oldest, upTo: 9, waiting: 0 });
  return { counts, topic, clock, write };
}

const hoursOf = (topic: ReadonlyMap<string, unknown>) =>
  [...topic.keys()]
    .filter((key) => key !== 'gw')
    .map((key) => (Number(key.split('/')[3]) - BASE) / HOUR);

test('lines that the spool is about to drop are removed, once a day', async () => {
  const { counts, topic, clock, write } = createTally(2 * DAY);
  counts.push(line(BASE - 80 * HOUR), line(BASE - 59 * HOUR), line(BASE));
  await write(0);
  assert.deepEqual(hoursOf(topic), [-59, 0]);
  assert.deepEqual(topic.get('gw'), { upTo: 9, waiting: 0 });
  clock.advance(3 * HOUR);
  await write(BASE);
  assert.deepEqual(hoursOf(topic), [-59, 0]);
  clock.advance(DAY);
  await write(BASE);
  assert.deepEqual(hoursOf(topic), [0]);
});

test('an account that is kept for ever loses nothing', async () => {
  const { counts, topic, write } = createTally(0);
  counts.push(line(HOUR), line(BASE));
  await write(0);
  assert.equal(hoursOf(topic).length, 2);
});
