import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import type { LogRecord, ReadingRecord, ReceivedCount, Values } from '../../src/core/nouns.ts';
import type { AppendRequest, LogAppender, LogBatch, LogConsumer } from '../../src/log/contract.ts';
import {
  encodeReading,
  encodeRecord,
  NO_TALLY,
  readingPrefix,
  tallyKey,
} from '../../src/log/record.ts';

/** One log of its own for a test; what is opened ends with the test. */
export interface LogUnderTest {
  /** Opens the writing end, again after the earlier one was closed. */
  appender(): Promise<LogAppender>;
  consumer(): LogConsumer;
}

export type OpenLog = (t: TestContext) => Promise<LogUnderTest>;

const HOUR = 3_600_000;
const NOW = Date.UTC(2026, 0, 2, 3, 4, 5);

/** A message of one reading; `seq` tells readings apart. */
export function message(
  device: string,
  seq: number,
  values: Values = { temperature: 20 },
): AppendRequest {
  return {
    records: [encodeReading(readingPrefix('acme', device, 'thermostat'), NOW, NOW, seq, values)],
    tallyKeys: [tallyKey('acme', device, NOW, 'reading', '')],
  };
}

/** A message of one old reading. */
export function oldMessage(device: string, seq: number): AppendRequest {
  const prefix = readingPrefix('acme', device, 'thermostat', 'backfill');
  return {
    records: [encodeReading(prefix, NOW - 30 * HOUR, NOW, seq, { temperature: 20 })],
    tallyKeys: [tallyKey('acme', device, NOW, 'reading', '')],
    backfill: [true],
  };
}

/** A message of several readings of one device. */
export function messageOf(
  device: string,
  first: number,
  count: number,
  values?: Values,
): AppendRequest {
  const parts = Array.from({ length: count }, (_, i) => message(device, first + i, values));
  return {
    records: parts.flatMap(({ records }) => records),
    tallyKeys: parts.flatMap(({ tallyKeys }) => tallyKeys),
  };
}

/** Resolves when the message is durable. */
export function appended(appender: LogAppender, request: AppendRequest): Promise<void> {
  return new Promise((resolve, reject) => {
    appender.append(request, (error) => (error === null ? resolve() : reject(error)));
  });
}

/** Batches until `count` records have come; fails when they don't within 10 s. */
export async function take(
  consumer: LogConsumer,
  group: string,
  count: number,
  options: { from?: ReadonlyMap<number, number>; recordsMax?: number; commit?: boolean } = {},
): Promise<LogBatch[]> {
  const { commit = false, ...rest } = options;
  const stop = new AbortController();
  const late = setTimeout(() => stop.abort(), 10_000);
  const batches: LogBatch[] = [];
  let taken = 0;
  try {
    for await (const batch of consumer.consume(group, { ...rest, signal: stop.signal })) {
      batches.push(batch);
      taken += batch.records.length;
      if (commit) await consumer.commit(group, batch.partition, batch.nextOffset);
      if (taken >= count) break;
    }
  } finally {
    clearTimeout(late);
  }
  assert.ok(taken >= count, `${taken} of ${count} records came`);
  return batches;
}

/** The sequence numbers of a device's readings, in the order of the log. */
export function seqs(batches: LogBatch[], device: string): (number | undefined)[] {
  return batches
    .flatMap(({ records }) => records)
    .filter((record): record is ReadingRecord => record.kind === 'reading')
    .filter((record) => record.device === device)
    .map(({ seq }) => seq);
}

export function range(from: number, to: number): number[] {
  return Array.from({ length: to - from }, (_, i) => from + i);
}

function byName(counts: ReceivedCount[]): string[] {
  return counts
    .map(({ tenant, device, hour, outcome, code, count }) =>
      [tenant, device, hour, outcome, code, count].join(' '),
    )
    .sort();
}

