import { constants, gunzipSync, gzipSync, zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import kafkajs from 'kafkajs';
import { codecMissing, corrupt } from './errors.ts';

/** The low three bits of a batch's attributes. */
export const CODEC_MASK = 0x07;
export const CODECS = { none: 0, gzip: 1, snappy: 2, lz4: 3, zstd: 4 } as const;
/** What we write; all of {@link CODECS} can be read. */
export type WrittenCodec = 'none' | 'gzip' | 'zstd';

/** Kafka's own limit on a batch is 1 MiB by default, compressed; beyond this a batch is not unpacked. */
const UNPACKED_BYTES_MAX = 256 * 2 ** 20;
const LIMIT = { maxOutputLength: UNPACKED_BYTES_MAX };
/** Level 1: on batches of readings 3 is a third slower and saves a tenth of the bytes. */
const ZSTD = { params: { [constants.ZSTD_c_compressionLevel]: 1 } };
const GZIP = { level: 1 };

export function compress(raw: Buffer, codec: WrittenCodec): Buffer {
  if (codec === 'zstd') return zstdCompressSync(raw, ZSTD);
  return codec === 'gzip' ? gzipSync(raw, GZIP) : raw;
}

/** Throws LOG_CORRUPT for a codec that is not known or not installed, and what unpacking throws. */
export async function decompress(packed: Buffer, attributes: number): Promise<Buffer> {
  switch (attributes & CODEC_MASK) {
    case CODECS.none:
      return packed;
    case CODECS.gzip:
      return gunzipSync(packed, LIMIT);
    case CODECS.zstd:
      return zstdDecompressSync(packed, LIMIT);
    case CODECS.snappy:
      return unsnap(packed);
    case CODECS.lz4:
      return unlz4(packed);
    default:
      throw corrupt('a batch', `codec ${attributes & CODEC_MASK} is not known`);
  }
}

/** Loaded when the first such batch comes: nobody who does not have them needs the packages. */
async function load(name: string, codec: string): Promise<Record<string, unknown>> {
  try {
    const loaded = (await import(name)) as Record<string, unknown>;
    return (loaded.default ?? loaded) as Record<string, unknown>;
  } catch (cause) {
    throw codecMissing(codec, cause);
  }
}

type Uncompress = (packed: Uint8Array, bytesMax: number) => Uint8Array;

/** The Java clients frame snappy in blocks (xerial): magic, two versions, then length and block in turn. */
const XERIAL = Buffer.from([0x82, 0x53, 0x4e, 0x41, 0x50, 0x50, 0x59, 0x00]);
const XERIAL_HEADER_BYTES = 16;

async function unsnap(packed: Buffer): Promise<Buffer> {
  const uncompress = (await load('snappyjs', 'snappy')).uncompress as Uncompress;
  if (!packed.subarray(0, XERIAL.length).equals(XERIAL)) {
    return Buffer.from(uncompress(packed, UNPACKED_BYTES_MAX));
  }
  const blocks: Uint8Array[] = [];
  let bytes = 0;
  for (let at = XERIAL_HEADER_BYTES; at < packed.length; ) {
    const length = packed.readUInt32BE(at);
    const block = uncompress(packed.subarray(at + 4, at + 4 + length), UNPACKED_BYTES_MAX - bytes);
    bytes += block.length;
    blocks.push(block);
    at += 4 + length;
  }
  return Buffer.concat(blocks, bytes);
}

async function unlz4(packed: Buffer): Promise<Buffer> {
  const lz4 = await load('lz4js', 'lz4');
  const bytesMax = (lz4.decompressBound as (packed: Uint8Array) => number)(packed);
  if (bytesMax > UNPACKED_BYTES_MAX) throw new RangeError('a batch is too large unpacked');
  // It makes a buffer of this size.
  return Buffer.from((lz4.decompress as Uncompress)(packed, bytesMax));
}

/** For clients of kafkajs itself in this process; it knows gzip only. */
export function registerCodecs(): void {
  kafkajs.CompressionCodecs[kafkajs.CompressionTypes.ZSTD] = () => ({
    compress: (encoder: { buffer: Buffer }) => Promise.resolve(compress(encoder.buffer, 'zstd')),
    decompress: (packed: Buffer) => decompress(packed, CODECS.zstd),
  });
  kafkajs.CompressionCodecs[kafkajs.CompressionTypes.Snappy] = () => ({
    compress: () => Promise.reject(codecMissing('snappy')),
    decompress: (packed: Buffer) => decompress(packed, CODECS.snappy),
  });
  kafkajs.CompressionCodecs[kafkajs.CompressionTypes.LZ4] = () => ({
    compress: () => Promise.reject(codecMissing('lz4')),
    decompress: (packed: Buffer) => decompress(packed, CODECS.lz4),
  });
}
