import type { Clock } from '../core/clock.ts';
import type { DeadLetterRecord, DeviceType, Refusal, Values } from '../core/nouns.ts';
import type {
  ConnectionEnd,
  LimitCode,
  RefusalCode,
  ShedReason,
  SlowedBy,
} from '../core/refusals.ts';
import type { AppendRequest, LogAppender } from '../log/contract.ts';
import { encodeRecord, NO_TALLY, tallyKey } from '../log/record.ts';
import { countIn, type GatewayCounters } from '../ops/counters.ts';
import type { DeviceEntry, Directory } from '../tenants/contract.ts';
import { type Codec, type Decoded, type DecodedReading, isRejected } from './codecs/contract.ts';
import { jsonCodec } from './codecs/json.ts';
import type { ConnectInfo } from './connection-info.ts';
import { ACCEPTED, decision, type Histories, type History } from './history.ts';
import type { Overload } from './overload/overload.ts';
import { describe, pointer, refuse } from './refuse.ts';
import { type Session, Target } from './session.ts';
import { Sheds } from './sheds.ts';
import { TimeBudget, timeAnswer } from './time-answer.ts';
import type { PublishChannel } from './topics.ts';
import { TypeSlots } from './type-slots.ts';
import { isRefusal, type ValidReading } from './validation.ts';

/** A publish as the gate or a hook of the broker hands it over. */
export interface Publish {
  /** As the device wrote it. */
  topic: string;
  /** Undefined: the topic is not the device's to publish to. */
  channel: PublishChannel | undefined;
  /** Valid during the call only: it is a slice of the socket's buffer. May be cut, see `payloadBytes`. */
  payload: Buffer;
  /** Length on the wire. */
  payloadBytes: number;
  qos: 0 | 1 | 2;
  retain: boolean;
  /** The broker publishes it for a device whose connection broke. */
  will?: boolean;
  /** Afterwards: why it, or the first part of it that was refused, was not taken. */
  refusal?: Refusal | undefined;
  /** Afterwards: it was refused in part only. */
  takenInPart?: boolean;
}

export interface IngestOptions {
  appender: LogAppender;
  directory: Directory;
  types: ReadonlyMap<string, DeviceType>;
  counters: GatewayCounters;
  clock: Clock;
  /** Quotas, and what is dropped under overload; without it neither is known. */
  overload?: Overload;
  histories: Histories;
  /** Readings that are older when they come take the lane of old ones; absent: none do. */
  backfillAfterMs?: number;
  limits: {
    payloadBytesMax: number;
    readingsPerMessageMax: number;
    metricsPerReadingMax: number;
    textMax: number;
    deadLetterPayloadBytesMax: number;
  };
}

export type Done = (error: Error | null) => void;

export const CODEC: Codec = jsonCodec;

/** Not the device's fault: it shall send the message again. */
class DirectoryError extends Error {}

/**
 * The one way from a publish into the log, for the gate and for the broker's hooks:
 *
 *   admit ▶ decode ▶ validate ▶ append ▶ (after the commit) acknowledge
 *
 * What is not taken becomes a dead letter in the same commit, and the device gets a receipt.
 */
export class Ingest {
  private readonly options: IngestOptions;
  private readonly histories: Histories;
  private readonly backfillAfterMs: number;
  private readonly slots: TypeSlots;
  private readonly sheds: Sheds;

  constructor(options: IngestOptions) {
    this.options = options;
    this.histories = options.histories;
    this.backfillAfterMs = options.backfillAfterMs ?? Number.POSITIVE_INFINITY;
    this.slots = new TypeSlots(options.limits);
    this.setTypes(options.types);
    this.sheds = new Sheds(options.appender, options.clock);
  }

  target(identity: { tenant: string; device: string; type: string }): Target {
    return new Target(identity, this.slots.of(identity.type));
  }

  /** Readings are checked against these from now on. */
  setTypes(types: ReadonlyMap<string, DeviceType>): void {
    this.slots.set(types);
  }

