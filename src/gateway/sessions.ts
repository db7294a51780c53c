import type { Identity } from '../tenants/contract.ts';
import type { Gate } from './gate.ts';
import type { Session } from './session.ts';

/** The sessions of connections whose identity is proven. */
export class Sessions {
  /** Of gates that are open. */
  private readonly open = new Map<Gate, Session>();
  /** Also of gates that have closed: their wills and farewells come later. */
  private readonly all = new WeakMap<Gate, Session>();
  /** Those that the broker has accepted, by `<tenant>/<device>`. */
  private readonly accepted = new Map<string, Set<Session>>();

  get size(): number {
    return this.open.size;
  }

  /** Open ones. */
  [Symbol.iterator](): IterableIterator<[Gate, Session]> {
    return this.open[Symbol.iterator]();
  }

  of(gate: Gate): Session | undefined {
    return this.all.get(gate);
  }

  add(gate: Gate, session: Session): void {
    this.all.set(gate, session);
    this.open.set(gate, session);
    gate.once('close', () => this.open.delete(gate));
  }

  /** The broker has accepted it: older connections of the same client end. */
  accept(gate: Gate, session: Session): void {
    const { name } = session.own;
    const known = this.accepted.get(name) ?? new Set();
    for (const other of known) {
      // [MQTT-3.1.4-2] Aedes overlooks one of several that come at once.
      if (other.clientId === session.clientId) other.connection.end('TAKEN_OVER');
    }
    this.accepted.set(name, known.add(session));
    gate.once('close', () => {
      known.delete(session);
      if (known.size === 0 && this.accepted.get(name) === known) this.accepted.delete(name);
    });
  }

  /** Accepted ones of a device, by `<tenant>/<device>`. */
  ofDevice(name: string): ReadonlySet<Session> {
    return this.accepted.get(name) ?? NONE;
  }

  /** A connection of this client is accepted already. */
  isTakeover({ tenant, device }: Identity, clientId: string): boolean {
    for (const other of this.ofDevice(`${tenant}/${device}`))
      if (other.clientId === clientId) return true;
    return false;
  }

  /** The accepted session that has taken this one's place. */
  successor(session: Session): Session | undefined {
    for (const other of this.ofDevice(session.own.name))
      if (other !== session && other.clientId === session.clientId) return other;
    return undefined;
  }
}

const NONE: ReadonlySet<Session> = new Set();
