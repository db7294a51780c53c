import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { systemClock } from '../../src/core/clock.ts';
import { Registry } from '../../src/tenants/registry.ts';
import { connectDevice, createGateway, readLog } from '../helpers/gateway.ts';
import { PROTOCOL_VERSION, RawClient } from '../helpers/raw-client.ts';

interface Case {
  name: string;
  payload: string | Buffer;
  code: string;
  path?: string;
  actual?: RegExp;
  topic?: string;
  type?: string;
}

const now = Date.now();
const manyMetrics = Object.fromEntries(Array.from({ length: 10_000 }, (_, i) => [`m${i}`, i]));

const CASES: Case[] = [
  { name: 'not JSON', payload: 'temperature=20', code: 'JSON_INVALID' },
  { name: 'no UTF-8', payload: Buffer.from([0x7b, 0xff, 0xfe, 0x7d]), code: 'JSON_INVALID' },
  {
    name: 'JSON of the wrong shape: a number',
    payload: '42',
    code: 'SHAPE_INVALID',
    actual: /number 42/,
  },
  { name: 'JSON of the wrong shape: null', payload: 'null', code: 'SHAPE_INVALID', actual: /null/ },
  { name: 'JSON of the wrong shape: an empty list', payload: '[]', code: 'SHAPE_INVALID' },
  {
    name: 'JSON of the wrong shape: a list in a list',
    payload: '[[{"temperature":1}]]',
    code: 'SHAPE_INVALID',
    path: '/0',
  },
  {
    name: 'unknown keys beside an envelope',
    payload: '{"values":{"temperature":1},"unit":"C"}',
    code: 'SHAPE_INVALID',
    path: '/unit',
  },
  { name: 'no metric', payload: '{}', code: 'METRICS_NONE' },
  { name: 'NaN spelled out', payload: '{"temperature":NaN}', code: 'JSON_INVALID' },
  { name: 'Infinity spelled out', payload: '{"temperature":-Infinity}', code: 'JSON_INVALID' },
  {
    name: 'NaN in quotes',
    payload: '{"temperature":"NaN"}',
    code: 'VALUE_KIND',
    path: '/temperature',
    actual: /string "NaN"/,
  },
  {
    name: 'a number that overflows',
    payload: '{"temperature":1e999}',
    code: 'VALUE_NOT_FINITE',
    path: '/temperature',
  },
  {
    name: 'a number as a string',
    payload: '{"temperature":"21.5"}',
    code: 'VALUE_KIND',
    path: '/temperature',
    actual: /string "21.5"/,
  },
  {
    name: 'null as a value',
    payload: '{"temperature":null}',
    code: 'VALUE_KIND',
    path: '/temperature',
    actual: /null/,
  },
  {
    name: 'an object as a value',
    payload: '{"values":{"temperature":{"v":1}}}',
    code: 'VALUE_KIND',
    path: '/values/temperature',
  },
  {
    name: 'a fraction for a whole number',
    payload: '{"temperature":1,"pulses":1.5}',
    code: 'VALUE_KIND',
    path: '/pulses',
  },
  {
    name: 'a number for a boolean',
    payload: '{"temperature":1,"heating":1}',
    code: 'VALUE_KIND',
    path: '/heating',
  },
  {
    name: 'below the bound',
    payload: '{"temperature":-41}',
    code: 'VALUE_BOUNDS',
    path: '/temperature',
  },
  {
    name: 'above the bound',
    payload: '{"temperature":20,"humidity":101}',
    code: 'VALUE_BOUNDS',
    path: '/humidity',
  },
  {
    name: 'a state that is not declared',
    payload: '{"temperature":20,"mode":"boost"}',
    code: 'VALUE_BOUNDS',
    path: '/mode',
  },
  {
    name: 'a required metric is missing',
    payload: '{"humidity":50}',
    code: 'METRIC_MISSING',
    path: '/temperature',
  },
  {
    name: 'an unknown metric',
    payload: '{"temperature":20,"temprature":20}',
    code: 'METRIC_UNKNOWN',
    path: '/temprature',
  },
  {
    name: 'a payload of 1 MiB',
    payload: `{"temperature":20,"x":"${'x'.repeat(2 ** 20)}"}`,
    code: 'PAYLOAD_TOO_LARGE',
    actual: /10486\d\d bytes/,
  },
  {
    name: 'deep nesting',
    payload: `{"values":${'{"a":'.repeat(5_000)}1${'}'.repeat(5_000)}}`,
    code: 'JSON_TOO_DEEP',
  },
  {
    name: 'deep nesting of lists',
    payload: `${'['.repeat(20_000)}${']'.repeat(20_000)}`,
    code: 'JSON_TOO_DEEP',
  },
  {
    name: '__proto__',
    payload: '{"temperature":20,"__proto__":{"polluted":1}}',
    code: 'METRIC_NAME_INVALID',
    path: '/__proto__',
  },
  {
    name: '__proto__ as the metric',
    payload: '{"values":{"__proto__":1}}',
    code: 'METRIC_NAME_INVALID',
  },
  {
    name: 'constructor',
    payload: '{"a":1,"constructor":1}',
    code: 'METRIC_NAME_INVALID',
    type: 'keeper',
  },
  { name: 'an empty payload', payload: '', code: 'PAYLOAD_EMPTY' },
  {
    name: '10,000 metrics',
    payload: JSON.stringify(manyMetrics)
      .slice(0, 60_000)
      .replace(/,[^,]*$/, '}'),
    code: 'METRICS_TOO_MANY',
    type: 'keeper',
  },
  {
    name: 'a control character in a name',
    payload: '{"a\\u0001b":1}',
    code: 'METRIC_NAME_INVALID',
    path: '/a\\u0001b',
    type: 'keeper',
  },
  {
    name: 'a quote in a name',
    payload: '{"a\\"b":1}',
    code: 'METRIC_NAME_INVALID',
    type: 'keeper',
  },
  { name: 'a comma in a name', payload: '{"a,b":1}', code: 'METRIC_NAME_INVALID', type: 'keeper' },
  {
    name: 'a newline in a name',
    payload: '{"a\\nb":1}',
    code: 'METRIC_NAME_INVALID',
    path: '/a\\u000ab',
    type: 'keeper',
  },
  {
    name: 'a name of 65 characters',
    payload: `{"${'a'.repeat(65)}":1}`,
    code: 'METRIC_NAME_INVALID',
    type: 'keeper',
  },
  {
    name: 'a bad name where unknown metrics are dropped',
    payload: '{"a":1,"b c":1}',
    code: 'METRIC_NAME_INVALID',
    type: 'dropper',
  },
  {
    name: 'nothing left after dropping',
    payload: '{"b":1}',
    code: 'METRICS_NONE',
    type: 'dropper',
  },
  {
    name: 'a long text',
    payload: `{"a":"${'x'.repeat(257)}"}`,
    code: 'VALUE_TOO_LONG',
    path: '/a',
    type: 'keeper',
  },
  {
    name: 'an unknown metric that is a list',
    payload: '{"a":[1]}',
    code: 'VALUE_KIND',
    path: '/a',
    type: 'keeper',
  },
  {
    name: 'a time in seconds',
    payload: `{"ts":${Math.floor(now / 1_000)},"values":{"temperature":20}}`,
    code: 'TS_SECONDS',
    path: '/ts',
  },
  {
    name: 'a time in the year 3000',
    payload: `{"ts":32503680000000,"values":{"temperature":20}}`,
    code: 'TS_FUTURE',
    path: '/ts',
  },
  {
    name: 'a negative time',
    payload: '{"ts":-1,"values":{"temperature":20}}',
    code: 'TS_INVALID',
    path: '/ts',
  },
  {
    name: 'a time long ago',
    payload: `{"ts":${now - 40 * 86_400_000},"values":{"temperature":20}}`,
    code: 'TS_PAST',
    path: '/ts',
  },
  {
    name: 'a time without a zone',
    payload: '{"ts":"2026-01-01T00:00:00","values":{"temperature":20}}',
    code: 'TS_INVALID',
    path: '/ts',
  },
  {
    name: 'a time that is null',
    payload: '{"ts":null,"values":{"temperature":20}}',
    code: 'TS_INVALID',
    path: '/ts',
  },
  {
    name: 'a sequence number that is none',
    payload: '{"seq":-1,"values":{"temperature":20}}',
    code: 'SEQ_INVALID',
    path: '/seq',
  },
  {
    name: 'too many readings',
    payload: JSON.stringify(Array.from({ length: 1_001 }, () => ({ temperature: 1 }))),
    code: 'READINGS_TOO_MANY',
  },
  {
    name: "another device's topic",
    topic: 't/acme/d/other/telemetry',
    payload: '{"temperature":20}',
    code: 'TOPIC_NOT_ALLOWED',
  },
  {
    name: "another tenant's topic",
    topic: 't/other/d/bad/telemetry',
    payload: '{"temperature":20}',
    code: 'TOPIC_NOT_ALLOWED',
  },
  {
    name: 'a topic of no meaning',
    topic: 'hello',
    payload: '{"temperature":20}',
    code: 'TOPIC_NOT_ALLOWED',
  },
  {
    name: 'the own receipts',
    topic: 't/acme/d/bad/receipts',
    payload: '{"temperature":20}',
    code: 'TOPIC_NOT_ALLOWED',
  },
  { name: 'a $ topic', topic: '$SYS/x/new/clients', payload: 'acme/good', code: 'TOPIC_INVALID' },
  {
    name: 'readings of a device that is not reached through it',
    payload: '{"devices":{"good":{"temperature":20}}}',
    code: 'DEVICE_NOT_ALLOWED',
  },
  {
    name: 'a state that is no JSON',
    topic: 't/acme/d/bad/state',
    payload: 'on',
    code: 'STATE_INVALID',
  },
];

