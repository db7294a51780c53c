import { crc32c } from './crc32c.ts';

/**
 * Kafka's record batch, version 2 (KIP-98), the only form that brokers still write:
 *
 *   0 baseOffset i64 │ 8 length i32 │ 12 leaderEpoch i32 │ 16 magic i8 = 2 │ 17 crc u32
 *   21 attributes i16 │ 23 lastOffsetDelta i32 │ 27 baseTimestamp i64 │ 35 maxTimestamp i64
 *   43 producerId i64 │ 51 producerEpoch i16 │ 53 baseSequence i32 │ 57 count i32 │ 61 records, compressed
 *
 * `length` counts from byte 12, `crc` (CRC-32C) from byte 21. A record, before compression:
 *
 *   length │ attributes i8 │ timestampDelta │ offsetDelta │ keyLength key │ valueLength value
 *   │ headerCount (nameLength name valueLength value)*      lengths and deltas are zigzag varints
 */
const HEADER_BYTES = 61;
const MAGIC = 2;

export interface BatchStamp {
  producerId: bigint;
  producerEpoch: number;
  baseSequence: number;
}

/** The whole batch around `records`, which are compressed as `attributes` says. `timestamp` in ms. */
export function encodeBatch(
  records: Buffer,
  count: number,
  attributes: number,
  timestamp: number,
  stamp: BatchStamp,
): Buffer {
  const batch = Buffer.allocUnsafe(HEADER_BYTES + records.length);
  batch.writeBigInt64BE(0n, 0);
  batch.writeInt32BE(batch.length - 12, 8);
  batch.writeInt32BE(-1, 12);
  batch.writeInt8(MAGIC, 16);
  batch.writeInt16BE(attributes, 21);
  batch.writeInt32BE(count - 1, 23);
  batch.writeBigInt64BE(BigInt(timestamp), 27);
  batch.writeBigInt64BE(BigInt(timestamp), 35);
  batch.writeBigInt64BE(stamp.producerId, 43);
  batch.writeInt16BE(stamp.producerEpoch, 51);
  batch.writeInt32BE(stamp.baseSequence, 53);
  batch.writeInt32BE(count, 57);
  records.copy(batch, HEADER_BYTES);
  batch.writeUInt32BE(crc32c(batch.subarray(21)), 17);
  return batch;
}

/** How many bytes a batch has beside its records. */
export const BATCH_OVERHEAD_BYTES = HEADER_BYTES;

/** Names and values of a record's headers, encoded once and used for many records. */
export function encodeHeaders(headers: readonly (readonly [string, string])[]): Buffer {
  return Buffer.concat(headers.flatMap(([name, value]) => [encodeText(name), encodeText(value)]));
}

/** A length and the text in UTF-8. */
export function encodeText(text: string): Buffer {
  const bytes = Buffer.from(text);
  const out = Buffer.allocUnsafe(varintSize(bytes.length) + bytes.length);
  bytes.copy(out, writeVarint(out, bytes.length, 0));
  return out;
}

/** Zigzag, of a whole number from -2^31 to 2^31 - 1. */
function writeVarint(buffer: Buffer, value: number, at: number): number {
  let rest = ((value << 1) ^ (value >> 31)) >>> 0;
  while (rest > 0x7f) {
    buffer[at++] = (rest & 0x7f) | 0x80;
    rest >>>= 7;
  }
  buffer[at++] = rest;
  return at;
}

function varintSize(value: number): number {
  const zigzag = ((value << 1) ^ (value >> 31)) >>> 0;
  if (zigzag < 0x80) return 1;
  if (zigzag < 0x4000) return 2;
  if (zigzag < 0x200000) return 3;
  return zigzag < 0x10000000 ? 4 : 5;
}

/** Headers that every record of a source has and that differ from record to record, as ASCII texts. */
export interface RecordHeaders {
  /** Encoded by {@link encodeHeaders}, and how many they are. */
  fixed: Buffer;
  fixedCount: number;
}

