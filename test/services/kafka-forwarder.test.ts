import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { describe, type TestContext, test } from 'node:test';
import kafkajs from 'kafkajs';
import type { DeadLetterRecord, LogRecord, ReadingRecord } from '../../src/core/nouns.ts';
import type { WrittenCodec } from '../../src/log/kafka/codecs.ts';
import { encodeReading, encodeRecord, readingPrefix, tallyKey } from '../../src/log/record.ts';
import { openEmbedded } from '../log/embedded-log.ts';
import { appended, message, messageOf, oldMessage, range, seqs, take } from '../suites/log.ts';
import { type ForeignRecord, openKafka, readTopic, SKIP, SOURCE, TOPICS } from './kafka-env.ts';
import type { ForwarderChildOptions } from './kafka-forwarder-child.ts';
import { openKafkaLog } from './kafka-log.ts';
import { assertExact, DeviceStream, until } from './kafka-stream.ts';

const NOW = Date.UTC(2026, 2, 4, 5, 6, 7);

/** Without those that their source had sent before, as any reader can tell. */
function withoutRepeats(records: readonly ForeignRecord[]): ForeignRecord[] {
  const last = new Map<string, number>();
  return records.filter(({ partition, headers }) => {
    const key = `${partition}/${headers.source}`;
    const number = Number(headers.number);
    if (number <= (last.get(key) ?? -1)) return false;
    last.set(key, number);
    return true;
  });
}

function startForwarder(t: TestContext, options: ForwarderChildOptions) {
  const child: ChildProcess = spawn(
    process.execPath,
    [new URL('./kafka-forwarder-child.ts', import.meta.url).pathname, JSON.stringify(options)],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  const state = { forwarded: 0 };
  assert.ok(child.stdout !== null);
  createInterface(child.stdout).on('line', (line) => {
    state.forwarded = Number(line);
  });
  const end = async (signal: NodeJS.Signals) => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, 'exit');
    child.kill(signal);
    await ended;
  };
  t.after(() => end('SIGKILL'));
  return { state, end };
}

