import { Aedes, type AedesOptions, type Client } from 'aedes';
import type { Gate } from './gate.ts';

/**
 * What we use of Aedes beyond its documented interface, in one place, so that another release is
 * checked here. Read in aedes 1.2.0: `aedes.js`, `lib/client.js`, `lib/handlers/{connect,publish}.js`.
 */
interface Internals {
  _keepaliveTimer: NodeJS.Timeout | null;
  subscriptions: Record<string, { qos: 0 | 1 | 2 } | undefined>;
  _inboundInflight: Set<number>;
}

/** Methods of Aedes that its types leave out. */
interface Registration {
  registerClient(client: Client): void;
  unregisterClient(client: Client): void;
}

const registration = Aedes.prototype as unknown as Registration;

/** Keeps the keep-alive timer from firing; costs 0.1 µs, and the gate calls it once a second at most. */
export function feedKeepAlive(client: Client): void {
  (client as unknown as Internals)._keepaliveTimer?.refresh();
}

export function subscriptionQos(client: Client, topic: string): 0 | 1 | 2 | undefined {
  return (client as unknown as Internals).subscriptions[topic]?.qos;
}

/** A QoS 2 publish needs no PUBREL any more, of those that may wait for theirs. */
export function forgetIncoming(client: Client, messageId: number): void {
  (client as unknown as Internals)._inboundInflight.delete(messageId);
}

export function gateOf(client: Client): Gate {
  return client.conn as Gate;
}

/**
 * Aedes as the protocol engine alone. Telemetry goes to the log, receipts and commands go to the one
 * device that they are for, so nothing is ever broadcast: not publishing spares a third of the CPU and
 * leaves no way for one device's message to reach another, nor for a slow subscriber to stop others.
 */
export class ProtocolBroker extends Aedes {
  // Aedes' own types declare the class without a constructor for options.
  static async open(options: AedesOptions): Promise<ProtocolBroker> {
    const broker: ProtocolBroker = Reflect.construct(ProtocolBroker, [options]);
    await broker.listen();
    return broker;
  }

  /** Aedes would keep a client for ever that closed while its subscriptions were restored. */
  registerClient(client: Client): void {
    if (client.closed) return;
    // [MQTT-3.1.4-2] it closes the one before.
    const before = this.registered(client);
    if (before !== undefined) gateOf(before).endedBy ??= 'TAKEN_OVER';
    registration.registerClient.call(this, client);
  }

  /** Who has a client's id now. */
  private registered({ id }: Client): Client | undefined {
    const { clients } = this as unknown as { clients: Record<string, Client | undefined> };
    return clients[id];
  }

  /** Aedes would unregister whoever has the id by now. */
  unregisterClient(client: Client): void {
    if (this.registered(client) === client) registration.unregisterClient.call(this, client);
  }

  override publish(_packet: unknown, client: unknown, done?: unknown): void {
    const callback = typeof client === 'function' ? client : done;
    if (typeof callback === 'function') setImmediate(callback as () => void);
  }
}
