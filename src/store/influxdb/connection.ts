import { Agent as HttpAgent } from 'node:http';
import { Agent as HttpsAgent } from 'node:https';
import { HttpError, InfluxDB, type Transport } from '@influxdata/influxdb-client';
import { SpillwayError } from '../../core/errors.ts';
import { type BackoffOptions, Breaker, sleep } from './breaker.ts';
import { InfluxQueryError, InfluxUnavailableError, messageOf, verdictOf } from './errors.ts';

export interface Request {
  method: 'GET' | 'POST';
  /** With its query, beginning with `/`. */
  path: string;
  body?: string | Buffer;
  headers?: Record<string, string>;
  /** The only status that is success; another one may come from a proxy that swallowed the request. */
  status: number;
  /** Called for each piece of the answer; what it throws ends the request. */
  onData?: (piece: Uint8Array) => void;
}

export interface ConnectionOptions {
  url: string;
  token: string;
  /** Sockets to the server. */
  socketsMax: number;
  /** A request that gives no sign of an answer for longer is tried again, ms. */
  attemptTimeoutMs: number;
  /** After so much trying a call throws, ms. */
  giveUpMs: number;
  backoff: BackoffOptions;
  /** Told of each failed attempt. */
  onRetry: (error: unknown, waitMs: number) => void;
}

type Outcome<T> = { value: T } | { error: unknown };

interface Flight<T> {
  outcome: Promise<Outcome<T>>;
  abort: () => void;
  /** When it began or a piece of its answer came last, by the monotonic clock, ms. */
  signAt: number;
}

/** Sends a request as part of an attempt, which {@link sign} tells of pieces of the answer. */
type Attempt<T> = (signal: AbortSignal, sign: () => void) => Promise<T>;

/** Attempts of one write that may be under way at once. */
const FLIGHTS_MAX = 2;

/**
 * HTTP requests to one InfluxDB, repeated until they succeed, are refused, or time is up.
 *
 * A write whose answer is late is not abandoned: a paused server executes what lies in its sockets when
 * it goes on, and a late old write must not overwrite a newer one of the same series and time. So a second
 * attempt goes beside it, and a call ends only after all of its attempts have ended, or when the server
 * has answered one and left another one unanswered for `attemptTimeoutMs` more.
 */
export class Connection {
  private readonly options: ConnectionOptions;
  private readonly transport: Transport;
  private readonly agent: HttpAgent;
  private readonly closing = new AbortController();
  private readonly breakers: { write: Breaker; query: Breaker };

  constructor(options: ConnectionOptions) {
    const { url, token, socketsMax, backoff } = options;
    this.options = options;
    const Agent = url.startsWith('https:') ? HttpsAgent : HttpAgent;
    this.agent = new Agent({ keepAlive: true, maxSockets: socketsMax, scheduling: 'lifo' });
    // Time limits are kept here: the client's leaves the request running behind our back.
    this.transport = new InfluxDB({
      url,
      token,
      timeout: 0,
      transportOptions: { agent: this.agent },
    }).transport;
    this.breakers = { write: new Breaker(backoff), query: new Breaker(backoff) };
  }

  /**
   * Throws HttpError when the server refuses the data, else InfluxUnavailableError. `admit` is asked right
   * before each attempt; what it throws ends the call.
   */
  async write(request: Request, admit?: () => Promise<void>): Promise<void> {
    await this.repeat(this.breakers.write, true, async (signal, sign) => {
      await admit?.();
      await this.send(request, signal, sign);
    });
  }

  /** `attempt` is called anew for each attempt. Throws HttpError, InfluxUnavailableError and what the attempt throws. */
  query<T>(attempt: (send: (request: Request) => Promise<void>) => Promise<T>): Promise<T> {
    return this.repeat(this.breakers.query, false, (signal, sign) =>
      attempt((request) => this.send(request, signal, sign)),
    );
  }

  /** Ends all requests; their calls reject. */
  close(): void {
    this.closing.abort(new InfluxUnavailableError('The store is closed'));
    this.agent.destroy();
  }

