import type { Logger } from 'pino';
import type { Config } from '../config/schema.ts';
import { parseUsername } from '../tenants/passwords.ts';

/** A command that took longer than this to get here is not what anybody wants any more, ms. */
const COMMAND_AGE_MAX_MS = 60_000;

/** Sends to a device that is connected to this process; false when it is not, or does not listen. */
export type SendHere = (tenant: string, device: string, payload: string) => boolean;

export interface Commands {
  /**
   * True when the command was sent to the device, or with Kafka: when it is on its way to whichever
   * gateway has the device, which nobody here can know.
   */
  send(tenant: string, device: string, payload: string): Promise<boolean>;
  close(): Promise<void>;
}

/** Commands to the devices of this process alone. */
export function localCommands(sendHere: SendHere): Commands {
  return {
    send: async (tenant, device, payload) => sendHere(tenant, device, payload),
    close: async () => {},
  };
}

/** Commands to the devices of all gateways. Kafka may be away: then they are not sent. */
export function sharedCommands(config: Config, logger: Logger, sendHere: SendHere): Commands {
  const closing = new AbortController();
  const isGateway = config.roles.includes('gateway');
  const opening = import('../engines/kafka.ts').then(({ openCommandBus }) =>
    openCommandBus(config, {
      logger: logger.child({ part: 'commands' }),
      signal: closing.signal,
      ...(isGateway && {
        onMessage: (key: string, value: string) => deliver(key, value, sendHere),
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
    async send(tenant, device, payload) {
      if (sendHere(tenant, device, payload)) return true;
      if (bus === undefined) return false;
      return bus.send(`${tenant}/${device}`, JSON.stringify({ at: Date.now(), payload }));
    },
    async close() {
      closing.abort();
      await (await opening.catch(() => undefined))?.close();
    },
  };
}

function deliver(key: string, value: string, sendHere: SendHere): void {
  const names = parseUsername(key);
  if (names === undefined) return;
  let message: { at?: unknown; payload?: unknown };
  try {
    message = JSON.parse(value) ?? {};
  } catch {
    return;
  }
  const { at, payload } = message;
  if (typeof payload !== 'string' || typeof at !== 'number') return;
  if (Date.now() - at > COMMAND_AGE_MAX_MS) return;
  sendHere(names.tenant, names.device, payload);
}
