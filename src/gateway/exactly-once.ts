import { type Answer, isRefusal } from './mqtt5/answer.ts';

/** `answer`: what the PUBREC says besides, where it says anything. */
export type Settle = (error: Error | null, answer?: Answer) => void;

/** What is known of a client's QoS 2 publishes, by message id. */
export interface IncomingPublishes {
  /** Durable, and not released yet. */
  incoming: { has(messageId: number): boolean };
  /** Reason codes of those of them that were refused. */
  refused: Map<number, number>;
  /** Those that wait for their commit, with who waits for the same. */
  arriving: Map<number, Settle[]>;
}

/**
 * Takes a QoS 2 publish unless it is a repeated one, which is answered like the first. The broker's hook runs
 * before Aedes itself recognises that, and Aedes knows nothing of those that still wait for their commit
 * [MQTT-4.3.3-2].
 */
export function takeOnce(
  { incoming, refused, arriving }: IncomingPublishes,
  messageId: number,
  ingest: (settle: Settle) => void,
  settle: Settle,
): void {
  if (incoming.has(messageId)) {
    const reasonCode = refused.get(messageId);
    setImmediate(settle, null, reasonCode === undefined ? undefined : { reasonCode, reason: '' });
    return;
  }
  const waiting = arriving.get(messageId);
  if (waiting !== undefined) {
    waiting.push(settle);
    return;
  }
  const repeats: Settle[] = [];
  arriving.set(messageId, repeats);
  ingest((error, answer) => {
    arriving.delete(messageId);
    if (isRefusal(answer)) refused.set(messageId, answer.reasonCode);
    else refused.delete(messageId);
    settle(error, answer);
    for (const repeat of repeats) repeat(error, answer);
  });
}