  private async repeat<T>(breaker: Breaker, lingers: boolean, attempt: Attempt<T>): Promise<T> {
    const { attemptTimeoutMs, giveUpMs, onRetry } = this.options;
    const deadline = performance.now() + giveUpMs;
    const flights = new Set<Flight<T>>();
    try {
      for (let attempts = 0; ; attempts += 1) {
        if (attempts > 0 && performance.now() > deadline) throw breaker.unavailable();
        if (flights.size < FLIGHTS_MAX) {
          await breaker.enter(deadline, this.closing.signal);
          flights.add(takeOff(attempt, this.closing.signal));
        }
        const landed = await earliest(flights, attemptTimeoutMs, this.closing.signal);
        if (landed === undefined) {
          const late = new Error(`InfluxDB gave no answer within ${attemptTimeoutMs} ms`);
          onRetry(late, breaker.failed(late));
          if (!lingers || flights.size >= FLIGHTS_MAX) abortOldest(flights);
          continue;
        }
        if ('value' in landed) {
          breaker.succeeded();
          return landed.value;
        }
        const { error } = landed;
        const verdict = verdictOf(error);
        if (verdict === 'again' && !isOurs(error)) {
          onRetry(error, breaker.failed(error));
          continue;
        }
        breaker.left();
        if (verdict !== 'denied') throw error;
        throw new InfluxUnavailableError(messageOf(error), { cause: error });
      }
    } finally {
      await allLanded(flights, attemptTimeoutMs, this.closing.signal);
    }
  }

  private send(request: Request, signal: AbortSignal, sign: () => void): Promise<void> {
    const { method, path, body = '', headers = {}, status, onData } = request;
    return new Promise((resolve, reject) => {
      let answered: number | undefined;
      this.transport.send(
        path,
        // The types ask for text, but what is sent is `Buffer.from(body)`, which takes bytes as well.
        body as string,
        { method, headers, signal },
        {
          responseStarted: (_, statusCode) => {
            answered = statusCode;
            sign();
          },
          next: (piece) => {
            sign();
            try {
              onData?.(piece);
            } catch (error) {
              reject(error);
            }
          },
          error: reject,
          complete: () => {
            if (answered === status) resolve();
            else reject(new HttpError(answered ?? 0, `expected ${status}`));
          },
        },
      );
    });
  }
}

/** Thrown by the reader of an answer: that came, so another attempt would get the same. */
function isOurs(error: unknown): boolean {
  return error instanceof SpillwayError || error instanceof InfluxQueryError;
}

function takeOff<T>(attempt: Attempt<T>, closing: AbortSignal): Flight<T> {
  const own = new AbortController();
  const abort = (): void => own.abort(closing.reason);
  closing.addEventListener('abort', abort, { once: true });
  let signAt = performance.now();
  const sign = (): void => {
    signAt = performance.now();
  };
  const outcome = attempt(own.signal, sign).then(
    (value): Outcome<T> => ({ value }),
    (error: unknown): Outcome<T> => {
      own.abort();
      return { error };
    },
  );
  void outcome.then(() => closing.removeEventListener('abort', abort));
  return {
    outcome,
    abort,
    get signAt() {
      return signAt;
    },
  };
}

/**
 * The first outcome, whose flight is over then; undefined when there is none, and from now on no sign of
 * one for `ms`.
 */
async function earliest<T>(
  flights: Set<Flight<T>>,
  ms: number,
  closing: AbortSignal,
): Promise<Outcome<T> | undefined> {
  const began = performance.now();
  const waiting = new AbortController();
  const signal = AbortSignal.any([closing, waiting.signal]);
  const landings = [...flights].map(async (flight) => {
    const outcome = await flight.outcome;
    return { flight, outcome };
  });
  const silence = async (): Promise<undefined> => {
    for (;;) {
      const last = Math.max(began, ...[...flights].map(({ signAt }) => signAt));
      const left = last + ms - performance.now();
      if (left <= 0) return undefined;
      await sleep(left, signal);
    }
  };
  const timeout = silence().catch((error: unknown) => {
    if (closing.aborted) throw error;
    return undefined;
  });
  try {
    const landed = await Promise.race([...landings, timeout]);
    if (landed === undefined) return undefined;
    flights.delete(landed.flight);
    return landed.outcome;
  } finally {
    waiting.abort();
  }
}

function abortOldest<T>(flights: Set<Flight<T>>): void {
  for (const flight of flights) {
    flight.abort();
    flights.delete(flight);
    return;
  }
}

/** Waits until all have ended, and ends those that have not in time. */
async function allLanded<T>(
  flights: Set<Flight<T>>,
  ms: number,
  closing: AbortSignal,
): Promise<void> {
  if (flights.size === 0) return;
  const all = Promise.all([...flights].map(({ outcome }) => outcome));
  const waiting = new AbortController();
  const timeout = sleep(ms, AbortSignal.any([closing, waiting.signal])).catch(() => undefined);
  await Promise.race([all, timeout]);
  waiting.abort();
  for (const flight of flights) flight.abort();
}
