import { hostname } from 'node:os';
import type { Logger } from 'pino';
import type { Config } from '../config/schema.ts';
import type { LiveStatus } from '../ops/counters.ts';
import type { ProcessStatus } from '../ops/whole-status.ts';

/** How often a process says how it is, and after what silence the others take it for gone, ms. */
const TELL_MS = 2_000;
const GONE_MS = 10_000;
/** A console is no place for more; the others are still counted by Prometheus. */
const PROCESSES_MAX = 1_000;

export interface Processes {
  /** The others, as they said last. */
  others(): ProcessStatus[];
  close(): Promise<void>;
}

/**
 * Tells the other processes how this one is, and hears how they are. `id`: its own for good, so that one
 * that starts again takes its old place. Kafka may be away.
 */
export function shareStatus(
  config: Config,
  logger: Logger,
  id: string,
  status: () => LiveStatus,
): Processes {
  const closing = new AbortController();
  const opening = import('../engines/kafka.ts').then(({ openTable }) =>
    openTable(config, 'processes', {
      logger: logger.child({ part: 'processes' }),
      signal: closing.signal,
    }),
  );
  let table: Awaited<typeof opening> | undefined;
  opening.then(
    (opened) => {
      table = opened;
    },
    (err: unknown) => {
      if (!closing.signal.aborted) logger.error({ err }, 'the other processes are not seen');
    },
  );
  let telling: Promise<unknown> | undefined;
  const tell = () => {
    // While Kafka is away there is one that waits, not one for each interval.
    if (table === undefined || telling !== undefined) return;
    const own: ProcessStatus = { id, host: hostname(), at: Date.now(), status: status() };
    telling = table
      .put(id, own)
      .catch(() => {})
      .finally(() => {
        telling = undefined;
      });
  };
  const timer = setInterval(tell, TELL_MS);
  return {
    others() {
      const found: ProcessStatus[] = [];
      for (const [key, value] of table?.entries() ?? []) {
        const told = value as ProcessStatus;
        if (key === id || found.length >= PROCESSES_MAX) continue;
        if (typeof told?.at === 'number' && told.at > Date.now() - GONE_MS) found.push(told);
      }
      return found;
    },
    async close() {
      clearInterval(timer);
      closing.abort();
      await (await opening.catch(() => undefined))?.close();
    },
  };
}
