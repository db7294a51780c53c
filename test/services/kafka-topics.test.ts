import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { zstdCompressSync } from 'node:zlib';
import kafkajs from 'kafkajs';
import { CODECS, decompress } from '../../src/log/kafka/codecs.ts';
import { ensureTopics, type TopicSettings } from '../../src/log/kafka/topics.ts';
import { encodeReading, readingPrefix } from '../../src/log/record.ts';
import { range, seqs } from '../suites/log.ts';
import { type KafkaPlace, openKafka, SKIP, TOPICS } from './kafka-env.ts';
import { until } from './kafka-stream.ts';

async function configOf(place: KafkaPlace, topic: string): Promise<Record<string, string>> {
  const { resources } = await place.admin.describeConfigs({
    includeSynonyms: false,
    resources: [{ type: kafkajs.ConfigResourceTypes.TOPIC, name: place.name(topic) }],
  });
  const entries = resources[0]?.configEntries ?? [];
  return Object.fromEntries(
    entries.map(({ configName, configValue }) => [configName, configValue]),
  );
}

async function partitionsOf(place: KafkaPlace, topic: string): Promise<number> {
  const { topics } = await place.admin.fetchTopicMetadata({ topics: [place.name(topic)] });
  return topics[0]?.partitions.length ?? 0;
}

/** Of a package without types. */
async function functionOf<T>(name: string, from: string): Promise<T> {
  const loaded = (await import(from)) as Record<string, unknown> & {
    default?: Record<string, unknown>;
  };
  return (loaded.default ?? loaded)[name] as T;
}

type Pack = (raw: Uint8Array) => Uint8Array;

/** As Kafka wants it: with the flag of independent blocks, which goes into the header's checksum. */
async function lz4Pack(): Promise<Pack> {
  const compress = await functionOf<Pack>('compress', 'lz4js');
  const hash = await functionOf<(...words: unknown[]) => number>('hash', 'lz4js/xxh32.js');
  return (raw) => {
    const packed = compress(raw);
    packed[4] = (packed[4] ?? 0) | 0x20;
    packed[6] = (hash(0, packed, 4, 2) >> 8) & 0xff;
    return packed;
  };
}

