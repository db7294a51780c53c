import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { describe, test } from 'node:test';
import { deviceTypes } from '../../src/config/device-types.ts';
import { configSchema } from '../../src/config/schema.ts';
import { retentionOf } from '../../src/config/windows.ts';
import { ManualClock } from '../../src/core/clock.ts';
import { SpillwayError } from '../../src/core/errors.ts';
import type { ListedDevice } from '../../src/http/device-list.ts';
import type { HttpOptions } from '../../src/http/server.ts';
import type { Presence } from '../../src/ops/deadman.ts';
import { formatReport } from '../../src/reports/format.ts';
import { FORMATS } from '../../src/reports/parameters.ts';
import { runQuery } from '../../src/reports/query.ts';
import { backend, bearer, liveStatus, NOW } from './backend.ts';

const headers = bearer('acme');

describe('query', () => {
  test('every format is, byte for byte, what the formatter writes', async () => {
    const { app, store, config } = await backend();
    for (const format of FORMATS) {
      const query = { tenant: 'acme', from: '-2h', step: '10m', format };
      const url = `/api/v1/query?${new URLSearchParams(query)}`;
      const response = await app.inject({ url, headers });
      const report = await runQuery(store, query, {
        ...{
          types: deviceTypes(config),
          clock: new ManualClock(NOW),
          retention: retentionOf(config),
        },
        ...{ baseWindowMs: config.rollup.baseWindow, rowsMax: config.http.queryRowsMax },
      });
      assert.equal(response.statusCode, 200);
      assert.equal(response.body, [...formatReport(report, format)].join(''));
    }
  });

  test('CSV carries its completeness in a header', async () => {
    const { app } = await backend();
    const response = await app.inject({
      url: '/api/v1/query?format=csv&stat=mean&from=-1h',
      headers,
    });
    assert.match(String(response.headers['content-type']), /^text\/csv/);
    const completeness = JSON.parse(String(response.headers['spillway-completeness']));
    assert.deepEqual(completeness.totals.deadLettered, { VALUE_BOUNDS: 1, JSON_INVALID: 1 });
    assert.match(response.body, /^time,device,metric,mean\r\n/);
  });

  test('errors name the parameter', async () => {
    const { app } = await backend();
    const response = await app.inject({ url: '/api/v1/query?step=90s', headers });
    assert.equal(response.statusCode, 400);
    assert.deepEqual(response.json(), {
      error: {
        code: 'QUERY_INVALID',
        message: 'step: expected a multiple of the base window 1m; got "90s".',
        next: 'Correct the parameter named.',
      },
    });
  });

  test('too large an answer is 422', async () => {
    const { app } = await backend({ http: { queryRowsMax: 10 } });
    const response = await app.inject({ url: '/api/v1/query?step=raw', headers });
    assert.deepEqual([response.statusCode, response.json().error.code], [422, 'QUERY_TOO_LARGE']);
  });

  test('repeated and joined devices are the same', async () => {
    const { app } = await backend();
    const get = async (list: string) =>
      (await app.inject({ url: `/api/v1/query?from=-1h&${list}`, headers })).body;
    assert.equal(await get('device=a&device=b'), await get('device=a,b'));
  });

  test('over-long URLs are refused', async () => {
    const { app } = await backend();
    const device = Array.from({ length: 1_000 }, (_, i) => `device-${i}`).join(',');
    const response = await app.inject({ url: `/api/v1/query?device=${device}`, headers });
    assert.deepEqual([response.statusCode, response.json().error.code], [414, 'URL_TOO_LONG']);
  });

  test('a few run, some wait, the others are told to come back', async () => {
    const { app, store } = await backend();
    let release: () => void = () => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    let most = 0;
    let inside = 0;
    const series = store.series.bind(store);
    store.series = async (tenant) => {
      inside += 1;
      most = Math.max(most, inside);
      await held;
      inside -= 1;
      return series(tenant);
    };
    const answers = Array.from({ length: 80 }, () =>
      app.inject({ url: '/api/v1/query?from=-1h', headers }),
    );
    const refused = await Promise.race(answers);
    assert.deepEqual(
      [refused.statusCode, refused.json().error.code, refused.headers['retry-after']],
      [503, 'BUSY', '2'],
    );
    release();
    const codes = (await Promise.all(answers)).map((r) => r.statusCode);
    assert.equal(codes.filter((code) => code === 200).length, 68);
    assert.equal(most, 4);
  });

  test('a store that takes too long does not hold the client', async () => {
    const { app, store } = await backend({ http: { requestTimeout: 100 } });
    store.series = () => new Promise(() => {});
    const response = await app.inject({ url: '/api/v1/query?from=-1h', headers });
    assert.deepEqual([response.statusCode, response.json().error.code], [503, 'TIMEOUT']);
  });

  test('what goes wrong inside is logged, not told', async () => {
    const { app, store, logged } = await backend();
    store.series = () => Promise.reject(new Error('/secret/path is broken'));
    const response = await app.inject({ url: '/api/v1/query', headers });
    assert.deepEqual([response.statusCode, response.json().error.code], [500, 'INTERNAL']);
    assert.ok(!response.body.includes('secret'));
    assert.equal(logged.length, 1);
    store.series = () => Promise.reject(new SpillwayError('STORE_BUSY', 'busy'));
    assert.equal((await app.inject({ url: '/api/v1/query', headers })).statusCode, 503);
  });
});

