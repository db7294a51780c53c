import type { Examined } from '../../gateway/contract.ts';
import type { AppendRequest } from '../../log/contract.ts';
import type { DeadLetterQuery } from '../../store/contract.ts';

/** Dead letters as something to work on: what to work on, and what is needed for it. */

/** Resolves when the records are durable. Rejects with LOG_FULL and LOG_SATURATED when they are not taken now. */
export type Append = (request: AppendRequest) => Promise<void>;

export interface Selection extends DeadLetterQuery {
  /** These alone. */
  letters?: readonly LetterId[];
}

/** A letter's place: its day in the store, then its place in the log. */
export interface LetterId {
  received: number;
  partition: number;
  offset: number;
}

/** `<received>-<partition>-<offset>` */
export function formatLetterId({ received, partition, offset }: LetterId): string {
  return `${received}-${partition}-${offset}`;
}

/** Undefined for a text that is no id. */
export function parseLetterId(text: string): LetterId | undefined {
  const match = /^(\d{1,15})-(\d{1,6})-(\d{1,16})$/.exec(text);
  if (match === null) return undefined;
  const [received = 0, partition = 0, offset = 0] = match.slice(1).map(Number);
  return { received, partition, offset };
}

export function isTaken(one: Examined): one is Extract<Examined, { ts: number }> {
  return 'values' in one;
}