for (const fastPath of [true, false]) {
  test(`bad input is refused with its code and hurts nothing else (fast path ${fastPath})`, async (t) => {
    const gateway = await createGateway(t, { fastPath });
    const good = await gateway.device('good');
    const bad = new Map([
      ['thermostat', await gateway.device('bad')],
      ['keeper', await gateway.device('bad-keeper', { type: 'keeper' })],
      ['dropper', await gateway.device('bad-dropper', { type: 'dropper' })],
    ]);
    for (const one of CASES) {
      for (const qos of [0, 1, 2] as const) {
        await t.test(`${one.name}, QoS ${qos}`, async () => {
          const device = bad.get(one.type ?? 'thermostat');
          assert.ok(device);
          const before = device.receipts.length;
          await device.client.publishAsync(one.topic ?? device.topic, one.payload, { qos });
          const receipt = (await device.receipt(before + 1))[before];
          assert.equal(receipt?.code, one.code);
          assert.equal(receipt?.severity, 'refused');
          if (one.path !== undefined) assert.equal(receipt?.path, one.path);
          if (one.actual !== undefined) assert.match(receipt?.actual ?? '', one.actual);
          assert.ok(device.client.connected);
        });
      }
    }
    await good.client.publishAsync(good.topic, '{"temperature":20}', { qos: 1 });
    assert.deepEqual(good.receipts, []);
    const records = await gateway.records();
    const readings = records.filter((record) => record.kind === 'reading');
    assert.equal(readings.length, 1);
    assert.equal(readings[0]?.device, 'good');
    const letters = records.filter((record) => record.kind === 'deadLetter');
    assert.equal(letters.length, CASES.length * 3);
    for (const letter of letters)
      assert.ok(letter.payload.length <= 4 * Math.ceil((16 * 1_024) / 3));
    assert.equal(({} as Record<string, unknown>).polluted, undefined);
  });
}

