import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { ManualClock } from '../../src/core/clock.ts';
import { PasswordVerifier } from '../../src/tenants/passwords.ts';
import { type NewDevice, Registry } from '../../src/tenants/registry.ts';

const NOW = Date.UTC(2026, 0, 1);
const MODULE = fileURLToPath(new URL('../../src/tenants/registry.ts', import.meta.url));

function newDir(t: TestContext): string {
  const dir = mkdtempSync(join(tmpdir(), 'spillway-registry-'));
  t.after(() => rmSync(dir, { recursive: true }));
  return dir;
}

function open(t: TestContext, dir = newDir(t)): { registry: Registry; dir: string } {
  const types = new Set(['thermostat', 'meter']);
  const registry = new Registry({ dir, types, clock: new ManualClock(NOW) });
  t.after(() => registry.close());
  return { registry, dir };
}

function row(device: string, more: Partial<NewDevice> = {}): NewDevice {
  return { tenant: 'acme', device, type: 'thermostat', secret: `secret of ${device}`, ...more };
}

test('a device is found by both of its names', (t) => {
  const { registry } = open(t);
  const { secret } = registry.addDevice({ tenant: 'acme', device: 'd1', type: 'thermostat' });
  registry.addDevice({ tenant: 'other', device: 'd1', type: 'meter' });
  const entry = registry.device('acme', 'd1');
  assert.deepEqual(
    { ...entry, secretHash: undefined },
    { tenant: 'acme', device: 'd1', type: 'thermostat', secretHash: undefined, createdAt: NOW },
  );
  assert.ok(!JSON.stringify(entry).includes(secret));
  assert.equal(registry.device('other', 'd1')?.type, 'meter');
  assert.equal(registry.device('acme', 'd2'), undefined);
  assert.equal(registry.device('acme', "' OR '1'='1"), undefined);
  assert.deepEqual(
    registry.devices().map(({ tenant, device }) => `${tenant}/${device}`),
    ['acme/d1', 'other/d1'],
  );
  assert.equal(registry.devices('acme').length, 1);
  registry.removeDevice('acme', 'd1');
  assert.equal(registry.device('acme', 'd1'), undefined);
  assert.ok(registry.device('other', 'd1'));
  assert.throws(() => registry.removeDevice('acme', 'd1'), { code: 'DEVICE_UNKNOWN' });
});

test('numbers are given in order, and those that are taken are left out', (t) => {
  const { registry } = open(t);
  const add = (count: number, prefix?: string) =>
    registry
      .addDevices({ tenant: 'acme', type: 'meter', count, ...(prefix && { prefix }) })
      .map(({ device }) => device);
  assert.deepEqual(add(2), ['meter-01', 'meter-02']);
  registry.addDevice({ tenant: 'acme', device: 'meter-04', type: 'meter' });
  assert.deepEqual(add(3), ['meter-03', 'meter-05', 'meter-06']);
  registry.removeDevice('acme', 'meter-01');
  assert.deepEqual(add(1), ['meter-01']);
  assert.deepEqual(add(1, 'x'), ['x-01']);
  assert.equal(add(95).at(-1), 'meter-101');
  const secrets = registry.addDevices({ tenant: 'acme', type: 'meter', count: 50, prefix: 'y' });
  assert.equal(new Set(secrets.map(({ secret }) => secret)).size, 50);
});

test('names, counts and types are checked before anything is written', (t) => {
  const { registry } = open(t);
  const add = (options: Partial<Parameters<Registry['addDevices']>[0]>) => () =>
    registry.addDevices({ tenant: 'acme', type: 'meter', count: 1, ...options });
  for (const tenant of ['', 'a/b', 'a b', 'a'.repeat(65), '$SYS', '+', 'ä'])
    assert.throws(add({ tenant }), { code: 'NAME_INVALID' }, tenant);
  for (const prefix of ['', 'a/b', 'a'.repeat(62)])
    assert.throws(add({ prefix }), { code: 'NAME_INVALID' }, prefix);
  for (const count of [0, -1, 1.5, Number.NaN, 1_000_001])
    assert.throws(add({ count }), { code: 'NAME_INVALID', message: /count/ }, `${count}`);
  assert.throws(add({ type: 'toaster' }), {
    code: 'TYPE_UNKNOWN',
    message: /"toaster".*thermostat, meter/,
  });
  assert.throws(add({ via: 'hub' }), { code: 'DEVICE_UNKNOWN', message: /acme\/hub/ });
  // The name grows too long on the way: none of them is added.
  assert.throws(add({ prefix: 'a'.repeat(61), count: 100 }), { code: 'NAME_INVALID' });
  assert.throws(() => registry.addDevice({ tenant: 'acme', device: 'a b', type: 'meter' }), {
    code: 'NAME_INVALID',
  });
  assert.deepEqual(registry.devices(), []);
  registry.addDevice({ tenant: 'acme', device: 'd1', type: 'meter' });
  assert.throws(() => registry.addDevice({ tenant: 'acme', device: 'd1', type: 'meter' }), {
    code: 'DEVICE_EXISTS',
  });
});

