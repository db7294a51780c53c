import type { Publish } from '../ingest.ts';
import type { Answer } from './dialect.ts';
import { REASON, reasonOfRefusal } from './reasons.ts';

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