const NO_HEADERS: RecordHeaders = { fixed: Buffer.alloc(0), fixedCount: 0 };

/** Collects the records of one batch, uncompressed. 0.6 µs of CPU a record of 200 bytes. */
export class RecordWriter {
  private buffer: Buffer;
  private length = 0;
  count = 0;

  constructor(capacityBytes: number) {
    this.buffer = Buffer.allocUnsafeSlow(capacityBytes);
  }

  /** Bytes so far. */
  get bytes(): number {
    return this.length;
  }

  /** The records so far, of this writer's memory: valid until the next one is added. */
  get records(): Buffer {
    return this.buffer.subarray(0, this.length);
  }

  /** `names` are encoded texts, one for each of `texts`, which are ASCII and shorter than 64. */
  add(
    key: Buffer | null,
    value: string | null,
    headers: RecordHeaders = NO_HEADERS,
    names: readonly Buffer[] = [],
    texts: readonly string[] = [],
  ): void {
    const keyLength = key === null ? -1 : key.length;
    const valueLength = value === null ? -1 : Buffer.byteLength(value);
    const headerCount = headers.fixedCount + texts.length;
    let bodyLength =
      2 +
      varintSize(this.count) +
      varintSize(keyLength) +
      Math.max(keyLength, 0) +
      varintSize(valueLength) +
      Math.max(valueLength, 0) +
      varintSize(headerCount) +
      headers.fixed.length;
    for (let i = 0; i < texts.length; i++) {
      bodyLength += (names[i] as Buffer).length + 1 + (texts[i] as string).length;
    }
    this.reserve(bodyLength + 5);
    const { buffer } = this;
    let at = writeVarint(buffer, bodyLength, this.length);
    buffer[at++] = 0;
    buffer[at++] = 0;
    at = writeVarint(buffer, this.count, at);
    at = writeVarint(buffer, keyLength, at);
    if (key !== null) at += key.copy(buffer, at);
    at = writeVarint(buffer, valueLength, at);
    if (value !== null) at += buffer.write(value, at, valueLength, 'utf8');
    at = writeVarint(buffer, headerCount, at);
    at += headers.fixed.copy(buffer, at);
    for (let i = 0; i < texts.length; i++) {
      const text = texts[i] as string;
      at += (names[i] as Buffer).copy(buffer, at);
      at = writeVarint(buffer, text.length, at);
      at += buffer.write(text, at, text.length, 'latin1');
    }
    this.length = at;
    this.count += 1;
  }

  private reserve(bytes: number): void {
    const needed = this.length + bytes;
    if (needed <= this.buffer.length) return;
    const larger = Buffer.allocUnsafeSlow(Math.max(needed, this.buffer.length * 2));
    this.buffer.copy(larger, 0, 0, this.length);
    this.buffer = larger;
  }
}

/** A batch as it came, still compressed. */
export interface RawBatch {
  baseOffset: number;
  lastOffset: number;
  count: number;
  attributes: number;
  /** Of the producer or, by the topic's setting, of the broker, ms since the epoch. */
  timestamp: number;
  /** Where the records begin in `bytes`. */
  bytes: Buffer;
}

const CONTROL = 0x20;

export function isControl(batch: RawBatch): boolean {
  return (batch.attributes & CONTROL) !== 0;
}

/** The records of a batch as they were sent, compressed. */
export function packedRecords(batch: RawBatch): Buffer {
  return batch.bytes.subarray(HEADER_BYTES);
}

/** True when the checksum matches; kafkajs does not look at it. */
export function isIntact(batch: RawBatch): boolean {
  return crc32c(batch.bytes.subarray(21)) === batch.bytes.readUInt32BE(17);
}

/**
 * The batches of a fetch; the last one may be cut off by the fetch's limit and is left out then.
 * Returns undefined when there is something else than batches of version 2.
 */
