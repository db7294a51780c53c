/** Writes a request body in Kafka's primitive types; grows as needed. */
export class WireWriter {
  private buffer: Buffer;
  private length = 0;

  constructor(capacityBytes: number) {
    this.buffer = Buffer.allocUnsafe(capacityBytes);
  }

  int8(value: number): this {
    this.length = this.room(1).writeInt8(value, this.length);
    return this;
  }

  int16(value: number): this {
    this.length = this.room(2).writeInt16BE(value, this.length);
    return this;
  }

  int32(value: number): this {
    this.length = this.room(4).writeInt32BE(value, this.length);
    return this;
  }

  /** A whole number up to 2^53 - 1. */
  int64(value: number): this {
    this.length = this.room(8).writeBigInt64BE(BigInt(value), this.length);
    return this;
  }

  /** Undefined is null. */
  string(value: string | undefined): this {
    if (value === undefined) return this.int16(-1);
    const bytes = Buffer.byteLength(value);
    this.int16(bytes);
    this.room(bytes).write(value, this.length, bytes, 'utf8');
    this.length += bytes;
    return this;
  }

  bytes(value: Buffer): this {
    this.int32(value.length);
    value.copy(this.room(value.length), this.length);
    this.length += value.length;
    return this;
  }

  array<T>(items: Iterable<T>, count: number, write: (item: T) => void): this {
    this.int32(count);
    for (const item of items) write(item);
    return this;
  }

  done(): Buffer {
    return this.buffer.subarray(0, this.length);
  }

  private room(bytes: number): Buffer {
    const needed = this.length + bytes;
    if (needed > this.buffer.length) {
      const larger = Buffer.allocUnsafe(Math.max(needed, this.buffer.length * 2));
      this.buffer.copy(larger, 0, 0, this.length);
      this.buffer = larger;
    }
    return this.buffer;
  }
}

/** Reads an answer's body. Throws RangeError behind its end. */
export class WireReader {
  private readonly buffer: Buffer;
  private at = 0;

  constructor(buffer: Buffer) {
    this.buffer = buffer;
  }

  int16(): number {
    this.at += 2;
    return this.buffer.readInt16BE(this.at - 2);
  }

  int32(): number {
    this.at += 4;
    return this.buffer.readInt32BE(this.at - 4);
  }

  int64(): number {
    this.at += 8;
    return Number(this.buffer.readBigInt64BE(this.at - 8));
  }

  string(): string {
    const length = this.int16();
    if (length < 0) return '';
    this.at += length;
    return this.buffer.toString('utf8', this.at - length, this.at);
  }

  /** A part of the answer's memory; null is empty. */
  bytes(): Buffer {
    const length = Math.max(0, this.int32());
    if (this.at + length > this.buffer.length) throw new RangeError('an answer is cut off');
    this.at += length;
    return this.buffer.subarray(this.at - length, this.at);
  }

  array<T>(read: () => T): T[] {
    const count = this.int32();
    const items: T[] = [];
    for (let i = 0; i < count; i++) items.push(read());
    return items;
  }
}