describe('devices, dead letters, audit', () => {
  test('devices with type, metrics and last reading; registered ones without data, too', async () => {
    const { app } = await backend({
      devices: () => [
        { tenant: 'acme', device: 'new', type: 'probe' },
        { tenant: 'acme', device: 'a', type: 'probe' },
      ],
    });
    const { devices, truncated } = (await app.inject({ url: '/api/v1/devices', headers })).json();
    assert.equal(truncated, false);
    assert.deepEqual(devices, [
      {
        ...{ tenant: 'acme', device: 'a', type: 'probe', metrics: ['temperature'] },
        ...{ lastSeen: '2026-10-26T11:59:00.000Z', lastSeenMs: NOW - 60_000 },
        // Nobody watches here: as the newest reading says.
        ...{ status: 'online', since: null, heard: '2026-10-26T11:59:00.250Z' },
      },
      {
        tenant: 'acme',
        device: 'new',
        type: 'probe',
        metrics: [],
        lastSeen: null,
        lastSeenMs: null,
        ...{ status: null, since: null, heard: null },
      },
    ]);
  });

  test('who is online and who is not: as those say who watch, else as the newest reading', async () => {
    const MINUTE = 60_000;
    const since = NOW - 5 * MINUTE;
    const of = async (more: Partial<HttpOptions>, parameters = '') => {
      const { app } = await backend({
        devices: () => ['a', 'new'].map((device) => ({ tenant: 'acme', device, type: 'probe' })),
        ...more,
      });
      const response = await app.inject({ url: `/api/v1/devices${parameters}`, headers });
      assert.equal(response.statusCode, 200, response.body);
      const { devices } = response.json() as { devices: ListedDevice[] };
      return devices.map(({ device, status, since: at }) => [device, status, at]);
    };
    const iso = (ms: number) => new Date(ms).toISOString();
    const presence = async (): Promise<[string, Presence][]> => [
      ['a', { status: 'offline', since, heard: since - MINUTE }],
      ['gone', { status: 'offline', since, heard: since - MINUTE }],
    ];
    assert.deepEqual(await of({ presence }), [
      ['a', 'offline', iso(since)],
      ['new', null, null],
    ]);
    assert.deepEqual(await of({ presence }, '?status=online'), []);
    const late = { now: () => NOW + 10 * MINUTE };
    assert.deepEqual(await of({ clock: late }), [
      ['a', 'online', null],
      ['new', null, null],
    ]);
    const periods = deviceTypes(configSchema.parse({ types: { probe: { period: '1m' } } }));
    assert.deepEqual(await of({ clock: late, types: periods }, '?status=offline'), [
      ['a', 'offline', iso(NOW + 2 * MINUTE + 250)],
    ]);
    const { app } = await backend();
    const bad = await app.inject({ url: '/api/v1/devices?status=away', headers });
    assert.equal(bad.json().error.code, 'QUERY_INVALID');
  });

  test('dead letters, newest first, filtered', async () => {
    const { app } = await backend();
    const codes = async (parameters: string): Promise<string[]> => {
      const response = await app.inject({ url: `/api/v1/dead-letters?${parameters}`, headers });
      assert.equal(response.statusCode, 200, response.body);
      return response.json().deadLetters.map((letter: { code: string }) => letter.code);
    };
    assert.deepEqual(await codes(''), ['VALUE_BOUNDS', 'JSON_INVALID']);
    assert.deepEqual(await codes('code=JSON_INVALID'), ['JSON_INVALID']);
    assert.deepEqual(await codes('limit=1'), ['VALUE_BOUNDS']);
    assert.deepEqual(await codes('device=b'), []);
    assert.deepEqual(await codes('to=now-330s'), ['JSON_INVALID']);
  });

  for (const bad of [
    'limit=0',
    'limit=1001',
    'limit=1e3',
    'limit=1&limit=2',
    'code=toString',
    'code=x',
    'from=soon',
    'from=now&to=-1h',
    'device=a/b',
    'what=1',
  ]) {
    test(`dead letters refuse ${bad}`, async () => {
      const { app } = await backend();
      const response = await app.inject({ url: `/api/v1/dead-letters?${bad}`, headers });
      assert.deepEqual([response.statusCode, response.json().error.code], [400, 'QUERY_INVALID']);
    });
  }

  test('the audit of a tenant, by device', async () => {
    const { app } = await backend();
    const response = await app.inject({ url: '/api/v1/audit?devices=true', headers });
    const { balanced, rows } = response.json();
    assert.equal(balanced, true);
    assert.deepEqual(
      rows.map((r: Record<string, unknown>) => [r.tenant, r.device, r.received, r.inFlight]),
      [['acme', 'a', 2, 1]],
    );
  });
});

