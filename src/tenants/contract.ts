/**
 * Who a client is. Types only.
 *
 * The directory holds tenants, devices, credentials and tokens; device types are in the configuration.
 * Credentials prove an identity; tenant and device come from them alone, never from a topic or payload.
 */

export interface DeviceEntry {
  tenant: string;
  device: string;
  type: string;
  /** The device that may report for this one (a gateway in the field), of the same tenant. */
  via?: string;
  /** A hash in the form of `tenants/secrets.ts`. */
  secretHash: string;
  createdAt: number;
}

export type TokenRights = { role: 'operator' } | { role: 'tenant'; tenant: string };

export interface TokenEntry {
  id: string;
  rights: TokenRights;
  createdAt: number;
}

/** The reading side of the directory, as gateway and HTTP see it. Look-ups are quick and synchronous. */
export interface Directory {
  device(tenant: string, device: string): DeviceEntry | undefined;
  devices(tenant?: string): DeviceEntry[];
  /** Rights of a token as it was presented. */
  verifyToken(token: string): TokenRights | undefined;
  /** Grows with every change that this or another process makes. */
  version(): number;
  close(): void;
}

/** What a device presents in its CONNECT. Later kinds (JWT, client certificate) add their fields. */
export interface PresentedCredentials {
  username: string | undefined;
  password: Uint8Array | undefined;
}

export interface Identity {
  tenant: string;
  device: string;
  type: string;
}

/** What credentials have proven. */
export interface ProvenIdentity extends Identity {
  /** {@link DeviceEntry.secretHash} at that time; the session ends when the directory has another. */
  secretHash: string;
}

/** One kind of credential. */
export interface CredentialVerifier {
  /**
   * The identity, or undefined when the credentials prove none. Takes bounded time; never rejects for bad
   * input, but when it can't tell now (too many wait to be verified): the device shall try again later.
   */
  verify(presented: PresentedCredentials): Promise<ProvenIdentity | undefined>;
}
