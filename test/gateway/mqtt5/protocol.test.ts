import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { IConnackPacket } from 'mqtt-packet';
import { packetOf } from '../../../src/gateway/mqtt5/packets.ts';
import { createGateway, type GatewayFixture } from '../../helpers/gateway.ts';
import { publishBytes, RawClient } from '../../helpers/raw-client.ts';
import { connect, received } from '../raw.ts';

const READING = Buffer.from('{"temperature":20}');
const [MALFORMED, PROTOCOL_ERROR] = [0x81, 0x82];

function add(fixture: GatewayFixture): string {
  return fixture.registry.addDevice({ tenant: 'acme', device: 'd1', type: 'thermostat' }).secret;
}

const bytes = (...each: number[]) => Buffer.from(each);
const text = (of: string) => Buffer.concat([bytes(0, of.length), Buffer.from(of)]);

test('packets that break the protocol close the connection, with the code that says how', async (t) => {
  const fixture = await createGateway(t);
  const secret = add(fixture);
  const publish = (...properties: number[]) =>
    packetOf(0x30, text('me/telemetry'), bytes(properties.length, ...properties), READING);
  const cases: [string, Buffer, number][] = [
    ['a second CONNECT', packetOf(0x10, text('MQTT'), bytes(5, 2, 0, 0, 0, 0, 0)), PROTOCOL_ERROR],
    ['AUTH', bytes(0xf0, 0), PROTOCOL_ERROR],
    ['flags of PUBACK', bytes(0x41, 2, 0, 1), MALFORMED],
    ['flags of PUBREL', bytes(0x60, 2, 0, 1), MALFORMED],
    ['flags of PINGREQ', bytes(0xc1, 0), MALFORMED],
    ['flags of SUBSCRIBE', bytes(0x80, 7, 0, 1, 0, 0, 1, 97, 0), MALFORMED],
    ['flags of DISCONNECT', bytes(0xe1, 0), MALFORMED],
    ['PINGREQ with a body', bytes(0xc0, 2, 0, 1), MALFORMED],
    ['PUBACK without an id', bytes(0x40, 1, 0), MALFORMED],
    ['PUBACK with half a property', bytes(0x40, 7, 0, 1, 0, 3, 0x1f, 0, 9), MALFORMED],
    ['PUBREL with bytes behind it', bytes(0x62, 5, 0, 1, 0, 0, 9), MALFORMED],
    ['PUBCOMP with the property of another', bytes(0x70, 7, 0, 1, 0, 3, 0x23, 0, 1), MALFORMED],
    ['SUBSCRIBE with id 0', bytes(0x82, 7, 0, 0, 0, 0, 1, 97, 0), PROTOCOL_ERROR],
    ['SUBSCRIBE without a filter', bytes(0x82, 3, 0, 1, 0), PROTOCOL_ERROR],
    ['SUBSCRIBE with reserved options', bytes(0x82, 7, 0, 1, 0, 0, 1, 97, 0x40), MALFORMED],
    ['SUBSCRIBE at QoS 3', bytes(0x82, 7, 0, 1, 0, 0, 1, 97, 3), MALFORMED],
    [
      'SUBSCRIBE with properties that go on in its filters',
      bytes(0x82, 12, 0, 1, 3, 0x26, 0, 1, 97, 0, 1, 97, 0, 0),
      MALFORMED,
    ],
    ['UNSUBSCRIBE without a filter', bytes(0xa2, 3, 0, 1, 0), PROTOCOL_ERROR],
    ['UNSUBSCRIBE with an identifier', bytes(0xa2, 8, 0, 1, 2, 0x0b, 1, 0, 1, 97), MALFORMED],
    ['PUBLISH without topic and alias', bytes(0x30, 3, 0, 0, 0), PROTOCOL_ERROR],
    ['PUBLISH with a format that is no flag', publish(1, 2), PROTOCOL_ERROR],
    ['PUBLISH with two formats', publish(1, 1, 1, 1), PROTOCOL_ERROR],
    ['PUBLISH with a session expiry', publish(0x11, 0, 0, 0, 1), MALFORMED],
    [
      'PUBLISH with properties beyond 4 KiB',
      packetOf(
        0x30,
        text('me/telemetry'),
        bytes(0x86, 0x20, 0x09, 0x10, 0x03),
        Buffer.alloc(4_099),
        READING,
      ),
      0x95,
    ],
    [
      'DISCONNECT with two expiries',
      bytes(0xe0, 12, 0, 10, 0x11, 0, 0, 0, 1, 0x11, 0, 0, 0, 2),
      PROTOCOL_ERROR,
    ],
    ['DISCONNECT with the property of another', bytes(0xe0, 5, 0, 3, 0x21, 0, 1), MALFORMED],
  ];
  for (const [what, sent, code] of cases) {
    const { client } = await connect(fixture, 'acme/d1', secret, { protocolVersion: 5 });
    client.socket.write(sent);
    await client.ended();
    const last = client.packets.at(-1);
    assert.deepEqual(
      [last?.cmd, last?.cmd === 'disconnect' && last.reasonCode],
      ['disconnect', code],
      what,
    );
  }
  assert.deepEqual(await fixture.records(), []);
});

