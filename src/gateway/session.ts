import type { ConnectionEnd } from '../core/refusals.ts';
import { encodeReading, readingPrefix, tallyKey } from '../log/record.ts';
import type { Identity } from '../tenants/contract.ts';
import type { ConnectionView } from './contract.ts';
import type { History } from './history.ts';
import type { Turn } from './overload/admission.ts';
import type { BackfillTurn } from './overload/backfill.ts';
import type { DeviceUsage } from './overload/usage.ts';
import type { TimeBudget } from './time-answer.ts';
import type { SubscribeChannel } from './topics.ts';
import type { TypeSlot } from './type-slots.ts';

const HOUR_MS = 3_600_000;

/** A device that readings are written for: the session's own, or one that it reports for. */
export class Target {
  readonly tenant: string;
  readonly device: string;
  /** `<tenant>/<device>` */
  readonly name: string;
  readonly type: string;
  readonly slot: TypeSlot;
  /** What is remembered of it; undefined before the first decision, and while there is no room. */
  history: History | undefined;
  private readonly prefix: string;
  private backfillPrefix = '';
  private tallyHourEnd = 0;
  private tally = '';

  constructor(identity: Identity, slot: TypeSlot) {
    this.tenant = identity.tenant;
    this.device = identity.device;
    this.name = `${identity.tenant}/${identity.device}`;
    this.type = identity.type;
    this.slot = slot;
    this.prefix = readingPrefix(this.tenant, this.device, this.type);
  }

  encode(
    ts: number,
    received: number,
    seq: number | undefined,
    values: Record<string, number | boolean | string>,
  ): string {
    return encodeReading(this.prefix, ts, received, seq, values);
  }

  /** The same for a reading that takes the lane of old ones. */
  encodeBackfill(
    ts: number,
    received: number,
    seq: number | undefined,
    values: Record<string, number | boolean | string>,
  ): string {
    if (this.backfillPrefix === '') {
      this.backfillPrefix = readingPrefix(this.tenant, this.device, this.type, 'backfill');
    }
    return encodeReading(this.backfillPrefix, ts, received, seq, values);
  }

  /** The tally key of an accepted reading, made anew once an hour. */
  acceptedKey(received: number): string {
    if (received >= this.tallyHourEnd || received < this.tallyHourEnd - HOUR_MS) {
      this.tallyHourEnd = Math.floor(received / HOUR_MS) * HOUR_MS + HOUR_MS;
      this.tally = tallyKey(this.tenant, this.device, received, 'reading', '');
    }
    return this.tally;
  }
}

/** What a session needs of its connection. */
export interface Connection {
  /** Sends a message to the device; false when it does not listen or reads too slowly. */
  send(channel: SubscribeChannel, payload: string): boolean;
  /** Says it with the next acknowledgement, where the protocol has room for it. */
  notice(text: string): void;
  end(reason: ConnectionEnd): void;
}

const HELD_RECEIPTS_MAX = 16;
const TARGETS_MAX = 1_000;

/** One authenticated connection. */
export class Session {
  readonly identity: Identity;
  readonly clientId: string;
  readonly connection: Connection;
  readonly own: Target;
  /** Stored form of the secret at the time of the CONNECT; a change ends the session. */
  readonly secretHash: string;
  /** Undefined where nobody keeps quotas. */
  readonly usage: DeviceUsage | undefined;
  /** The connection's ways through admission and the budget of old readings; the same. */
  readonly admission: { turn: Turn; backfill: BackfillTurn } | undefined;
  /** By its quota. */
  readonly payloadBytesMax: number;
  readonly targets = new Map<string, Target>();
  /** Since the CONNECT was accepted. */
  opened: ConnectionView | undefined;
  /** From the first request for the time on. */
  timeBudget: TimeBudget | undefined;
  /** Receipts from before the device subscribed, or while it doesn't read; the oldest go first. */
  private readonly heldReceipts: string[] = [];

  constructor(options: {
    identity: Identity;
    clientId: string;
    connection: Connection;
    own: Target;
    secretHash: string;
    usage?: DeviceUsage;
    admission?: { turn: Turn; backfill: BackfillTurn };
  }) {
    this.identity = options.identity;
    this.clientId = options.clientId;
    this.connection = options.connection;
    this.own = options.own;
    this.secretHash = options.secretHash;
    this.usage = options.usage;
    this.admission = options.admission;
    this.payloadBytesMax =
      options.usage?.tenant.quota.device.payloadBytesMax || Number.POSITIVE_INFINITY;
  }

  remember(target: Target): void {
    if (this.targets.size >= TARGETS_MAX) this.targets.clear();
    this.targets.set(target.device, target);
  }

  /** Returns false when a receipt was lost: more are held than there is room for. */
  sendReceipt(payload: string): boolean {
    this.releaseReceipts();
    if (this.heldReceipts.length === 0 && this.connection.send('receipts', payload)) return true;
    this.heldReceipts.push(payload);
    if (this.heldReceipts.length <= HELD_RECEIPTS_MAX) return true;
    this.heldReceipts.shift();
    return false;
  }

  /** Sends what is held, in order, as far as the device listens and reads. */
  releaseReceipts(): void {
    for (let next = this.heldReceipts[0]; next !== undefined; next = this.heldReceipts[0]) {
      if (!this.connection.send('receipts', next)) return;
      this.heldReceipts.shift();
    }
  }
}