test('a list keeps its good readings and refuses the bad ones by their place', async (t) => {
  const gateway = await createGateway(t);
  const device = await gateway.device('d1');
  await device.client.publishAsync(
    device.topic,
    '[{"temperature":1},{"temperature":"2"},7,{"temperature":3}]',
    { qos: 1 },
  );
  const receipts = await device.receipt(2);
  assert.deepEqual(
    receipts.map(({ code, path }) => [code, path]),
    [
      ['VALUE_KIND', '/1/temperature'],
      ['SHAPE_INVALID', '/2'],
    ],
  );
  const records = await gateway.records();
  assert.deepEqual(
    records.map((record) => (record.kind === 'reading' ? record.values.temperature : record.kind)),
    [1, 'deadLetter', 'deadLetter', 3],
  );
});

test('a gateway in the field reports for the devices that are reached through it', async (t) => {
  const gateway = await createGateway(t);
  const hub = await gateway.device('hub');
  gateway.registry.addDevice({ tenant: 'acme', device: 'leaf', type: 'thermostat', via: 'hub' });
  const payload = {
    devices: { leaf: [{ temperature: 1 }, { temperature: 2 }], hub: { temperature: 3 } },
  };
  await hub.client.publishAsync(hub.topic, JSON.stringify(payload), { qos: 1 });
  const records = await gateway.records();
  assert.deepEqual(
    records.map((record) => [
      record.device,
      record.kind === 'reading' ? record.values.temperature : record.kind,
    ]),
    [
      ['leaf', 1],
      ['leaf', 2],
      ['hub', 3],
    ],
  );
});

