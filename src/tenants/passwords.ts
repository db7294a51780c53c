import { randomBytes } from 'node:crypto';
import { isName } from '../core/names.ts';
import type {
  CredentialVerifier,
  Directory,
  PresentedCredentials,
  ProvenIdentity,
} from './contract.ts';
import { hashGenerated, isSlow, sha256, verifySecret } from './secrets.ts';

const PASSWORD_BYTES_MAX = 1_024;
/** Slow verifications under way at once; more would starve the thread pool. The rest waits its turn. */
const SLOW_MAX = 2;
/** About 20 s of scrypt: who would wait longer has given up by then, and is told to come back. */
const SLOW_WAITING_MAX = 1_000;
const CACHE_MAX = 100_000;

/**
 * Username `<tenant>/<device>`, password the device's secret. What scrypt has verified once is
 * remembered as a keyed hash for the life of the process, so that a reconnect storm costs no scrypt.
 */
export class PasswordVerifier implements CredentialVerifier {
  private readonly directory: Directory;
  private readonly key = randomBytes(32);
  private readonly verified = new Map<string, string>();
  private readonly nobody = hashGenerated(randomBytes(32).toString('hex'));
  private slow = 0;
  private readonly queue: (() => void)[] = [];

  constructor(directory: Directory) {
    this.directory = directory;
  }

  /** Rejects when too many verifications wait; the device is no less who it says for that. */
  async verify(presented: PresentedCredentials): Promise<ProvenIdentity | undefined> {
    const { username, password } = presented;
    if (username === undefined || password === undefined) return undefined;
    if (password.length === 0 || password.length > PASSWORD_BYTES_MAX) return undefined;
    const names = parseUsername(username);
    const entry = names && this.directory.device(names.tenant, names.device);
    const secretHash = entry?.secretHash ?? this.nobody;
    const good = isSlow(secretHash)
      ? await this.verifySlow(username, password, secretHash)
      : await verifySecret(password, secretHash);
    if (!good || entry === undefined) return undefined;
    return { tenant: entry.tenant, device: entry.device, type: entry.type, secretHash };
  }

  private async verifySlow(
    username: string,
    password: Uint8Array,
    stored: string,
  ): Promise<boolean> {
    const proof = sha256(Buffer.concat([this.key, Buffer.from(stored), password])).toString(
      'base64url',
    );
    if (this.verified.get(username) === proof) return true;
    await this.takeTurn();
    try {
      // The same device may have been verified while this one waited.
      if (this.verified.get(username) === proof) return true;
      const good = await verifySecret(password, stored);
      if (good) {
        if (this.verified.size >= CACHE_MAX) this.verified.clear();
        this.verified.set(username, proof);
      }
      return good;
    } finally {
      this.passTurn();
    }
  }

  private async takeTurn(): Promise<void> {
    if (this.slow < SLOW_MAX) {
      this.slow++;
      return;
    }
    if (this.queue.length >= SLOW_WAITING_MAX) throw new Error('too many wait to be verified');
    await new Promise<void>((resolve) => this.queue.push(resolve));
  }

  /** The turn goes to the next in the queue, so that nobody can slip in between. */
  private passTurn(): void {
    const next = this.queue.shift();
    if (next === undefined) this.slow--;
    else next();
  }
}

/** `<tenant>/<device>` → names; undefined when it is anything else. */
export function parseUsername(username: string): { tenant: string; device: string } | undefined {
  const [tenant, device, ...rest] = username.split('/');
  if (tenant === undefined || device === undefined || rest.length > 0) return undefined;
  return isName(tenant) && isName(device) ? { tenant, device } : undefined;
}
