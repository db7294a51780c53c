import { setTimeout as sleep } from 'node:timers/promises';
import type { Clock } from '../../core/clock.ts';
import { SpillwayError } from '../../core/errors.ts';
import type { LetterReplay } from '../../core/nouns.ts';
import type { Examine, Examined } from '../../gateway/contract.ts';
import type { AppendRequest } from '../../log/contract.ts';
import { encodeRecord, NO_TALLY, tallyKey } from '../../log/record.ts';
import type { StoredDeadLetter, StoreReader } from '../../store/contract.ts';
import { type Append, isTaken, type Selection } from './letter.ts';
import { selectLetters } from './select.ts';

/**
 * Sends dead letters through the gateway's checks again, and what passes into the log.
 *
 * One append holds what becomes of a letter as a whole: its readings, each a newly received item that
 * keeps its original time, dead letters for those of its readings that are refused again, and the event
 * that closes the letter. So a crash leaves no letter half replayed, and one that is replayed twice
 * (its event is not in the store yet, or two people do it) makes readings that the store has: duplicates.
 *
 * A letter of which nothing passes stays as it is, and an event counts the attempt; after `attemptsMax`
 * it is left alone. Letters that came after the replay began are not part of it.
 */
export interface ReplayOptions {
  store: Pick<StoreReader, 'deadLetters'>;
  /** Only open letters are replayed, whatever it says. */
  selection: Selection;
  examine: Examine;
  append: Append;
  clock: Clock;
  /** Letters a second, at most. */
  rate: number;
  attemptsMax: number;
  signal: AbortSignal;
  /** Called after each append. */
  onProgress?: () => void;
}

/** Letters by what became of them, and what they brought. */
export interface ReplayCounts {
  letters: number;
  /** At least one reading is in the log. */
  taken: number;
  /** Refused again as a whole; by the code of the first reading. */
  refused: Record<string, number>;
  unreadable: Record<string, number>;
  givenUp: number;
  readings: number;
  /** New dead letters, for readings of taken letters that were refused again. */
  newLetters: number;
}

export function noCounts(): ReplayCounts {
  return {
    ...{ letters: 0, taken: 0, refused: {}, unreadable: {}, givenUp: 0, readings: 0 },
    newLetters: 0,
  };
}

/** Appends between two pauses hold so many letters; a tenth of a second's worth, at most this. */
const CHUNK_MAX = 50;
const RETRY_MS = 250;

/** Resolves when all were seen; rejects with the signal's reason, and with errors of store and log. */
export async function replayLetters(options: ReplayOptions, counts: ReplayCounts): Promise<void> {
  const { clock, store, selection, rate, signal } = options;
  const to = Math.min(selection.to, clock.now() + 1);
  const chunkMax = Math.max(1, Math.min(CHUNK_MAX, Math.floor(rate / 10)));
  let due = performance.now();
  for await (const page of selectLetters(store, { ...selection, state: 'open', to })) {
    for (let at = 0; at < page.length; at += chunkMax) {
      const chunk = page.slice(at, at + chunkMax);
      await pause(due - performance.now(), signal);
      due = Math.max(due, performance.now()) + (chunk.length * 1_000) / rate;
      await appendChunk(options, chunk, counts);
    }
  }
}

async function appendChunk(
  options: ReplayOptions,
  chunk: readonly StoredDeadLetter[],
  counts: ReplayCounts,
): Promise<void> {
  const request: AppendRequest = { records: [], tallyKeys: [] };
  const now = options.clock.now();
  const became = noCounts();
  for (const letter of chunk) addLetter(options, letter, now, request, became);
  if (request.records.length > 0) await appended(options, request);
  add(counts, became);
  options.onProgress?.();
}

/** While the log has no room the replay waits: devices go first. */
async function appended({ append, signal }: ReplayOptions, request: AppendRequest): Promise<void> {
  for (;;) {
    signal.throwIfAborted();
    try {
      await append(request);
      return;
    } catch (error) {
      const { code } = error as { code?: string };
      if (code !== 'LOG_FULL' && code !== 'LOG_SATURATED') throw error;
    }
    await pause(RETRY_MS, signal);
  }
}

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  if (ms > 0) await sleep(ms, undefined, { signal });
}

function addLetter(
  { examine, attemptsMax }: ReplayOptions,
  letter: StoredDeadLetter,
  now: number,
  request: AppendRequest,
  counts: ReplayCounts,
): void {
  counts.letters += 1;
  const attempt = (letter.attempt ?? 0) + 1;
  if (attempt > attemptsMax) {
    counts.givenUp += 1;
    return;
  }
  const examination = examine(letter);
  if ('unreadable' in examination) {
    const { unreadable } = examination;
    counts.unreadable[unreadable] = (counts.unreadable[unreadable] ?? 0) + 1;
    return;
  }
  const { items } = examination;
  const taken = items.some(isTaken);
  if (taken) {
    counts.taken += 1;
    for (const item of items) addItem(letter, item, { attempt, now }, request, counts);
  } else {
    const [first] = items;
    const code = first === undefined || isTaken(first) ? letter.code : first.refusal.code;
    counts.refused[code] = (counts.refused[code] ?? 0) + 1;
  }
  request.records.push(replayEvent(letter, { attempt, taken }, now));
  request.tallyKeys.push(NO_TALLY);
}

