import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { LogRecord } from '../../src/core/nouns.ts';
import type { Examination, Letter } from '../../src/gateway/contract.ts';
import type { HttpOptions } from '../../src/http/server.ts';
import { backend, bearer, NOW } from './backend.ts';

const URL = '/api/v1/dead-letters';
const CONSOLE = { host: '127.0.0.1', 'x-spillway-console': '1' };

/** Letters of tenant acme; those of the device `good` would be taken by now, or with other types. */
async function bench(more: Partial<HttpOptions> = {}) {
  const records: LogRecord[] = [];
  const asked: unknown[] = [];
  const options: Partial<HttpOptions> = {
    async examine(definitions) {
      asked.push(definitions);
      return ({ device, type, code, received: ts }: Letter): Examination =>
        device === 'good' || definitions !== undefined
          ? { items: [{ device, type, ts, seq: undefined, values: { v: 1 } }] }
          : { items: [{ device, type, refusal: { code, message: '' }, payload: Buffer.alloc(0) }] };
    },
    async append(request) {
      for (const line of request.records) records.push(JSON.parse(line) as LogRecord);
    },
    ...more,
  };
  const made = await backend(options);
  const { store, app } = made;
  store.letters.length = 0;
  for (let i = 0; i < 6; i += 1) {
    const [device, code] = i < 4 ? ['good', 'VALUE_BOUNDS'] : ['bad', 'VALUE_KIND'];
    store.addLetter(device as string, code as string, NOW - i * 60_000);
    Object.assign(store.letters[i] ?? {}, { typeVersion: i % 2 === 0 ? 'aaaaaaaa' : 'bbbbbbbb' });
  }
  store.addLetter('theirs', 'VALUE_KIND', NOW - 1_000, 'beta');
  const call = async (
    method: 'GET' | 'POST' | 'DELETE',
    path: string,
    body?: object,
    headers: Record<string, string> = bearer('acme'),
  ) => {
    const response = await app.inject({
      ...{ method, url: `${URL}${path}`, headers },
      ...(body && { payload: body }),
    });
    return { status: response.statusCode, body: response.json(), response };
  };
  return { ...made, records, asked, call };
}

describe('list, groups, show', () => {
  test('page by page', async () => {
    const { call } = await bench();
    const seen: string[] = [];
    let after = '';
    for (;;) {
      const { body } = await call('GET', `?limit=4${after}`);
      seen.push(...body.deadLetters.map((one: { id: string }) => one.id));
      if (body.next === null) break;
      after = `&after=${body.next}`;
    }
    assert.equal(new Set(seen).size, 6);
    assert.equal(seen[0], `${NOW}-0-10000`);
    const oldest = (await call('GET', '?order=oldest&limit=1')).body.deadLetters[0];
    assert.deepEqual([oldest.id, oldest.device], [seen[5], 'bad']);
  });

  test('groups by what is asked for, the largest first', async () => {
    const { call } = await bench();
    const { body } = await call('GET', '/groups?by=device,code');
    assert.deepEqual(
      body.groups.map(({ oldest, newest, ...group }: Record<string, unknown>) => group),
      [
        { device: 'good', code: 'VALUE_BOUNDS', count: 4, open: 4 },
        { device: 'bad', code: 'VALUE_KIND', count: 2, open: 2 },
      ],
    );
    assert.equal(body.groups[0].newest, new Date(NOW).toISOString());
    const versions = (await call('GET', '/groups?by=version&device=good')).body.groups;
    assert.deepEqual(
      versions.map((one: { version: string; count: number }) => [one.version, one.count]),
      [
        ['aaaaaaaa', 2],
        ['bbbbbbbb', 2],
      ],
    );
    assert.equal((await call('GET', '/groups')).body.groups.length, 4);
  });

  test('one letter, and its original bytes', async () => {
    const { call } = await bench();
    const id = `${NOW - 60_000}-0-10001`;
    const { body } = await call('GET', `/${id}`);
    assert.deepEqual([body.id, body.device, body.payload], [id, 'good', 'e30=']);
    const { app } = await bench();
    const { headers, rawPayload } = await app.inject({
      ...{ url: `${URL}/${id}/payload`, headers: bearer('acme') },
    });
    assert.equal(String(rawPayload), '{}');
    assert.equal(headers['content-type'], 'application/octet-stream');
    assert.match(String(headers['content-disposition']), /^attachment/);
    for (const [path, status] of [
      ['/1-0-1', 404],
      [`/${NOW - 1_000}-0-10006`, 404], // another tenant's
      ['/nonsense', 400],
    ] as const) {
      assert.equal((await call('GET', path)).status, status, path);
    }
  });

  test('wrong parameters are named', async () => {
    const { call } = await bench();
    for (const [query, name] of [
      ['?state=closed', 'state'],
      ['?version=xyz', 'version'],
      ['?type=a/b', 'type'],
      ['?order=up', 'order'],
      ['?after=1', 'after'],
      ['?limit=0', 'limit'],
      ['/groups?by=colour', 'by'],
      ['/groups?limit=3', 'limit'],
    ] as const) {
      const { status, body } = await call('GET', query);
      assert.equal(status, 400, query);
      assert.match(body.error.message, new RegExp(`"?${name}`), query);
    }
  });
});

