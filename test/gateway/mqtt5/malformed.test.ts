import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import mqtt, { type IPublishPacket, type Packet } from 'mqtt-packet';
import type { ViolationReason } from '../../../src/gateway/frames.ts';
import { readConnect5, type ServerTerms } from '../../../src/gateway/mqtt5/connect.ts';
import { Dialect } from '../../../src/gateway/mqtt5/dialect.ts';
import { OF_PUBLISH, readProperties } from '../../../src/gateway/mqtt5/properties.ts';

const TERMS: ServerTerms = {
  receiveMaximum: 100,
  packetBytesMax: 2 ** 20,
  keepAliveMaxSeconds: 300,
  topicAliasMax: 16,
};
const CONNECT: Packet = {
  cmd: 'connect',
  clientId: 'raw',
  username: 'acme/d1',
  password: Buffer.from('secret'),
  keepalive: 60,
  clean: true,
  protocolId: 'MQTT',
  protocolVersion: 5,
  properties: { sessionExpiryInterval: 7, userProperties: { a: 'b' } },
  will: {
    topic: 'me/state',
    payload: Buffer.from('gone'),
    qos: 1,
    retain: false,
    properties: { willDelayInterval: 9 },
  },
};
const PACKETS: Packet[] = [
  { cmd: 'puback', messageId: 3, reasonCode: 0x10, properties: { reasonString: 'why' } },
  { cmd: 'pubrel', messageId: 3, reasonCode: 0x92 },
  {
    cmd: 'subscribe',
    messageId: 3,
    subscriptions: [
      { topic: 'me/receipts', qos: 1, nl: true },
      { topic: '#', qos: 0 },
    ],
    properties: { userProperties: { a: 'b' } },
  },
  { cmd: 'unsubscribe', messageId: 3, unsubscriptions: ['me/receipts', '#'] },
  { cmd: 'pingreq' },
  { cmd: 'disconnect', reasonCode: 0, properties: { sessionExpiryInterval: 3 } },
];

const text = fc.string({ maxLength: 30 });
const properties = fc.record(
  {
    payloadFormatIndicator: fc.boolean(),
    messageExpiryInterval: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
    topicAlias: fc.integer({ min: 1, max: 65_535 }),
    responseTopic: text,
    correlationData: fc.uint8Array({ maxLength: 20 }).map((bytes) => Buffer.from(bytes)),
    contentType: text,
    userProperties: fc.dictionary(fc.string({ minLength: 1, maxLength: 9 }), text, {
      minKeys: 1,
      maxKeys: 9,
    }),
  },
  { requiredKeys: [] },
);

/** A packet with some of its bytes changed, added or taken away. */
function damaged(whole: Buffer): fc.Arbitrary<Buffer> {
  return fc
    .tuple(
      fc.array(fc.tuple(fc.nat(whole.length - 1), fc.integer({ min: 0, max: 255 })), {
        maxLength: 4,
      }),
      fc.nat(whole.length),
      fc.uint8Array({ maxLength: 8 }),
    )
    .map(([changes, cut, more]) => {
      const bytes = Buffer.from(whole);
      for (const [at, value] of changes) if (at > 1) bytes[at] = value;
      const body = Buffer.concat([bytes.subarray(2, Math.max(2, cut)), more]);
      // A frame is whole when it gets here: its length is right.
      return Buffer.concat([
        bytes.subarray(0, 1),
        body.length < 128
          ? Buffer.from([body.length])
          : Buffer.from([(body.length & 0x7f) | 0x80, body.length >> 7]),
        body,
      ]);
    });
}

function dialect(): { dialect: Dialect; violations: ViolationReason[]; sent: Buffer[] } {
  const terms = readConnect5(mqtt.generate(CONNECT), TERMS);
  assert.ok('connect' in terms);
  const violations: ViolationReason[] = [];
  const sent: Buffer[] = [];
  const host = {
    violation: (reason: ViolationReason) => violations.push(reason),
    inject() {},
    send: (bytes: Buffer) => sent.push(bytes),
    resumeReading() {},
    release() {},
    leave() {},
  };
  return { dialect: new Dialect(terms, host), violations, sent };
}

test('the properties of a publish are read as they were written', () => {
  fc.assert(
    fc.property(properties, fc.uint8Array({ maxLength: 40 }), (written, bytes) => {
      const payload = Buffer.from(bytes);
      const publish: IPublishPacket = {
        ...{ cmd: 'publish', topic: 't', payload, qos: 0, retain: false, dup: false },
        properties: written,
      };
      const packet = mqtt.generate(publish, { protocolVersion: 5 });
      const start = packet.length < 130 ? 5 : 6;
      const { end, alias } = readProperties(packet, start, packet.length, OF_PUBLISH);
      assert.deepEqual(packet.subarray(end), payload);
      assert.equal(alias, written.topicAlias ?? 0);
    }),
  );
});

test('whatever stands in their place is read within the packet, or not at all', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 60 }), fc.nat(59), (bytes, start) => {
      const packet = Buffer.from(bytes);
      const { end } = readProperties(packet, start, packet.length, OF_PUBLISH);
      assert.ok(end < 0 || (end > start && end <= packet.length));
    }),
    { numRuns: 20_000 },
  );
});

test('a damaged packet is refused, or said to the broker whole; never an error', () => {
  for (const packet of PACKETS) {
    const whole = mqtt.generate(packet, { protocolVersion: 5 });
    const clean = dialect();
    const first = clean.dialect.fromDevice(whole);
    assert.deepEqual(clean.violations, [], packet.cmd);
    assert.ok(first !== undefined);
    fc.assert(
      fc.property(damaged(whole), (bytes) => {
        const { dialect: one, violations, sent } = dialect();
        const passed = one.fromDevice(bytes);
        if (passed === undefined) {
          // A farewell with a reason asks for the will, and is no fault; some filters need no broker.
          if (packet.cmd !== 'disconnect') assert.equal(violations.length + sent.length, 1);
          return;
        }
        let read: Packet | undefined;
        const parser = mqtt.parser({ protocolVersion: 4 });
        parser.on('packet', (each) => {
          read = each;
        });
        parser.on('error', () => {});
        assert.equal(parser.parse(passed), 0);
        if (read !== undefined) assert.equal(read.cmd, packet.cmd);
      }),
      { numRuns: 2_000 },
    );
  }
});

test('a damaged CONNECT is refused, or said to the broker whole; never an error', () => {
  fc.assert(
    fc.property(damaged(mqtt.generate(CONNECT)), (bytes) => {
      const terms = readConnect5(bytes, TERMS);
      if ('reason' in terms) assert.ok(terms.reason >= 0x80);
      else assert.equal(terms.connect[0], 0x10);
    }),
    { numRuns: 5_000 },
  );
});
