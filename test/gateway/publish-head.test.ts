import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import mqtt from 'mqtt-packet';
import { PublishHead } from '../../src/gateway/publish-head.ts';

/** Where the variable header of a packet starts. */
function bodyOf(packet: Buffer): number {
  let at = 1;
  while (((packet[at] as number) & 0x80) !== 0) at += 1;
  return at + 1;
}

const PUBLISH = fc.record({
  topic: fc.stringMatching(/^[a-z/]{1,40}$/),
  payload: fc.uint8Array({ maxLength: 300 }),
  qos: fc.constantFrom(0, 1, 2) as fc.Arbitrary<0 | 1 | 2>,
  retain: fc.boolean(),
  dup: fc.boolean(),
  messageId: fc.integer({ min: 1, max: 65_535 }),
});

test('the parts of a publish are where another implementation has put them', () => {
  const head = new PublishHead();
  const alias = fc.option(fc.integer({ min: 1, max: 65_535 }), { nil: undefined });
  fc.assert(
    fc.property(PUBLISH, fc.boolean(), alias, (publish, isMqtt5, topicAlias) => {
      const { qos, retain, messageId, topic } = publish;
      const dup = publish.dup && qos > 0;
      const payload = Buffer.from(publish.payload);
      const properties = isMqtt5 && topicAlias !== undefined ? { topicAlias } : {};
      const packet = mqtt.generate(
        { ...{ cmd: 'publish', qos, retain, dup, messageId, topic, payload }, properties },
        { protocolVersion: isMqtt5 ? 5 : 4 },
      );
      // Packets don't begin where their buffer does.
      const bytes = Buffer.concat([Buffer.from('junk'), packet]);
      const body = 4 + bodyOf(packet);
      assert.equal(head.read(bytes, 4, body, bytes.length, isMqtt5), undefined);
      assert.deepEqual(
        [head.qos, head.retain, head.messageId, head.alias],
        [qos, retain, qos === 0 ? 0 : messageId, isMqtt5 ? (topicAlias ?? 0) : 0],
      );
      assert.equal(bytes.toString('utf8', head.topicStart, head.topicEnd), topic);
      assert.deepEqual(bytes.subarray(head.payloadStart), payload);
    }),
  );
});

test('whatever the bytes are, what is taken for sound lies within them', () => {
  const head = new PublishHead();
  const flags = fc.integer({ min: 0, max: 15 });
  fc.assert(
    fc.property(flags, fc.uint8Array({ maxLength: 60 }), fc.boolean(), (bits, rest, isMqtt5) => {
      const bytes = Buffer.from([0x30 | bits, rest.length, ...rest]);
      if (head.read(bytes, 0, 2, bytes.length, isMqtt5) !== undefined) return;
      const { topicStart, topicEnd, payloadStart } = head;
      assert.ok(2 < topicStart && topicStart <= topicEnd);
      assert.ok(topicEnd <= payloadStart && payloadStart <= bytes.length);
      assert.ok(head.qos === 0 ? head.messageId === 0 : head.messageId > 0);
    }),
    { numRuns: 2_000 },
  );
});

test('what breaks the protocol is named', () => {
  const head = new PublishHead();
  const read = (isMqtt5: boolean, ...bytes: number[]) =>
    head.read(Buffer.from(bytes), 0, 2, bytes.length, isMqtt5);
  const malformed: number[][] = [
    [0x36, 5, 0, 1, 97, 0, 1], // QoS 3
    [0x30, 1, 0], // no length of a topic
    [0x30, 3, 0, 2, 97], // a topic longer than the packet
    [0x32, 4, 0, 1, 97, 0], // half a message id
    [0x32, 5, 0, 1, 97, 0, 0], // message id 0
  ];
  for (const bytes of malformed) assert.equal(read(false, ...bytes), 'PACKET_MALFORMED');
  assert.equal(read(false, 0x30, 2, 0, 0), undefined);
  // Neither topic nor alias; no properties at all.
  assert.equal(read(true, 0x30, 3, 0, 0, 0), 'PACKET_UNEXPECTED');
  assert.equal(read(true, 0x30, 3, 0, 1, 97), 'PACKET_MALFORMED');
});
