import type { LogRecord, ReadingRecord, ReceivedCount, Value } from '../core/nouns.ts';

/**
 * The wire form of a record: one JSON object on one line, as `docs/log-format.md` documents it.
 * Readings are built from a prefix that is made once for each session, because names are of a
 * character set that needs no escaping; that saves a third of the cost of `JSON.stringify`.
 */
export function readingPrefix(
  tenant: string,
  device: string,
  type: string,
  lane?: ReadingRecord['lane'],
): string {
  const of = lane === undefined ? '' : `"lane":"${lane}",`;
  return `{"kind":"reading","tenant":"${tenant}","device":"${device}","type":"${type}",${of}"ts":`;
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

/** For all but the many: readings on the path go by {@link encodeReading}. */
export function encodeRecord(record: LogRecord): string {
  return JSON.stringify(record);
}

/** Throws SyntaxError when the line is no record. */
export function decodeRecord(line: string): LogRecord {
  return JSON.parse(line) as LogRecord;
}

const HOUR_MS = 3_600_000;

/**
 * Key of the gateways' account. `received` is the record's gateway time, ms, so that this account and
 * the ledger, which is made from the records, cut hours alike. Names cannot hold the separator.
 */
export function tallyKey(
  tenant: string,
  device: string,
  received: number,
  outcome: ReceivedCount['outcome'],
  code: string,
): string {
  return `${Math.floor(received / HOUR_MS) * HOUR_MS}/${tenant}/${device}/${outcome}/${code}`;
}

/** The parts of a {@link tallyKey}. */
export function parseTallyKey(key: string, count: number): ReceivedCount {
  const [hour, tenant = '', device = '', outcome, code = ''] = key.split('/');
  return {
    tenant,
    device,
    hour: Number(hour),
    outcome: outcome as ReceivedCount['outcome'],
    code,
    count,
  };
}

/** Key for records that are no part of the ledger (events). */
export const NO_TALLY = '';
