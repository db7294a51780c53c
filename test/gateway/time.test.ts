import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { MqttClient } from 'mqtt';
import { TimeBudget, timeAnswer } from '../../src/gateway/time-answer.ts';
import { createGateway, type Device, readLog } from '../helpers/gateway.ts';
import { PROTOCOL_VERSION } from '../helpers/raw-client.ts';

interface Answer {
  originate: number | string | null;
  receive: number;
  transmit: number;
}

/** Asks and waits for the answer; undefined when none comes. */
async function ask(
  client: MqttClient,
  payload: string,
  topics: { request: string; response: string },
  qos: 0 | 1 | 2 = 1,
): Promise<Answer | undefined> {
  const answered = new Promise<Answer | undefined>((resolve) => {
    const late = setTimeout(() => resolve(undefined), 1_500);
    client.once('message', (topic, message) => {
      clearTimeout(late);
      assert.equal(topic, topics.response);
      resolve(JSON.parse(message.toString()) as Answer);
    });
  });
  await client.publishAsync(topics.request, payload, { qos });
  return answered;
}

const SHORT = { request: 'me/time/request', response: 'me/time/response' };
const LONG = { request: 't/acme/d/d1/time/request', response: 't/acme/d/d1/time/response' };

async function listening(device: Device, topic: string): Promise<MqttClient> {
  const [grant] = await device.client.subscribeAsync(topic, { qos: 1 });
  assert.equal(grant?.qos, 1);
  return device.client;
}

for (const fastPath of [true, false]) {
  describe(`a device asks for the time, fast path ${fastPath ? 'on' : 'off'}`, () => {
    test('and gets its own timestamp back with two of the gateway', async (t) => {
      const fixture = await createGateway(t, { fastPath });
      const device = await fixture.device('d1');
      await listening(device, LONG.response);
      for (const qos of [0, 1, 2] as const) {
        const before = Date.now();
        const answer = await ask(device.client, `{"originate": ${before - 7_000}}`, LONG, qos);
        const after = Date.now();
        assert.ok(answer !== undefined, `QoS ${qos}`);
        assert.equal(answer.originate, before - 7_000);
        assert.ok(before <= answer.receive && answer.receive <= answer.transmit);
        assert.ok(answer.transmit <= after);
      }
      // Nothing of it is in the log or in the account.
      assert.deepEqual(await fixture.records(), []);
    });

    test('by the short form too, and its clock comes right with the four timestamps', async (t) => {
      const fixture = await createGateway(t, { fastPath });
      const device = await fixture.device('d1');
      const client = await listening(device, SHORT.response);
      const off = -3_600_000;
      const clock = () => Date.now() + off;
      const t1 = clock();
      const answer = await ask(client, `${t1}`, SHORT);
      const t4 = clock();
      assert.ok(answer !== undefined);
      const offset = (answer.receive - t1 + (answer.transmit - t4)) / 2;
      const delay = t4 - t1 - (answer.transmit - answer.receive);
      assert.ok(Math.abs(offset + off) <= delay / 2 + 1, `${offset} with a delay of ${delay}`);
    });

    test('too often: some are not answered, all are acknowledged in order, and it is told', async (t) => {
      const fixture = await createGateway(t, { fastPath });
      const device = await fixture.device('d1');
      await listening(device, LONG.response);
      let answers = 0;
      device.client.on('message', (topic) => {
        if (topic === LONG.response) answers += 1;
      });
      const order: number[] = [];
      const all = Array.from({ length: 20 }, (_, i) => {
        const isTime = i % 2 === 0;
        const topic = isTime ? LONG.request : device.topic;
        const payload = isTime ? '1' : '{"temperature":1}';
        return device.client.publishAsync(topic, payload, { qos: 1 }).then(() => order.push(i));
      });
      await Promise.all(all);
      assert.deepEqual(
        order,
        [...order].sort((a, b) => a - b),
      );
      const receipts = await device.receipt(1);
      assert.equal(receipts[0]?.code, 'TIME_REQUESTS_TOO_MANY');
      assert.ok(answers >= 4 && answers <= 6, `${answers} answers`);
      assert.equal((await fixture.records()).length, 10);
    });

    test("another device's topics are closed, to ask and to listen", async (t) => {
      const fixture = await createGateway(t, { fastPath });
      const spy = await fixture.device('d2');
      await assert.rejects(spy.client.subscribeAsync(LONG.response, { qos: 1 }), /Subscribe error/);
      await spy.client.publishAsync(LONG.request, '1', { qos: 1 });
      const [receipt] = await spy.receipt(1);
      assert.equal(receipt?.code, 'TOPIC_NOT_ALLOWED');
    });
  });
}

