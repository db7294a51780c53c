import type { DeadLetterRecord, Refusal, Values } from '../core/nouns.ts';

/** What others may ask of the gateway's checks. Types only. */

/** A dead letter as far as it takes to look at it again. */
export type Letter = Omit<DeadLetterRecord, 'kind' | 'message'>;

/** What the gateway would make of one reading of a letter now. */
export type Examined = { device: string; type: string; typeVersion?: string } & (
  | { ts: number; seq: number | undefined; values: Values }
  | { refusal: Refusal; payload: Buffer }
);

/**
 * Why a letter can't be looked at again: only the beginning of its payload was kept, nothing was, or it
 * was no telemetry of the device.
 */
export type Unreadable = 'PAYLOAD_CUT' | 'PAYLOAD_GONE' | 'NO_TELEMETRY';

export type Examination = { items: Examined[] } | { unreadable: Unreadable };

/** Throws what the directory throws. */
export type Examine = (letter: Letter) => Examination;
