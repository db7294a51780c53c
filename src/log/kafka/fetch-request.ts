import { ANSWER_MARGIN_MS, type Exchange, encoded } from './wire.ts';
import { WireReader, WireWriter } from './wire-buffer.ts';

export interface FetchFrom {
  topic: string;
  partition: number;
  offset: number;
  bytesMax: number;
}

export interface FetchedPartition {
  topic: string;
  partition: number;
  errorCode: number;
  /** Offset behind the last record that is safely replicated. */
  highWatermark: number;
  /** Record batches, the last of which may be cut off. */
  bytes: Buffer;
}

export interface FetchLimits {
  waitMs: number;
  bytesMin: number;
  bytesMax: number;
}

/** Fetch, version 11 (Kafka 2.3), without a session; uncommitted records of transactions are not left out. */
export function fetchRequest(
  from: readonly FetchFrom[],
  limits: FetchLimits,
): Exchange<{ partitions: FetchedPartition[] }> {
  const byTopic = Map.groupBy(from, (one) => one.topic);
  return {
    request: {
      apiKey: 1,
      apiVersion: 11,
      apiName: 'Fetch',
      encode: async () => {
        const body = new WireWriter(256 + from.length * 64);
        body.int32(-1).int32(limits.waitMs).int32(limits.bytesMin).int32(limits.bytesMax);
        body.int8(0).int32(0).int32(-1); // isolation level, session, its epoch
        body.array(byTopic, byTopic.size, ([topic, its]) => {
          body.string(topic);
          body.array(its, its.length, (one) => {
            body.int32(one.partition).int32(-1).int64(one.offset).int64(-1).int32(one.bytesMax);
          });
        });
        body.int32(0).string('');
        return encoded(body.done());
      },
    },
    response: {
      decode: async (payload) => {
        const body = new WireReader(payload);
        const clientSideThrottleTime = body.int32();
        body.int16(); // error of the session
        body.int32();
        const partitions: FetchedPartition[] = [];
        body.array(() => {
          const topic = body.string();
          body.array(() => {
            const partition = body.int32();
            const errorCode = body.int16();
            const highWatermark = body.int64();
            body.int64(); // last stable offset
            body.int64(); // first kept offset
            body.array(() => body.int64() + body.int64()); // aborted transactions
            body.int32(); // preferred replica
            partitions.push({ topic, partition, errorCode, highWatermark, bytes: body.bytes() });
          });
        });
        return { partitions, clientSideThrottleTime };
      },
      parse: async (decoded) => decoded,
    },
    requestTimeout: limits.waitMs + ANSWER_MARGIN_MS,
  };
}