test('a retained reading is taken, not kept for subscribers, and the device is told', async (t) => {
  const gateway = await createGateway(t);
  const device = await gateway.device('d1');
  await device.client.publishAsync(device.topic, '{"temperature":1}', { qos: 1, retain: true });
  assert.deepEqual(
    (await device.receipt()).map(({ code, severity }) => [code, severity]),
    [['RETAIN_IGNORED', 'notice']],
  );
  assert.deepEqual(
    (await gateway.records()).map(({ kind }) => kind),
    ['reading'],
  );
});

test('a device whose type the configuration no longer declares connects and is told', async (t) => {
  const gateway = await createGateway(t);
  const earlier = new Registry({ dir: gateway.dir, types: new Set(['old']), clock: systemClock });
  const { secret } = earlier.addDevice({ tenant: 'acme', device: 'd1', type: 'old' });
  earlier.close();
  const device = await connectDevice(gateway.url, 'acme/d1', secret);
  t.after(() => device.client.end(true));
  await device.client.publishAsync(device.topic, '{"temperature":1}', { qos: 1 });
  assert.deepEqual(
    (await device.receipt()).map(({ code, actual }) => [code, actual]),
    [['TYPE_UNKNOWN', 'old']],
  );
});

// Without a topic MQTT 5 expects an alias, and its absence breaks the protocol.
const noTopic = PROTOCOL_VERSION === 5 ? [] : [''];
for (const topic of ['t/acme/d/d1/+', '#', 't/acme/d/d1/tele\u0001metry', ...noTopic]) {
  test(`a publish to the topic ${JSON.stringify(topic)} is refused, and the connection goes on`, async (t) => {
    const gateway = await createGateway(t);
    const { secret } = gateway.registry.addDevice({
      tenant: 'acme',
      device: 'd1',
      type: 'thermostat',
    });
    const raw = await RawClient.connect(gateway.gateway.port, 'acme/d1', secret);
    t.after(() => raw.close());
    for (const qos of [0, 1, 2] as const) await raw.publish(topic, '{"temperature":1}', qos);
    await raw.publish('me/telemetry', '{"temperature":1}', 1);
    const records = await gateway.records();
    assert.deepEqual(
      records.map((record) => (record.kind === 'deadLetter' ? record.code : record.kind)),
      ['TOPIC_INVALID', 'TOPIC_INVALID', 'TOPIC_INVALID', 'reading'],
    );
  });
}

test('a will to the own state is an event; a will elsewhere is dropped, and the device told', async (t) => {
  const gateway = await createGateway(t);
  const will = (topic: string) => ({
    will: { topic, payload: Buffer.from('"gone"'), qos: 1 as const, retain: true },
  });
  const add = (device: string) =>
    gateway.registry.addDevice({ tenant: 'acme', device, type: 'thermostat' }).secret;
  const d1 = await connectDevice(gateway.url, 'acme/d1', add('d1'), will('t/acme/d/d1/state'));
  d1.client.stream.destroy();
  const d2 = await connectDevice(gateway.url, 'acme/d2', add('d2'), will('t/acme/d/d1/telemetry'));
  t.after(() => {
    d1.client.end(true);
    d2.client.end(true);
  });
  assert.deepEqual(
    (await d2.receipt()).map(({ code }) => code),
    ['WILL_NOT_ALLOWED'],
  );
  d2.client.stream.destroy();
  while (gateway.counters.connections > 0) await new Promise((resolve) => setTimeout(resolve, 10));
  await gateway.appender.flush();
  const events = (await readLog(join(gateway.dir, 'log'))).filter(
    (record) => record.kind === 'event',
  );
  assert.deepEqual(
    events.filter(({ event }) => event === 'state').map(({ device, data }) => [device, data]),
    [['d1', 'gone']],
  );
});
