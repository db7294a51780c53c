import { connect, type IClientOptions, type MqttClient } from 'mqtt';
import { attemptAfter, type BackoffPolicy, backoffDelay } from './backoff.ts';
import type { QosWeights } from './fleet-schema.ts';
import { pickWeighted, type Random } from './random.ts';
import type { MessageKind, Tally } from './tally.ts';
import type { Timer, TimerHeap } from './timers.ts';

const QOS = [0, 1, 2] as const;

/** Where and how devices connect. Times in ms. */
export interface Link {
  url: string;
  protocolVersion: 4 | 5;
  keepalive: number;
  connectTimeout: number;
  backoff: BackoffPolicy;
  /** Whether devices come back without waiting for a random time. */
  herd: boolean;
  /** PEM certificates to trust instead of the system's, for mqtts: URLs. */
  ca?: string | undefined;
}

export interface Identity {
  tenant: string;
  device: string;
  secret: string;
}

/** What an uplink tells its device. */
export interface UplinkListener {
  /** Connected; what was not acknowledged has been transmitted again. */
  up(): void;
  /** A message was acknowledged, so there is room for another. */
  freed(): void;
}

interface Pending {
  payload: string;
  qos: 1 | 2;
  kind: MessageKind;
  readings: number;
  /** Of the last transmission. */
  sentAt: number;
}

/** How long the polite end of a connection may take. */
const CLOSE_GRACE_MS = 1000;

/**
 * One device's connection to the gateway.
 *
 *     idle ──connect──▶ connecting ──CONNACK──▶ up
 *                        ▲      │                │
 *              backoff   │      ▼ failed         ▼ lost
 *                        └─── waiting ◀──────────┘
 *
 * and from each: ──goOff──▶ off ──goOn──▶ connecting; ──close──▶ closed.
 *
 * Each attempt has an MQTT client of its own with a clean session. Messages of QoS 1 and 2 belong to the
 * uplink until they are acknowledged: after a reconnect they are transmitted again, unchanged and in their
 * first order, before anything new.
 */
export class Uplink {
  readonly #link: Link;
  readonly #identity: Identity;
  readonly #pickQos: () => 0 | 1 | 2;
  readonly #telemetryTopic: string;
  readonly #windowMax: number;
  /** Smaller than asked for where an MQTT 5 server allows fewer [MQTT-3.3.4-9]. */
  #window: number;
  readonly #timers: TimerHeap;
  readonly #random: Random;
  readonly #tally: Tally;
  readonly #listener: UplinkListener;
  readonly #pending = new Set<Pending>();
  /** Messages of QoS 0 that the socket has not taken yet. */
  #unwritten = 0;
  #state: 'idle' | 'connecting' | 'up' | 'waiting' | 'off' | 'closed' = 'idle';
  #client: MqttClient | undefined;
  #retry: Timer | undefined;
  #attempt = 0;
  #upAt = 0;
  /** When the last connection ended. */
  #lostAt = 0;
  #wasUp = false;
  #failure = '';

  /** @param window messages that may wait for their acknowledgement */
  constructor(options: {
    link: Link;
    identity: Identity;
    qos: QosWeights;
    telemetryTopic: string;
    window: number;
    timers: TimerHeap;
    random: Random;
    tally: Tally;
    listener: UplinkListener;
  }) {
    this.#link = options.link;
    this.#identity = options.identity;
    const { qos, random } = options;
    const only = QOS.find((each) => qos.every((weight, of) => weight > 0 === (of === each)));
    this.#pickQos =
      only === undefined ? () => pickWeighted(QOS, (each) => qos[each], random) : () => only;
    this.#telemetryTopic = options.telemetryTopic;
    this.#windowMax = options.window;
    this.#window = options.window;
    this.#timers = options.timers;
    this.#random = options.random;
    this.#tally = options.tally;
    this.#listener = options.listener;
  }

  get connected(): boolean {
    return this.#state === 'up';
  }