export function splitBatches(bytes: Buffer): RawBatch[] | undefined {
  const batches: RawBatch[] = [];
  for (let at = 0; at + HEADER_BYTES <= bytes.length; ) {
    const end = at + 12 + bytes.readInt32BE(at + 8);
    if (end > bytes.length) break;
    if (bytes.readInt8(at + 16) !== MAGIC || end < at + HEADER_BYTES) return undefined;
    const baseOffset = Number(bytes.readBigInt64BE(at));
    batches.push({
      baseOffset,
      lastOffset: baseOffset + bytes.readInt32BE(at + 23),
      count: bytes.readInt32BE(at + 57),
      attributes: bytes.readInt16BE(at + 21),
      timestamp: Number(bytes.readBigInt64BE(at + 35)),
      bytes: bytes.subarray(at, end),
    });
    at = end;
  }
  return batches;
}

/** Walks over unpacked records. Throws RangeError where they are damaged. */
export class RecordCursor {
  readonly bytes: Buffer;
  private at = 0;
  private end = 0;
  offsetDelta = 0;
  /** A length of -1 is null. */
  keyStart = 0;
  keyLength = -1;
  valueStart = 0;
  valueLength = -1;
  private headersStart = 0;
  private headerCount = 0;

  constructor(bytes: Buffer) {
    this.bytes = bytes;
  }

  next(): boolean {
    this.at = this.end;
    if (this.at >= this.bytes.length) return false;
    const length = this.varint();
    this.end = this.at + length;
    if (length < 0 || this.end > this.bytes.length) throw new RangeError('a record is cut off');
    this.at += 1;
    this.skipVarint();
    this.offsetDelta = this.varint();
    this.keyLength = this.varint();
    this.keyStart = this.at;
    this.at += Math.max(this.keyLength, 0);
    this.valueLength = this.varint();
    this.valueStart = this.at;
    this.at += Math.max(this.valueLength, 0);
    this.headerCount = this.varint();
    this.headersStart = this.at;
    return true;
  }

  key(): string | null {
    return this.keyLength < 0
      ? null
      : this.bytes.toString('utf8', this.keyStart, this.keyStart + this.keyLength);
  }

  value(): string | null {
    return this.valueLength < 0
      ? null
      : this.bytes.toString('utf8', this.valueStart, this.valueStart + this.valueLength);
  }

  /**
   * Puts the values of the headers with the encoded names `names` into `into`, in the same places; empty
   * where a header is absent.
   */
  headers(names: readonly Buffer[], into: string[]): void {
    into.length = names.length;
    into.fill('');
    this.at = this.headersStart;
    for (let i = 0; i < this.headerCount; i++) {
      const nameStart = this.at;
      const nameLength = this.varint();
      this.at += nameLength;
      const nameEnd = this.at;
      const length = this.varint();
      const valueStart = this.at;
      this.at += Math.max(length, 0);
      if (this.at > this.end) throw new RangeError('a header is cut off');
      for (let n = 0; n < names.length; n++) {
        const name = names[n] as Buffer;
        // Most names differ in their length or first letter, which is cheaper to see than to compare all.
        if (name.length !== nameEnd - nameStart || name[1] !== this.bytes[nameStart + 1]) continue;
        if (this.bytes.compare(name, 0, name.length, nameStart, nameEnd) !== 0) continue;
        into[n] = this.bytes.toString('latin1', valueStart, this.at);
      }
    }
  }

  private varint(): number {
    const { bytes } = this;
    let byte = bytes[this.at++] as number;
    let value = byte & 0x7f;
    for (let shift = 7; byte > 0x7f; shift += 7) {
      if (shift > 28) throw new RangeError('a number is too long');
      byte = bytes[this.at++] as number;
      value |= (byte & 0x7f) << shift;
    }
    return (value >>> 1) ^ -(value & 1);
  }

  private skipVarint(): void {
    while ((this.bytes[this.at++] as number) > 0x7f);
  }
}
