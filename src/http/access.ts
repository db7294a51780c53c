import { createHash, timingSafeEqual } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import { SpillwayError } from '../core/errors.ts';
import { isName } from '../core/names.ts';
import { invalid } from '../reports/parameters.ts';

/**
 * Who may see what.
 *
 * A token has the rights of an operator or of one tenant. Without a token there are rights only where
 * the server is bound to loopback, the peer is loopback, and the request can't be another site's in a
 * browser of this machine: the Host header names loopback (or a rebound DNS name would do), Fetch
 * Metadata doesn't say that another site asks, and no proxy has passed it on. Such a request may look
 * at metrics, status and console; data it gets only with the console's own header, which a browser
 * lets no other site send without asking (there is no CORS here). A token that was sent always counts
 * instead: a wrong one is refused, a tenant's sees that tenant alone.
 */

export type Rights = { role: 'operator' } | { role: 'tenant'; tenant: string };

export interface TokenVerifier {
  /** The rights of a token as it was sent, or undefined when there is no such token. */
  verify(token: string): Rights | undefined | Promise<Rights | undefined>;
}

/** What a route needs: `view` is open to loopback, `data` to the console, `token` to neither. */
export type Need = 'view' | 'data' | 'token';

export const CONSOLE_HEADER = 'x-spillway-console';
const TOKEN_CHARS_MAX = 1_024;
const PASSED_ON = ['forwarded', 'x-forwarded-for', 'x-forwarded-host', 'x-real-ip', 'via'];

/** `127.0.0.0/8`, `::1` and what maps to them; `localhost` as a name to bind to. */
export function isLoopback(address: string): boolean {
  const plain = address.toLowerCase().replace(/^::ffff:/, '');
  return plain === '::1' || plain === 'localhost' || /^127(\.\d{1,3}){3}$/.test(plain);
}

function hostIsLoopback(host: string | undefined): boolean {
  return /^(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?$/i.test(host ?? '');
}

export interface Caller {
  headers: IncomingHttpHeaders;
  /** Address of the socket's other end. */
  peer: string;
}

function isLocal({ headers, peer }: Caller, boundToLoopback: boolean): boolean {
  const site = headers['sec-fetch-site'];
  return (
    boundToLoopback &&
    isLoopback(peer) &&
    hostIsLoopback(headers.host) &&
    (site === undefined || site === 'same-origin' || site === 'none') &&
    PASSED_ON.every((name) => headers[name] === undefined)
  );
}

function unauthorized(message: string): SpillwayError {
  return new SpillwayError('UNAUTHORIZED', message);
}

/** The rights of a caller. Throws UNAUTHORIZED without any. */
export async function rightsOf(
  caller: Caller,
  need: Need,
  options: { tokens: TokenVerifier; boundToLoopback: boolean },
): Promise<Rights> {
  const { authorization } = caller.headers;
  if (authorization !== undefined) {
    const token = /^Bearer +([\x21-\x7e]+) *$/i.exec(authorization)?.[1];
    if (token === undefined || token.length > TOKEN_CHARS_MAX) {
      throw unauthorized('The Authorization header is not `Bearer <token>`.');
    }
    const rights = await options.tokens.verify(token);
    if (rights === undefined) throw unauthorized('The token is unknown or was removed.');
    return rights;
  }
  if (need !== 'token' && isLocal(caller, options.boundToLoopback)) {
    if (need === 'view' || caller.headers[CONSOLE_HEADER] === '1') return { role: 'operator' };
  }
  throw unauthorized('This needs a token.');
}

/** True for the token that opens the metrics alone. The time it takes says nothing about the token. */
export function isMetricsToken(
  authorization: string | undefined,
  token: string | undefined,
): boolean {
  if (token === undefined || authorization === undefined) return false;
  const digest = (text: string) => createHash('sha256').update(text).digest();
  return timingSafeEqual(digest(authorization), digest(`Bearer ${token}`));
}

/** Throws FORBIDDEN unless the rights are an operator's. */
export function requireOperator(rights: Rights): void {
  if (rights.role !== 'operator') {
    throw new SpillwayError('FORBIDDEN', 'This is for operators; the token is of a tenant.');
  }
}

/**
 * The tenant that a request is about: for a tenant's token its own, for an operator the one that is
 * asked for, undefined without. Throws QUERY_INVALID when it is no name, FORBIDDEN when it is another
 * tenant's.
 */
export function tenantOf(rights: Rights, asked: unknown): string | undefined {
  if (asked !== undefined && (typeof asked !== 'string' || !isName(asked))) {
    throw invalid('tenant', 'one name of a tenant (1 to 64 of A-Z a-z 0-9 _ -)', asked);
  }
  if (rights.role === 'operator') return asked;
  if (asked !== undefined && asked !== rights.tenant) {
    throw new SpillwayError('FORBIDDEN', `The token does not give access to tenant ${asked}.`);
  }
  return rights.tenant;
}