describe('commands', () => {
  const post = async (
    url: string,
    payload: unknown,
    name = 'acme',
    sent: boolean | null = true,
  ) => {
    const calls: unknown[][] = [];
    const { app } = await backend(
      sent === null ? {} : { sendCommand: async (...call) => calls.push(call) > 0 && sent },
    );
    const type = typeof payload === 'string' ? { 'content-type': 'application/json' } : {};
    const response = await app.inject({
      ...{ method: 'POST', url, headers: { ...bearer(name), ...type } },
      ...(payload === undefined ? {} : { payload: payload as object }),
    });
    return { status: response.statusCode, code: response.json().error?.code ?? '', calls };
  };

  test('are handed over', async () => {
    const { status, calls } = await post('/api/v1/devices/a/commands', { valve: 'open' });
    assert.deepEqual([status, calls], [202, [['acme', 'a', '{"valve":"open"}']]]);
    const operator = await post('/api/v1/devices/z/commands?tenant=beta', '[1,null]', 'op');
    assert.deepEqual(operator.calls, [['beta', 'z', '[1,null]']]);
  });

  test('are refused', async () => {
    const answers = [
      [await post('/api/v1/devices/a/commands', { on: 1 }, 'acme', false), 409, 'DEVICE_OFFLINE'],
      [await post('/api/v1/devices/a/commands', { on: 1 }, 'acme', null), 501, 'NOT_OFFERED'],
      [await post('/api/v1/devices/z/commands?tenant=beta', { on: 1 }), 403, 'FORBIDDEN'],
      [await post('/api/v1/devices/z/commands', { on: 1 }, 'op'), 400, 'QUERY_INVALID'],
      [await post('/api/v1/devices/a%2Fb/commands', { on: 1 }), 400, 'NAME_INVALID'],
      [await post(`/api/v1/devices/${'a'.repeat(65)}/commands`, { on: 1 }), 414, 'URL_TOO_LONG'],
      [await post('/api/v1/devices/a/commands', '{"on":'), 400, 'REQUEST_INVALID'],
      [await post('/api/v1/devices/a/commands', '{"__proto__":{"x":1}}'), 400, 'REQUEST_INVALID'],
      [await post('/api/v1/devices/a/commands', undefined), 400, 'REQUEST_INVALID'],
      [
        await post('/api/v1/devices/a/commands', { long: 'x'.repeat(1_048_577) }),
        413,
        'BODY_TOO_LARGE',
      ],
    ] as const;
    for (const [{ status, code, calls }, ...expected] of answers) {
      assert.deepEqual([status, code], expected);
      if (code !== 'DEVICE_OFFLINE') assert.deepEqual(calls, []);
    }
  });

  test('a plain text, which another site could post, is refused', async () => {
    const { app } = await backend({ sendCommand: async () => true });
    const response = await app.inject({
      ...{ method: 'POST', url: '/api/v1/devices/a/commands', payload: '{}' },
      headers: { ...headers, 'content-type': 'text/plain' },
    });
    assert.deepEqual([response.statusCode, response.json().error.code], [415, 'CONTENT_TYPE']);
  });
});

describe('health', () => {
  test('/readyz follows the status, /healthz does not ask for it', async () => {
    let ready = false;
    const { app } = await backend({ status: () => liveStatus({ ready, readyReason: 'starting' }) });
    const refused = await app.inject('/readyz');
    assert.deepEqual(
      [refused.statusCode, refused.json()],
      [503, { ready: false, reason: 'starting' }],
    );
    ready = true;
    assert.equal((await app.inject('/readyz')).statusCode, 200);
    const broken = await backend({
      status: () => {
        throw new Error('no status');
      },
    });
    assert.equal((await broken.app.inject('/healthz')).statusCode, 200);
  });

  test('metrics and status', async () => {
    const { app } = await backend();
    const metrics = await app.inject({ url: '/metrics', headers: bearer('op') });
    assert.match(String(metrics.headers['content-type']), /^text\/plain; version=0\.0\.4/);
    const status = await app.inject({ url: '/api/v1/status', headers: bearer('op') });
    assert.deepEqual(status.json(), liveStatus());
  });
});

