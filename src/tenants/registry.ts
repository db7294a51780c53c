import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import type { Clock } from '../core/clock.ts';
import { SpillwayError } from '../core/errors.ts';
import { isName } from '../core/names.ts';
import type { DeviceEntry, Directory, TokenEntry, TokenRights } from './contract.ts';
import { keepPrivate } from './private-file.ts';
import { deviceKey, parseEntry, type RegistryValue } from './registry-entries.ts';
import { generateSecret, hashGenerated, hashImported, sha256 } from './secrets.ts';

const VERSION = 1;
const TOKEN_PREFIX = 'spw_';
const ADD_MAX = 1_000_000;
/** scrypt runs on the thread pool; more at once only queue there. */
const HASH_AT_ONCE = 4;

export interface NewDevice {
  tenant: string;
  device: string;
  type: string;
  secret: string;
}

/** In place of a directory: in memory, gone with the object. */
export const IN_MEMORY = ':memory:';

export interface RegistryOptions {
  /** Directory of `registry.db`, or {@link IN_MEMORY}. */
  dir: string;
  /** Names of the device types that devices may be given. */
  types: ReadonlySet<string>;
  clock: Clock;
  /** After each change that a method makes, but {@link Registry.apply} and {@link Registry.replaceAll}. */
  onChange?: (key: string, value: RegistryValue | null) => void;
}

/**
 * The directory on one machine: `registry.db`, which the program and the CLI share. Tables: `device`
 * (tenant, device, type, via, secret_hash, created_at), `token` (id, role, tenant, hash, created_at),
 * `type` (name, definition). With a shared registry it is this machine's copy, kept by
 * {@link Registry.replaceAll} and {@link Registry.apply}.
 */
export class Registry implements Directory {
  private readonly db: DatabaseSync;
  private readonly clock: Clock;
  private readonly types: ReadonlySet<string>;
  private readonly onChange: (key: string, value: RegistryValue | null) => void;
  private readonly findDevice;
  private readonly findToken;
  private readonly dataVersion;
  private readonly totalChanges;

  constructor(options: RegistryOptions) {
    this.db = new DatabaseSync(options.dir === IN_MEMORY ? IN_MEMORY : fileIn(options.dir));
    this.clock = options.clock;
    this.types = options.types;
    this.onChange = options.onChange ?? (() => {});
    this.db.exec('PRAGMA busy_timeout = 5000');
    const version = Number(this.db.prepare('PRAGMA user_version').get()?.user_version ?? 0);
    if (version > VERSION) {
      this.db.close();
      throw new SpillwayError(
        'STORE_VERSION',
        `registry.db has version ${version}, this release reads ${VERSION}`,
      );
    }
    this.db.exec(`
      PRAGMA journal_mode = WAL;
      PRAGMA synchronous = FULL;
      PRAGMA cache_size = -512;
      CREATE TABLE IF NOT EXISTS device (
        tenant TEXT NOT NULL,
        device TEXT NOT NULL,
        type TEXT NOT NULL,
        via TEXT,
        secret_hash TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        PRIMARY KEY (tenant, device)
      ) WITHOUT ROWID;
      CREATE TABLE IF NOT EXISTS token (
        id TEXT PRIMARY KEY,
        role TEXT NOT NULL,
        tenant TEXT NOT NULL,
        hash TEXT NOT NULL UNIQUE,
        created_at INTEGER NOT NULL
      ) WITHOUT ROWID;
      CREATE TABLE IF NOT EXISTS type (
        name TEXT PRIMARY KEY,
        definition TEXT NOT NULL
      ) WITHOUT ROWID;
      CREATE TABLE IF NOT EXISTS copied (at INTEGER NOT NULL);
    `);
    if (version < VERSION) this.db.exec(`PRAGMA user_version = ${VERSION}`);
    this.findDevice = this.db.prepare('SELECT * FROM device WHERE tenant = ? AND device = ?');
    this.findToken = this.db.prepare('SELECT * FROM token WHERE hash = ?');
    this.dataVersion = this.db.prepare('PRAGMA data_version');
    this.totalChanges = this.db.prepare('SELECT total_changes() AS changes');
  }

  device(tenant: string, device: string): DeviceEntry | undefined {
    const row = this.findDevice.get(tenant, device);
    return row === undefined ? undefined : deviceOf(row);
  }

  devices(tenant?: string): DeviceEntry[] {
    const rows =
      tenant === undefined
        ? this.db.prepare('SELECT * FROM device ORDER BY tenant, device').all()
        : this.db.prepare('SELECT * FROM device WHERE tenant = ? ORDER BY device').all(tenant);
    return rows.map(deviceOf);
  }

  verifyToken(token: string): TokenRights | undefined {
    const row =
      token.length > 256 ? undefined : this.findToken.get(sha256(token).toString('base64url'));
    return row === undefined ? undefined : rightsOf(row);
  }

  version(): number {
    return (
      Number(this.dataVersion.get()?.data_version) * 2 ** 24 +
      Number(this.totalChanges.get()?.changes)
    );
  }

