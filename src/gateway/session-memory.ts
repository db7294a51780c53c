import { Readable } from 'node:stream';
import type { Settle } from './exactly-once.ts';
import { subscribeChannel } from './topics.ts';

/** What is remembered of one MQTT session; of a clean one only while it is connected [MQTT-3.1.2-6]. */
export interface SessionState {
  subscriptions: Map<string, StoredSubscription>;
  /** Receipts and commands that the device has not acknowledged, oldest first. */
  outgoing: OutgoingPacket[];
  outgoingBytes: number;
  /** Ids of QoS 2 publishes that were taken and whose PUBREL has not come. */
  incoming: Set<number>;
  /** Reason codes of those of them that were refused. */
  refused: Map<number, number>;
  /** Ids of QoS 2 publishes that are on their way into the log, with who else waits for the same. */
  arriving: Map<number, Settle[]>;
  /** The connection that it belongs to. */
  holder?: ClientLike | undefined;
  /** When it ends after its connection (MQTT 5), of the clock that was given; undefined: it doesn't. */
  expiresAt?: number | undefined;
}

interface StoredSubscription {
  topic: string;
  qos: 0 | 1 | 2;
}

interface OutgoingPacket {
  cmd: string;
  brokerId?: string;
  brokerCounter?: number;
  messageId?: number;
  payload?: string | Uint8Array;
}

/** The parts of a client of Aedes that identify its session; `clean` and the rest are absent in some calls. */
interface ClientLike {
  id: string;
  clean?: boolean;
}

/** Sessions to be remembered for one device; the one that was not used for longest goes first. */
export const SESSIONS_PER_DEVICE_MAX = 8;
const OUTGOING_MAX = 64;
const OUTGOING_BYTES_MAX = 2 ** 20;
/** Of all sessions together. */
const OUTGOING_TOTAL_BYTES_MAX = 64 * 2 ** 20;
const INCOMING_MAX = 1_000;

/**
 * The memory of sessions behind Aedes, in the shape of its persistence. Aedes' own has no bounds: it keeps
 * every client id that ever acknowledged a message, every filter that a persistent session ever sent, and
 * what a device never acknowledges. Here are kept: four filters, {@link OUTGOING_MAX} messages and
 * {@link INCOMING_MAX} ids for each of {@link SESSIONS_PER_DEVICE_MAX} sessions of a device; when all messages
 * together are too many, the session that was sent one longest ago loses its own. Nothing is published to
 * others, so there are no retained messages; wills live with their connection.
 *
 * Client ids begin with `<tenant>/<device>/`.
 */
export class SessionMemory {
  private readonly devicesMax: number;
  private readonly outgoingTotalBytesMax: number;
  /** Sessions with messages to be acknowledged; the one that got its last one longest ago first. */
  private readonly owing = new Set<SessionState>();
  private outgoingTotalBytes = 0;
  /** By device, then by client id; both in the order of their last use. */
  private readonly devices = new Map<string, Map<string, SessionState>>();
  /**
   * The state that a connection began with: what it still stores after a clean successor has thrown the
   * session away goes nowhere.
   */
  private readonly bound = new WeakMap<ClientLike, SessionState>();

  private readonly now: () => number;

  constructor(options: {
    devicesMax: number;
    outgoingTotalBytesMax?: number;
    /** Monotonic, ms. */
    now?: () => number;
  }) {
    this.devicesMax = options.devicesMax;
    this.now = options.now ?? (() => performance.now());
    this.outgoingTotalBytesMax = options.outgoingTotalBytesMax ?? OUTGOING_TOTAL_BYTES_MAX;
  }

  /** What waits to be acknowledged in all sessions. */
  get outgoing(): { sessions: number; bytes: number } {
    return { sessions: this.owing.size, bytes: this.outgoingTotalBytes };
  }

  /** The state of a connected client. */
  of(client: ClientLike): SessionState {
    const known = this.bound.get(client);
    if (known !== undefined) return known;
    const state = client.clean === false ? this.remembered(client.id) : emptyState();
    state.holder = client;
    state.expiresAt = undefined;
    this.bound.set(client, state);
    return state;
  }