test('what was asked with comes back only if it is short and plain', () => {
  const of = (text: string) =>
    (JSON.parse(timeAnswer(Buffer.from(text), 5, 6)) as Answer).originate;
  assert.equal(of('1767225600123.25'), 1_767_225_600_123.25);
  assert.equal(of('"2026-01-01T00:00:00Z"'), '2026-01-01T00:00:00Z');
  assert.equal(of('{"originate":"abc","more":1}'), 'abc');
  for (const text of ['', '{', '{}', '[1]', 'null', '{"originate":{"a":1}}', '"'.padEnd(70, 'x')]) {
    assert.equal(of(text), null, text);
  }
  assert.equal(of(`"${'x'.repeat(65)}"`), null);
  assert.equal(of(' '.repeat(300)), null);
});

test('the budget of a connection refills by one a second', () => {
  const budget = new TimeBudget(0);
  const spent = (now: number) => Array.from({ length: 8 }, () => budget.spend(now)).filter(Boolean);
  assert.equal(spent(0).length, 5);
  assert.equal(spent(900).length, 0);
  assert.equal(spent(3_000).length, 3);
  assert.equal(spent(1_000).length, 0);
  assert.equal(spent(3_600_000).length, 5);
});

test('what the gateway remembers: connections and why they ended, decisions, clock', async (t) => {
  const fixture = await createGateway(t, {
    config: { gateway: { inflightMax: 1 } },
  });
  const { gateway } = fixture;
  const device = await fixture.device('d1');
  assert.deepEqual(gateway.view('acme', 'nobody'), {
    ...{ connections: [], lastConnection: null, decisions: [], clock: null, backfill: null },
  });
  const ts = Date.now() + 120_000;
  const sent = [
    ...Array.from({ length: 60 }, (_, i) => `{"ts":${ts + i},"values":{"temperature":1}}`),
    `{"ts":${ts + 10 ** 9},"values":{"temperature":1}}`,
    '{"temperature":"hot"}',
  ];
  await Promise.all(sent.map((one) => device.client.publishAsync(device.topic, one, { qos: 1 })));
  const open = gateway.view('acme', 'd1');
  const [connection] = open.connections;
  assert.match(connection?.from ?? '', /^127\.0\.0\.1:\d+$/);
  assert.deepEqual(
    [connection?.protocol, connection?.clean, connection?.endedAt, connection?.clientId],
    [PROTOCOL_VERSION === 5 ? 'MQTT 5' : 'MQTT 3.1.1', true, null, 'acme/d1'],
  );
  const codes = new Set(open.decisions.map(({ what, code }) => `${what} ${code}`));
  for (const one of [
    'accepted ',
    'refused TS_FUTURE',
    'refused VALUE_KIND',
    'slowed INFLIGHT_MAX',
  ]) {
    assert.ok(codes.has(one), `${one} is in ${[...codes]}`);
  }
  const accepted = open.decisions.filter(({ what }) => what === 'accepted');
  assert.equal(
    accepted.reduce((sum, { count }) => sum + count, 0),
    60,
  );
  assert.equal(open.clock?.readings, 61);
  assert.ok(Math.abs((open.clock?.skewMs ?? 0) - 120_000) < 5_000, JSON.stringify(open.clock));

  await device.client.endAsync();
  const until = async (reason: string) => {
    const end = Date.now() + 3_000;
    while (gateway.view('acme', 'd1').lastConnection?.reason !== reason) {
      assert.ok(
        Date.now() < end,
        `${gateway.view('acme', 'd1').lastConnection?.reason}, not ${reason}`,
      );
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  };
  await until('DISCONNECT');
  assert.deepEqual(gateway.view('acme', 'd1').connections, []);
  const { connectDevice } = await import('../helpers/gateway.ts');
  const again = await connectDevice(fixture.url, 'acme/d1', device.secret);
  again.client.stream.destroy();
  await until('CLOSED_BY_DEVICE');
  const third = await connectDevice(fixture.url, 'acme/d1', device.secret);
  await connectDevice(fixture.url, 'acme/d1', device.secret).then(({ client }) => client.end(true));
  await until('CLOSED_BY_DEVICE');
  third.client.end(true);
  const events = (await readLog(`${fixture.dir}/log`)).filter(({ kind }) => kind === 'event');
  const reasons = events.flatMap((event) =>
    event.kind === 'event' && event.event === 'disconnected'
      ? [(event.data as { reason: string }).reason]
      : [],
  );
  assert.deepEqual(reasons.slice(0, 3), ['DISCONNECT', 'CLOSED_BY_DEVICE', 'TAKEN_OVER']);
});
