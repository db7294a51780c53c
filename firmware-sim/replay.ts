import { setTimeout as sleep } from 'node:timers/promises';
import { readCsv } from './csv.ts';
import { checkUrl, DEFAULT_URL } from './fleet.ts';
import { BATCH_MAX, encodeReadings, type Reading } from './payload.ts';
import { createRandom, shuffle } from './random.ts';
import { loadRecordingMap, type RecordingMapInput, RowMapper } from './recording-map.ts';
import { type Summary, summarize } from './summary.ts';
import { Tally } from './tally.ts';
import { TimerHeap } from './timers.ts';
import { Uplink } from './uplink.ts';
import { InputError } from './yaml-file.ts';

/** Shuffling needs the whole recording in memory. */
const SHUFFLE_ROWS_MAX = 1_000_000;
const WINDOW = 200;
/** Without any acknowledgement for so long, a replay gives up. */
const STALL_MS = 30_000;
const DRAIN_MS = 5000;

export interface ReplayOptions {
  /** Path of the recording. */
  csv: string;
  /** Path of the column mapping, or what would be in it. */
  map: string | RecordingMapInput;
  url?: string | undefined;
  /** `<tenant>/<device>`. */
  username: string;
  password: string;
  /** 0: as fast as it is acknowledged; N: N times as fast as it was recorded. Default 0. */
  speed?: number | undefined;
  /** Messages that may wait for their acknowledgement; default 200. */
  inflight?: number | undefined;
  /** Readings in one message, 1 to 100; default 1. */
  batch?: number | undefined;
  /** Send in an order shuffled with this seed; needs speed 0. */
  shuffle?: number | undefined;
  /** Probability that a message is sent twice. */
  duplicate?: number | undefined;
  protocolVersion?: 4 | 5 | undefined;
  /** Give up after so long without any acknowledgement, ms; default 30,000. */
  stallTimeoutMs?: number | undefined;
  ca?: string | undefined;
  /** Ends the replay: no more is sent, what is under way is waited for. */
  signal?: AbortSignal | undefined;
  /** Called at most every `progressMs` with how it stands. */
  onProgress?: ((summary: Summary) => void) | undefined;
  progressMs?: number | undefined;
}

export interface ReplaySummary extends Summary {
  /** Records in the file, without its header. */
  rows: number;
  /** Records without a time or without any value. */
  rowsSkipped: number;
  /** Cells that could not be read; the rest of their record was used. */
  badCells: number;
  /** Whether the whole file was sent: false when it was aborted or stalled. */
  finished: boolean;
}

/**
 * Publishes a recording as one device.
 * @throws InputError when an option, the mapping or the recording is wrong
 */
export async function replayCsv(options: ReplayOptions): Promise<ReplaySummary> {
  const replay = await Replay.open(options);
  return replay.run();
}

class Replay {
  readonly #options: ReplayOptions;
  readonly #device: string;
  readonly #rows: RowSource;
  readonly #tally = new Tally();
  readonly #timers = new TimerHeap();
  readonly #random;
  readonly #uplink: Uplink;
  readonly #batch: number;
  readonly #speed: number;
  #progressed = performance.now();
  #wake: () => void = () => {};

  static async open(options: ReplayOptions): Promise<Replay> {
    const map = await loadRecordingMap(options.map);
    return new Replay(
      options,
      new RowSource(options.csv, (header) => new RowMapper(map, header, options.csv)),
    );
  }