test('a CONNECT that breaks the protocol is told so', async (t) => {
  const fixture = await createGateway(t);
  const secret = add(fixture);
  const connectBytes = (
    properties: number[],
    { name = 'MQTT', flags = 0xc2, will = [] as Buffer[] } = {},
  ) =>
    packetOf(
      0x10,
      ...[text(name), bytes(5, flags, 0, 60, properties.length, ...properties), text('id')],
      ...[...will, text('acme/d1'), text(secret)],
    );
  const dying = (flags: number, topic: string, ...properties: number[]) =>
    connectBytes([], {
      flags: 0xc2 | flags,
      will: [bytes(properties.length, ...properties), text(topic), text('1')],
    });
  const cases: [string, Buffer, number][] = [
    ['two expiries', connectBytes([0x11, 0, 0, 0, 1, 0x11, 0, 0, 0, 2]), PROTOCOL_ERROR],
    ['two receive maximums', connectBytes([0x21, 0, 1, 0x21, 0, 1]), PROTOCOL_ERROR],
    ['a flag that is none', connectBytes([0x17, 2]), PROTOCOL_ERROR],
    ['a property of CONNACK', connectBytes([0x13, 0, 1]), MALFORMED],
    ['authentication without a method', connectBytes([0x16, 0, 1, 1]), PROTOCOL_ERROR],
    ['the name of MQTT 3.1', connectBytes([], { name: 'MQIsdp' }), 0x84],
    ['a reserved flag', connectBytes([], { flags: 0xc3 }), MALFORMED],
    ['a will at QoS 3', dying(0x1c, 'me/state'), MALFORMED],
    ['a will for no topic', dying(0x04, ''), 0x90],
    [
      'a will with two delays',
      dying(0x04, 'me/state', 0x18, 0, 0, 0, 1, 0x18, 0, 0, 0, 2),
      PROTOCOL_ERROR,
    ],
    ['no room for a CONNACK', connectBytes([0x27, 0, 0, 0, 10]), 0x95],
    [
      'an end too early',
      packetOf(0x10, text('MQTT'), bytes(5, 0xc2, 0, 60, 0), text('id')),
      MALFORMED,
    ],
    ['nothing', connectBytes([0x27, 0, 0, 0, 64]), 0],
  ];
  for (const [what, sent, code] of cases) {
    const client = RawClient.open(fixture.gateway.port, 5);
    client.socket.write(sent);
    const [answer] = (await received(client, 'connack', 1)) as IConnackPacket[];
    assert.equal(answer?.reasonCode, code, what);
    if (code !== 0) await client.ended();
  }
});

test('nothing is taken after a DISCONNECT', async (t) => {
  const fixture = await createGateway(t);
  const secret = add(fixture);
  for (const version of [4, 5] as const) {
    const { client } = await connect(fixture, 'acme/d1', secret, { protocolVersion: version });
    const late = publishBytes('me/telemetry', READING, 1, 1, version);
    client.socket.write(Buffer.concat([bytes(0xe0, 0), late]));
    await client.ended();
  }
  assert.deepEqual(await fixture.records(), []);
});
