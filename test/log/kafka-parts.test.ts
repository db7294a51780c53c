import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  assign,
  decodeAssignment,
  encodeSubscription,
  share,
} from '../../src/log/kafka/assigner.ts';
import { CODECS, compress, type WrittenCodec } from '../../src/log/kafka/codecs.ts';
import { crc32c } from '../../src/log/kafka/crc32c.ts';
import { decodeBatches } from '../../src/log/kafka/decode.ts';
import {
  encodeBatch,
  encodeHeaders,
  encodeText,
  RecordCursor,
  RecordWriter,
  splitBatches,
} from '../../src/log/kafka/record-batch.ts';
import { partitionOf, Router } from '../../src/log/kafka/routing.ts';
import { encodeReading, encodeRecord, readingPrefix } from '../../src/log/record.ts';
import { range } from '../suites/log.ts';

interface JavaCase {
  batches: Record<string, string>;
  partitions: Record<string, number[]>;
}

const java = JSON.parse(
  readFileSync(new URL('../cases/kafka/java-client.json', import.meta.url), 'utf8'),
) as JavaCase;
const STAMP = { producerId: 7n, producerEpoch: 1, baseSequence: 5 };

test('CRC-32C of the known text (RFC 3720, B.4)', () => {
  assert.equal(crc32c(Buffer.from('123456789')), 0xe3069283);
  assert.equal(crc32c(Buffer.alloc(32)), 0x8a9136aa);
  assert.equal(crc32c(Buffer.alloc(32, 0xff)), 0x62a8ab43);
});

test('keys go where the Java client puts them', () => {
  for (const [count, wanted] of Object.entries(java.partitions)) {
    const found = wanted.map((_, i) => partitionOf(`acme/device-${i}`, Number(count)));
    assert.deepEqual(found, wanted);
  }
});

for (const [codec, text] of Object.entries(java.batches)) {
  test(`a batch of the Java client is read (${codec})`, async () => {
    const [raw, ...others] = splitBatches(Buffer.from(text, 'base64')) ?? [];
    assert.ok(raw !== undefined && others.length === 0);
    assert.equal(raw.attributes & 7, CODECS[codec as keyof typeof CODECS]);
    const at = raw.baseOffset;
    const { batches, unreadable } = await decodeBatches(3, [raw], at + 10, false);
    assert.equal(unreadable, 0);
    assert.equal(batches.length, 1);
    const [batch] = batches;
    assert.deepEqual([batch?.firstOffset, batch?.nextOffset], [at + 10, at + 400]);
    assert.deepEqual(
      batch?.records,
      range(10, 400).map((i) => ({
        kind: 'reading',
        tenant: 'acme',
        device: `d${i % 5}`,
        type: 'x',
        ts: 1_767_225_600_000 + i,
        received: 1_767_225_700_000,
        seq: i,
        values: { a: i * 0.5, text: 'ÿ😀' },
      })),
    );
    assert.deepEqual(
      batch?.sources,
      range(10, 400).map((number) => ({ source: 'java', number })),
    );
    // Somebody who can't write batches, but puts a right checksum on them.
    const nonsense = Buffer.from(raw.bytes);
    nonsense.fill(0xa5, 90);
    nonsense.writeUInt32BE(crc32c(nonsense.subarray(21)), 17);
    const skipped = await decodeBatches(3, [{ ...raw, bytes: nonsense }], at, false);
    assert.ok(skipped.unreadable > 0);
    assert.equal(skipped.batches.at(-1)?.nextOffset, at + 400);
    const damaged = Buffer.from(raw.bytes);
    damaged[damaged.length - 5] = (damaged[damaged.length - 5] ?? 0) ^ 1;
    await assert.rejects(decodeBatches(3, [{ ...raw, bytes: damaged }], at, false), {
      code: 'LOG_CORRUPT',
    });
  });
}