  private constructor(options: ReplayOptions, rows: RowSource) {
    const [tenant, device, ...rest] = options.username.split('/');
    if (!tenant || !device || rest.length > 0) {
      throw new InputError(`username: expected <tenant>/<device>, got "${options.username}"`);
    }
    this.#options = options;
    this.#device = device;
    this.#rows = rows;
    this.#speed = checkNumber('speed', options.speed ?? 0, 0, 1e9);
    this.#batch = checkNumber('batch', options.batch ?? 1, 1, BATCH_MAX);
    checkNumber('duplicate', options.duplicate ?? 0, 0, 1);
    if (options.shuffle !== undefined && this.#speed !== 0) {
      throw new InputError(
        'shuffle: expected speed 0 with it, as a shuffled recording has no pace',
      );
    }
    this.#random = createRandom(options.shuffle ?? 1, options.username);
    const wake = (): void => {
      this.#progressed = performance.now();
      this.#wake();
    };
    this.#uplink = new Uplink({
      link: {
        url: checkUrl(options.url ?? DEFAULT_URL),
        protocolVersion: options.protocolVersion ?? 4,
        keepalive: 60_000,
        connectTimeout: 10_000,
        backoff: { base: 250, cap: 5000, resetAfter: 10_000 },
        herd: false,
        ca: options.ca,
      },
      identity: { tenant, device, secret: options.password },
      qos: [0, 1, 0],
      telemetryTopic: `t/${tenant}/d/${device}/telemetry`,
      window: checkNumber('inflight', options.inflight ?? WINDOW, 1, 10_000),
      timers: this.#timers,
      random: this.#random,
      tally: this.#tally,
      listener: { up: wake, freed: wake },
    });
  }

  async run(): Promise<ReplaySummary> {
    this.#tally.begin();
    this.#progressed = performance.now();
    const abort = (): void => this.#wake();
    this.#options.signal?.addEventListener('abort', abort);
    const { onProgress, progressMs = 10_000 } = this.#options;
    const progress = onProgress && setInterval(() => onProgress(this.#summary()), progressMs);
    try {
      this.#uplink.connect();
      const finished = await this.#publishAll();
      await this.#waitUntil(() => this.#uplink.pending === 0, DRAIN_MS, false);
      const summary = this.#summary();
      const complete = summary.complete && finished;
      const { rows, skipped: rowsSkipped, badCells } = this.#rows;
      return { ...summary, complete, rows, rowsSkipped, badCells, finished };
    } finally {
      clearInterval(progress);
      this.#options.signal?.removeEventListener('abort', abort);
      await this.#uplink.close();
      this.#timers.clear();
    }
  }

  #summary(): Summary {
    return summarize(this.#tally, {
      devices: 1,
      connections: 1,
      connectedAtEnd: Number(this.#uplink.connected),
      leftInBuffer: 0,
    });
  }

  /** @returns whether all of it was sent */
  async #publishAll(): Promise<boolean> {
    const started = performance.now();
    let first: number | undefined;
    let batch: Reading[] = [];
    for await (const { ts, values } of this.#readings()) {
      first ??= ts;
      if (this.#speed > 0) {
        const due = started + (ts - first) / this.#speed;
        if (!(await this.#sleepUntil(due))) return false;
      }
      batch.push({ device: this.#device, ts, seq: this.#tally.sampled++, values });
      if (batch.length < this.#batch) continue;
      if (!(await this.#publish(batch))) return false;
      batch = [];
    }
    return batch.length === 0 || (await this.#publish(batch));
  }

  async #publish(batch: readonly Reading[]): Promise<boolean> {
    const stallMs = this.#options.stallTimeoutMs ?? STALL_MS;
    if (!(await this.#waitUntil(() => this.#uplink.room > 0, stallMs, true))) return false;
    const payload = encodeReadings(batch, { flat: false, gateway: false });
    this.#uplink.send(payload, 'reading', batch.length);
    if (this.#random() < (this.#options.duplicate ?? 0)) {
      this.#tally.duplicates++;
      this.#uplink.send(payload, 'duplicate', batch.length);
    }
    return true;
  }

  /** @returns false when `stallMs` pass without progress, or (if `abortable`) when told to stop */
  async #waitUntil(done: () => boolean, stallMs: number, abortable: boolean): Promise<boolean> {
    const { signal } = this.#options;
    // Time spent asleep between two readings is no stall.
    this.#progressed = performance.now();
    for (;;) {
      if (abortable && signal?.aborted) return false;
      if (done()) return true;
      const left = this.#progressed + stallMs - performance.now();
      if (left <= 0) return false;
      await new Promise<void>((resolve) => {
        const timer = this.#timers.after(left, resolve);
        this.#wake = () => {
          this.#timers.cancel(timer);
          resolve();
        };
      });
      this.#wake = () => {};
    }
  }

  async #sleepUntil(due: number): Promise<boolean> {
    const { signal } = this.#options;
    const delay = due - performance.now();
    if (delay > 0) {
      await sleep(Math.min(delay, 2 ** 31 - 1), undefined, signal ? { signal } : {}).catch(
        () => {},
      );
    }
    return signal?.aborted !== true;
  }

  async *#readings() {
    const seed = this.#options.shuffle;
    if (seed === undefined) {
      yield* this.#rows.read();
      return;
    }
    const all = [];
    for await (const row of this.#rows.read()) {
      if (all.length === SHUFFLE_ROWS_MAX) {
        throw new InputError(`shuffle: expected at most ${SHUFFLE_ROWS_MAX} rows`);
      }
      all.push(row);
    }
    yield* shuffle(all, createRandom(seed, 'shuffle'));
  }
}

/** The rows of a recording, with what was left out. */
class RowSource {
  readonly #path: string;
  readonly #createMapper: (header: readonly string[]) => RowMapper;
  #mapper: RowMapper | undefined;
  rows = 0;
  skipped = 0;

  constructor(path: string, createMapper: (header: readonly string[]) => RowMapper) {
    this.#path = path;
    this.#createMapper = createMapper;
  }

  get badCells(): number {
    return this.#mapper?.badCells ?? 0;
  }

  async *read() {
    for await (const { fields } of readCsv(this.#path)) {
      if (this.#mapper === undefined) {
        this.#mapper = this.#createMapper(fields);
        continue;
      }
      this.rows++;
      const row = this.#mapper.map(fields);
      if (row === null) this.skipped++;
      else yield row;
    }
    if (this.#mapper === undefined)
      throw new InputError(`${this.#path}: expected a header, got nothing`);
  }
}

function checkNumber(name: string, value: number, min: number, max: number): number {
  if (value >= min && value <= max) return value;
  throw new InputError(`${name}: expected a number from ${min} to ${max}, got ${value}`);
}
