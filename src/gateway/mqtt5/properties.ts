/**
 * Properties [MQTT5 2.2.2], read where they stand: telemetry comes in numbers that a general parser is too
 * slow for, and none that we know looks whether a property belongs to its packet, or comes twice.
 */
export interface Properties {
  /** Where they end; {@link MALFORMED} or {@link UNEXPECTED}: they break the protocol. */
  end: number;
  /** Topic alias; 0: none. */
  alias: number;
  /** The largest packet that the device takes, bytes. */
  packetBytesMax: number;
}

/** No properties, or not those of this packet. */
export const MALFORMED = -1;
/** Well-formed, and a protocol error: one that comes twice, a flag that is neither 0 nor 1. */
export const UNEXPECTED = -2;

/** How long a property is: a number of bytes, or one of these. */
const FLAG = 1;
const TEXT = -1;
const PAIR = -2;
const VARIABLE = 0;

/** Properties that may come, by their number, and how long each is. */
export type Kinds = Readonly<Record<number, number>>;

const USER_PROPERTY = 0x26;
const MAXIMUM_PACKET_SIZE = 0x27;
const TOPIC_ALIAS = 0x23;
const ANY: Kinds = { [USER_PROPERTY]: PAIR };
const MESSAGE: Kinds = {
  ...ANY,
  1: FLAG, // payload format
  2: 4, // message expiry
  3: TEXT, // content type
  8: TEXT, // response topic
  9: TEXT, // correlation data
};

/** By packet, what a device may send: for a publish a subscription identifier is a server's. */
export const OF_PUBLISH: Kinds = { ...MESSAGE, [TOPIC_ALIAS]: 2 };
export const OF_WILL: Kinds = { ...MESSAGE, 24: 4 }; // will delay
export const OF_CONNECT: Kinds = {
  ...ANY,
  17: 4, // session expiry
  21: TEXT, // authentication method
  22: TEXT, // authentication data
  23: FLAG, // request problem information
  25: FLAG, // request response information
  33: 2, // receive maximum
  34: 2, // topic alias maximum
  [MAXIMUM_PACKET_SIZE]: 4,
};
export const OF_ACKNOWLEDGEMENT: Kinds = { ...ANY, 31: TEXT }; // reason
export const OF_SUBSCRIBE: Kinds = { ...ANY, 11: VARIABLE }; // subscription identifier
export const OF_UNSUBSCRIBE: Kinds = ANY;
export const OF_DISCONNECT: Kinds = { ...ANY, 17: 4, 31: TEXT };

/** Reused: the caller reads it at once. */
const found: Properties = { end: 0, alias: 0, packetBytesMax: 0 };

/** `start`: where their length stands; `end`: of the packet. The result is valid until the next call. */
export function readProperties(
  bytes: Buffer,
  start: number,
  end: number,
  kinds: Kinds,
): Readonly<Properties> {
  found.alias = 0;
  found.packetBytesMax = Number.POSITIVE_INFINITY;
  // Nearly always.
  if (bytes[start] === 0 && start < end) found.end = start + 1;
  else found.end = walk(bytes, start, end, kinds);
  return found;
}

function walk(bytes: Buffer, start: number, end: number, kinds: Kinds): number {
  let at = skipVariable(bytes, start, end);
  if (at < 0) return MALFORMED;
  const stop = at + variableAt(bytes, start);
  if (stop > end) return MALFORMED;
  // By their numbers, which are below 64.
  let seenLow = 0;
  let seenHigh = 0;
  while (at < stop) {
    const id = bytes[at++] as number;
    const size = kinds[id];
    if (size === undefined) return MALFORMED;
    if (id !== USER_PROPERTY) {
      const bit = 1 << (id & 31);
      if (((id < 32 ? seenLow : seenHigh) & bit) !== 0) return UNEXPECTED;
      if (id < 32) seenLow |= bit;
      else seenHigh |= bit;
    }
    const value = at;
    if (size > 0) at += size;
    else if (size === VARIABLE) at = skipVariable(bytes, at, stop);
    else
      for (let texts = size; texts < 0; texts++) {
        if (at + 2 > stop) return MALFORMED;
        at += 2 + bytes.readUInt16BE(at);
      }
    if (at < 0 || at > stop) return MALFORMED;
    if (size === FLAG && (bytes[value] as number) > 1) return UNEXPECTED;
    // [MQTT5-3.3.2-8] none is 0
    if (id === TOPIC_ALIAS) found.alias = bytes.readUInt16BE(value) || ALIAS_ZERO;
    else if (id === MAXIMUM_PACKET_SIZE) found.packetBytesMax = bytes.readUInt32BE(value);
  }
  return at;
}

/** An alias of 0 is larger than all that are allowed. */
const ALIAS_ZERO = 0x1_0000;

/** Where a number of one to four bytes ends; -1: it doesn't, before `end`. */
function skipVariable(bytes: Buffer, start: number, end: number): number {
  for (let at = start; at < Math.min(end, start + 4); at++)
    if ((bytes[at] as number) < 0x80) return at + 1;
  return MALFORMED;
}

function variableAt(bytes: Buffer, start: number): number {
  let value = 0;
  for (let at = start, factor = 1; ; at++, factor *= 128) {
    const byte = bytes[at] as number;
    value += (byte & 0x7f) * factor;
    if (byte < 0x80) return value;
  }
}