  /** `done` follows the contract of {@link LogAppender.append}: after the commit, in order, never at once. */
  publish(session: Session, publish: Publish, done: Done): void {
    const { counters, appender, clock, limits } = this.options;
    counters.messages++;
    counters.bytes += publish.payloadBytes;
    const received = clock.now();
    const dropped = publish.qos === 0 ? this.shedReason(session) : undefined;
    if (dropped !== undefined) {
      this.shed(session, dropped);
      setImmediate(done, null);
      return;
    }
    const payloadBytesMax = Math.min(limits.payloadBytesMax, session.payloadBytesMax);
    const request: AppendRequest = { records: [], tallyKeys: [] };
    if (publish.channel === undefined) {
      this.refuse(
        session,
        session.own,
        publish,
        received,
        refuse('TOPIC_NOT_ALLOWED', { actual: publish.topic }),
        request,
      );
    } else if (publish.payloadBytes > payloadBytesMax) {
      const expected = `at most ${payloadBytesMax} bytes`;
      const refusal = refuse('PAYLOAD_TOO_LARGE', {
        expected,
        actual: `${publish.payloadBytes} bytes`,
      });
      this.refuse(session, session.own, publish, received, refusal, request);
    } else if (publish.channel === 'time/request') {
      this.time(session, publish, received);
    } else if (publish.channel === 'state') {
      this.state(session, publish, received, request);
    } else {
      try {
        this.telemetry(session, publish, received, request);
      } catch (error) {
        if (error instanceof DirectoryError) {
          setImmediate(done, error);
          return;
        }
        // Whatever a payload does to us that nobody thought of: it would come again for ever.
        const refusal = refuse('SHAPE_INVALID', { actual: String(error) });
        request.records.length = 0;
        request.tallyKeys.length = 0;
        delete request.backfill;
        this.refuse(session, session.own, publish, received, refusal, request);
      }
    }
    appender.append(request, done);
  }

  /** A refusal that was found before the payload was looked at. */
  reject(session: Session, publish: Publish, refusal: Refusal, done: Done): void {
    this.options.counters.messages++;
    this.options.counters.bytes += publish.payloadBytes;
    const request: AppendRequest = { records: [], tallyKeys: [] };
    this.refuse(session, session.own, publish, this.options.clock.now(), refusal, request);
    this.options.appender.append(request, done);
  }

  /** Something that happened to the device; no part of the ledger. */
  event(
    session: Session,
    event: 'connected' | 'disconnected',
    data: Record<string, unknown>,
  ): void {
    const { tenant, device } = session.identity;
    const record = encodeRecord({
      kind: 'event',
      tenant,
      device,
      received: this.options.clock.now(),
      event,
      data,
    });
    this.options.appender.append({ records: [record], tallyKeys: [NO_TALLY] }, () => {});
  }

  connected(session: Session, info: ConnectInfo): void {
    const since = this.options.clock.now();
    session.opened = { ...info, since, endedAt: null, reason: '' };
  }

  ended({ own, opened }: Session, reason: ConnectionEnd): void {
    const history = this.historyOf(own);
    if (history === undefined || opened === undefined) return;
    history.lastConnection = { ...opened, endedAt: this.options.clock.now(), reason };
  }

  /** `name`: `<tenant>/<device>`. Undefined when nothing is. */
  remembered(name: string): ReturnType<History['view']> | undefined {
    return this.histories.find(name)?.view();
  }

  close(): void {
    this.sheds.close();
  }

  private telemetry(
    session: Session,
    publish: Publish,
    received: number,
    request: AppendRequest,
  ): void {
    const { counters, limits } = this.options;
    const items = CODEC.decode(publish.payload, { readingsMax: limits.readingsPerMessageMax });
    let accepted = 0;
    let first: Refusal | undefined;
    for (const item of items) {
      const target = item.device === undefined ? session.own : this.targetOf(session, item.device);
      let refusal: Refusal | undefined;
      if (isRejected(item)) refusal = item.refusal;
      else if (typeof target === 'string') {
        refusal = refuse(target, { path: item.path, actual: String(item.device) });
      } else refusal = this.reading(target, item, received, request);
      if (refusal === undefined) accepted++;
      else {
        first ??= refusal;
        const part = items.length === 1 ? publish : { ...publish, payload: partOf(item) };
        const of = typeof target === 'string' ? session.own : target;
        this.refuse(session, of, part, received, refusal, request);
      }
    }
    if (request.backfill !== undefined) this.countBackfill(session, publish, request, items.length);
    if (first !== undefined) {
      publish.refusal = first;
      publish.takenInPart = accepted > 0;
    }
    if (accepted === 0) return;
    counters.readingsAccepted.set(
      session.identity.tenant,
      (counters.readingsAccepted.get(session.identity.tenant) ?? 0) + accepted,
    );
    if (publish.retain)
      this.receipt(session, refuse('RETAIN_IGNORED'), 'notice', publish, received);
  }