test('a device reports for others of its tenant only', (t) => {
  const { registry } = open(t);
  registry.addDevice({ tenant: 'acme', device: 'hub', type: 'meter' });
  registry.addDevices({ tenant: 'acme', type: 'meter', count: 2, via: 'hub' });
  assert.deepEqual(
    registry.devices('acme').map(({ device, via }) => [device, via]),
    [
      ['hub', undefined],
      ['meter-01', 'hub'],
      ['meter-02', 'hub'],
    ],
  );
  assert.throws(
    () => registry.addDevice({ tenant: 'other', device: 'd1', type: 'meter', via: 'hub' }),
    { code: 'DEVICE_UNKNOWN' },
  );
});

test('imported devices log in with the secrets that they have', async (t) => {
  const { registry } = open(t);
  const secrets = ['8 bytes!', 'x'.repeat(1_024), 'a "quoted", $alty$ sécret 😀'];
  const rows = secrets.map((secret, i) => row(`d${i}`, { secret }));
  await registry.importDevices(rows);
  const verifier = new PasswordVerifier(registry);
  for (const { device, secret } of rows) {
    const password = Buffer.from(secret);
    assert.equal((await verifier.verify({ username: `acme/${device}`, password }))?.device, device);
    assert.match(registry.device('acme', device)?.secretHash ?? '', /^scrypt\$/);
  }
});

test('an import is all or nothing, names the row, and no secret', async (t) => {
  const { registry } = open(t);
  registry.addDevice({ tenant: 'acme', device: 'known', type: 'meter' });
  const cases: [NewDevice, RegExp][] = [
    [row('a b'), /row 3: .*"a b"/],
    [row('d3', { tenant: '' }), /row 3: /],
    [row('d3', { type: 'toaster' }), /row 3: .*"toaster"/],
    [row('d3', { secret: 'hunter2' }), /row 3: .*8 to 1024 bytes/],
    [row('d3', { secret: 'ü'.repeat(513) }), /row 3: .*8 to 1024 bytes/],
    [row('known'), /row 3: .*acme\/known exists/],
    [row('d1'), /row 3: acme\/d1 stands in row 1/],
  ];
  for (const [bad, message] of cases) {
    const rows = [row('d1'), row('d2'), bad, row('d4')];
    await assert.rejects(registry.importDevices(rows), (error: Error & { code: string }) => {
      assert.equal(error.code, 'IMPORT_INVALID');
      assert.match(error.message, message);
      for (const { secret } of rows) assert.ok(!error.message.includes(secret));
      return true;
    });
    assert.deepEqual(
      registry.devices().map(({ device }) => device),
      ['known'],
    );
  }
  // One that another process adds while the secrets are hashed.
  const importing = registry.importDevices([row('d1'), row('d2')]);
  const { registry: second } = open(t, registryDir(registry));
  second.addDevice({ tenant: 'acme', device: 'd2', type: 'meter' });
  await assert.rejects(importing, { code: 'DEVICE_EXISTS' });
  assert.equal(registry.device('acme', 'd1'), undefined);
});

function registryDir(registry: Registry): string {
  const { db } = registry as unknown as { db: DatabaseSync };
  return join(db.location() ?? '', '..');
}