test('any records are read as they were written', async () => {
  const text = fc.string({ unit: 'binary', maxLength: 200 });
  const record = fc.record({
    key: fc.option(text),
    value: fc.option(text),
    number: fc.nat(),
    other: text,
  });
  await fc.assert(
    fc.asyncProperty(
      fc.array(record, { minLength: 1, maxLength: 60 }),
      fc.constantFrom<WrittenCodec>('none', 'gzip', 'zstd'),
      async (records, codec) => {
        const writer = new RecordWriter(16);
        const names = [encodeText('number')];
        for (const { key, value, number, other } of records) {
          const headers = { fixed: encodeHeaders([['other', other]]), fixedCount: 1 };
          writer.add(key === null ? null : Buffer.from(key), value, headers, names, [`${number}`]);
        }
        const packed = compress(writer.records, codec);
        const whole = encodeBatch(packed, writer.count, CODECS[codec], 1_000, STAMP);
        const [raw] = splitBatches(whole) ?? [];
        assert.ok(raw);
        assert.equal(raw.count, records.length);
        const cursor = new RecordCursor(Buffer.from(writer.records));
        const headers: string[] = [];
        for (const [i, { key, value, number }] of records.entries()) {
          assert.ok(cursor.next());
          assert.equal(cursor.offsetDelta, i);
          assert.equal(cursor.key(), key === null ? null : Buffer.from(key).toString());
          assert.equal(cursor.value(), value === null ? null : Buffer.from(value).toString());
          cursor.headers(names, headers);
          assert.deepEqual(headers, [`${number}`]);
        }
        assert.ok(!cursor.next());
        const lines = await decodeBatches(0, [raw], 0, true);
        assert.deepEqual(
          lines.batches.flatMap((batch) => batch.lines ?? []),
          records.flatMap(({ value }) => (value === null ? [] : [Buffer.from(value).toString()])),
        );
        assert.equal(lines.batches.at(-1)?.nextOffset, records.length);
      },
    ),
    { numRuns: 100 },
  );
});

test('a fetch that is cut off anywhere gives its whole batches, and damage never more', () => {
  const batch = (seed: number) => {
    const writer = new RecordWriter(16);
    for (const i of range(0, 1 + (seed % 4))) writer.add(null, `value ${seed} ${i}`);
    return encodeBatch(writer.records, writer.count, CODECS.none, 1, STAMP);
  };
  const parts = range(0, 5).map(batch);
  const whole = Buffer.concat(parts);
  let ends = 0;
  const bounds = parts.map((part) => {
    ends += part.length;
    return ends;
  });
  for (const cut of range(0, whole.length + 1)) {
    const found = splitBatches(whole.subarray(0, cut));
    assert.equal(found?.length, bounds.filter((end) => end <= cut).length);
  }
  const old = Buffer.from(whole);
  old[16] = 1;
  assert.equal(splitBatches(old), undefined);
});

test('what others put into a topic leaves no hole at its end', async () => {
  const prefix = readingPrefix('acme', 'd1', 'x');
  const values = [
    encodeReading(prefix, 1, 2, 0, { a: 1 }),
    'no JSON',
    '{"kind":"reading","tenant":"acme"}',
    'null',
    encodeReading(prefix, 2, 3, 1, { a: 1 }),
    null,
    '[]',
  ];
  const writer = new RecordWriter(16);
  for (const value of values) writer.add(null, value);
  const [raw] =
    splitBatches(encodeBatch(writer.records, writer.count, CODECS.none, 1, STAMP)) ?? [];
  assert.ok(raw);
  const places = (await decodeBatches(0, [raw], 0, false)).batches.map(
    ({ firstOffset, nextOffset, records }) => [firstOffset, nextOffset, records.length],
  );
  assert.deepEqual(places, [
    [0, 1, 1],
    [4, 5, 1],
    [5, 7, 0],
  ]);
  const rest = await decodeBatches(0, [raw], 5, false);
  assert.equal(rest.unreadable, 2);
  assert.deepEqual(
    rest.batches.map(({ nextOffset }) => nextOffset),
    [7],
  );
});