describe('answers', () => {
  test('all carry the security headers, none allows other origins', async () => {
    const { app } = await backend();
    for (const url of ['/', '/healthz', '/nothing', '/api/v1/query', '/console/uplot.js', '/%zz']) {
      const response = await app.inject({ url, headers: { origin: 'https://evil.example' } });
      const csp = String(response.headers['content-security-policy']);
      assert.match(csp, /default-src 'none'.*frame-ancestors 'none'/, url);
      assert.ok(!/unsafe|\*/.test(csp));
      assert.equal(response.headers['x-content-type-options'], 'nosniff');
      assert.ok(
        !Object.keys(response.headers).some((name) => /^access-control|^set-cookie/.test(name)),
        url,
      );
    }
    const preflight = await app.inject({ method: 'OPTIONS', url: '/api/v1/query' });
    assert.equal(preflight.statusCode, 404);
  });

  test('errors have one form', async () => {
    const { app } = await backend();
    for (const [method, url, status, code] of [
      ['GET', '/nothing', 404, 'NOT_FOUND'],
      ['DELETE', '/api/v1/query', 404, 'NOT_FOUND'],
      ['GET', '/console/../server.ts', 404, 'NOT_FOUND'],
      ['GET', '/console/%2e%2e%2fserver.ts', 404, 'NOT_FOUND'],
      ['GET', '/node_modules/uplot/package.json', 404, 'NOT_FOUND'],
      ['GET', '/%zz', 400, 'REQUEST_INVALID'],
    ] as const) {
      const response = await app.inject({ method, url });
      assert.equal(response.statusCode, status, url);
      const { error, ...rest } = response.json();
      assert.deepEqual(
        [error.code, Object.keys(error), rest],
        [code, ['code', 'message', 'next'], {}],
      );
    }
  });

  test('data is not cached; assets are asked for again by their tag', async () => {
    const { app } = await backend();
    assert.equal((await app.inject('/api/v1/status')).headers['cache-control'], 'no-store');
    const page = await app.inject('/');
    assert.equal(page.headers['cache-control'], 'no-cache');
    const again = await app.inject({
      url: '/',
      headers: { 'if-none-match': String(page.headers.etag) },
    });
    assert.deepEqual([again.statusCode, again.body], [304, '']);
  });

  test('are observed by route, not by URL', async () => {
    const seen: string[] = [];
    const { app } = await backend({ observe: (route, status) => seen.push(`${route} ${status}`) });
    await app.inject({ url: '/api/v1/query?tenant=acme', headers });
    await app.inject({ url: '/whatever-they-try' });
    assert.deepEqual(seen, ['/api/v1/query 200', 'none 404']);
  });
});

describe('sockets', () => {
  test('listens, answers what is no HTTP, refuses a port in use, closes', async (t) => {
    const { server, config } = await backend();
    t.after(() => server.close());
    const { port } = await server.listen();
    const talk = (text: string): Promise<string> =>
      new Promise((resolve, reject) => {
        let heard = '';
        const socket = connect(port, '127.0.0.1', () => socket.end(text));
        socket.on('data', (chunk) => {
          heard += chunk;
        });
        socket.on('close', () => resolve(heard));
        socket.on('error', reject);
      });
    assert.match(await talk('nonsense\r\n\r\n'), /^HTTP\/1\.1 400 [\s\S]*"code":"REQUEST_INVALID"/);
    const long = `GET / HTTP/1.1\r\nHost: localhost\r\nX: ${'x'.repeat(20_000)}\r\n\r\n`;
    assert.match(await talk(long), /^HTTP\/1\.1 431 [\s\S]*"code":"HEADERS_TOO_LARGE"/);
    assert.match(await talk('GET /metrics HTTP/1.0\r\n\r\n'), /^HTTP\/1\.1 401 /);
    assert.match(await talk('GET /metrics HTTP/1.1\r\nHost:\r\n\r\n'), /^HTTP\/1\.1 401 /);
    const response = await fetch(`http://127.0.0.1:${port}/metrics`);
    assert.equal(response.status, 200);
    const second = await backend({ http: { port } });
    await assert.rejects(second.server.listen(), { code: 'LISTEN_FAILED', message: /EADDRINUSE/ });
    assert.equal(config.http.host, '127.0.0.1');
  });
});
