import assert from 'node:assert/strict';
import { Duplex } from 'node:stream';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import mqtt from 'mqtt-packet';
import { Gate, type GateHandler, type PublishPacket } from '../../src/gateway/gate.ts';
import { createGateway } from '../helpers/gateway.ts';
import { publishBytes, type RawClient } from '../helpers/raw-client.ts';
import { connectPacket, inside, newDevice, subscribe, until } from './raw.ts';

/** Calls back with each message id of a PUBACK; mqtt-packet would cost more than the gateway. */
function onPuback(client: RawClient, each: (messageId: number) => void): void {
  let rest: Buffer = Buffer.alloc(0);
  client.socket.removeAllListeners('data');
  client.socket.on('data', (chunk: Buffer) => {
    const bytes = Buffer.concat([rest, chunk]);
    let at = 0;
    for (;;) {
      // Those of MQTT 5 may say why; none has 128 bytes and more but in two of length.
      const long = (bytes[at + 1] ?? 0) >= 0x80;
      const body = at + (long ? 3 : 2);
      const length = ((bytes[at + 1] ?? 0) & 0x7f) + (long ? (bytes[at + 2] ?? 0) * 128 : 0);
      if (body >= bytes.length || body + length > bytes.length) break;
      // The farewell of MQTT 5 when the test ends.
      if (bytes[at] !== 0xe0) {
        assert.equal(bytes[at], 0x40);
        each(bytes.readUInt16BE(body));
      }
      at = body + length;
    }
    rest = bytes.subarray(at);
  });
}

for (const fastPath of [true, false]) {
  const path = fastPath ? 'fast path' : 'broker path';

  test(`${path}: 100,000 publishes at once: acknowledged in their order, few under way`, async (t) => {
    const COUNT = 100_000;
    const IDS = 60_000;
    const INFLIGHT_MAX = 64;
    const fixture = await createGateway(t, {
      config: { gateway: { mqtt: { port: 0 }, inflightMax: INFLIGHT_MAX, fastPath } },
    });
    const { client } = await newDevice(fixture, 'd1');
    const [gate] = inside(fixture).gates;
    assert.ok(gate);
    let underWayMax = 0;
    const append = fixture.appender.append.bind(fixture.appender);
    fixture.appender.append = (request, done) => {
      underWayMax = Math.max(underWayMax, gate.unacknowledged);
      append(request, done);
    };
    const idOf = (i: number) => 1 + (i % IDS);
    // Every hundredth is refused, in turn for its payload and for its topic.
    const packetOf = (i: number) => {
      if (i % 200 === 50) return publishBytes('me/telemetry', Buffer.from('{'), 1, idOf(i));
      if (i % 200 === 150) return publishBytes('not/mine', Buffer.from('{}'), 1, idOf(i));
      const reading = Buffer.from(`{"seq":${i},"temperature":20}`);
      return publishBytes('me/telemetry', reading, 1, idOf(i));
    };
    let acknowledged = 0;
    let wrong: string | undefined;
    const all = new Promise<void>((resolve) => {
      onPuback(client, (id) => {
        if (id !== idOf(acknowledged)) wrong ??= `PUBACK ${acknowledged} is of ${id}`;
        acknowledged++;
        if (acknowledged === COUNT) resolve();
      });
    });
    for (let i = 0; i < COUNT; i += 1_000) {
      const packets = Array.from({ length: 1_000 }, (_, k) => packetOf(i + k));
      client.socket.write(Buffer.concat(packets));
    }
    await all;
    assert.equal(wrong, undefined);
    assert.equal(gate.unacknowledged, 0);
    assert.ok(underWayMax <= INFLIGHT_MAX, `${underWayMax} were under way`);
    assert.ok(underWayMax > 1);
    const records = await fixture.records();
    assert.equal(records.length, COUNT);
    for (const [i, record] of records.entries()) {
      const expected = i % 100 === 50 ? 'deadLetter' : i;
      const got = record.kind === 'reading' ? record.seq : record.kind;
      if (got !== expected) assert.fail(`record ${i} is ${got}`);
    }
  });
}

test('a device that does not read its acknowledgements: few are made, all come when it reads', async () => {
  let publishes = 0;
  const handler: GateHandler = {
    saturated: false,
    connect: (gate) => gate.admit(),
    alive() {},
    slowed() {},
    release() {},
    lost: (gate) => gate.destroy(),
    violation(_gate, reason) {
      assert.fail(reason);
    },
    publish(gate, { qos, messageId }: PublishPacket) {
      publishes++;
      setImmediate(() => gate.acknowledge(qos, messageId));
      return true;
    },
  };
  /** A socket whose peer reads when it is told to. */
  class Socket extends Duplex {
    reads = false;
    readonly sent: Buffer[] = [];
    private waiting: (() => void) | undefined;
    override _read() {}
    override _write(chunk: Buffer, _encoding: string, callback: () => void) {
      this.sent.push(chunk);
      if (this.reads) callback();
      else this.waiting = callback;
    }
    readNow() {
      this.reads = true;
      this.waiting?.();
    }
  }
  const socket = new Socket();
  const gate = new Gate(socket, handler, {
    connectBytesMax: 8_192,
    packetBytesMax: 2 ** 20,
    payloadBytesMax: 65_536,
    keptBytesMax: 1_024,
    inflightMax: 100,
    packetTimeoutMs: 60_000,
  });
  gate.on('data', () => {});
  socket.push(mqtt.generate(connectPacket('acme/d1', 'secret')));
  await until(() => gate.waiting);
  gate.open();
  const COUNT = 60_000;
  for (let i = 0; i < COUNT; i++) {
    socket.push(publishBytes('t', Buffer.from('{}'), 1, 1 + (i % 60_000)));
  }
  await until(() => gate.unread);
  await sleep(100);
  const made = publishes;
  assert.ok(made < 64 * 1_024 + 200, `${made} were taken`);
  assert.ok(made < COUNT / 2, `${made} were taken`);
  assert.ok(gate.outputBytes < 66_000);
  assert.equal(gate.waiting, true);
  assert.equal(gate.unacknowledged, 0);
  socket.readNow();
  await until(() => Buffer.concat(socket.sent).length === 4 * COUNT);
  const sent = Buffer.concat(socket.sent);
  for (let i = 0; i < COUNT; i++) assert.equal(sent.readUInt16BE(4 * i + 2), 1 + i);
  gate.destroy();
});

