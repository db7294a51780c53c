import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { isLoopback } from '../../src/http/access.ts';
import { backend, bearer } from './backend.ts';

const CONSOLE = { 'x-spillway-console': '1' };
const LOCAL = { host: '127.0.0.1:8080' };
const QUERY = '/api/v1/query?tenant=acme&from=-1h';

async function status(
  url: string,
  headers: Record<string, string> = {},
  options: { peer?: string; bind?: string } = {},
): Promise<[number, string]> {
  const { app } = await backend(options.bind === undefined ? {} : { http: { host: options.bind } });
  const response = await app.inject({
    ...{ method: 'GET', url, headers: { ...LOCAL, ...headers } },
    remoteAddress: options.peer ?? '127.0.0.1',
  });
  await app.close();
  const body = response.body.startsWith('{') ? response.json() : {};
  return [response.statusCode, body.error?.code ?? ''];
}

describe('on loopback, without a token', () => {
  for (const url of ['/metrics', '/api/v1/status']) {
    test(`${url} is open`, async () => assert.deepEqual(await status(url), [200, '']));
  }
  for (const url of [
    QUERY,
    '/api/v1/devices',
    '/api/v1/dead-letters?tenant=acme',
    '/api/v1/audit',
  ]) {
    test(`${url} needs the console's header`, async () => {
      assert.deepEqual(await status(url), [401, 'UNAUTHORIZED']);
      assert.deepEqual(await status(url, { 'x-spillway-console': 'yes' }), [401, 'UNAUTHORIZED']);
      assert.deepEqual(await status(url, CONSOLE), [200, '']);
    });
  }

  const foreign: [string, Record<string, string>, string?][] = [
    ['a rebound DNS name', { host: 'evil.example' }],
    ['a name that begins like loopback', { host: '127.0.0.1.evil.example:8080' }],
    ['a name that ends like loopback', { host: 'evil-localhost' }],
    ['another site', { 'sec-fetch-site': 'cross-site' }],
    ['another port of this machine', { 'sec-fetch-site': 'same-site' }],
    ['a proxy', { 'x-forwarded-for': '203.0.113.9' }],
    ['a proxy by the standard', { forwarded: 'for=203.0.113.9' }],
    ['a peer elsewhere', {}, '203.0.113.9'],
    ['a peer elsewhere in IPv6', {}, '2001:db8::1'],
  ];
  for (const [what, headers, peer] of foreign) {
    test(`${what} is refused`, async () => {
      for (const url of ['/metrics', '/api/v1/status', QUERY]) {
        const answer = await status(
          url,
          { ...CONSOLE, ...headers },
          peer === undefined ? {} : { peer },
        );
        assert.deepEqual(answer, [401, 'UNAUTHORIZED'], url);
      }
    });
  }

  for (const host of ['localhost', 'LOCALHOST:8080', '[::1]:8080', '127.8.9.1']) {
    test(`host ${host} is loopback`, async () => {
      assert.deepEqual(await status('/metrics', { host }), [200, '']);
    });
  }

  test('a peer over IPv4-mapped IPv6 is loopback', async () => {
    assert.deepEqual(await status('/metrics', {}, { peer: '::ffff:127.0.0.1' }), [200, '']);
    assert.deepEqual(await status('/metrics', {}, { peer: '::ffff:10.0.0.1' }), [
      401,
      'UNAUTHORIZED',
    ]);
  });

  test('commands need a token, console or not', async () => {
    const { app } = await backend({ sendCommand: async () => true });
    const response = await app.inject({
      ...{
        method: 'POST',
        url: '/api/v1/devices/a/commands?tenant=acme',
        remoteAddress: '127.0.0.1',
      },
      ...{ headers: { ...LOCAL, ...CONSOLE }, payload: { on: true } },
    });
    assert.equal(response.statusCode, 401);
  });
});

describe('bound elsewhere', () => {
  const bind = '0.0.0.0';
  test('only health and the empty page of the console are open, even to loopback', async () => {
    for (const url of ['/healthz', '/readyz', '/', '/console/main.js']) {
      assert.deepEqual(await status(url, {}, { bind, peer: '203.0.113.9' }), [200, ''], url);
    }
    for (const url of ['/metrics', '/api/v1/status', QUERY]) {
      assert.deepEqual(await status(url, CONSOLE, { bind }), [401, 'UNAUTHORIZED'], url);
      assert.deepEqual(
        await status(url, bearer('op'), { bind, peer: '203.0.113.9' }),
        [200, ''],
        url,
      );
    }
  });

  test('a tenant may neither see metrics nor status', async () => {
    for (const url of ['/metrics', '/api/v1/status']) {
      assert.deepEqual(await status(url, bearer('acme'), { bind }), [403, 'FORBIDDEN'], url);
    }
  });
});

