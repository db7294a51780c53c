import { BlockList, isIPv4, isIPv6 } from 'node:net';
import type { RateLimit } from '../../core/units.ts';
import { Bucket } from './buckets.ts';

/**
 * Connections by address, before anything is read from them. IPv4 addresses count alone, IPv6 ones by
 * their /64, which is what one customer of a provider has. Of more than `entriesMax` the one that was
 * quiet for longest is forgotten.
 */
export class Addresses {
  private readonly limits: readonly RateLimit[];
  private readonly entriesMax: number;
  private readonly now: () => number;
  private readonly trusted = new BlockList();
  private readonly buckets = new Map<string, Bucket[]>();

  constructor(options: {
    limits: readonly RateLimit[];
    /** Addresses and networks that are left alone. */
    trusted: readonly string[];
    entriesMax: number;
    now: () => number;
  }) {
    this.limits = options.limits;
    this.entriesMax = options.entriesMax;
    this.now = options.now;
    for (const network of options.trusted) {
      const [address = '', bits] = network.split('/');
      const family = isIPv6(address) ? 'ipv6' : 'ipv4';
      if (bits === undefined) this.trusted.addAddress(address, family);
      else this.trusted.addSubnet(address, Number(bits), family);
    }
  }

  /** What an address counts as; undefined: nothing, since it is trusted or none. */
  keyOf(address: string | undefined): string | undefined {
    if (address === undefined) return undefined;
    const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1];
    if (mapped !== undefined || isIPv4(address)) {
      const ip = mapped ?? address;
      return this.trusted.check(ip, 'ipv4') ? undefined : ip;
    }
    const plain = address.split('%')[0] ?? '';
    if (!isIPv6(plain) || this.trusted.check(plain, 'ipv6')) return undefined;
    return network64(plain);
  }

  /** One more connection of a {@link keyOf}; false when there are too many. */
  admits(key: string): boolean {
    if (this.limits.length === 0) return true;
    const now = this.now();
    const buckets = this.buckets.get(key) ?? this.limits.map((limit) => new Bucket(limit, now));
    this.buckets.delete(key);
    this.buckets.set(key, buckets);
    for (const oldest of this.buckets.keys()) {
      if (this.buckets.size <= this.entriesMax) break;
      this.buckets.delete(oldest);
    }
    let admitted = true;
    for (const bucket of buckets) admitted = bucket.left(now) >= 1 && admitted;
    // What is refused costs next to nothing and is not charged, or a storm would never end for its address.
    if (admitted) for (const bucket of buckets) bucket.take(1);
    return admitted;
  }
}

/** The first four groups of an IPv6 address (RFC 4291). */
function network64(address: string): string {
  const [head = '', tail] = address.split('::');
  const groups = head === '' ? [] : head.split(':');
  if (tail !== undefined) {
    const after = tail === '' ? 0 : tail.split(':').length + (tail.includes('.') ? 1 : 0);
    while (groups.length + after < 8) groups.push('0');
    if (tail !== '') groups.push(...tail.split(':'));
  }
  const first = groups.slice(0, 4).map((group) => Number.parseInt(group, 16).toString(16));
  return `${first.join(':')}::/64`;
}
