/**
 * The properties of a PUBLISH [MQTT5 3.3.2.3], read where they stand: telemetry comes in numbers that a
 * general parser is too slow for. Of them the topic alias matters alone; the others must be well-formed.
 */
export interface PublishProperties {
  /** Where the payload begins; -1: malformed. */
  end: number;
  /** 0: none. */
  alias: number;
}

const TOPIC_ALIAS = 0x23;
const PAIR = -2;
const TEXT = -1;
/** Fixed lengths in bytes, TEXT (two bytes of length) or PAIR of texts. A subscription id is a server's. */
const LENGTHS: Readonly<Record<number, number>> = {
  1: 1, // payload format
  2: 4, // message expiry
  3: TEXT, // content type
  8: TEXT, // response topic
  9: TEXT, // correlation data
  [TOPIC_ALIAS]: 2,
  38: PAIR, // user property
};
const MALFORMED: PublishProperties = { end: -1, alias: 0 };
/** Reused: the caller reads it at once. */
const found: PublishProperties = { end: 0, alias: 0 };

/** `start`: where their length stands; `end`: of the packet. The result is valid until the next call. */
export function readPublishProperties(
  bytes: Buffer,
  start: number,
  end: number,
): Readonly<PublishProperties> {
  found.alias = 0;
  // Nearly always.
  if (bytes[start] === 0 && start < end) {
    found.end = start + 1;
    return found;
  }
  let at = start;
  let length = 0;
  for (let factor = 1; ; factor *= 128) {
    const byte = bytes[at++];
    if (byte === undefined || at > end || factor > 128 ** 3) return MALFORMED;
    length += (byte & 0x7f) * factor;
    if (byte < 0x80) break;
  }
  const stop = at + length;
  if (stop > end) return MALFORMED;
  let seen = 0;
  while (at < stop) {
    const id = bytes[at++] as number;
    const size = LENGTHS[id];
    if (size === undefined) return MALFORMED;
    if (id === TOPIC_ALIAS) {
      // [MQTT5-3.3.2-8] none is 0; twice is an error
      if (seen++ > 0 || at + 2 > stop) return MALFORMED;
      found.alias = bytes.readUInt16BE(at);
      if (found.alias === 0) found.alias = ALIAS_ZERO;
    }
    if (size > 0) at += size;
    else
      for (let texts = size; texts < 0; texts++) {
        if (at + 2 > stop) return MALFORMED;
        at += 2 + bytes.readUInt16BE(at);
      }
  }
  if (at !== stop) return MALFORMED;
  found.end = stop;
  return found;
}

/** An alias of 0 is larger than all that are allowed. */
const ALIAS_ZERO = 0x1_0000;
