import type { Publish } from '../ingest.ts';
import { REASON, reasonOfRefusal } from './reasons.ts';

/** What is said with an acknowledgement, beside that it is one. */
export interface Answer {
  reasonCode: number;
  /** In words; empty: none. */
  reason: string;
}

/** Nothing of the message was taken. */
export function isRefusal(answer: Answer | undefined): answer is Answer {
  return answer !== undefined && answer.reasonCode >= REASON.UNSPECIFIED;
}

/**
 * What the acknowledgement of a message says in MQTT 5; undefined: that it was taken. One that was taken in part
 * is a success that names the first part that was not.
 */
export function answerOf({ refusal, takenInPart }: Publish): Answer | undefined {
  if (refusal === undefined) return undefined;
  const { code, message, path, expected, actual } = refusal;
  const where = path ? ` at ${path}` : '';
  const wanted = expected === undefined ? '' : ` Expected ${expected}.`;
  const came = actual === undefined ? '' : ` Came: ${actual}.`;
  return {
    reasonCode: takenInPart === true ? REASON.SUCCESS : reasonOfRefusal(code),
    reason: `${takenInPart === true ? 'in part ' : ''}${code}${where}: ${message}${wanted}${came}`,
  };
}
