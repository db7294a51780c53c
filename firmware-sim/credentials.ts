import { readCsv } from './csv.ts';
import { DEVICES_MAX, type FleetSpec } from './fleet-schema.ts';
import { InputError } from './yaml-file.ts';

/** Who a device is, towards the gateway. */
export interface Credential {
  tenant: string;
  device: string;
  type: string;
  secret: string;
}

const COLUMNS = ['tenant', 'device', 'type', 'secret'] as const;
/** A file may hold more than one fleet's devices. */
const CREDENTIALS_MAX = 4 * DEVICES_MAX;

/**
 * Reads a CSV file with the columns tenant, device, type, secret (in any order, others are ignored).
 * @throws InputError that names file, line and column, and never a secret
 */
export async function readCredentials(path: string): Promise<Credential[]> {
  const credentials: Credential[] = [];
  const seen = new Set<string>();
  let places: number[] | undefined;
  for await (const { line, fields } of readCsv(path)) {
    if (places === undefined) {
      places = COLUMNS.map((column) => {
        const place = fields.indexOf(column);
        if (place >= 0) return place;
        throw new InputError(
          `${path}:${line}: header: expected the columns ${COLUMNS.join(',')}; ${column} is missing`,
        );
      });
      continue;
    }
    const [tenant = '', device = '', type = '', secret = ''] = places.map(
      (place) => fields[place] ?? '',
    );
    const credential = { tenant, device, type, secret };
    for (const column of COLUMNS) {
      if (credential[column] !== '') continue;
      throw new InputError(`${path}:${line}: ${column}: expected a value, got an empty field`);
    }
    const identity = `${tenant}/${device}`;
    if (seen.has(identity)) {
      throw new InputError(
        `${path}:${line}: device: expected each device once, got ${identity} again`,
      );
    }
    if (credentials.length === CREDENTIALS_MAX) {
      throw new InputError(`${path}:${line}: expected at most ${CREDENTIALS_MAX} credentials`);
    }
    seen.add(identity);
    credentials.push(credential);
  }
  if (places === undefined) throw new InputError(`${path}: expected a header ${COLUMNS.join(',')}`);
  return credentials;
}

/** The credentials of one group: of its devices, and of the gateways that speak for them. */
export interface GroupCredentials {
  devices: Credential[];
  gateways: Credential[];
}

/**
 * Gives each group its credentials: by type (and tenant, where the fleet names one), in the order of the
 * file, none twice.
 * @throws InputError when there are not enough
 */
export function assignCredentials(
  fleet: FleetSpec,
  credentials: readonly Credential[],
  source: string,
): GroupCredentials[] {
  const taken = new Set<Credential>();
  const take = (count: number, type: string, tenant: string | undefined, key: string) => {
    const chosen: Credential[] = [];
    for (const credential of credentials) {
      if (chosen.length === count) break;
      if (credential.type !== type || taken.has(credential)) continue;
      if (tenant !== undefined && credential.tenant !== tenant) continue;
      chosen.push(credential);
    }
    if (chosen.length < count) {
      const whose = tenant === undefined ? '' : ` of tenant ${tenant}`;
      throw new InputError(
        `${source}: ${key}: expected ${count} credentials of type ${type}${whose}, got ${chosen.length} that are not taken yet`,
      );
    }
    for (const credential of chosen) taken.add(credential);
    return chosen;
  };
  return fleet.groups.map((group, index) => {
    const tenant = group.tenant ?? fleet.tenant;
    const devices = take(group.count, group.type, tenant, `groups[${index}]`);
    if (group.gateway === undefined) return { devices, gateways: [] };
    const count = Math.ceil(group.count / group.gateway.devices);
    // A gateway can only speak for its own tenant's devices.
    const gateways = take(count, group.gateway.type, tenant, `groups[${index}].gateway`);
    return { devices, gateways };
  });
}