test('records go to their topics by kind, and devices to one partition number', () => {
  const router = new Router('s', () => 48);
  const line = encodeReading(readingPrefix('acme', 'd1', 'x'), 1, 1234567890123, 0, { a: 1 });
  const { topic, partition, key } = router.route(line);
  assert.deepEqual([topic, router.received, String(key)], ['readings', '1234567890123', 'acme/d1']);
  const prefix = readingPrefix('acme', 'd1', 'x', 'backfill');
  const old = router.route(encodeReading(prefix, 1, 1234567890124, 0, { a: 1 }));
  assert.deepEqual(
    [old.topic, old.partition, router.received],
    ['backfill', partition, '1234567890124'],
  );
  const spaced = `{"kind": "reading", "lane": "backfill", "tenant": "acme", "device": "d1", "type": "x", "received": 7}`;
  assert.equal(router.route(spaced).topic, 'backfill');
  const of = (kind: 'deadLetter' | 'shed' | 'event') =>
    router.route(
      encodeRecord({ kind, tenant: 'acme', device: 'd1', received: 5 } as Parameters<
        typeof encodeRecord
      >[0]),
    );
  assert.deepEqual(
    (['deadLetter', 'shed', 'event'] as const).map((kind) => [of(kind).topic, of(kind).partition]),
    [
      ['dead-letters', partition],
      ['dead-letters', partition],
      ['presence', partition],
    ],
  );
  assert.throws(() => router.route('{"kind":"reading",nonsense'), SyntaxError);
});

test('shares are equal, and no partition moves without need', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 60 }),
      fc.array(fc.constantFrom('join', 'leave'), { maxLength: 12 }),
      (count, steps) => {
        let members = [{ memberId: 'm0', owned: [] as number[], generation: -1 }];
        for (const [i, step] of steps.entries()) {
          if (step === 'join') {
            members.push({ memberId: `m${i + 1}`, owned: [], generation: -1 });
          } else if (members.length > 1) members.shift();
          const before = members;
          const owners = share(before, count);
          const sizes = before.map(
            ({ memberId }) => owners.filter((one) => one === memberId).length,
          );
          assert.equal(owners.length, count);
          assert.equal(
            sizes.reduce((sum, size) => sum + size, 0),
            count,
          );
          assert.ok(Math.max(...sizes) - Math.min(...sizes) <= 1);
          // A member loses only what it has above its new share.
          for (const [at, { memberId, owned }] of before.entries()) {
            const kept = owned.filter((partition) => owners[partition] === memberId).length;
            assert.equal(kept, Math.min(owned.length, sizes[at] ?? 0));
          }
          members = before.map(({ memberId }) => ({
            memberId,
            owned: owners.flatMap((one, partition) => (one === memberId ? [partition] : [])),
            generation: i,
          }));
        }
      },
    ),
  );
});

test('of two that claim a partition the later generation has it; an unknown topic is not given', () => {
  const owners = share(
    [
      { memberId: 'gone and back', owned: [0, 1, 2, 3], generation: 4 },
      { memberId: 'present', owned: [0, 1, 2, 3], generation: 5 },
    ],
    4,
  );
  assert.deepEqual(owners, ['present', 'present', 'gone and back', 'gone and back']);
  const member = (memberId: string, topics: string[]) => ({
    memberId,
    memberMetadata: encodeSubscription({ topics, owned: [], generation: -1 }),
  });
  const counts = new Map([
    ['readings', 4],
    ['backfill', 4],
  ]);
  const given = assign(
    [member('new', ['readings', 'backfill']), member('old', ['readings'])],
    counts,
  );
  const topicsOf = (memberId: string) =>
    decodeAssignment(
      given.find((one) => one.memberId === memberId)?.memberAssignment ?? Buffer.alloc(0),
      ['readings', 'backfill'],
    );
  assert.deepEqual(new Set(topicsOf('old').map(({ topic }) => topic)), new Set(['readings']));
  assert.equal(topicsOf('new').filter(({ topic }) => topic === 'backfill').length, 2);
  assert.equal(topicsOf('new').length + topicsOf('old').length, 6);
});