  /**
   * Adds `count` devices named `<prefix>-<number>` with generated secrets, which are returned here and
   * nowhere else; names that are taken are left out. Throws NAME_INVALID, TYPE_UNKNOWN, DEVICE_UNKNOWN.
   */
  addDevices(options: {
    tenant: string;
    type: string;
    count: number;
    prefix?: string;
    via?: string;
  }): NewDevice[] {
    const { tenant, type, count, via } = options;
    const prefix = options.prefix ?? type;
    this.checkNames(tenant, prefix);
    this.checkType(type);
    if (!Number.isInteger(count) || count < 1 || count > ADD_MAX) {
      throw new SpillwayError(
        'NAME_INVALID',
        `expected a count from 1 to ${ADD_MAX}, got ${count}`,
      );
    }
    const added: NewDevice[] = [];
    this.transact(() => {
      for (let n = 1; added.length < count; n++) {
        const device = `${prefix}-${String(n).padStart(2, '0')}`;
        this.checkNames(tenant, device);
        if (this.device(tenant, device) !== undefined) continue;
        const secret = generateSecret();
        this.insert({ tenant, device, type, secret }, hashGenerated(secret), via);
        added.push({ tenant, device, type, secret });
      }
    });
    return added;
  }

  /** Adds one named device with a generated secret. Throws DEVICE_EXISTS, NAME_INVALID, TYPE_UNKNOWN. */
  addDevice(options: { tenant: string; device: string; type: string; via?: string }): NewDevice {
    const { tenant, device, type, via } = options;
    this.checkNames(tenant, device);
    this.checkType(type);
    const secret = generateSecret();
    this.insert({ tenant, device, type, secret }, hashGenerated(secret), via);
    return { tenant, device, type, secret };
  }

  /**
   * Adds all or none. Throws IMPORT_INVALID with the number of the row (from 1), DEVICE_EXISTS when another
   * process adds one of them meanwhile.
   */
  async importDevices(rows: NewDevice[]): Promise<void> {
    const firstRow = new Map<string, number>();
    rows.forEach((row, index) => {
      try {
        this.checkNames(row.tenant, row.device);
        this.checkType(row.type);
        const secretBytes = Buffer.byteLength(row.secret);
        if (secretBytes < 8 || secretBytes > 1_024) {
          throw new SpillwayError('IMPORT_INVALID', 'expected a secret of 8 to 1024 bytes');
        }
        const name = `${row.tenant}/${row.device}`;
        const earlier = firstRow.get(name);
        if (earlier !== undefined) {
          throw new SpillwayError('IMPORT_INVALID', `${name} stands in row ${earlier} already`);
        }
        firstRow.set(name, index + 1);
        if (this.device(row.tenant, row.device) !== undefined) throw exists(row.tenant, row.device);
      } catch (cause) {
        throw new SpillwayError('IMPORT_INVALID', `row ${index + 1}: ${(cause as Error).message}`, {
          cause,
        });
      }
    });
    const hashes: string[] = [];
    for (let i = 0; i < rows.length; i += HASH_AT_ONCE) {
      const slice = rows.slice(i, i + HASH_AT_ONCE);
      hashes.push(...(await Promise.all(slice.map((row) => hashImported(row.secret)))));
    }
    this.transact(() => {
      for (const [index, row] of rows.entries()) this.insert(row, hashes[index] ?? '', undefined);
    });
  }

  /** Throws DEVICE_UNKNOWN. The device's connections end within a second. */
  removeDevice(tenant: string, device: string): void {
    const { changes } = this.db
      .prepare('DELETE FROM device WHERE tenant = ? AND device = ?')
      .run(tenant, device);
    if (Number(changes) === 0)
      throw new SpillwayError('DEVICE_UNKNOWN', `there is no device ${tenant}/${device}`);
    this.onChange(deviceKey(tenant, device), null);
  }

  /** The token is returned here and nowhere else. Throws NAME_INVALID. */
  addToken(rights: TokenRights): { id: string; token: string } {
    const tenant = rights.role === 'tenant' ? rights.tenant : '';
    if (rights.role === 'tenant') this.checkNames(tenant, 'x');
    const token = TOKEN_PREFIX + generateSecret();
    const hash = sha256(token).toString('base64url');
    const id = hash.slice(0, 12);
    const createdAt = this.clock.now();
    this.db
      .prepare('INSERT INTO token VALUES (?, ?, ?, ?, ?)')
      .run(id, rights.role, tenant, hash, createdAt);
    this.onChange(`token/${id}`, { role: rights.role, tenant, hash, createdAt });
    return { id, token };
  }

  tokens(): TokenEntry[] {
    return this.db
      .prepare('SELECT * FROM token ORDER BY created_at')
      .all()
      .flatMap((row) => {
        const rights = rightsOf(row);
        return rights === undefined
          ? []
          : [{ id: String(row.id), rights, createdAt: Number(row.created_at) }];
      });
  }