  /** Its connection has ended: the session ends that many ms later. Not when another one has taken it over. */
  leave(client: ClientLike, endsAfterMs: number): void {
    const state = this.find(client.id);
    if (state?.holder !== client) return;
    state.holder = undefined;
    if (endsAfterMs === 0) this.forget(client.id);
    else if (endsAfterMs < Number.POSITIVE_INFINITY) state.expiresAt = this.now() + endsAfterMs;
  }

  has(id: string): boolean {
    return this.find(id) !== undefined;
  }

  /** The connection that has the session of an id now. */
  holder(id: string): ClientLike | undefined {
    return this.find(id)?.holder;
  }

  /** What is remembered under an id. */
  forget(id: string): void {
    const device = deviceOf(id);
    const sessions = this.devices.get(device);
    const state = sessions?.get(id);
    if (state !== undefined) this.forgetOutgoing(state);
    sessions?.delete(id);
    if (sessions?.size === 0) this.devices.delete(device);
  }

  // Aedes asks for this very kind of function.
  async setup(): Promise<void> {}

  async addSubscriptions(client: ClientLike, filters: StoredSubscription[]): Promise<void> {
    const [tenant = '', device = ''] = client.id.split('/');
    const { subscriptions } = this.of(client);
    for (const { topic, qos } of filters) {
      // Aedes hands over all filters of a packet, the refused ones too.
      if (subscribeChannel(topic, tenant, device) !== undefined) {
        subscriptions.set(topic, { topic, qos });
      }
    }
  }

  async removeSubscriptions(client: ClientLike, filters: string[]): Promise<void> {
    const { subscriptions } = this.of(client);
    for (const filter of filters) subscriptions.delete(filter);
  }

  async subscriptionsByClient(client: ClientLike): Promise<StoredSubscription[]> {
    return [...(this.find(client.id)?.subscriptions.values() ?? [])];
  }

  /** A clean session begins: what was remembered under its id is forgotten. */
  async cleanSubscriptions(client: ClientLike): Promise<void> {
    this.forget(client.id);
  }

  async outgoingEnqueue(client: { clientId: string }, packet: OutgoingPacket): Promise<void> {
    const state = this.remembered(client.clientId);
    state.outgoing.push(packet);
    state.outgoingBytes += sizeOf(packet);
    this.outgoingTotalBytes += sizeOf(packet);
    while (
      state.outgoing.length > 1 &&
      (state.outgoing.length > OUTGOING_MAX || state.outgoingBytes > OUTGOING_BYTES_MAX)
    ) {
      this.remove(state, 0);
    }
    this.owing.delete(state);
    this.owing.add(state);
    for (const longest of this.owing) {
      if (this.outgoingTotalBytes <= this.outgoingTotalBytesMax || longest === state) break;
      this.forgetOutgoing(longest);
    }
  }

  /** Notes the id under which a message was sent, or that a PUBREL takes its place. */
  async outgoingUpdate(client: ClientLike, packet: OutgoingPacket): Promise<void> {
    const state = this.of(client);
    const { outgoing } = state;
    for (const [index, known] of outgoing.entries()) {
      if (known.brokerId === packet.brokerId && known.brokerId !== undefined) {
        if (known.brokerCounter !== packet.brokerCounter) continue;
        if (packet.messageId !== undefined) known.messageId = packet.messageId;
        return;
      }
      if (known.messageId === packet.messageId) {
        const more = sizeOf(packet) - sizeOf(known);
        outgoing[index] = packet;
        state.outgoingBytes += more;
        if (this.owing.has(state)) this.outgoingTotalBytes += more;
        return;
      }
    }
    // It was dropped for being the oldest; it is sent all the same.
  }

  async outgoingClearMessageId(
    client: ClientLike,
    packet: OutgoingPacket,
  ): Promise<OutgoingPacket | undefined> {
    const state = this.of(client);
    const index = state.outgoing.findIndex(({ messageId }) => messageId === packet.messageId);
    return index < 0 ? undefined : this.remove(state, index);
  }