describe('try', () => {
  test('says what would be, and takes other definitions of types', async () => {
    const { call, asked, records } = await bench();
    const now = (await call('POST', '/try', {})).body;
    assert.deepEqual([now.letters, now.taken, now.refused], [6, 4, { VALUE_KIND: 2 }]);
    const types = { probe: { metrics: {} } };
    const then = (await call('POST', '/try', { types, device: 'bad', limit: 1 })).body;
    assert.deepEqual([then.letters, then.taken, then.refused], [1, 1, {}]);
    assert.equal(then.details[0].readings[0].ts, new Date(NOW - 5 * 60_000).toISOString());
    assert.deepEqual(asked, [undefined, types]);
    assert.deepEqual(records, []);
  });

  test('is for the console too; what writes needs a token', async () => {
    const { call } = await bench();
    const body = { tenant: 'acme' };
    assert.equal((await call('POST', '/try', body, CONSOLE)).status, 200);
    for (const path of ['/replays', '/purge']) {
      assert.equal((await call('POST', path, body, CONSOLE)).status, 401);
    }
  });
});

describe('replay', () => {
  const ended = async ({ call }: Awaited<ReturnType<typeof bench>>, id: string) => {
    for (;;) {
      const { body } = await call('GET', `/replays/${id}`);
      if (body.state !== 'running') return body;
      await new Promise((resolve) => setImmediate(resolve));
    }
  };

  test('runs by itself and can be asked for', async () => {
    const made = await bench();
    const started = await made.call('POST', '/replays', { code: 'VALUE_BOUNDS' });
    assert.equal(started.status, 202);
    assert.equal(started.body.rate, 500);
    const done = await ended(made, started.body.id);
    assert.equal(done.state, 'done');
    assert.deepEqual([done.counts.letters, done.counts.taken, done.counts.readings], [4, 4, 4]);
    assert.deepEqual(
      made.records.map(({ kind, device }) => `${kind} ${device}`),
      Array.from({ length: 4 }, () => ['reading good', 'event good']).flat(),
    );
    assert.equal((await made.call('GET', '/replays')).body.replays.length, 1);
  });

  test('of chosen ones, at a lower rate, can be stopped', async () => {
    const made = await bench();
    const letters = [`${NOW - 60_000}-0-10001`, `${NOW - 120_000}-0-10002`];
    const { body } = await made.call('POST', '/replays', { letters, rate: 1 });
    const again = await made.call('POST', '/replays', { letters });
    assert.deepEqual([again.status, again.body.error.code], [409, 'REPLAY_RUNNING']);
    assert.equal((await made.call('DELETE', `/replays/${body.id}`)).status, 200);
    assert.equal((await ended(made, body.id)).state, 'stopped');
    const over = await made.call('POST', '/replays', { rate: 501 });
    assert.match(over.body.error.message, /^rate: expected a number from 1 to 500/);
  });

  test("another tenant's is not there", async () => {
    const made = await bench();
    const { body } = await made.call('POST', '/replays', {});
    const theirs = bearer('beta');
    assert.equal((await made.call('GET', `/replays/${body.id}`, undefined, theirs)).status, 404);
    assert.equal((await made.call('DELETE', `/replays/${body.id}`, undefined, theirs)).status, 404);
    assert.deepEqual((await made.call('GET', '/replays', undefined, theirs)).body.replays, []);
    const foreign = await made.call('POST', '/replays', { tenant: 'beta' });
    assert.equal(foreign.status, 403);
    await ended(made, body.id);
  });

  test('is not offered without a log to write to', async () => {
    const { app } = await backend();
    for (const path of ['/try', '/replays', '/purge']) {
      const response = await app.inject({
        ...{ method: 'POST', url: `${URL}${path}`, headers: bearer('acme') },
        payload: { code: 'VALUE_KIND' },
      });
      assert.equal(response.statusCode, 501, path);
    }
  });
});

test('purge says what it will remove, and wants to be told what', async () => {
  const { call, records } = await bench();
  const { status, body } = await call('POST', '/purge', { device: 'bad' });
  assert.deepEqual([status, body], [202, { tenant: 'acme', letters: 2, devices: 1 }]);
  assert.deepEqual(
    records.map((record) => record.kind === 'event' && record.event),
    ['lettersPurged'],
  );
  const operator = bearer('op');
  assert.equal((await call('POST', '/purge', { tenant: 'acme' }, operator)).status, 400);
  assert.equal((await call('POST', '/purge', { device: 'bad' }, operator)).status, 400);
  assert.equal((await call('POST', '/purge', { devices: 'bad' })).status, 400);
});
