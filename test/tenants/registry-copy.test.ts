import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ManualClock } from '../../src/core/clock.ts';
import { IN_MEMORY, Registry } from '../../src/tenants/registry.ts';

function registry(changes?: Map<string, unknown>): Registry {
  return new Registry({
    dir: IN_MEMORY,
    types: new Set(['thermostat']),
    clock: new ManualClock(1_000),
    ...(changes !== undefined && {
      onChange: (key: string, value: unknown) => changes.set(key, value),
    }),
  });
}

/** Every kind of change, as others get to see it. */
function filled(): { changes: Map<string, unknown>; token: string } {
  const changes = new Map<string, unknown>();
  const source = registry(changes);
  source.addDevice({ tenant: 'acme', device: 'gw', type: 'thermostat' });
  source.addDevice({ tenant: 'acme', device: 'd1', type: 'thermostat', via: 'gw' });
  source.addDevice({ tenant: 'acme', device: 'gone', type: 'thermostat' });
  source.removeDevice('acme', 'gone');
  const { token } = source.addToken({ role: 'tenant', tenant: 'acme' });
  source.removeToken(source.addToken({ role: 'operator' }).id);
  source.close();
  return { changes, token };
}

test('a copy that is told of every change answers as the original does', () => {
  const { changes, token } = filled();
  const copy = registry();
  assert.equal(copy.isCopy, false);
  assert.deepEqual(copy.apply(changes), []);
  assert.deepEqual(
    copy.devices('acme').map(({ device, type, via }) => [device, type, via]),
    [
      ['d1', 'thermostat', 'gw'],
      ['gw', 'thermostat', undefined],
    ],
  );
  assert.deepEqual(copy.verifyToken(token), { role: 'tenant', tenant: 'acme' });
  assert.equal(copy.tokens().length, 1);
  copy.close();
});

test('secrets themselves are in no change', () => {
  const { changes, token } = filled();
  assert.ok(!JSON.stringify([...changes]).includes(token));
});

test('a copy that was away loses what was removed meanwhile', () => {
  const { changes } = filled();
  const copy = registry();
  copy.replaceAll(changes);
  assert.equal(copy.isCopy, true);
  const version = copy.version();
  changes.delete('device/acme/d1');
  changes.set('type/meter', { metrics: {} });
  copy.replaceAll(changes);
  assert.deepEqual(
    copy.devices().map(({ device }) => device),
    ['gw'],
  );
  assert.deepEqual([...copy.typeDefinitions()], [['meter', { metrics: {} }]]);
  assert.notEqual(copy.version(), version, 'sessions are looked at again');
  copy.close();
});

test('what is no entry of a registry is named and left out', () => {
  const { changes } = filled();
  const copy = registry();
  const strange: [string, unknown][] = [
    ['quota/acme', { of: 'a later release' }],
    ['device/acme', { type: 'thermostat' }],
    ['device/acme/a b', { type: 'thermostat', secretHash: 'x', createdAt: 1 }],
    ['device/acme/d9', { type: 'thermostat', createdAt: 1 }],
    ['token/t', 'text'],
  ];
  assert.deepEqual(
    copy.replaceAll([...changes, ...strange]),
    strange.map(([key]) => key),
  );
  assert.equal(copy.devices().length, 2);
  copy.close();
});

test('a change that fails half-way leaves the copy as it was', () => {
  const { changes } = filled();
  const copy = registry();
  copy.replaceAll(changes);
  function* failing(): Generator<[string, unknown]> {
    yield ['device/acme/d1', null];
    throw new Error('the source ended');
  }
  assert.throws(() => copy.apply(failing()), /the source ended/);
  assert.equal(copy.devices().length, 2);
  copy.close();
});
