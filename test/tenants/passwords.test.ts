import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PasswordVerifier, parseUsername } from '../../src/tenants/passwords.ts';
import { generateSecret, hashGenerated, hashImported } from '../../src/tenants/secrets.ts';
import { MemoryDirectory } from './directory.ts';

const IMPORTED = 'correct horse';
const imported = await hashImported(IMPORTED);

function present(username: string | undefined, secret: string | undefined) {
  return { username, password: secret === undefined ? undefined : Buffer.from(secret) };
}

test('a username is two names', () => {
  assert.deepEqual(parseUsername('acme/d-1_X'), { tenant: 'acme', device: 'd-1_X' });
  const long = 'a'.repeat(64);
  assert.deepEqual(parseUsername(`${long}/${long}`), { tenant: long, device: long });
  for (const username of [
    '',
    '/',
    'acme',
    'acme/',
    '/d1',
    'acme/d1/',
    'acme/d1/x',
    '/acme/d1',
    'acme//d1',
    ' acme/d1',
    'acme/d1\n',
    'acme/d1\u0000',
    'acme/+',
    'acme/#',
    'äcme/d1',
    'acme/../d1',
    `${long}a/d1`,
    `acme/${long}a`,
  ]) {
    assert.equal(parseUsername(username), undefined, JSON.stringify(username));
  }
});

test('a secret proves its own device', async () => {
  const directory = new MemoryDirectory();
  const [mine, theirs, other] = [generateSecret(), generateSecret(), generateSecret()];
  directory.set('acme', 'd1', hashGenerated(mine));
  directory.set('acme', 'd2', hashGenerated(theirs));
  directory.set('other', 'd1', hashGenerated(other));
  const verifier = new PasswordVerifier(directory);
  assert.deepEqual(await verifier.verify(present('acme/d1', mine)), {
    tenant: 'acme',
    device: 'd1',
    type: 'thermostat',
    secretHash: hashGenerated(mine),
  });
  for (const presented of [
    present('acme/d1', theirs),
    present('acme/d1', other),
    present('other/d1', mine),
    present('acme/d3', mine),
    present('nobody/d1', mine),
    present('ACME/d1', mine),
    present('acme/d1', ''),
    present('acme/d1', 'x'.repeat(1_025)),
    present('acme/d1', hashGenerated(mine)),
    present('acme/d1', undefined),
    present(undefined, mine),
    present(undefined, undefined),
    present('acme', mine),
    present('', mine),
    present('__proto__/constructor', mine),
  ]) {
    assert.equal(await verifier.verify(presented), undefined, JSON.stringify(presented));
  }
});

/** How often scrypt ran, by the time that it takes: its own count is out of reach. */
async function cpuMs(work: () => Promise<unknown>): Promise<number> {
  const before = process.cpuUsage();
  await work();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1_000;
}

test('scrypt runs once for a device that comes again, until its secret changes', async () => {
  const directory = new MemoryDirectory();
  directory.set('acme', 'd1', imported);
  const verifier = new PasswordVerifier(directory);
  const verify = (secret: string) => verifier.verify(present('acme/d1', secret));
  const first = await cpuMs(async () => assert.ok(await verify(IMPORTED)));
  const again = await cpuMs(async () => {
    for (let i = 0; i < 20; i++) assert.ok(await verify(IMPORTED));
  });
  assert.ok(again < first, `20 more took ${again} ms of CPU, the first ${first} ms`);
  // A wrong one is refused while the right one is remembered, and does not displace it.
  assert.equal(await verify('wrong horse'), undefined);
  const after = await cpuMs(async () => assert.ok(await verify(IMPORTED)));
  assert.ok(after < first / 2, `${after} ms`);

  directory.set('acme', 'd1', await hashImported('battery staple'));
  assert.equal(await verify(IMPORTED), undefined);
  assert.ok(await verify('battery staple'));
  directory.entries.clear();
  assert.equal(await verify('battery staple'), undefined);
});

test('what is remembered of one device says nothing of another', async () => {
  const directory = new MemoryDirectory();
  directory.set('acme', 'd1', imported);
  directory.set('acme', 'd2', await hashImported('battery staple'));
  const verifier = new PasswordVerifier(directory);
  assert.ok(await verifier.verify(present('acme/d1', IMPORTED)));
  assert.equal(await verifier.verify(present('acme/d2', IMPORTED)), undefined);
});

test('a storm of one imported device costs one scrypt', async () => {
  const directory = new MemoryDirectory();
  directory.set('acme', 'd1', imported);
  const one = await cpuMs(async () => {
    await new PasswordVerifier(directory).verify(present('acme/d1', IMPORTED));
  });
  const verifier = new PasswordVerifier(directory);
  const storm = await cpuMs(async () => {
    const all = Array.from({ length: 200 }, () => verifier.verify(present('acme/d1', IMPORTED)));
    for (const identity of await Promise.all(all)) assert.equal(identity?.device, 'd1');
  });
  assert.ok(storm < one * 10, `${storm} ms of CPU for 200, ${one} ms for one`);
});

test('those who wait for scrypt are bounded: beyond, nobody is called a liar', async () => {
  const directory = new MemoryDirectory();
  // Quick enough for a thousand of them.
  const salt = Buffer.from('salt').toString('base64url');
  directory.set('acme', 'd1', `scrypt$2$1$1$${salt}$${'A'.repeat(43)}`);
  const verifier = new PasswordVerifier(directory);
  const results = await Promise.allSettled(
    Array.from({ length: 1_100 }, (_, i) => verifier.verify(present('acme/d1', `wrong ${i}`))),
  );
  const rejected = results.filter(({ status }) => status === 'rejected').length;
  assert.equal(rejected, 1_100 - 1_000 - 2);
  assert.ok(results.every((result) => result.status === 'rejected' || result.value === undefined));
  // And afterwards there is room again.
  assert.equal(await verifier.verify(present('acme/d1', 'wrong')), undefined);
});