describe('keep-alive', { concurrency: true }, () => {
  test('keep-alive: who publishes or pings lives, who is silent is cut at one and a half', async (t) => {
    const fixture = await createGateway(t);
    const started = performance.now();
    const silent = await newDevice(fixture, 'silent', { keepalive: 1 });
    const pinging = await newDevice(fixture, 'pinging', { keepalive: 1 });
    // Just within its keep-alive, so that each packet has to count.
    const publishing = await newDevice(fixture, 'publishing', { keepalive: 1 });
    const slow = await newDevice(fixture, 'slow', { keepalive: 1 });
    let cutAfter = 0;
    silent.client.socket.once('close', () => {
      cutAfter = performance.now() - started;
    });
    const timers = [
      setInterval(() => pinging.client.send({ cmd: 'pingreq' }), 800),
      setInterval(() => {
        publishing.client.socket.write(
          publishBytes('me/telemetry', Buffer.from('{"temperature":20}'), 0, 0),
        );
      }, 800),
      // One packet that takes longer than the keep-alive is alive as well.
      setInterval(() => slow.client.socket.write(Buffer.from('0')), 800),
    ];
    t.after(() => timers.forEach(clearInterval));
    slow.client.socket.write(Buffer.from([0x30, 100]));
    await sleep(2_600);
    await silent.client.ended();
    assert.ok(cutAfter > 1_400, `cut after ${cutAfter} ms`);
    for (const { client, username } of [pinging, publishing, slow])
      assert.equal(client.closed, false, username);
  });

  test('a keep-alive of 0 and one beyond the limit become the limit', async (t) => {
    const fixture = await createGateway(t, {
      config: { gateway: { mqtt: { port: 0 }, keepAliveMax: '1s' } },
    });
    const none = await newDevice(fixture, 'none', { keepalive: 0 });
    const long = await newDevice(fixture, 'long', { keepalive: 65_535 });
    await Promise.all([none.client.ended(), long.client.ended()]);
  });
});

test('a saturated log stops reading, and relief goes on where it stopped', async (t) => {
  const fixture = await createGateway(t, {
    // Through the broker, what it was given before comes as well: inflightMax, which this one lifts, bounds that.
    fastPath: true,
    config: {
      // The window of admission would keep it from being saturated.
      overload: { protection: false },
      log: { embedded: { pendingBytesMax: '64KiB', commitRecordsMax: 50 } },
      gateway: { mqtt: { port: 0 }, inflightMax: 10_000 },
    },
  });
  let pendingMax = 0;
  let refusals = 0;
  const append = fixture.appender.append.bind(fixture.appender);
  fixture.appender.append = (request, done) => {
    append(request, (error) => {
      if (error !== null) refusals++;
      done(error);
    });
    pendingMax = Math.max(pendingMax, fixture.appender.stats().pendingBytes);
  };
  const devices = [];
  for (const name of ['d1', 'd2', 'd3', 'd4']) devices.push(await newDevice(fixture, name));
  const COUNT = 3_000;
  await Promise.all(
    devices.map(
      ({ client }) =>
        new Promise<void>((resolve) => {
          let acknowledged = 0;
          onPuback(client, (id) => {
            acknowledged++;
            assert.equal(id, acknowledged);
            if (acknowledged === COUNT) resolve();
          });
          const packets = Array.from({ length: COUNT }, (_, i) =>
            publishBytes('me/telemetry', Buffer.from('{"temperature":20}'), 1, i + 1),
          );
          client.socket.write(Buffer.concat(packets));
        }),
    ),
  );
  assert.equal(refusals, 0);
  assert.ok(pendingMax > 32 * 2 ** 10 && pendingMax < 40 * 2 ** 10, `${pendingMax} bytes waited`);
  assert.equal((await fixture.records()).length, 4 * COUNT);
});

test('when the gateway stops, what it has read is acknowledged, and nothing else is taken', async (t) => {
  const fixture = await createGateway(t);
  const { client } = await newDevice(fixture, 'd1');
  await subscribe(client, ['me/receipts']);
  const acknowledged: number[] = [];
  onPuback(client, (id) => acknowledged.push(id));
  for (let id = 1; id <= 50; id++) {
    client.socket.write(publishBytes('me/telemetry', Buffer.from('{"temperature":20}'), 1, id));
  }
  await until(() => fixture.counters.messages > 0);
  await fixture.gateway.stopReading();
  client.socket.write(publishBytes('me/telemetry', Buffer.from('{"temperature":21}'), 1, 51));
  await fixture.appender.flush();
  await fixture.gateway.close();
  await client.ended();
  const readings = (await fixture.records()).length;
  assert.equal(acknowledged.length, readings);
  assert.ok(readings >= 1 && readings <= 50);
});
