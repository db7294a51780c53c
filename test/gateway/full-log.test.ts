import assert from 'node:assert/strict';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { LogRecord, ShedRecord } from '../../src/core/nouns.ts';
import { EmbeddedConsumer } from '../../src/log/embedded/consumer.ts';
import { createGateway, type GatewayFixture } from '../helpers/gateway.ts';
import { publishBytes } from '../helpers/raw-client.ts';
import { newDevice, received, until } from './raw.ts';

const MESSAGES = 80;
/** A reading of 13 kB. */
const wide = Object.fromEntries(Array.from({ length: 50 }, (_, i) => [`m${i}`, 'x'.repeat(250)]));

/** Reads and commits until all has come; makes room that way. */
async function drain(
  consumer: EmbeddedConsumer,
  isAll: (records: LogRecord[]) => boolean,
): Promise<LogRecord[]> {
  const records: LogRecord[] = [];
  const signal = AbortSignal.timeout(10_000);
  for await (const batch of consumer.consume('g', { signal, recordsMax: 1 })) {
    records.push(...batch.records);
    await consumer.commit('g', batch.partition, batch.nextOffset);
    if (isAll(records)) break;
  }
  return records;
}

/** A gateway whose log takes half a MiB. */
function smallGateway(t: Parameters<typeof createGateway>[0], fastPath: boolean) {
  return createGateway(t, {
    config: {
      log: { embedded: { diskBytesMax: '512KiB', compression: 'none', commitRecordsMax: 4 } },
      gateway: { mqtt: { port: 0 }, inflightMax: 16, fastPath },
    },
  });
}

function shedIn(fixture: GatewayFixture): number {
  return fixture.counters.shed.get('LOG_FULL') ?? 0;
}

describe('a used-up budget', { concurrency: true }, () => {
  for (const fastPath of [true, false]) {
    test(`a used-up budget: connections live on, QoS 1 waits, QoS 0 is shed and counted (fast path ${fastPath})`, async (t) => {
      const fixture = await smallGateway(t, fastPath);
      // Its sixteen publishes under way keep the gateway from reading any ping of it.
      const patient = await newDevice(fixture, 'patient', { type: 'keeper', keepalive: 1 });
      const careless = await newDevice(fixture, 'careless', { keepalive: 1 });
      for (let id = 1; id <= MESSAGES; id++) {
        const payload = Buffer.from(JSON.stringify({ seq: id, values: wide }));
        patient.client.socket.write(publishBytes('me/telemetry', payload, 1, id));
      }
      await until(() => fixture.appender.full);
      const pubacks = () =>
        patient.client.packets.flatMap((packet) =>
          packet.cmd === 'puback' ? [packet.messageId ?? 0] : [],
        );
      const pings = setInterval(() => {
        for (const { client } of [patient, careless]) client.send({ cmd: 'pingreq' });
      }, 300);
      t.after(() => clearInterval(pings));
      const dropped = publishBytes('me/telemetry', Buffer.from('{"temperature":20}'), 0, 0);
      for (let i = 0; i < 5; i++) {
        careless.client.socket.write(dropped);
        await sleep(450);
      }
      // What is acknowledged is what is durable, besides two events.
      const acknowledged = fixture.appender.stats().endOffset - 2;
      assert.ok(acknowledged > 15 && acknowledged < 50, `${acknowledged} fit`);
      assert.equal(pubacks().length, acknowledged);
      assert.equal(patient.client.closed, false);
      assert.equal(careless.client.closed, false);
      assert.equal(shedIn(fixture), 5);
      assert.equal(fixture.appender.full, true);

      const consumer = new EmbeddedConsumer({ dir: join(fixture.dir, 'log') });
      t.after(() => consumer.close());
      const records = await drain(
        consumer,
        (all) =>
          all.filter(({ kind }) => kind === 'reading').length === MESSAGES &&
          all.some(({ kind }) => kind === 'shed'),
      );
      await received(patient.client, 'puback', MESSAGES);
      assert.deepEqual(
        pubacks(),
        Array.from({ length: MESSAGES }, (_, i) => i + 1),
      );
      assert.deepEqual(
        records.flatMap((record) => (record.kind === 'reading' ? [record.seq] : [])),
        pubacks(),
      );
      const shed = records.filter((record): record is ShedRecord => record.kind === 'shed');
      assert.deepEqual(
        shed.map(({ tenant, device, code, count }) => [tenant, device, code, count]),
        [['acme', 'careless', 'LOG_FULL', 5]],
      );
      const counts = await consumer.received({});
      assert.deepEqual(
        counts.map(({ device, outcome, code, count }) => [device, outcome, code, count]).sort(),
        [
          ['careless', 'shed', 'LOG_FULL', 5],
          ['patient', 'reading', '', MESSAGES],
        ],
      );
      // And as before.
      await careless.client.publish('me/telemetry', '{"temperature":20}', 1);
      assert.equal(shedIn(fixture), 5);
    });
  }
});

test('a log that fails ends connections without an acknowledgement', async (t) => {
  const fixture = await createGateway(t);
  const { client } = await newDevice(fixture, 'd1');
  await client.publish('me/telemetry', '{"temperature":20}', 1);
  fixture.appender.append = (_request, done) => {
    setImmediate(done, new Error('the disk is gone'));
  };
  client.socket.write(publishBytes('me/telemetry', Buffer.from('{"temperature":21}'), 1, 7));
  await client.ended();
  assert.equal(client.packets.filter(({ cmd }) => cmd === 'puback').length, 1);
});