  /** Outside the log: the acknowledgement follows those before it, as nothing waits for a commit. */
  private time(session: Session, publish: Publish, received: number): void {
    session.timeBudget ??= new TimeBudget(received);
    if (!session.timeBudget.spend(received)) {
      publish.refusal = refuse('TIME_REQUESTS_TOO_MANY');
      this.note(session.own, decision('refused', 'TIME_REQUESTS_TOO_MANY'), received);
      this.receipt(session, publish.refusal, 'refused', publish, received);
      return;
    }
    const answer = timeAnswer(publish.payload, received, this.options.clock.now());
    session.connection.send('time/response', answer);
  }

  /** What was decided about a device's messages; `number` of {@link decision}, `at` in ms. */
  private note(target: Target, number: number, at: number): void {
    this.historyOf(target)?.note(number, at);
  }

  private historyOf(target: Target): History | undefined {
    const { history } = target;
    if (history !== undefined && !history.evicted) return history;
    target.history = this.histories.of(target.name);
    return target.history;
  }

  /** A limit keeps a connection from being read. `limit`: its code. */
  slowed(session: Session, limit: SlowedBy | LimitCode): void {
    this.note(session.own, decision('slowed', limit), this.options.clock.now());
  }

  private reading(
    target: Target,
    item: DecodedReading,
    received: number,
    request: AppendRequest,
  ): Refusal | undefined {
    const { validate } = target.slot;
    if (validate === undefined) {
      return refuse('TYPE_UNKNOWN', {
        expected: 'a type of the configuration',
        actual: target.type,
      });
    }
    const result = validate(item, received);
    if (item.ts !== undefined) this.observeClock(target, item.ts, result, received);
    if (isRefusal(result)) return result;
    const refusal = this.newMetric(target, item, result.values, received);
    if (refusal !== undefined) return refusal;
    this.note(target, ACCEPTED, received);
    const { ts, seq, values } = result;
    if (received - ts > this.backfillAfterMs) {
      request.backfill ??= [];
      request.backfill[request.records.length] = true;
      request.records.push(target.encodeBackfill(ts, received, seq, values));
      this.historyOf(target)?.noteBackfill(ts, received);
    } else request.records.push(target.encode(ts, received, seq, values));
    request.tallyKeys.push(target.acceptedKey(received));
    return undefined;
  }

  /** Old readings have a budget of their own: a message that has no others counts for no quota. */
  private countBackfill(
    session: Session,
    publish: Publish,
    { backfill = [] }: AppendRequest,
    items: number,
  ): void {
    const readings = backfill.reduce((count, isOld) => count + Number(isOld), 0);
    this.options.counters.backfill.readings += readings;
    if (session.admission === undefined) return;
    const { turn, backfill: budget } = session.admission;
    if (readings === items) turn.exempt(publish.payloadBytes);
    const { isHeld } = budget;
    budget.take(readings);
    if (budget.isHeld && !isHeld) this.slowed(session, 'BACKFILL_RATE');
  }

  /** A type that keeps what it doesn't declare would let a device make series without end. */
  private newMetric(
    target: Target,
    item: DecodedReading,
    values: Values,
    received: number,
  ): Refusal | undefined {
    const { declared } = target.slot;
    const { overload } = this.options;
    if (declared === undefined || overload === undefined) return undefined;
    const usage = overload.book.of(target.tenant, target.device);
    for (const name of Object.keys(values)) {
      if (declared.has(name)) continue;
      const path = `${item.valuesPath}/${pointer(name)}`;
      if (!usage.metricsToday.admits(name, received)) {
        const expected = `at most ${usage.metricsToday.max} undeclared metrics of a device a day`;
        return refuse('DEVICE_METRICS', { path, expected, actual: name });
      }
      if (!usage.tenant.metricsToday.admits(name, received)) {
        const { max } = usage.tenant.metricsToday;
        const expected = `at most ${max} undeclared metrics of a tenant a day`;
        return refuse('TENANT_METRICS', { path, expected, actual: name });
      }
    }
    return undefined;
  }

  /** A time that was refused for being far off tells as much as one that was taken. */
  private observeClock(
    target: Target,
    given: unknown,
    result: ValidReading | Refusal,
    received: number,
  ): void {
    if (isRefusal(result) && result.code !== 'TS_FUTURE' && result.code !== 'TS_PAST') return;
    // A time in the future may have been replaced by the gateway's.
    const ts = typeof given === 'number' ? given : Date.parse(String(given));
    if (Number.isFinite(ts)) this.historyOf(target)?.observeClock(ts, received);
  }