describe('topics', { skip: SKIP }, () => {
  test('they are made as configured, by whoever comes first', async (t) => {
    const place = await openKafka(t, { create: false });
    const readings: TopicSettings = {
      partitions: 5,
      replication: 1,
      retainForMs: 86_400_000,
      retainBytes: 1_000_000_000,
      compacted: false,
      batchBytesMax: 300_000,
    };
    const wanted = { ...TOPICS, readings };
    const all = await Promise.all(
      range(0, 4).map(() => ensureTopics(place.settings, wanted, place.logger).catch(() => null)),
    );
    const facts = all.find((one) => one !== null) ?? new Map();
    assert.deepEqual(facts.get('readings'), { partitions: 5, batchBytesMax: 300_000 });
    assert.equal(facts.size, Object.keys(TOPICS).length);
    assert.equal(await partitionsOf(place, 'readings'), 5);
    const config = await configOf(place, 'readings');
    assert.equal(config['cleanup.policy'], 'delete');
    assert.equal(config['retention.ms'], '86400000');
    assert.equal(config['retention.bytes'], '1000000000');
    assert.equal(config['max.message.bytes'], '300000');
    assert.equal(config['message.timestamp.type'], 'LogAppendTime');
    const registry = await configOf(place, 'registry');
    assert.deepEqual(
      [registry['cleanup.policy'], registry['retention.ms'], registry['retention.bytes']],
      ['compact', '-1', '-1'],
    );
    const processes = await configOf(place, 'processes');
    assert.equal(processes['retention.ms'], '3600000');
    assert.deepEqual(processes['cleanup.policy']?.split(',').sort(), ['compact', 'delete']);
  });

  test('one that exists with other settings stays as it is, with a warning', async (t) => {
    const place = await openKafka(t, { create: false });
    const { settings, logger } = place;
    await place.admin.createTopics({
      waitForLeaders: true,
      topics: [
        {
          topic: place.name('presence'),
          numPartitions: 2,
          configEntries: [{ name: 'retention.ms', value: '1000000' }],
        },
      ],
    });
    const facts = await ensureTopics(settings, TOPICS, logger);
    assert.equal(facts.get('presence')?.partitions, 2);
    assert.equal(await partitionsOf(place, 'presence'), 2);
    assert.equal((await configOf(place, 'presence'))['retention.ms'], '1000000');
    const warnings = logger.lines.filter(({ level }) => level === 'warn');
    assert.equal(warnings.length, 2, JSON.stringify(warnings));
    const [other, unequal] = warnings;
    assert.match(other?.message ?? '', /exists with other settings/);
    assert.equal(other?.fields.topic, place.name('presence'));
    const differs = other?.fields.differs as { key: string; wanted: unknown; actual: unknown }[];
    assert.deepEqual(
      differs.map(({ key }) => key),
      ['partitions', 'retention.ms', 'max.message.bytes', 'message.timestamp.type'],
    );
    assert.deepEqual([differs[0]?.wanted, differs[0]?.actual], [3, 2]);
    assert.match(unequal?.message ?? '', /another number of partitions than readings/);
    logger.lines.length = 0;
    await ensureTopics(settings, { readings: TOPICS.readings }, logger);
    assert.deepEqual(logger.lines, [], 'nothing to say of one that is right');
  });

  test('what foreign clients write is read, whatever they compress it with', async (t) => {
    const place = await openKafka(t);
    const types = kafkajs.CompressionTypes;
    const codecs = kafkajs.CompressionCodecs as Record<number, unknown>;
    const packers: Record<'Snappy' | 'LZ4' | 'ZSTD', Pack> = {
      Snappy: await functionOf<Pack>('compress', 'snappyjs'),
      LZ4: await lz4Pack(),
      ZSTD: (raw) => zstdCompressSync(raw),
    };
    for (const [name, pack] of Object.entries(packers)) {
      const type = types[name as keyof typeof packers];
      const attribute = CODECS[name.toLowerCase() as keyof typeof CODECS];
      codecs[type] = () => ({
        compress: async ({ buffer }: { buffer: Buffer }) => Buffer.from(pack(buffer)),
        decompress: (packed: Buffer) => decompress(packed, attribute),
      });
    }
    const producer = place.kafka.producer({
      createPartitioner: kafkajs.Partitioners.DefaultPartitioner,
    });
    t.after(() => producer.disconnect());
    await producer.connect();
    const topic = place.name('readings');
    const wanted: number[] = [];
    let seq = 0;
    const readings = () =>
      range(0, 50).map(() => {
        wanted.push(seq);
        const line = encodeReading(readingPrefix('acme', 'd1', 'x'), 1, 2, seq++, { text: 'ÿ' });
        return { key: 'acme/d1', value: line };
      });
    for (const compression of [types.None, types.GZIP, types.Snappy, types.LZ4, types.ZSTD]) {
      await producer.send({ topic, compression, messages: readings() });
      await producer.send({
        topic,
        compression,
        messages: [
          { key: 'acme/d1', value: 'no record' },
          { key: 'acme/d1', value: null },
        ],
      });
    }
    const consumer = place.consumer();
    let ends: Awaited<ReturnType<typeof consumer.bounds>> = new Map();
    // A partition that was made just now, and that nobody has written to, may have no leader yet.
    await until('all partitions have a leader', 10_000, () =>
      consumer.bounds().then(
        (bounds) => {
          ends = bounds;
          return true;
        },
        () => false,
      ),
    );
    const ending = new AbortController();
    const late = setTimeout(() => ending.abort(), 20_000);
    const found: (number | undefined)[] = [];
    let partition = -1;
    for await (const batch of consumer.consume('g', { signal: ending.signal })) {
      found.push(...seqs([batch], 'd1'));
      ({ partition } = batch);
      // Behind the last record there are two that are none.
      if (batch.nextOffset === ends.get(partition)?.end) break;
    }
    clearTimeout(late);
    assert.deepEqual(found, wanted);
    assert.equal(ends.get(partition)?.end, 5 * 52);
    const left = place.logger.lines
      .filter(({ message }) => /not ours/.test(message))
      .reduce((sum, { fields }) => sum + Number(fields.records), 0);
    assert.equal(left, 10);
  });
});
