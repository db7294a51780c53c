import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  generateSecret,
  hashGenerated,
  hashImported,
  isSlow,
  verifySecret,
} from '../../src/tenants/secrets.ts';

const bytes = (text: string) => Buffer.from(text);

test('a generated secret has 256 bits, and no two are alike', () => {
  const secrets = new Set(Array.from({ length: 1_000 }, generateSecret));
  assert.equal(secrets.size, 1_000);
  for (const secret of secrets) {
    assert.match(secret, /^[A-Za-z0-9_-]{43}$/);
    assert.equal(Buffer.from(secret, 'base64url').length, 32);
  }
});

test('a generated secret is kept as one hash, which proves it alone', async () => {
  const secret = generateSecret();
  const stored = hashGenerated(secret);
  assert.match(stored, /^sha256\$[A-Za-z0-9_-]{43}$/);
  assert.ok(!stored.includes(secret));
  assert.equal(isSlow(stored), false);
  assert.equal(await verifySecret(bytes(secret), stored), true);
  assert.equal(await verifySecret(bytes(generateSecret()), stored), false);
  assert.equal(await verifySecret(bytes(secret.slice(1)), stored), false);
  assert.equal(await verifySecret(bytes(`${secret}x`), stored), false);
});

test('an imported secret is kept by scrypt with a salt of its own', async () => {
  const [one, two] = await Promise.all([hashImported('hunter2!'), hashImported('hunter2!')]);
  assert.ok(one && two);
  assert.match(one, /^scrypt\$16384\$8\$1\$[A-Za-z0-9_-]{22}\$[A-Za-z0-9_-]{43}$/);
  assert.notEqual(one, two);
  assert.equal(isSlow(one), true);
  assert.equal(await verifySecret(bytes('hunter2!'), one), true);
  assert.equal(await verifySecret(bytes('hunter2!'), two), true);
  assert.equal(await verifySecret(bytes('hunter2'), one), false);
});

test('other parameters of scrypt than our own are read from the stored form', async () => {
  // RFC 7914, section 12: scrypt("password", "NaCl", 1024, 8, 16), its first 32 bytes
  const key = Buffer.from(
    'fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b373162',
    'hex',
  ).toString('base64url');
  const stored = `scrypt$1024$8$16$${bytes('NaCl').toString('base64url')}$${key}`;
  assert.equal(await verifySecret(bytes('password'), stored), true);
  assert.equal(await verifySecret(bytes('passwore'), stored), false);
});

test('what is no stored form proves nothing, and hurts nobody', async () => {
  const [, , , , salt = '', hash = ''] = (await hashImported('hunter2!')).split('$');
  for (const stored of [
    '',
    '$',
    'hunter2!',
    'sha256',
    'sha256$',
    'sha256$AAAA',
    'md5$hunter2!',
    'scrypt',
    'scrypt$16384$8$1',
    `scrypt$16384$8$1$${salt}$`,
    `scrypt$16384$8$1$${salt}$AAAA`,
    `scrypt$16384$8$1$$${hash}`,
    `scrypt$16384$8$1$${salt}$${hash}$more`,
    `scrypt$16383$8$1$${salt}$${hash}`,
    `scrypt$NaN$8$1$${salt}$${hash}`,
    `scrypt$1e3$8$1$${salt}$${hash}`,
    // More memory than a verification may take.
    `scrypt$1048576$8$1$${salt}$${hash}`,
  ]) {
    assert.equal(await verifySecret(bytes('hunter2!'), stored), false, stored);
  }
});
