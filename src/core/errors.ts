/**
 * The catalogue of errors. A code is never reused for another meaning; `docs/errors.md` lists all
 * of them and is tested against this file. `retryable` says whether the same call may succeed
 * later without a change by the caller.
 */
export const ERRORS = {
  ARGUMENT_INVALID: {
    retryable: false,
    next: 'Correct the arguments; `--help` behind a command shows what it takes.',
  },
  CONFIG_INVALID: { retryable: false, next: 'Correct the configuration at the place named.' },
  CONFIG_NOT_FOUND: { retryable: false, next: 'Give an existing file with --config.' },
  NAME_INVALID: { retryable: false, next: 'Use 1 to 64 of A-Z a-z 0-9 _ -.' },
  TYPE_UNKNOWN: {
    retryable: false,
    next: 'Declare the device type under `types` first, in the file that --config names.',
  },
  TENANT_UNKNOWN: {
    retryable: false,
    next: 'Check the name and --config; `spillway device list` shows all tenants with devices.',
  },
  DEVICE_EXISTS: { retryable: false, next: 'Remove the device first, or choose another name.' },
  DEVICE_UNKNOWN: {
    retryable: false,
    next: 'List the devices: `spillway device list`, or `GET /api/v1/devices`.',
  },
  IMPORT_INVALID: { retryable: false, next: 'Correct the CSV at the line named.' },
  LOG_FULL: {
    retryable: true,
    next: 'Free disk or raise log.embedded.diskBytesMax; devices wait meanwhile.',
  },
  LOG_SATURATED: { retryable: true, next: 'The log is slower than its input; send again later.' },
  LOG_CLOSED: { retryable: true, next: 'The gateway is stopping; send again to its successor.' },
  LOG_WRITE_FAILED: {
    retryable: false,
    next: 'Check the disk, then restart; nothing unacknowledged is lost.',
  },
  LOG_CORRUPT: {
    retryable: false,
    next: 'Keep the file, restore the batch named, or move past it by hand.',
  },
  LOG_VERSION: { retryable: false, next: 'Start the release that wrote this log, or a later one.' },
  LOG_UNAVAILABLE: {
    retryable: true,
    next: 'Check that Kafka runs and that log.kafka is right; what was acknowledged waits on disk.',
  },
  STORE_CORRUPT: { retryable: false, next: 'Keep the file named and restore it from a backup.' },
  STORE_VERSION: {
    retryable: false,
    next: 'Start the release that wrote this store, or a later one.',
  },
  STORE_BUSY: { retryable: true, next: 'Another process writes the store; try again.' },
  STORE_TAKEN_OVER: {
    retryable: false,
    next: 'Nothing, the rollup worker begins again; if it repeats, find who else writes these buckets.',
  },
  STORE_UNAVAILABLE: {
    retryable: true,
    next: 'Check that InfluxDB runs and that store.influxdb is right; the log keeps what comes.',
  },
  DATA_DIR_LOCKED: {
    retryable: false,
    next: 'Another Spillway uses this data directory; stop it or set data.dir.',
  },
  LISTEN_FAILED: {
    retryable: true,
    next: 'Free the port, or set another one: `gateway.mqtt.port`, `http.port`.',
  },
  QUERY_INVALID: { retryable: false, next: 'Correct the parameter named.' },
  QUERY_TOO_LARGE: {
    retryable: false,
    next: 'Ask for a shorter range, a larger step or fewer series.',
  },
  UNAUTHORIZED: {
    retryable: false,
    next: 'Send `Authorization: Bearer <token>`; `spillway token add` makes one.',
  },
  FORBIDDEN: { retryable: false, next: 'Use a token of the tenant that owns the data.' },
  NOT_FOUND: { retryable: false, next: 'Check the path.' },
  SERVER_UNREACHABLE: { retryable: true, next: 'Start Spillway, or name its address with --url.' },
  ANSWER_UNKNOWN: {
    retryable: true,
    next: 'Check --url: what answers there is no Spillway, or a proxy whose Spillway is away.',
  },
  REPLAY_RUNNING: { retryable: true, next: 'Wait until it has ended, or stop it.' },
  AUDIT_UNBALANCED: {
    retryable: false,
    next: 'Report this with the output of `spillway audit --format json`.',
  },
} as const satisfies Record<string, { retryable: boolean; next: string }>;

export type ErrorCode = keyof typeof ERRORS;

/** An error with a stable code. `message` says what happened, `next` what to do; its own, or that of the code. */
export class SpillwayError extends Error {
  readonly code: ErrorCode;
  readonly retryable: boolean;
  readonly next: string;

  constructor(code: ErrorCode, message: string, options: { cause?: unknown; next?: string } = {}) {
    super(message, 'cause' in options ? { cause: options.cause } : undefined);
    this.name = 'SpillwayError';
    this.code = code;
    this.retryable = ERRORS[code].retryable;
    this.next = options.next ?? ERRORS[code].next;
  }
}