describe('the forwarder', { skip: SKIP }, () => {
  test('a forwarder that is killed sends again under the same numbers, and skips nothing', async (t) => {
    const spool = await openEmbedded(t);
    const place = await openKafka(t);
    const appender = await spool.appender();
    const stream = place.own(new DeviceStream(appender, 20, 1));
    const options = { dir: spool.dir, settings: place.settings };
    for (const _ of range(0, 3)) {
      const { state, end } = startForwarder(t, options);
      const before = appender.stats().endOffset;
      await until('something is forwarded', 20_000, () => state.forwarded > before + 200);
      await end('SIGKILL');
    }
    await stream.stop();
    const last = startForwarder(t, options);
    await until('all is forwarded', 20_000, () => last.state.forwarded === stream.sent);
    await last.end('SIGTERM');
    const all = await readTopic(place, 'readings');
    const once = withoutRepeats(all);
    assert.ok(all.length > stream.sent + 1_000, 'much came twice');
    const found = new Map<string, number[]>();
    for (const { value, headers } of once) {
      const { device, seq = -1 } = JSON.parse(value ?? '') as ReadingRecord;
      assert.equal(headers.source, SOURCE);
      const its = found.get(device) ?? [];
      found.set(device, its);
      its.push(seq);
    }
    assertExact(found, stream.counts());
    // The last one left the spool's offset behind it: nothing comes again.
    const quiet = place.forwarder(spool.consumer());
    assert.equal(await quiet.drained(), true);
    assert.equal(quiet.stats().records, 0);
    assert.equal((await readTopic(place, 'readings')).length, all.length);
    const { counts, upTo, waiting } = await place.consumer().account({});
    assert.equal(
      counts.reduce((sum, { count }) => sum + count, 0),
      stream.sent,
    );
    assert.deepEqual([upTo, waiting], [new Map([[SOURCE, stream.sent]]), 0]);
  });

  for (const codec of ['none', 'gzip', 'zstd'] as const satisfies WrittenCodec[]) {
    test(`any client can read what it writes (${codec})`, async (t) => {
      const log = await openKafkaLog(t, { codec });
      const appender = await log.appender();
      const reading = encodeReading(readingPrefix('acme', 'd1', 'thermostat'), NOW - 9, NOW, 7, {
        temperature: -1.5,
        text: 'ÿ"\n😀',
      });
      const others = [
        { kind: 'shed', tenant: 'acme', device: 'd1', received: NOW, code: 'LOG_FULL', count: 3 },
        {
          kind: 'deadLetter',
          tenant: 'acme',
          device: 'd2',
          type: 'thermostat',
          received: NOW + 1,
          code: 'JSON_INVALID',
          message: '',
          topic: '',
          payload: '',
          payloadBytes: 0,
        },
        { kind: 'event', tenant: 'acme', device: 'd1', received: NOW + 2, event: 'connected' },
      ] as const;
      const records = [reading, ...others.map((one) => encodeRecord(one))];
      await appended(appender, { records, tallyKeys: records.map(() => '') });
      const fixed = { tenant: 'acme', schema: '1', codec: 'json', source: SOURCE };
      const [only] = await readTopic(log.place, 'readings');
      assert.ok(only);
      assert.equal(only.key, 'acme/d1');
      assert.deepEqual(JSON.parse(only.value ?? ''), {
        kind: 'reading',
        tenant: 'acme',
        device: 'd1',
        type: 'thermostat',
        ts: NOW - 9,
        received: NOW,
        seq: 7,
        values: { temperature: -1.5, text: 'ÿ"\n😀' },
      });
      assert.deepEqual(only.headers, {
        ...fixed,
        type: 'thermostat',
        received: `${NOW}`,
        number: '0',
      });
      const letters = await readTopic(log.place, 'dead-letters');
      assert.deepEqual(letters.map(({ key, headers }) => [key, headers]).sort(), [
        ['acme/d1', { ...fixed, received: `${NOW}`, number: '1' }],
        ['acme/d2', { ...fixed, type: 'thermostat', received: `${NOW + 1}`, number: '2' }],
      ]);
      assert.deepEqual(
        letters.map(({ value }) => JSON.parse(value ?? '')).sort((a, b) => a.received - b.received),
        others.slice(0, 2),
      );
      const [event] = await readTopic(log.place, 'presence');
      assert.deepEqual(JSON.parse(event?.value ?? ''), others[2]);
    });
  }

  test('it puts a key where other clients put it', async (t) => {
    const log = await openKafkaLog(t);
    const appender = await log.appender();
    const devices = range(0, 50).map((i) => `device-${i}`);
    for (const device of devices) appender.append(message(device, 0), () => {});
    await appender.flush();
    const producer = log.place.kafka.producer({
      createPartitioner: kafkajs.Partitioners.DefaultPartitioner,
    });
    await producer.connect();
    const messages = devices.map((device) => ({ key: `acme/${device}`, value: 'foreign' }));
    await producer.send({ topic: log.place.name('presence'), messages });
    await producer.disconnect();
    const home = async (topic: string) =>
      new Map((await readTopic(log.place, topic)).map(({ key, partition }) => [key, partition]));
    assert.deepEqual(await home('readings'), await home('presence'));
  });

  test('what Kafka finds too large becomes a dead letter, and the rest goes on', async (t) => {
    const small = { ...TOPICS.readings, batchBytesMax: 20_000 };
    const log = await openKafkaLog(t, {}, { topics: { readings: small } });
    const { place } = log;
    const appender = await log.appender();
    // Nothing that can be made smaller.
    const noise = (bytes: number) =>
      Buffer.from(Array.from({ length: bytes }, () => Math.random() * 256)).toString('base64');
    appender.append(messageOf('d1', 0, 10), () => {});
    appender.append(message('d1', 10, { noise: noise(30_000) }), () => {});
    appender.append(messageOf('d1', 11, 10), () => {});
    await appender.flush();
    // Somebody makes the limit smaller while the forwarder runs: now it is Kafka that refuses.
    await place.admin.alterConfigs({
      validateOnly: false,
      resources: [
        {
          type: kafkajs.ConfigResourceTypes.TOPIC,
          name: place.name('readings'),
          configEntries: [{ name: 'max.message.bytes', value: '5000' }],
        },
      ],
    });
    for (const i of range(0, 12)) {
      const values = { noise: noise(i === 5 ? 9_000 : 700) };
      appender.append(message('d1', 21 + i, values), () => {});
    }
    await appender.flush();
    const batches = await take(place.consumer(), 'g', 33);
    const refused = [10, 26];
    assert.deepEqual(
      seqs(batches, 'd1'),
      range(0, 33).filter((seq) => !refused.includes(seq)),
    );
    const letters = batches
      .flatMap(({ records }) => records as LogRecord[])
      .filter((record): record is DeadLetterRecord => record.kind === 'deadLetter');
    assert.deepEqual(
      letters.map(({ code, device, type, actual }) => [
        code,
        device,
        type,
        actual?.replace(/^\d+/, 'n'),
      ]),
      refused.map(() => ['LOG_REFUSED', 'd1', 'thermostat', 'n bytes, code 10 of Kafka']),
    );
    for (const [i, { payload, payloadBytes }] of letters.entries()) {
      assert.ok(payloadBytes > (i === 0 ? 40_000 : 12_000));
      const kept = Buffer.from(payload, 'base64').toString();
      assert.ok(kept.startsWith(`{"kind":"reading","tenant":"acme","device":"d1"`));
      assert.ok(kept.includes(`"seq":${refused[i]},`));
    }
    assert.equal(log.forwarder().stats().refused, 2);
    const sources = (await readTopic(place, 'dead-letters')).map(({ headers }) => headers);
    assert.deepEqual(
      sources.map(({ source, number }) => [source, number]),
      refused.map((number) => [`${SOURCE}.refused`, `${number}`]),
    );
  });

  test('old readings have a lane of their own, beside the same devices', async (t) => {
    const [live, late] = [await openEmbedded(t), await openEmbedded(t)];
    const place = await openKafka(t);
    const appenders = [await live.appender(), await late.appender()] as const;
    const forwarders = [
      place.forwarder(live.consumer()),
      place.forwarder(late.consumer(), { source: 'spool-2' }),
    ];
    for (const [i, appender] of appenders.entries()) {
      for (const seq of range(0, 30))
        await appended(appender, (i === 0 ? message : oldMessage)(`d${seq % 7}`, 100 * i + seq));
      await appended(appender, {
        records: [
          encodeRecord({
            kind: 'event',
            tenant: 'acme',
            device: 'd1',
            received: NOW,
            event: 'state',
          }),
        ],
        tallyKeys: [''],
      });
    }
    assert.deepEqual(await Promise.all(forwarders.map((one) => one.drained())), [true, true]);
    const batches = await take(place.consumer(), 'g', 62);
    const numbers = new Map<string, Set<number>>();
    for (const { partition, records, sources } of batches) {
      for (const [i, record] of records.entries()) {
        const isLate = record.kind === 'reading' && (record.seq ?? 0) >= 100;
        if (record.kind === 'reading') {
          assert.equal(Math.floor(partition / 1_024), isLate ? 3 : 0);
          assert.equal(sources?.[i]?.source, isLate ? 'spool-2' : SOURCE);
        } else assert.equal(Math.floor(partition / 1_024), 2);
        const its = numbers.get(record.device) ?? new Set();
        numbers.set(record.device, its.add(partition % 1_024));
      }
    }
    for (const its of numbers.values()) assert.equal(its.size, 1);
    const { upTo } = await place.consumer().account({});
    assert.deepEqual(
      upTo,
      new Map([
        [SOURCE, 31],
        ['spool-2', 31],
      ]),
    );
  });

  test('the account is written as it grows, and not all of it again after a restart', async (t) => {
    const log = await openKafkaLog(t);
    const { place, spool } = log;
    const appender = await spool.appender();
    const HOUR = 3_600_000;
    const of = (device: string, received: number) => ({
      records: [encodeReading(readingPrefix('acme', device, 'x'), received, received, 0, { a: 1 })],
      tallyKeys: [tallyKey('acme', device, received, 'reading', '')],
    });
    for (const hour of range(0, 20)) {
      for (const device of ['d1', 'd2']) await appended(appender, of(device, NOW + hour * HOUR));
    }
    const first = log.forwarder();
    assert.equal(await first.drained(), true);
    const lines = async () =>
      (await readTopic(place, 'received')).filter(({ key }) => key.includes('/')).length;
    assert.equal(await lines(), 40);
    await first.close();
    assert.equal(await first.drained(), false);
    await appended(appender, of('d1', NOW + 20 * HOUR));
    const second = place.forwarder(spool.consumer());
    assert.equal(await second.drained(), true);
    assert.ok((await lines()) <= 44, `${await lines()} lines`);
    const counts = await place.consumer().received({ from: NOW + 18 * HOUR });
    assert.equal(counts.length, 3);
  });
});
