/**
 * Cuts a byte stream into MQTT control packets. Memory is bounded: a packet that has come in part is
 * collected in one buffer of its full size, made when its header is known to be within the limits; of
 * a publish beyond `bufferedMax` only the first `keptMax` bytes are kept and the rest is skipped.
 */
export interface FrameLimits {
  /** Largest body of a packet of this type, or -1 when such a packet must not come now. */
  bodyMax(type: number): number;
  /** Publishes with a longer body are cut. */
  bufferedMax: number;
  /** How much of a cut body is kept. */
  keptMax: number;
}

export interface FrameSink {
  /** False: the next packet, which is of this type, has to wait. */
  ready(type: number): boolean;
  /**
   * A packet is `bytes[start, end)`, its body begins at `body`. `bodyLength` is its length on the wire,
   * larger than `end - body` when it was cut. The bytes are valid during the call only.
   */
  frame(bytes: Buffer, start: number, body: number, end: number, bodyLength: number): void;
  violation(reason: ViolationReason): void;
}

export type ViolationReason =
  | 'PACKET_TOO_LARGE'
  | 'PACKET_MALFORMED'
  | 'PACKET_UNEXPECTED'
  | 'PACKET_TOO_SLOW'
  | 'TOPIC_ALIAS_INVALID'
  | 'SUBSCRIPTION_IDENTIFIER'
  | 'CONNECT_TOO_SLOW';

export const PUBLISH = 3;
const HEADER_BYTES_MAX = 5;
const NOTHING: Buffer = Buffer.alloc(0);

export class FrameReader {
  private readonly limits: FrameLimits;
  private readonly sink: FrameSink;
  /** Bytes that wait until the sink is ready; also the beginning of a header, at most 4 bytes. */
  private rest: Buffer = NOTHING;
  private partial: Buffer | undefined;
  private filled = 0;
  private bodyStart = 0;
  private bodyLength = 0;
  private skip = 0;
  private stopped = false;

  constructor(limits: FrameLimits, sink: FrameSink) {
    this.limits = limits;
    this.sink = sink;
  }

  /** Bytes held here. */
  get buffered(): number {
    return this.rest.length + (this.partial?.length ?? 0);
  }

  /** True while a packet has come in part; what waits for the sink may be whole. */
  get unfinished(): boolean {
    return this.partial !== undefined || this.rest.length > 0;
  }

  /** Handles what is whole; returns false when the sink was not ready and bytes wait here. */
  feed(chunk: Buffer): boolean {
    if (this.stopped) return true;
    const bytes = this.rest.length === 0 ? chunk : append(this.rest, chunk);
    this.rest = NOTHING;
    let position = 0;
    while (position < bytes.length) {
      const first = (this.partial === undefined ? bytes[position] : this.partial[0]) as number;
      if (!this.sink.ready(first >> 4)) {
        this.rest = bytes.subarray(position);
        return false;
      }
      const next =
        this.partial === undefined
          ? this.begin(bytes, position)
          : this.fill(this.partial, bytes, position);
      if (this.stopped) return true;
      if (next < 0) {
        this.rest = Buffer.from(bytes.subarray(position));
        return true;
      }
      position = next;
    }
    return true;
  }

  /** Forgets everything; later bytes are ignored. */
  stop(): void {
    this.stopped = true;
    this.rest = NOTHING;
    this.partial = undefined;
  }

  /** A packet that begins at `start`; returns where to go on, -1 when its header is not whole. */
  private begin(bytes: Buffer, start: number): number {
    let length = 0;
    let body = start + 1;
    for (let factor = 1; ; factor *= 128) {
      // [MQTT-2.2.3] at most four bytes of length
      if (body - start >= HEADER_BYTES_MAX) return this.violate('PACKET_MALFORMED');
      const byte = bytes[body];
      if (byte === undefined) return -1;
      body++;
      length += (byte & 0x7f) * factor;
      if (byte < 0x80) break;
    }
    const type = (bytes[start] as number) >> 4;
    const max = this.limits.bodyMax(type);
    if (max < 0) return this.violate('PACKET_UNEXPECTED');
    if (length > max) return this.violate('PACKET_TOO_LARGE');
    const end = body + length;
    if (end <= bytes.length) {
      this.sink.frame(bytes, start, body, end, length);
      return end;
    }
    const cut = type === PUBLISH && length > this.limits.bufferedMax;
    const size = body - start + (cut ? this.limits.keptMax : length);
    this.partial = Buffer.allocUnsafeSlow(size);
    this.filled = 0;
    this.bodyStart = body - start;
    this.bodyLength = length;
    this.skip = end - start - size;
    return this.fill(this.partial, bytes, start);
  }

  private fill(partial: Buffer, bytes: Buffer, start: number): number {
    const copied = bytes.copy(partial, this.filled, start);
    this.filled += copied;
    let position = start + copied;
    if (this.filled < partial.length) return position;
    const skipped = Math.min(this.skip, bytes.length - position);
    this.skip -= skipped;
    position += skipped;
    if (this.skip > 0) return position;
    this.partial = undefined;
    this.sink.frame(partial, 0, this.bodyStart, partial.length, this.bodyLength);
    return position;
  }

  private violate(reason: ViolationReason): number {
    this.stop();
    this.sink.violation(reason);
    return 0;
  }
}

/** Without a copy when there is nothing to append: a sink that is not ready is asked often. */
function append(rest: Buffer, chunk: Buffer): Buffer {
  return chunk.length === 0 ? rest : Buffer.concat([rest, chunk]);
}