function addItem(
  letter: StoredDeadLetter,
  item: Examined,
  { attempt, now: received }: { attempt: number; now: number },
  request: AppendRequest,
  counts: ReplayCounts,
): void {
  const { tenant, topic } = letter;
  const { device, type, typeVersion } = item;
  if (isTaken(item)) {
    const { ts, seq, values } = item;
    request.records.push(
      encodeRecord({
        ...{ kind: 'reading', tenant, device, type, ts, received },
        ...(seq !== undefined && { seq }),
        ...{ values, attempt },
      }),
    );
    request.tallyKeys.push(tallyKey(tenant, device, received, 'reading', ''));
    counts.readings += 1;
    return;
  }
  const { refusal, payload } = item;
  request.records.push(
    encodeRecord({
      ...{ kind: 'deadLetter', tenant, device, type, ...(typeVersion && { typeVersion }) },
      ...{ received, attempt, ...refusal, topic },
      ...{ payload: payload.toString('base64'), payloadBytes: payload.length },
    }),
  );
  request.tallyKeys.push(tallyKey(tenant, device, received, 'deadLetter', refusal.code));
  counts.newLetters += 1;
}

function replayEvent(
  letter: StoredDeadLetter,
  outcome: Pick<LetterReplay, 'attempt' | 'taken'>,
  now: number,
): string {
  const { tenant, device, partition, offset, received, code, type, typeVersion } = letter;
  const data: LetterReplay = {
    ...{ partition, offset, received, code, type, ...(typeVersion && { typeVersion }) },
    ...outcome,
  };
  const event = 'letterReplayed';
  return encodeRecord({ kind: 'event', tenant, device, received: now, event, data });
}

function add(to: ReplayCounts, more: ReplayCounts): void {
  to.letters += more.letters;
  to.taken += more.taken;
  to.givenUp += more.givenUp;
  to.readings += more.readings;
  to.newLetters += more.newLetters;
  for (const key of ['refused', 'unreadable'] as const) {
    for (const [code, count] of Object.entries(more[key])) {
      to[key][code] = (to[key][code] ?? 0) + count;
    }
  }
}

export interface ReplayStatus {
  id: string;
  tenant: string;
  state: 'running' | 'done' | 'stopped' | 'failed';
  /** Why it failed. */
  reason: string;
  /** ms since the epoch; `endedAt` is null while it runs. */
  startedAt: number;
  endedAt: number | null;
  /** Letters a second, at most. */
  rate: number;
  counts: ReplayCounts;
}

const RUNNING_MAX = 4;
const KEPT_MAX = 100;

/** The replays of this process: one at a time for each tenant. They end with the process. */
export class Replays {
  private readonly all = new Map<string, { status: ReplayStatus; stop: AbortController }>();
  private readonly ended = new Set<Promise<void>>();
  private nextId = 1;

  /** Throws REPLAY_RUNNING. */
  start(options: Omit<ReplayOptions, 'signal'>): ReplayStatus {
    const { tenant } = options.selection;
    const running = [...this.all.values()].filter(({ status }) => status.state === 'running');
    const own = running.find(({ status }) => status.tenant === tenant);
    if (own !== undefined || running.length >= RUNNING_MAX) {
      const what =
        own === undefined
          ? `${RUNNING_MAX} replays of dead letters run already.`
          : `Replay ${own.status.id} of the tenant's dead letters runs already.`;
      throw new SpillwayError('REPLAY_RUNNING', what);
    }
    const startedAt = options.clock.now();
    const id = `${startedAt.toString(36)}-${this.nextId++}`;
    const status: ReplayStatus = {
      ...{ id, tenant, state: 'running', reason: '', startedAt, endedAt: null },
      ...{ rate: options.rate, counts: noCounts() },
    };
    const stop = new AbortController();
    this.all.set(id, { status, stop });
    this.forget();
    const end = (state: ReplayStatus['state'], reason = '') => {
      Object.assign(status, { state, reason, endedAt: options.clock.now() });
    };
    const run = replayLetters({ ...options, signal: stop.signal }, status.counts).then(
      () => end('done'),
      (error: unknown) => {
        if (stop.signal.aborted) end('stopped');
        else end('failed', error instanceof Error ? error.message : String(error));
      },
    );
    this.ended.add(run);
    void run.finally(() => this.ended.delete(run));
    return status;
  }

  get(id: string): ReplayStatus | undefined {
    return this.all.get(id)?.status;
  }

  list(tenant: string | undefined): ReplayStatus[] {
    return [...this.all.values()]
      .map(({ status }) => status)
      .filter((status) => tenant === undefined || status.tenant === tenant)
      .reverse();
  }

  stop(id: string): void {
    this.all.get(id)?.stop.abort(new Error('stopped'));
  }

  async close(): Promise<void> {
    for (const { stop } of this.all.values()) stop.abort(new Error('stopped'));
    await Promise.all(this.ended);
  }

  private forget(): void {
    for (const [id, { status }] of this.all) {
      if (this.all.size <= KEPT_MAX) return;
      if (status.state !== 'running') this.all.delete(id);
    }
  }
}
