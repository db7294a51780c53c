import type { Logger } from 'pino';
import type { Config } from '../config/schema.ts';

/** What processes tell each other at once, about a device; nobody hears what was said before it listened. */
export interface SharedBus {
  /** False when Kafka has not been reached yet, or too much waits for it; rejects when it does not take it. */
  send(tenant: string, device: string, message: Record<string, unknown>): Promise<boolean>;
  close(): Promise<void>;
}

/** A message that took longer than this to get here is not what anybody wants any more, ms. */
const AGE_MAX_MS = 60_000;

/** `hear`: messages of all processes, this one too. Kafka may be away: then nothing is sent or heard. */
export function shareBus(
  config: Config,
  logger: Logger,
  hear: (key: string, message: Record<string, unknown>) => void,
): SharedBus {
  const closing = new AbortController();
  // Commands and questions are for gateways, answers for HTTP.
  const listens = config.roles.includes('gateway') || config.roles.includes('http');
  const opening = import('../engines/kafka.ts').then(({ openCommandBus }) =>
    openCommandBus(config, {
      logger: logger.child({ part: 'commands' }),
      signal: closing.signal,
      ...(listens && {
        onMessage: (key: string, value: string) => {
          const message = readMessage(value);
          if (message !== undefined) hear(key, message);
        },
      }),
    }),
  );
  opening.catch((err: unknown) => {
    if (!closing.signal.aborted) logger.error({ err }, 'commands of other processes are not seen');
  });
  let bus: Awaited<typeof opening> | undefined;
  void opening.then(
    (opened) => {
      bus = opened;
    },
    () => {},
  );
  return {
    async send(tenant, device, message) {
      if (bus === undefined) return false;
      return bus.send(`${tenant}/${device}`, JSON.stringify({ at: Date.now(), ...message }));
    },
    async close() {
      closing.abort();
      await (await opening.catch(() => undefined))?.close();
    },
  };
}

function readMessage(value: string): Record<string, unknown> | undefined {
  try {
    const message: unknown = JSON.parse(value);
    if (typeof message !== 'object' || message === null || !('at' in message)) return undefined;
    const { at } = message;
    return typeof at === 'number' && Date.now() - at <= AGE_MAX_MS ? { ...message } : undefined;
  } catch {
    return undefined;
  }
}