describe('tokens', () => {
  test('one that was sent counts, on loopback too', async () => {
    assert.deepEqual(await status('/metrics', { authorization: 'Bearer nonsense' }), [
      401,
      'UNAUTHORIZED',
    ]);
    assert.deepEqual(await status('/metrics', bearer('acme')), [403, 'FORBIDDEN']);
    const beta = '/api/v1/query?tenant=beta';
    assert.deepEqual(await status(beta, { ...CONSOLE, ...bearer('acme') }), [403, 'FORBIDDEN']);
    assert.deepEqual(await status(beta, { ...CONSOLE, authorization: 'Bearer nonsense' }), [
      401,
      'UNAUTHORIZED',
    ]);
  });

  const bad = [
    '',
    'Bearer',
    'Bearer ',
    'Basic b3A6eA==',
    'token-of-the-operator',
    'Bearer a b',
    `Bearer ${'x'.repeat(1_025)}`,
  ];
  for (const authorization of bad) {
    test(`refuses ${JSON.stringify(authorization.slice(0, 30))}`, async () => {
      assert.deepEqual(await status('/metrics', { authorization }), [401, 'UNAUTHORIZED']);
    });
  }

  test('a verifier may answer at once; the scheme has no case', async () => {
    const { app } = await backend({ tokens: { verify: () => ({ role: 'operator' }) } });
    const response = await app.inject({
      url: '/metrics',
      headers: { authorization: 'bearer x' },
      remoteAddress: '203.0.113.9',
    });
    assert.equal(response.statusCode, 200);
  });

  test('401 says how', async () => {
    const { app } = await backend();
    const response = await app.inject({ url: QUERY });
    assert.equal(response.headers['www-authenticate'], 'Bearer realm="spillway"');
    assert.match(response.json().error.next, /Authorization: Bearer/);
  });
});

describe('tenants', () => {
  const data = ['query?', 'devices?', 'dead-letters?', 'audit?'];

  test('a token without a tenant means its own', async () => {
    const { app } = await backend();
    for (const path of data) {
      const response = await app.inject({ url: `/api/v1/${path}`, headers: bearer('acme') });
      assert.equal(response.statusCode, 200, path);
      assert.ok(!/beta|"z"|secret/.test(response.body), path);
      assert.ok(response.body.includes('acme'), path);
    }
  });

  test('another tenant is forbidden, whether it exists or not', async () => {
    for (const path of data) {
      for (const tenant of ['beta', 'nobody', 'Acme']) {
        assert.deepEqual(await status(`/api/v1/${path}tenant=${tenant}`, bearer('acme')), [
          403,
          'FORBIDDEN',
        ]);
      }
    }
  });

  const attempts = [
    'tenant=acme&tenant=beta',
    'tenant=beta&tenant=acme',
    'tenant[]=beta',
    'tenant%00=beta&tenant=acme',
    'tenant=acme%00beta',
    'tenant=acme,beta',
    'tenant=',
    'tenant=acme&Tenant=beta',
    'tenant=acme&__proto__=x',
    'tenant=acme&__proto__[tenant]=beta',
    'tenant=acme&constructor=x',
    'tenant=*',
    'tenant=acme/../beta',
    'tenant=acme&device=a/../../beta',
    'tenant=acme&tenants=beta',
  ];
  for (const parameters of attempts) {
    test(`refuses ${parameters}`, async () => {
      for (const path of data) {
        const answer = await status(`/api/v1/${path}${parameters}`, bearer('acme'));
        assert.deepEqual(answer, [400, 'QUERY_INVALID'], path);
      }
    });
  }

  test('__proto__ and constructor are names of tenants like others', async () => {
    for (const tenant of ['__proto__', 'constructor']) {
      assert.deepEqual(await status(`/api/v1/query?tenant=${tenant}`, bearer('acme')), [
        403,
        'FORBIDDEN',
      ]);
      assert.deepEqual(await status(`/api/v1/query?tenant=${tenant}`, bearer('op')), [200, '']);
    }
  });

  test('an operator names the tenant, or sees all where that makes sense', async () => {
    assert.deepEqual(await status('/api/v1/query?tenant=beta', bearer('op')), [200, '']);
    assert.deepEqual(await status('/api/v1/query', bearer('op')), [400, 'QUERY_INVALID']);
    assert.deepEqual(await status('/api/v1/dead-letters', bearer('op')), [400, 'QUERY_INVALID']);
    const { app } = await backend();
    const { devices } = (
      await app.inject({ url: '/api/v1/devices', headers: bearer('op') })
    ).json();
    assert.deepEqual(
      devices.map((d: { tenant: string; device: string }) => `${d.tenant}/${d.device}`),
      ['acme/a', 'beta/z'],
    );
    const { rows } = (await app.inject({ url: '/api/v1/audit', headers: bearer('op') })).json();
    assert.deepEqual(
      rows.map((r: { tenant: string }) => r.tenant),
      ['acme', 'beta'],
    );
  });
});

test('loopback addresses', () => {
  for (const yes of ['127.0.0.1', '127.255.0.9', '::1', 'localhost', '::ffff:127.0.0.1'])
    assert.ok(isLoopback(yes), yes);
  for (const no of [
    '0.0.0.0',
    '::',
    '10.0.0.1',
    '128.0.0.1',
    '127.0.0.1.evil',
    'localhost.evil',
    '',
  ])
    assert.ok(!isLoopback(no), no);
});

describe('the token of the metrics', () => {
  const metricsToken = 'of-the-metrics-alone-0123';
  const ask = async (url: string, authorization: string) => {
    const { app } = await backend({ metricsToken });
    const response = await app.inject({
      ...{ method: 'GET', url, headers: { host: 'spillway:8080', authorization } },
      remoteAddress: '10.0.0.7',
    });
    await app.close();
    return response.statusCode;
  };

  test('opens them from anywhere', async () => {
    assert.equal(await ask('/metrics', `Bearer ${metricsToken}`), 200);
    assert.equal(await ask('/metrics', `Bearer ${metricsToken}x`), 401);
  });

  test('opens nothing else', async () => {
    for (const url of ['/api/v1/status', QUERY]) {
      assert.equal(await ask(url, `Bearer ${metricsToken}`), 401, url);
    }
  });
});
