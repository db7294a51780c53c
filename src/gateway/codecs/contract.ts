import type { Refusal } from '../../core/nouns.ts';

/** One reading as a codec found it, not yet validated. */
export interface DecodedReading {
  /** The device that it is of; absent: the device that sent it. */
  device?: string;
  /** Where it stood in the payload, as a JSON pointer; `''` is the payload itself. */
  path: string;
  /** Where its metrics stood; differs from `path` where a form has an envelope. */
  valuesPath: string;
  ts?: unknown;
  seq?: unknown;
  values: Record<string, unknown>;
}

export interface CodecLimits {
  readingsMax: number;
}

/** A part of a message that is no reading. */
export interface Rejected {
  device?: string;
  refusal: Refusal;
}

export type Decoded = DecodedReading | Rejected;

/** A payload format. Decoding never throws, whatever the bytes. */
export interface Codec {
  name: string;
  /** The readings and rejected parts of a payload, in order; one rejected part when nothing can be read. */
  decode(payload: Buffer, limits: CodecLimits): Decoded[];
}

export function isRejected(decoded: Decoded): decoded is Rejected {
  return 'refusal' in decoded;
}
