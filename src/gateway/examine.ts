import type { Clock } from '../core/clock.ts';
import type { DeviceType, Refusal } from '../core/nouns.ts';
import type { RefusalCode } from '../core/refusals.ts';
import type { DeviceEntry, Directory } from '../tenants/contract.ts';
import { type Decoded, isRejected } from './codecs/contract.ts';
import type { Examination, Examined, Letter } from './contract.ts';
import { CODEC, partOf } from './ingest.ts';
import { refuse } from './refuse.ts';
import { compileValidation, isRefusal, type Validate } from './validation.ts';

export interface ExamineOptions {
  directory: Pick<Directory, 'device'>;
  types: ReadonlyMap<string, DeviceType>;
  clock: Clock;
  limits: {
    payloadBytesMax: number;
    readingsPerMessageMax: number;
    metricsPerReadingMax: number;
    textMax: number;
  };
  /** How long raw readings are kept, ms; 0: for ever. */
  rawMs: number;
  /** A window whose beginning is no longer kept takes no readings, ms. */
  baseWindowMs: number;
}

const NO_TELEMETRY: ReadonlySet<string> = new Set<RefusalCode>([
  'TOPIC_NOT_ALLOWED',
  'TOPIC_INVALID',
  'WILL_NOT_ALLOWED',
  'STATE_INVALID',
]);

/**
 * Looks at dead letters as {@link Ingest} looks at publishes, with the same codec and the same checks,
 * and writes nothing. Times are judged by when the letter came: a reading without a time of its own has
 * the letter's, so that a replay is found to be a duplicate of an earlier one.
 */
export class Examiner {
  private readonly options: ExamineOptions;
  private readonly validations = new Map<string, Validate>();

  constructor(options: ExamineOptions) {
    this.options = options;
  }

  /** Throws what the directory throws. */
  examine(letter: Letter): Examination {
    const { limits } = this.options;
    if (NO_TELEMETRY.has(letter.code) || letter.topic.endsWith('/state')) {
      return { unreadable: 'NO_TELEMETRY' };
    }
    const payload = Buffer.from(letter.payload, 'base64');
    if (payload.length === 0 && letter.payloadBytes > 0) return { unreadable: 'PAYLOAD_GONE' };
    if (payload.length > limits.payloadBytesMax) {
      const expected = `at most ${limits.payloadBytesMax} bytes`;
      const refusal = refuse('PAYLOAD_TOO_LARGE', { expected, actual: `${payload.length} bytes` });
      return { items: [{ ...this.nameOf(letter, letter.device), refusal, payload }] };
    }
    const decoded = CODEC.decode(payload, { readingsMax: limits.readingsPerMessageMax });
    // The part of a message that was kept for one bad reading of many is whole; a cut one is no JSON.
    const [first] = decoded;
    if (payload.length < letter.payloadBytes && first !== undefined && isRejected(first)) {
      if (first.refusal.code === 'JSON_INVALID') return { unreadable: 'PAYLOAD_CUT' };
    }
    const isWhole = decoded.length === 1;
    return { items: decoded.map((item) => this.item(letter, item, isWhole ? payload : undefined)) };
  }

  private item(letter: Letter, item: Decoded, payload: Buffer | undefined): Examined {
    const device = this.deviceOf(letter, item);
    const name = this.nameOf(letter, device ?? letter.device);
    const refused = (refusal: Refusal): Examined => ({
      ...name,
      refusal,
      payload: payload ?? partOf(withTime(item, letter.received)),
    });
    if (isRejected(item)) return refused(item.refusal);
    if (device === undefined) {
      const actual = item.device ?? letter.actual ?? '';
      return refused(refuse('DEVICE_NOT_ALLOWED', { path: item.path, actual }));
    }
    const validate = this.validation(name.type);
    if (validate === undefined) {
      const expected = 'a type of the configuration';
      return refused(refuse('TYPE_UNKNOWN', { expected, actual: name.type }));
    }
    const result = validate(item, letter.received);
    if (isRefusal(result)) return refused(result);
    const tooOld = this.tooOld(result.ts, `${item.path}/ts`);
    return tooOld === undefined ? { ...name, ...result } : refused(tooOld);
  }

  /** Raw readings of that time may be gone: the store would not take it. */
  private tooOld(ts: number, path: string): Refusal | undefined {
    const { rawMs, baseWindowMs, clock } = this.options;
    if (rawMs === 0 || ts - baseWindowMs >= clock.now() - rawMs) return undefined;
    const expected = `after ${new Date(clock.now() - rawMs + baseWindowMs).toISOString()}`;
    return refuse('TS_PAST', { path, expected, actual: new Date(ts).toISOString() });
  }

  /** Undefined: not a device that the sender may report for. */
  private deviceOf({ tenant, device, code, actual }: Letter, item: Decoded): string | undefined {
    // The part that was kept of a message for several devices does not name the device; the letter does.
    const named = item.device ?? (code === 'DEVICE_NOT_ALLOWED' ? actual : undefined);
    if (named === undefined || named === device) return device;
    return this.entry(tenant, named)?.via === device ? named : undefined;
  }

  /** With the type that the device has by now; of one that is gone, the type that it had. */
  private nameOf(
    letter: Letter,
    device: string,
  ): Pick<Examined, 'device' | 'type' | 'typeVersion'> {
    const type = this.entry(letter.tenant, device)?.type ?? letter.type;
    const typeVersion = this.options.types.get(type)?.version;
    return { device, type, ...(typeVersion !== undefined && { typeVersion }) };
  }

  private entry(tenant: string, device: string): DeviceEntry | undefined {
    return this.options.directory.device(tenant, device);
  }

  private validation(name: string): Validate | undefined {
    const known = this.validations.get(name);
    const type = this.options.types.get(name);
    if (known !== undefined || type === undefined) return known;
    const { metricsPerReadingMax, textMax } = this.options.limits;
    const made = compileValidation(type, { metricsMax: metricsPerReadingMax, textMax });
    this.validations.set(name, made);
    return made;
  }
}

/** A part that is kept for another day keeps the time that it has today. */
function withTime(item: Decoded, received: number): Decoded {
  return isRejected(item) || item.ts !== undefined ? item : { ...item, ts: received };
}