  /** Throws NOT_FOUND. */
  removeToken(id: string): void {
    const { changes } = this.db.prepare('DELETE FROM token WHERE id = ?').run(id);
    if (Number(changes) === 0) {
      const next = 'See the ids with `spillway token list`.';
      throw new SpillwayError('NOT_FOUND', `there is no token ${id}`, { next });
    }
    this.onChange(`token/${id}`, null);
  }

  /** Definitions of device types by name, in the form of the configuration; of a shared registry alone. */
  typeDefinitions(): Map<string, unknown> {
    const rows = this.db.prepare('SELECT name, definition FROM type ORDER BY name').all();
    return new Map(rows.map((row) => [String(row.name), JSON.parse(String(row.definition))]));
  }

  /** True when it has been the copy of a shared registry before: what it holds is old, but was right. */
  get isCopy(): boolean {
    return this.db.prepare('SELECT at FROM copied').get() !== undefined;
  }

  /** Takes over changes that were made elsewhere; returns the keys of what is no entry of a registry. */
  apply(changes: Iterable<readonly [key: string, value: unknown]>): string[] {
    const strange: string[] = [];
    this.transact(() => {
      for (const [key, value] of changes) if (!this.put(key, value)) strange.push(key);
    });
    return strange;
  }

  /** Becomes the copy of a shared registry; what that does not have goes. Returns what {@link apply} does. */
  replaceAll(entries: Iterable<readonly [key: string, value: unknown]>): string[] {
    const strange: string[] = [];
    this.transact(() => {
      this.db.exec('DELETE FROM device; DELETE FROM token; DELETE FROM type; DELETE FROM copied;');
      for (const [key, value] of entries) if (!this.put(key, value)) strange.push(key);
      this.db.prepare('INSERT INTO copied VALUES (?)').run(this.clock.now());
    });
    return strange;
  }

  close(): void {
    this.db.close();
  }

  private put(key: string, value: unknown): boolean {
    const entry = parseEntry(key, value);
    if (entry === undefined) return false;
    const { kind, names, set } = entry;
    if (set !== null) {
      const places = Array.from({ length: names.length + set.length }, () => '?').join(', ');
      this.db.prepare(`INSERT OR REPLACE INTO ${kind} VALUES (${places})`).run(...names, ...set);
    } else if (kind === 'device') {
      this.db.prepare('DELETE FROM device WHERE tenant = ? AND device = ?').run(...names);
    } else {
      const column = kind === 'token' ? 'id' : 'name';
      this.db.prepare(`DELETE FROM ${kind} WHERE ${column} = ?`).run(...names);
    }
    return true;
  }

  private insert(row: NewDevice, hash: string, via: string | undefined): void {
    if (via !== undefined && this.device(row.tenant, via) === undefined) {
      throw new SpillwayError(
        'DEVICE_UNKNOWN',
        `there is no device ${row.tenant}/${via} to report for others`,
      );
    }
    const createdAt = this.clock.now();
    try {
      this.db
        .prepare('INSERT INTO device VALUES (?, ?, ?, ?, ?, ?)')
        .run(row.tenant, row.device, row.type, via ?? null, hash, createdAt);
    } catch (error) {
      // SQLITE_CONSTRAINT
      if ((Number((error as { errcode?: number }).errcode) & 0xff) === 19)
        throw exists(row.tenant, row.device);
      throw error;
    }
    this.onChange(deviceKey(row.tenant, row.device), {
      type: row.type,
      ...(via !== undefined && { via }),
      secretHash: hash,
      createdAt,
    });
  }

  private transact(work: () => void): void {
    this.db.exec('BEGIN IMMEDIATE');
    try {
      work();
      this.db.exec('COMMIT');
    } catch (error) {
      this.db.exec('ROLLBACK');
      throw error;
    }
  }

  private checkNames(tenant: string, device: string): void {
    for (const name of [tenant, device]) {
      if (!isName(name)) {
        throw new SpillwayError(
          'NAME_INVALID',
          `${JSON.stringify(name)} is not a name of 1 to 64 of A-Z a-z 0-9 _ -`,
        );
      }
    }
  }

  private checkType(type: string): void {
    if (!this.types.has(type)) {
      const known = [...this.types].join(', ') || 'none';
      throw new SpillwayError(
        'TYPE_UNKNOWN',
        `the type ${JSON.stringify(type)} is not declared; declared are: ${known}`,
      );
    }
  }
}

function fileIn(dir: string): string {
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const path = join(dir, 'registry.db');
  keepPrivate(path);
  return path;
}

function exists(tenant: string, device: string): SpillwayError {
  return new SpillwayError('DEVICE_EXISTS', `the device ${tenant}/${device} exists already`);
}

type Row = Record<string, unknown>;

function deviceOf(row: Row): DeviceEntry {
  return {
    tenant: String(row.tenant),
    device: String(row.device),
    type: String(row.type),
    ...(row.via === null ? {} : { via: String(row.via) }),
    secretHash: String(row.secret_hash),
    createdAt: Number(row.created_at),
  };
}

function rightsOf(row: Row): TokenRights | undefined {
  if (row.role === 'operator') return { role: 'operator' };
  return row.role === 'tenant' ? { role: 'tenant', tenant: String(row.tenant) } : undefined;
}
