import type { DeadLetterRecord, EventRecord, LogRecord, ShedRecord, Value } from '../core/nouns.ts';

/**
 * The wire form of a record: one JSON object on one line, as `docs/log-format.md` documents it.
 * Readings are built from a prefix that is made once for each session, because names are of a
 * character set that needs no escaping; that saves a third of the cost of `JSON.stringify`.
 */
export function readingPrefix(tenant: string, device: string, type: string): string {
  return `{"kind":"reading","tenant":"${tenant}","device":"${device}","type":"${type}","ts":`;
}

/** `prefix` of {@link readingPrefix}; times in ms since the epoch. */
export function encodeReading(
  prefix: string,
  ts: number,
  received: number,
  seq: number | undefined,
  values: Record<string, Value>,
): string {
  const json = JSON.stringify(values);
  return seq === undefined
    ? `${prefix}${ts},"received":${received},"values":${json}}`
    : `${prefix}${ts},"received":${received},"seq":${seq},"values":${json}}`;
}

export function encodeRecord(record: DeadLetterRecord | ShedRecord | EventRecord): string {
  return JSON.stringify(record);
}

/** Throws SyntaxError when the line is no record. */
export function decodeRecord(line: string): LogRecord {
  return JSON.parse(line) as LogRecord;
}

/** Key of the gateways' account; names cannot hold the separator. */
export function tallyKey(
  tenant: string,
  device: string,
  outcome: 'reading' | 'deadLetter' | 'shed',
  code: string,
): string {
  return `${tenant}/${device}/${outcome}/${code}`;
}

/** Key for records that are no part of the ledger (events). */
export const NO_TALLY = '';
