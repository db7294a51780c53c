import { type ErrorCode, SpillwayError } from '../../core/errors.ts';

/** What the codes of this engine are in the catalogue. */
const UNAVAILABLE: ErrorCode = 'LOG_UNAVAILABLE';
const CODEC_MISSING: ErrorCode = 'LOG_CORRUPT';

/** Kafka did not answer, or not in time; the same call may succeed later. */
export function unavailable(what: string, cause?: unknown): SpillwayError {
  return new SpillwayError(UNAVAILABLE, `Kafka: ${what}: ${reasonOf(cause)}`, { cause });
}

/** A batch that this process can't unpack; what was read before it stays. */
export function codecMissing(codec: string, cause?: unknown): SpillwayError {
  return new SpillwayError(
    CODEC_MISSING,
    `Kafka: a batch is compressed with ${codec}, and the package for that is not installed`,
    { cause },
  );
}

export function corrupt(where: string, why: string, cause?: unknown): SpillwayError {
  return new SpillwayError('LOG_CORRUPT', `Kafka: ${where}: ${why}`, { cause });
}

export function closed(): SpillwayError {
  return new SpillwayError('LOG_CLOSED', 'the connection to Kafka is closed');
}

export function reasonOf(error: unknown): string {
  if (error === undefined) return 'no answer';
  return error instanceof Error ? error.message : String(error);
}

/**
 * Error codes of Kafka's protocol, as far as they need an answer of their own; what is not listed is
 * tried again. https://kafka.apache.org/protocol#protocol_error_codes
 */
export const PROTOCOL = {
  NONE: 0,
  OFFSET_OUT_OF_RANGE: 1,
  MESSAGE_TOO_LARGE: 10,
  RECORD_LIST_TOO_LARGE: 18,
  OUT_OF_ORDER_SEQUENCE_NUMBER: 45,
  DUPLICATE_SEQUENCE_NUMBER: 46,
  INVALID_PRODUCER_EPOCH: 47,
  UNKNOWN_PRODUCER_ID: 59,
  INVALID_RECORD: 87,
  PRODUCER_FENCED: 90,
} as const;

/** The protocol's name of the error, which may stand behind the retries of kafkajs; undefined for others. */
export function typeOf(error: unknown): string | undefined {
  for (let at = error; at instanceof Error; at = at.cause) {
    if ('type' in at && typeof at.type === 'string') return at.type;
  }
  return undefined;
}