/** The contract of `log/contract.ts`, for every engine. */
export function logSuite(name: string, open: OpenLog): void {
  const check = (title: string, body: (t: TestContext, log: LogUnderTest) => Promise<void>) =>
    test(`${name}: ${title}`, async (t) => body(t, await open(t)));

  check('a message is there for others when it is called back', async (_t, log) => {
    const appender = await log.appender();
    const consumer = log.consumer();
    for (const seq of range(0, 5)) {
      await appended(appender, message('d1', seq));
      assert.deepEqual(seqs(await take(consumer, 'g', seq + 1), 'd1'), range(0, seq + 1));
    }
  });

  check('callbacks come once, later, and in the order of the calls', async (_t, log) => {
    const appender = await log.appender();
    const order: number[] = [];
    let within = true;
    const all = range(0, 500).map(
      (i) =>
        new Promise<void>((resolve, reject) => {
          const request =
            i % 7 === 0 ? { records: [], tallyKeys: [] } : messageOf('d1', i, 1 + (i % 3));
          appender.append(request, (error) => {
            if (within) reject(new Error('called back within the call'));
            if (error !== null) reject(error);
            order.push(i);
            resolve();
          });
        }),
    );
    within = false;
    await Promise.all(all);
    await appender.flush();
    assert.deepEqual(order, range(0, 500));
  });

  check(
    'an append without records is called back when nothing waits, and before what follows',
    async (_t, log) => {
      const appender = await log.appender();
      await appended(appender, { records: [], tallyKeys: [] });
      await appended(appender, message('d1', 0));
      const order: string[] = [];
      appender.append({ records: [], tallyKeys: [] }, () => order.push('empty'));
      appender.append(message('d1', 1), () => order.push('message'));
      // The callbacks of a commit may be nearer than the next turn.
      const end = performance.now() + 50;
      while (performance.now() < end);
      await appender.flush();
      assert.deepEqual(order, ['empty', 'message']);
      assert.deepEqual(seqs(await take(log.consumer(), 'g', 2), 'd1'), [0, 1]);
    },
  );

  check('a partition has no gaps, and a device stands in one, in its order', async (_t, log) => {
    const appender = await log.appender();
    const devices = ['d1', 'd2', 'd3'];
    for (const seq of range(0, 300)) {
      for (const device of devices) appender.append(message(device, seq), () => {});
      if (seq % 50 === 0) await appender.flush();
    }
    await appender.flush();
    const batches = await take(log.consumer(), 'g', 900, { recordsMax: 50 });
    const next = new Map<number, number>();
    const home = new Map<string, number>();
    for (const batch of batches) {
      assert.equal(batch.nextOffset - batch.firstOffset, batch.records.length);
      assert.equal(batch.firstOffset, next.get(batch.partition) ?? batch.firstOffset);
      next.set(batch.partition, batch.nextOffset);
      for (const { device } of batch.records) {
        assert.equal(home.get(device) ?? batch.partition, batch.partition);
        home.set(device, batch.partition);
      }
    }
    for (const device of devices) assert.deepEqual(seqs(batches, device), range(0, 300));
    assert.ok(batches.length > 1);
  });

  check('records come back as they were', async (_t, log) => {
    const appender = await log.appender();
    const records: LogRecord[] = [
      {
        kind: 'reading',
        tenant: 'acme',
        device: 'd1',
        type: 'thermostat',
        ts: NOW - 5,
        received: NOW,
        seq: 2 ** 53 - 1,
        values: { a: -0.1, b: true, 'c.d/e:f-1': 'line\nbreak "quotes" \u0000 \u2028 ÿ 😀 \ud800' },
      },
      {
        kind: 'deadLetter',
        tenant: 'acme',
        device: 'd1',
        type: 'thermostat',
        received: NOW,
        code: 'JSON_INVALID',
        message: 'The payload is not JSON.',
        topic: 't/acme/d/d1/telemetry',
        payload: Buffer.from([0, 255, 10, 13]).toString('base64'),
        payloadBytes: 4,
        actual: 'a\nb',
      },
      { kind: 'shed', tenant: 'acme', device: 'd1', received: NOW, code: 'LOG_FULL', count: 7 },
      {
        kind: 'event',
        tenant: 'acme',
        device: 'd1',
        received: NOW,
        event: 'state',
        data: { deep: [{ x: null }] },
      },
    ];
    const lines = records.map((record) =>
      record.kind === 'reading'
        ? encodeReading(
            readingPrefix(record.tenant, record.device, record.type),
            record.ts,
            record.received,
            record.seq,
            record.values,
          )
        : encodeRecord(record),
    );
    await appended(appender, { records: lines, tallyKeys: lines.map(() => NO_TALLY) });
    // One batch of each partition, whose records stand in the order of the message.
    const batches = await take(log.consumer(), 'g', 4);
    const partitions = new Set(batches.map(({ partition }) => partition));
    assert.equal(batches.length, partitions.size);
    const home = new Map(
      batches.flatMap((batch) => batch.records.map(({ kind }) => [kind, batch] as const)),
    );
    for (const batch of batches) {
      const expected = records.filter(({ kind }) => home.get(kind) === batch);
      assert.deepEqual(batch.records, expected);
    }
    assert.equal(batches.flatMap((batch) => batch.records).length, records.length);
  });

  check('every group sees everything, at its own pace', async (_t, log) => {
    const appender = await log.appender();
    for (const seq of range(0, 20)) await appended(appender, message('d1', seq));
    const consumer = log.consumer();
    await take(consumer, 'fast', 20, { commit: true });
    const slow = await take(consumer, 'slow', 5, { recordsMax: 1, commit: true });
    const rest = 20 - seqs(slow, 'd1').length;
    assert.ok(rest > 0);
    assert.deepEqual(
      [...seqs(slow, 'd1'), ...seqs(await take(log.consumer(), 'slow', rest), 'd1')],
      range(0, 20),
    );
    assert.deepEqual(seqs(await take(consumer, 'late', 20), 'd1'), range(0, 20));
  });

  check('committed offsets are durable and never go back', async (_t, log) => {
    const appender = await log.appender();
    await appended(appender, messageOf('d1', 0, 10));
    const consumer = log.consumer();
    const [batch] = await take(consumer, 'g', 10);
    assert.ok(batch);
    const { partition, firstOffset } = batch;
    assert.deepEqual(await consumer.committed('g'), new Map());
    await consumer.commit('g', partition, firstOffset + 6);
    await consumer.commit('g', partition, firstOffset + 4);
    assert.deepEqual(await consumer.committed('g'), new Map([[partition, firstOffset + 6]]));
    assert.deepEqual(await consumer.committed('other'), new Map());
    await consumer.close();
    assert.deepEqual(await log.consumer().committed('g'), new Map([[partition, firstOffset + 6]]));
  });

  check('a group begins where it is told, also within a commit', async (_t, log) => {
    const appender = await log.appender();
    await appended(appender, messageOf('d1', 0, 100));
    await appended(appender, messageOf('d1', 100, 100));
    const consumer = log.consumer();
    const [first] = await take(consumer, 'g', 200);
    assert.ok(first);
    const { partition, firstOffset } = first;
    for (const skipped of [0, 1, 37, 99, 100, 101, 199]) {
      const at = firstOffset + skipped;
      const batches = await take(consumer, 'g', 200 - skipped, {
        from: new Map([[partition, at]]),
      });
      assert.equal(batches[0]?.firstOffset, at);
      assert.deepEqual(seqs(batches, 'd1'), range(skipped, 200));
    }
    await consumer.commit('g', partition, firstOffset + 150);
    assert.deepEqual(seqs(await take(consumer, 'g', 50), 'd1'), range(150, 200));
  });

  check('goes on after it was closed and opened', async (_t, log) => {
    const first = await log.appender();
    await appended(first, messageOf('d1', 0, 10));
    const end = first.stats().endOffset;
    await take(log.consumer(), 'g', 10, { commit: true });
    await first.close();
    const second = await log.appender();
    assert.equal(second.stats().endOffset, end);
    await appended(second, messageOf('d1', 10, 10));
    assert.deepEqual(seqs(await take(log.consumer(), 'g', 10), 'd1'), range(10, 20));
    assert.deepEqual(seqs(await take(log.consumer(), 'new', 20), 'd1'), range(0, 20));
  });

  check('waits for what comes later, and ends when it is told to', async (_t, log) => {
    const appender = await log.appender();
    const consumer = log.consumer();
    const stop = new AbortController();
    const got: (number | undefined)[] = [];
    let more: () => void = () => {};
    const loop = (async () => {
      for await (const batch of consumer.consume('g', { signal: stop.signal })) {
        got.push(...seqs([batch], 'd1'));
        more();
      }
    })();
    for (const seq of range(0, 3)) {
      const came = new Promise<void>((resolve) => {
        more = resolve;
      });
      await appended(appender, message('d1', seq));
      await came;
    }
    stop.abort();
    await loop;
    assert.deepEqual(got, [0, 1, 2]);
    for await (const _batch of consumer.consume('g', { signal: AbortSignal.abort() })) {
      assert.fail('an aborted signal yields nothing');
    }
  });

  check('received() is what was appended, without events', async (_t, log) => {
    const appender = await log.appender();
    const append = (request: AppendRequest) => appender.append(request, () => {});
    for (const seq of range(0, 30)) append(message('d1', seq));
    append(messageOf('d2', 0, 4));
    append({
      records: [
        encodeRecord({
          kind: 'shed',
          tenant: 'acme',
          device: 'd1',
          received: NOW,
          code: 'LOG_FULL',
          count: 500,
        }),
        encodeRecord({
          kind: 'event',
          tenant: 'acme',
          device: 'd1',
          received: NOW,
          event: 'connected',
        }),
      ],
      tallyKeys: [tallyKey('acme', 'd1', NOW, 'shed', 'LOG_FULL'), NO_TALLY],
      counts: [500, 1],
    });
    const later = NOW + HOUR;
    const refused = (tenant: string, received: number): AppendRequest => ({
      records: [
        encodeRecord({
          kind: 'deadLetter',
          tenant,
          device: 'd1',
          type: 't',
          received,
          code: 'JSON_INVALID',
          message: '',
          topic: '',
          payload: '',
          payloadBytes: 0,
        }),
      ],
      tallyKeys: [tallyKey(tenant, 'd1', received, 'deadLetter', 'JSON_INVALID')],
    });
    append(refused('acme', later));
    append(refused('other', later));
    await appender.flush();
    const hour = Math.floor(NOW / HOUR) * HOUR;
    const early = [
      `acme d1 ${hour} reading  30`,
      `acme d1 ${hour} shed LOG_FULL 500`,
      `acme d2 ${hour} reading  4`,
    ];
    const mine = `acme d1 ${hour + HOUR} deadLetter JSON_INVALID 1`;
    const theirs = `other d1 ${hour + HOUR} deadLetter JSON_INVALID 1`;
    const consumer = log.consumer();
    const received = async (filter: Parameters<LogConsumer['received']>[0]) =>
      byName(await consumer.received(filter));
    assert.deepEqual(await received({}), [...early, mine, theirs].sort());
    assert.deepEqual(await received({ tenant: 'acme' }), [...early, mine].sort());
    assert.deepEqual(await received({ to: hour + HOUR }), early.sort());
    assert.deepEqual(await received({ from: hour + HOUR }), [mine, theirs].sort());
    assert.deepEqual(await received({ tenant: 'other', from: hour, to: hour + HOUR }), []);
    assert.deepEqual(await received({ tenant: 'nobody' }), []);
  });

  check('a batch never splits a message', async (_t, log) => {
    const appender = await log.appender();
    const sizes = range(0, 60).map((i) => 1 + ((i * 7) % 40));
    const ends = new Set<number>();
    let first = 0;
    for (const size of sizes) {
      appender.append(messageOf('d1', first, size), () => {});
      first += size;
      ends.add(first - 1);
    }
    await appender.flush();
    for (const recordsMax of [1, 10, 10_000]) {
      const batches = await take(log.consumer(), 'g', first, { recordsMax });
      assert.deepEqual(seqs(batches, 'd1'), range(0, first));
      for (const batch of batches) {
        const last = seqs([batch], 'd1').at(-1);
        assert.ok(last !== undefined && ends.has(last), `a batch ends with record ${last}`);
      }
    }
  });

  check('takes many records and large ones', async (_t, log) => {
    const appender = await log.appender();
    const long = 'ÿ'.repeat(30_000);
    for (const i of range(0, 40)) {
      appender.append(messageOf('d1', i * 500, 500), () => {});
      appender.append(message('d2', i, { long }), () => {});
    }
    await appender.flush();
    const batches = await take(log.consumer(), 'g', 20_040);
    assert.deepEqual(seqs(batches, 'd1'), range(0, 20_000));
    assert.deepEqual(seqs(batches, 'd2'), range(0, 40));
    for (const { records } of batches) {
      for (const record of records) {
        if (record.device === 'd2' && record.kind === 'reading') {
          assert.equal(record.values.long, long);
        }
      }
    }
  });

  check('flush() waits for what came before it, and for nothing else', async (_t, log) => {
    const appender = await log.appender();
    await appender.flush();
    let durable = 0;
    let stop = false;
    let seq = 0;
    // Somebody who never stops appending.
    const again = () => {
      durable++;
      if (!stop) appender.append(message('d1', seq++), again);
    };
    for (let i = 0; i < 100; i++) appender.append(message('d1', seq++), again);
    await appender.flush();
    assert.ok(durable >= 100);
    stop = true;
    await appender.flush();
    assert.equal(durable, seq);
  });

  check('what is appended after the end is refused, not lost silently', async (_t, log) => {
    const appender = await log.appender();
    const before = appended(appender, message('d1', 0));
    const closing = appender.close();
    await assert.rejects(appended(appender, message('d1', 1)), { code: 'LOG_CLOSED' });
    await before;
    await Promise.all([closing, appender.close()]);
    await assert.rejects(appended(appender, message('d1', 2)), { code: 'LOG_CLOSED' });
    assert.deepEqual(seqs(await take(log.consumer(), 'g', 1), 'd1'), [0]);
  });

  check('bounds() and stats() agree', async (_t, log) => {
    const appender = await log.appender();
    const consumer = log.consumer();
    await appended(appender, messageOf('d1', 0, 10));
    const kept = [...(await consumer.bounds()).values()].reduce(
      (sum, { first, end }) => sum + end - first,
      0,
    );
    const { endOffset, firstOffset, pendingBytes, pendingRecords, full, commits } =
      appender.stats();
    assert.equal(kept, 10);
    assert.equal(endOffset - firstOffset, 10);
    assert.deepEqual(
      { pendingBytes, pendingRecords, full },
      {
        pendingBytes: 0,
        pendingRecords: 0,
        full: false,
      },
    );
    assert.ok(commits >= 1);
    appender.append(message('d1', 10), () => {});
    assert.equal(appender.stats().pendingRecords, 1);
    assert.ok(appender.stats().pendingBytes > 50);
  });
}