  private state(
    session: Session,
    publish: Publish,
    received: number,
    request: AppendRequest,
  ): void {
    const { tenant, device } = session.identity;
    try {
      const data: unknown = JSON.parse(publish.payload.toString('utf8'));
      request.records.push(
        encodeRecord({
          ...{ kind: 'event', tenant, device, received, event: 'state' },
          ...(publish.will === true && { will: true }),
          data,
        }),
      );
      request.tallyKeys.push(NO_TALLY);
    } catch {
      const actual = describe(publish.payload.toString('utf8', 0, 64));
      this.refuse(
        session,
        session.own,
        publish,
        received,
        refuse('STATE_INVALID', { expected: 'JSON', actual }),
        request,
      );
    }
  }

  /** A device of the same tenant that is registered as reached through this one. */
  private targetOf(session: Session, device: string): Target | RefusalCode {
    if (device === session.identity.device) return session.own;
    const known = session.targets.get(device);
    if (known !== undefined) return known;
    let entry: DeviceEntry | undefined;
    try {
      entry = this.options.directory.device(session.identity.tenant, device);
    } catch (cause) {
      throw new DirectoryError('the directory can not be read', { cause });
    }
    if (entry === undefined || entry.via !== session.identity.device) return 'DEVICE_NOT_ALLOWED';
    const { usage } = session;
    if (usage?.tenant.devicesToday.admits(device, this.options.clock.now()) === false)
      return 'DEVICES_TOO_MANY';
    const target = this.target(entry);
    session.remember(target);
    return target;
  }

  private refuse(
    session: Session,
    target: Target,
    publish: Publish,
    received: number,
    refusal: Refusal,
    request: AppendRequest,
  ): void {
    const { counters, limits } = this.options;
    publish.refusal = refusal;
    const { tenant, device, type } = target;
    const { version: typeVersion } = target.slot;
    const kept = publish.payload.subarray(0, limits.deadLetterPayloadBytesMax);
    const record: DeadLetterRecord = {
      kind: 'deadLetter',
      tenant,
      device,
      type,
      ...(typeVersion !== undefined && { typeVersion }),
      received,
      ...refusal,
      topic: publish.topic.slice(0, 256),
      payload: kept.toString('base64'),
      payloadBytes: publish.payloadBytes,
    };
    request.records.push(encodeRecord(record));
    request.tallyKeys.push(tallyKey(tenant, device, received, 'deadLetter', refusal.code));
    this.note(target, decision('refused', refusal.code), received);
    counters.deadLetters.set(refusal.code, (counters.deadLetters.get(refusal.code) ?? 0) + 1);
    this.receipt(session, refusal, 'refused', publish, received);
  }

  private receipt(
    session: Session,
    refusal: Refusal,
    severity: 'refused' | 'notice',
    publish: Publish,
    received: number,
  ): void {
    const topic = publish.topic.slice(0, 256);
    const sent = session.sendReceipt(JSON.stringify({ ...refusal, severity, topic, received }));
    if (sent) this.options.counters.receiptsSent++;
  }

  private shedReason(session: Session): ShedReason | undefined {
    const { appender, overload } = this.options;
    if (appender.full) return 'LOG_FULL';
    if (appender.saturated) return 'LOG_SATURATED';
    return session.usage === undefined ? undefined : overload?.sheds(session.usage.tenant);
  }

  private shed(session: Session, code: ShedReason): void {
    const { counters } = this.options;
    const { tenant } = session.identity;
    countIn(counters.shedByTenant, tenant, code);
    counters.shed.set(code, (counters.shed.get(code) ?? 0) + 1);
    this.note(session.own, decision('shed', code), this.options.clock.now());
    this.sheds.count({ tenant, device: session.identity.device, code }, 1);
  }
}

/**
 * The bytes that a dead letter keeps of one part of a message: with all of the message in each, a
 * message of many bad readings would grow a thousandfold.
 */
export function partOf(item: Decoded): Buffer {
  if (isRejected(item)) return Buffer.alloc(0);
  const { ts, seq, values } = item;
  try {
    return Buffer.from(JSON.stringify({ ts, seq, values }));
  } catch {
    // JSON.parse takes any depth, JSON.stringify does not.
    return Buffer.alloc(0);
  }
}
