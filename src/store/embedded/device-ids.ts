import type { SqliteFile } from './sqlite-file.ts';

/** Cached ids for each open file; at the limit the cache starts afresh. */
const CACHED_MAX = 20_000;

/** Ids in the `device` table of one open file. */
export class DeviceIds {
  private readonly db: SqliteFile;
  private readonly byTenant = new Map<string, Map<string, number>>();
  private cached = 0;

  constructor(db: SqliteFile) {
    this.db = db;
  }

  /** The id of a device, given one if it is new. */
  obtain(tenant: string, device: string): number {
    const known = this.byTenant.get(tenant)?.get(device);
    if (known !== undefined) return known;
    const add = 'INSERT INTO device(tenant, device) VALUES (?, ?) RETURNING id';
    const id = this.find(tenant, device) ?? newId(this.db, add, tenant, device);
    if (this.cached >= CACHED_MAX) {
      this.byTenant.clear();
      this.cached = 0;
    }
    let ofTenant = this.byTenant.get(tenant);
    if (ofTenant === undefined) {
      ofTenant = new Map();
      this.byTenant.set(tenant, ofTenant);
    }
    ofTenant.set(device, id);
    this.cached++;
    return id;
  }

  find(tenant: string, device: string): number | undefined {
    const sql = 'SELECT id FROM device WHERE tenant = ? AND device = ?';
    return this.db.get<{ id: number }>(sql, tenant, device)?.id;
  }
}

/** The id that an `INSERT … RETURNING id` gives. */
export function newId(db: SqliteFile, sql: string, ...params: string[]): number {
  const row = db.get<{ id: number }>(sql, ...params);
  if (row === undefined) throw new Error('INSERT … RETURNING gave no row');
  return row.id;
}

const ofFile = new WeakMap<SqliteFile, DeviceIds>();

/** The device ids of an open file; they live as long as it is open. */
export function deviceIds(db: SqliteFile): DeviceIds {
  let ids = ofFile.get(db);
  if (ids === undefined) {
    ids = new DeviceIds(db);
    ofFile.set(db, ids);
  }
  return ids;
}