  outgoingStream(client: ClientLike): Readable {
    // [MQTT-3.3.1-1] what was sent before is marked as sent again
    const packets = this.of(client).outgoing.map((packet) =>
      packet.messageId === undefined ? packet : { ...packet, dup: true },
    );
    return Readable.from(packets);
  }

  async incomingStorePacket(client: ClientLike, packet: { messageId: number }): Promise<void> {
    const { incoming, refused } = this.of(client);
    if (incoming.size >= INCOMING_MAX) {
      refused.delete(packet.messageId);
      throw new Error('too many QoS 2 publishes await PUBREL');
    }
    incoming.add(packet.messageId);
  }

  async incomingGetPacket(
    client: ClientLike,
    packet: { messageId: number },
  ): Promise<{ messageId: number }> {
    if (!this.of(client).incoming.has(packet.messageId)) throw new Error('no such packet');
    return packet;
  }

  async incomingDelPacket(client: ClientLike, packet: { messageId: number }): Promise<void> {
    if (!this.release(client, packet.messageId)) throw new Error('no such packet');
  }

  /** A QoS 2 publish is over; false when nothing was known of it. */
  release(client: ClientLike, messageId: number): boolean {
    const { incoming, refused } = this.of(client);
    refused.delete(messageId);
    return incoming.delete(messageId);
  }

  async cleanIncoming(client: ClientLike): Promise<void> {
    if (client.clean === false) return;
    this.bound.get(client)?.incoming.clear();
    this.bound.get(client)?.refused.clear();
  }

  async putWill(): Promise<void> {}
  async delWill(): Promise<void> {}

  streamWill(): Readable {
    return Readable.from([]);
  }

  createRetainedStreamCombi(): Readable {
    return Readable.from([]);
  }

  private find(id: string): SessionState | undefined {
    const state = this.devices.get(deviceOf(id))?.get(id);
    if (state?.expiresAt === undefined || state.expiresAt > this.now()) return state;
    this.forget(id);
    return undefined;
  }

  /** The state of a session that outlives its connection; it moves to the end of those that go first. */
  private remembered(id: string): SessionState {
    const device = deviceOf(id);
    const state = this.find(id) ?? emptyState();
    const sessions = this.devices.get(device) ?? new Map<string, SessionState>();
    sessions.delete(id);
    sessions.set(id, state);
    for (const dropped of dropOldest(sessions, SESSIONS_PER_DEVICE_MAX)) {
      this.forgetOutgoing(dropped);
    }
    this.devices.delete(device);
    this.devices.set(device, sessions);
    for (const dropped of dropOldest(this.devices, this.devicesMax)) {
      for (const each of dropped.values()) this.forgetOutgoing(each);
    }
    return state;
  }

  private remove(state: SessionState, index: number): OutgoingPacket | undefined {
    const [packet] = state.outgoing.splice(index, 1);
    if (packet === undefined) return undefined;
    // A session that was thrown away is not counted any more.
    if (this.owing.has(state)) this.outgoingTotalBytes -= sizeOf(packet);
    state.outgoingBytes -= sizeOf(packet);
    if (state.outgoing.length === 0) this.owing.delete(state);
    return packet;
  }

  private forgetOutgoing(state: SessionState): void {
    if (this.owing.delete(state)) this.outgoingTotalBytes -= state.outgoingBytes;
    state.outgoing.length = 0;
    state.outgoingBytes = 0;
  }
}

function emptyState(): SessionState {
  return {
    subscriptions: new Map(),
    outgoing: [],
    outgoingBytes: 0,
    incoming: new Set(),
    refused: new Map(),
    arriving: new Map(),
  };
}

/** `<tenant>/<device>` of a client id. */
export function deviceOf(clientId: string): string {
  return clientId.split('/', 2).join('/');
}

function sizeOf(packet: OutgoingPacket): number {
  return packet.payload?.length ?? 0;
}

function dropOldest<V>(map: Map<string, V>, max: number): V[] {
  const dropped: V[] = [];
  for (const [key, value] of map) {
    if (map.size <= max) break;
    map.delete(key);
    dropped.push(value);
  }
  return dropped;
}