  /** Messages not yet acknowledged; of QoS 0: not yet written. */
  get pending(): number {
    return this.#pending.size + this.#unwritten;
  }

  /** How many messages may be sent now. */
  get room(): number {
    return this.connected ? Math.max(0, this.#window - this.pending) : 0;
  }

  /** Connects now, whatever it was waiting for; does nothing when connected or closed. */
  connect(): void {
    if (this.#state === 'closed' || this.#client !== undefined) return;
    this.#timers.cancel(this.#retry);
    this.#open();
  }

  /** Loses the connection without a word, like a radio without signal, and stays away. */
  goOff(): void {
    if (this.#state === 'closed' || this.#state === 'off') return;
    this.#timers.cancel(this.#retry);
    const client = this.#client;
    if (this.#state === 'up') this.#ended();
    this.#state = 'off';
    this.#client = undefined;
    if (client !== undefined) discard(client);
  }

  /** Loses the connection as when the gateway dies; comes back after its backoff. */
  lose(): void {
    if (this.connected) this.#client?.stream.destroy();
  }

  goOn(): void {
    if (this.#state === 'off') this.connect();
  }

  /**
   * Sends a message; only while there is `room` (one more is let through, so that a duplicate can follow
   * its original).
   */
  send(payload: string, kind: MessageKind, readings: number): void {
    if (kind === 'reading') this.#tally.readingsSent += readings;
    const qos = this.#pickQos();
    if (qos === 0) {
      this.#sendUnconfirmed(payload);
      return;
    }
    this.#tally.sent++;
    const message: Pending = { payload, qos, kind, readings, sentAt: 0 };
    this.#pending.add(message);
    this.#transmit(message);
  }

  /** It is in the window until the socket has taken it, or a gateway that reads slowly would fill our memory. */
  #sendUnconfirmed(payload: string): void {
    const client = this.#client;
    this.#tally.sentUnconfirmed++;
    if (client === undefined) return;
    let sending = true;
    this.#unwritten++;
    client.publish(this.#telemetryTopic, payload, { qos: 0 }, () => {
      if (this.#client !== client) return;
      this.#unwritten--;
      // At once, mostly: whoever sends looks at the room again anyway.
      if (!sending) this.#listener.freed();
    });
    sending = false;
  }

  /** A state message: best effort, as the next connection brings a newer one. */
  sendState(payload: string): void {
    const client = this.#client;
    if (client === undefined || !this.connected) return;
    this.#tally.stateSent++;
    client.publish(this.#topic('state'), payload, { qos: 1 }, (error) => {
      if (!error) this.#tally.stateAcknowledged++;
    });
  }

  /** Ends the connection with a DISCONNECT; resolves within a second. */
  close(): Promise<void> {
    const client = this.#client;
    const up = this.connected;
    this.#timers.cancel(this.#retry);
    this.#state = 'closed';
    this.#client = undefined;
    if (client === undefined) return Promise.resolve();
    if (!up || this.#pending.size > 0) {
      discard(client);
      return Promise.resolve();
    }
    return new Promise((resolve) => {
      const grace = this.#timers.after(CLOSE_GRACE_MS, () => {
        client.stream.destroy();
        resolve();
      });
      client.end(false, () => {
        this.#timers.cancel(grace);
        resolve();
      });
    });
  }

  #open(): void {
    this.#state = 'connecting';
    this.#unwritten = 0;
    this.#tally.countAttempt();
    this.#failure = 'closed before CONNACK';
    const client = connect(this.#link.url, this.#clientOptions());
    this.#client = client;
    client.on('connect', ({ properties }) => {
      if (this.#client !== client) return;
      // One less, as a duplicate may follow its original when the window is full.
      const allowed = (properties?.receiveMaximum ?? 65_535) - 1;
      this.#window = Math.max(1, Math.min(this.#windowMax, allowed));
      this.#onUp(client);
    });
    client.on('message', (topic, payload) => this.#onMessage(topic, payload));
    client.on('error', (error) => {
      if (this.#client !== client) return;
      this.#failure = failureText(error);
      client.end(true);
    });
    client.on('close', () => {
      if (this.#client === client) this.#onDown();
    });
  }

  #clientOptions(): IClientOptions {
    const name = `${this.#identity.tenant}/${this.#identity.device}`;
    return {
      protocolVersion: this.#link.protocolVersion,
      clientId: name,
      username: name,
      password: this.#identity.secret,
      clean: true,
      reconnectPeriod: 0,
      resubscribe: false,
      connectTimeout: this.#link.connectTimeout,
      keepalive: Math.ceil(this.#link.keepalive / 1000),
      // Not for every message anew: Node keeps all timers of one length in one list, and an
      // untouched one costs a fleet nothing.
      reschedulePings: false,
      timerVariant: 'native',
      ...(this.#link.ca === undefined ? {} : { ca: this.#link.ca }),
    };
  }

  #onUp(client: MqttClient): void {
    this.#state = 'up';
    this.#upAt = this.#timers.now();
    if (this.#wasUp) {
      this.#tally.reconnects++;
      this.#tally.away.record(this.#upAt - this.#lostAt);
    } else this.#tally.everConnected++;
    this.#wasUp = true;
    client.subscribe(
      [this.#topic('commands'), this.#topic('receipts')],
      { qos: 1 },
      (error, granted) => {
        // An error because the connection broke is no refusal.
        const refused = granted?.some(({ qos }) => qos >= 128);
        if (refused || (error && this.#client === client)) this.#tally.subscribeFailures++;
      },
    );
    for (const message of this.#pending) {
      this.#tally.retransmitted++;
      this.#transmit(message);
    }
    this.#listener.up();
  }

  #onDown(): void {
    const lived = this.#state === 'up' ? this.#timers.now() - this.#upAt : 0;
    if (this.#state === 'up') this.#ended();
    else this.#tally.connectFailures.add(this.#failure);
    this.#client = undefined;
    this.#state = 'waiting';
    const { backoff, herd } = this.#link;
    const delay = backoffDelay(this.#attempt, backoff, herd ? () => 1 : this.#random);
    this.#attempt = attemptAfter(this.#attempt, lived, backoff);
    this.#retry = this.#timers.after(delay, () => this.#open());
  }

  #ended(): void {
    this.#tally.disconnects++;
    this.#lostAt = this.#timers.now();
  }

  #onMessage(topic: string, payload: Uint8Array): void {
    if (topic.endsWith('/receipts')) this.#tally.countReceipt(payload);
    else this.#tally.commands++;
  }

  #transmit(message: Pending): void {
    const client = this.#client;
    if (client === undefined) return;
    message.sentAt = this.#timers.now();
    client.publish(this.#telemetryTopic, message.payload, { qos: message.qos }, (error) => {
      // From a connection that is gone: the message is transmitted again on the next one.
      if (this.#client !== client || !this.#pending.has(message)) return;
      if (error) {
        const code = 'code' in error ? error.code : undefined;
        if (typeof code !== 'number') return;
        this.#tally.pubackRefusals.add(`${code}: ${error.message}`);
      }
      this.#acknowledged(message);
    });
  }

  #acknowledged(message: Pending): void {
    this.#pending.delete(message);
    this.#tally.acknowledged++;
    if (message.kind === 'reading') this.#tally.readingsAcknowledged += message.readings;
    this.#tally.latency.record(this.#timers.now() - message.sentAt);
    this.#listener.freed();
  }

  #topic(leaf: 'state' | 'commands' | 'receipts'): string {
    return `t/${this.#identity.tenant}/d/${this.#identity.device}/${leaf}`;
  }
}

function discard(client: MqttClient): void {
  client.end(true);
}

function failureText(error: Error): string {
  const code = 'code' in error ? error.code : undefined;
  if (typeof code === 'number') return `CONNACK ${code} ${error.message}`;
  return typeof code === 'string' ? code : error.message;
}