test('a token is known by what was presented, and gone when removed', (t) => {
  const { registry, dir } = open(t);
  const operator = registry.addToken({ role: 'operator' });
  const tenant = registry.addToken({ role: 'tenant', tenant: 'acme' });
  assert.match(operator.token, /^spw_[A-Za-z0-9_-]{43}$/);
  assert.deepEqual(registry.verifyToken(operator.token), { role: 'operator' });
  assert.deepEqual(registry.verifyToken(tenant.token), { role: 'tenant', tenant: 'acme' });
  for (const token of ['', operator.id, `${operator.token}x`, 'spw_', 'x'.repeat(300)])
    assert.equal(registry.verifyToken(token), undefined);
  assert.throws(() => registry.addToken({ role: 'tenant', tenant: 'a/b' }), {
    code: 'NAME_INVALID',
  });
  assert.deepEqual(
    registry
      .tokens()
      .map(({ id }) => id)
      .sort(),
    [operator.id, tenant.id].sort(),
  );
  const file = readFileSync(join(dir, 'registry.db'), 'latin1');
  const wal = readFileSync(join(dir, 'registry.db-wal'), 'latin1');
  for (const { token } of [operator, tenant]) assert.ok(!(file + wal).includes(token));
  registry.removeToken(operator.id);
  assert.equal(registry.verifyToken(operator.token), undefined);
  assert.ok(registry.verifyToken(tenant.token));
  assert.throws(() => registry.removeToken(operator.id), { code: 'NOT_FOUND' });
});

test('two processes share it, and each sees that the other changed something', (t) => {
  const { registry, dir } = open(t);
  const versions = new Set([registry.version()]);
  const changed = () => {
    const before = versions.size;
    versions.add(registry.version());
    assert.equal(versions.size, before + 1);
    assert.equal(registry.version(), [...versions].at(-1));
  };
  registry.addDevice({ tenant: 'acme', device: 'mine', type: 'meter' });
  changed();
  const script = `
    const { Registry } = await import(${JSON.stringify(MODULE)});
    const registry = new Registry({ dir: ${JSON.stringify(dir)}, types: new Set(['meter']), clock: Date });
    registry.addDevice({ tenant: 'acme', device: 'theirs', type: 'meter' });
    registry.removeDevice('acme', 'mine');
    registry.close();`;
  execFileSync(process.execPath, ['--input-type=module', '-e', script]);
  changed();
  assert.deepEqual(
    registry.devices().map(({ device }) => device),
    ['theirs'],
  );
  registry.removeDevice('acme', 'theirs');
  changed();
});

test('files are for their owner alone, also those that were made by an earlier release', (t) => {
  const mask = process.umask(0o022);
  t.after(() => process.umask(mask));
  const parent = newDir(t);
  const dir = join(parent, 'data');
  const modes = () =>
    Object.fromEntries(
      readdirSync(dir).map((name) => [name, statSync(join(dir, name)).mode & 0o777]),
    );
  const registry = new Registry({ dir, types: new Set(['meter']), clock: new ManualClock(NOW) });
  registry.addDevice({ tenant: 'acme', device: 'd1', type: 'meter' });
  assert.equal(statSync(dir).mode & 0o777, 0o700);
  assert.deepEqual(modes(), {
    'registry.db': 0o600,
    'registry.db-shm': 0o600,
    'registry.db-wal': 0o600,
  });
  registry.close();
  chmodSync(join(dir, 'registry.db'), 0o644);
  const again = new Registry({ dir, types: new Set(), clock: new ManualClock(NOW) });
  assert.ok(again.device('acme', 'd1'));
  assert.equal(modes()['registry.db'], 0o600);
  again.close();
});

test('opening it again in one process drops no lock of the first', (t) => {
  const { registry, dir } = open(t);
  const { db } = registry as unknown as { db: DatabaseSync };
  db.exec('BEGIN IMMEDIATE');
  new Registry({ dir, types: new Set(), clock: new ManualClock(NOW) }).close();
  const script = `
    const { DatabaseSync } = await import('node:sqlite');
    const db = new DatabaseSync(${JSON.stringify(join(dir, 'registry.db'))});
    try { db.exec('BEGIN IMMEDIATE'); console.log('taken'); } catch (error) { console.log(error.errcode); }`;
  const out = execFileSync(process.execPath, ['--input-type=module', '-e', script], {
    encoding: 'utf8',
  });
  db.exec('ROLLBACK');
  assert.equal(out.trim(), '5');
});

test('a later version is refused and stays as it is', (t) => {
  const dir = newDir(t);
  const db = new DatabaseSync(join(dir, 'registry.db'));
  db.exec('PRAGMA user_version = 2');
  assert.throws(() => open(t, dir), { code: 'STORE_VERSION' });
  assert.deepEqual(db.prepare('SELECT name FROM sqlite_schema').all(), []);
  db.close();
});
