import { createHash, randomBytes, scrypt, timingSafeEqual } from 'node:crypto';

/**
 * Secrets at rest. A generated secret has 256 bits of entropy, so one SHA-256 keeps it; an imported
 * one may be a word, so scrypt makes guessing dear. The form names the method:
 *
 *   sha256$<hash, base64url>
 *   scrypt$<N>$<r>$<p>$<salt, base64url>$<hash, base64url>
 */
const SCRYPT = { N: 16_384, r: 8, p: 1 } as const;
const HASH_BYTES = 32;

/** A secret with 256 bits of entropy, 43 characters of base64url. */
export function generateSecret(): string {
  return randomBytes(32).toString('base64url');
}

export function hashGenerated(secret: string): string {
  return `sha256$${sha256(secret).toString('base64url')}`;
}

export async function hashImported(secret: string): Promise<string> {
  const salt = randomBytes(16);
  const hash = await derive(Buffer.from(secret), salt, SCRYPT.N, SCRYPT.r, SCRYPT.p);
  return [
    'scrypt',
    SCRYPT.N,
    SCRYPT.r,
    SCRYPT.p,
    salt.toString('base64url'),
    hash.toString('base64url'),
  ].join('$');
}

/** Compares in constant time. False for a stored form that is not known or not whole. */
export async function verifySecret(secret: Uint8Array, stored: string): Promise<boolean> {
  const parts = stored.split('$');
  if (parts[0] === 'sha256' && parts[1] !== undefined) {
    return equal(sha256(secret), Buffer.from(parts[1], 'base64url'));
  }
  if (parts[0] === 'scrypt' && parts.length === 6) {
    const [, n, r, p, salt = '', hash = ''] = parts;
    const derived = await derive(
      secret,
      Buffer.from(salt, 'base64url'),
      Number(n),
      Number(r),
      Number(p),
    ).catch(() => undefined);
    return derived !== undefined && equal(derived, Buffer.from(hash, 'base64url'));
  }
  return false;
}

/** True when verifying takes milliseconds of CPU, so that its result is worth caching. */
export function isSlow(stored: string): boolean {
  return stored.startsWith('scrypt$');
}

export function sha256(data: string | Uint8Array): Buffer {
  return createHash('sha256').update(data).digest();
}

function equal(a: Buffer, b: Buffer): boolean {
  return a.length === b.length && timingSafeEqual(a, b);
}

function derive(
  secret: Uint8Array,
  salt: Uint8Array,
  N: number,
  r: number,
  p: number,
): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    scrypt(secret, salt, HASH_BYTES, { N, r, p, maxmem: 64 * 2 ** 20 }, (error, key) =>
      error === null ? resolve(key) : reject(error),
    );
  });
}
