import type { Done } from './ingest.ts';

/** What is known of a client's QoS 2 publishes, by message id. */
export interface IncomingPublishes {
  /** Durable, and not released yet. */
  incoming: { has(messageId: number): boolean };
  /** Those that wait for their commit, with who waits for the same. */
  arriving: Map<number, Done[]>;
}

/**
 * Takes a QoS 2 publish unless it is a repeated one. The broker's hook runs before Aedes itself recognises
 * that, and Aedes knows nothing of those that still wait for their commit [MQTT-4.3.3-2].
 */
export function takeOnce(
  { incoming, arriving }: IncomingPublishes,
  messageId: number,
  ingest: (done: Done) => void,
  settle: Done,
): void {
  if (incoming.has(messageId)) {
    setImmediate(settle, null);
    return;
  }
  const waiting = arriving.get(messageId);
  if (waiting !== undefined) {
    waiting.push(settle);
    return;
  }
  const repeats: Done[] = [];
  arriving.set(messageId, repeats);
  ingest((error) => {
    arriving.delete(messageId);
    settle(error);
    for (const repeat of repeats) repeat(error);
  });
}
