import { isName } from '../core/names.ts';

/**
 * The registry as a table that processes share, each with a copy of its own:
 *
 *   device/<tenant>/<device>   {type, via?, secretHash, createdAt}
 *   token/<id>                 {role, tenant, hash, createdAt}
 *   type/<name>                the type's definition in the form of the configuration
 */
export type RegistryValue =
  | { type: string; via?: string; secretHash: string; createdAt: number }
  | { role: string; tenant: string; hash: string; createdAt: number }
  | { [key: string]: unknown };

export function deviceKey(tenant: string, device: string): string {
  return `device/${tenant}/${device}`;
}

export function typeKey(name: string): string {
  return `type/${name}`;
}

/** An entry as the columns of its table: its key, and the rest; null: it is to go. */
export interface ParsedEntry {
  kind: 'device' | 'token' | 'type';
  names: string[];
  set: (string | number | null)[] | null;
}

/** Undefined for what is no entry: a later release's, or somebody else's. */
export function parseEntry(key: string, value: unknown): ParsedEntry | undefined {
  const [kind, ...names] = key.split('/');
  const wanted = kind === 'device' ? 2 : 1;
  if (kind !== 'device' && kind !== 'token' && kind !== 'type') return undefined;
  if (names.length !== wanted || !names.every(isName)) return undefined;
  if (value === null || value === undefined) return { kind, names, set: null };
  if (typeof value !== 'object' || Array.isArray(value)) return undefined;
  const fields = value as Record<string, unknown>;
  if (kind === 'type') return { kind, names, set: [JSON.stringify(value)] };
  const set = kind === 'device' ? deviceColumns(fields) : tokenColumns(fields);
  return set && { kind, names, set };
}

function deviceColumns({ type, via, secretHash, createdAt }: Record<string, unknown>) {
  if (!isText(type) || !isText(secretHash) || typeof createdAt !== 'number') return undefined;
  if (via !== undefined && !isText(via)) return undefined;
  return [type, via ?? null, secretHash, createdAt];
}

function tokenColumns({ role, tenant, hash, createdAt }: Record<string, unknown>) {
  if (!isText(role) || !isText(hash) || typeof createdAt !== 'number') return undefined;
  return typeof tenant === 'string' ? [role, tenant, hash, createdAt] : undefined;
}

function isText(value: unknown): value is string {
  return typeof value === 'string' && value !== '';
}
