import { ANSWER_MARGIN_MS, type Exchange, encoded } from './wire.ts';
import { WireReader, WireWriter } from './wire-buffer.ts';

/** One batch on its way to a partition. */
export interface PartitionBatch {
  topic: string;
  partition: number;
  bytes: Buffer;
}

export interface PartitionAnswer {
  topic: string;
  partition: number;
  errorCode: number;
  baseOffset: number;
}

const ALL_REPLICAS = -1;

/** Produce, version 7 (Kafka 2.1, the first one that takes zstd), acknowledged by all in-sync replicas. */
export function produceRequest(
  batches: readonly PartitionBatch[],
  timeoutMs: number,
): Exchange<{ answers: PartitionAnswer[] }> {
  const byTopic = Map.groupBy(batches, (batch) => batch.topic);
  return {
    request: {
      apiKey: 0,
      apiVersion: 7,
      apiName: 'Produce',
      encode: async () => {
        const size = batches.reduce((sum, batch) => sum + batch.bytes.length + 128, 256);
        const body = new WireWriter(size);
        body.string(undefined).int16(ALL_REPLICAS).int32(timeoutMs);
        body.array(byTopic, byTopic.size, ([topic, its]) => {
          body.string(topic);
          body.array(its, its.length, (batch) => body.int32(batch.partition).bytes(batch.bytes));
        });
        return encoded(body.done());
      },
    },
    response: {
      decode: async (payload) => {
        const body = new WireReader(payload);
        const answers: PartitionAnswer[] = [];
        body.array(() => {
          const topic = body.string();
          body.array(() => {
            answers.push({
              topic,
              partition: body.int32(),
              errorCode: body.int16(),
              baseOffset: body.int64(),
            });
            body.int64(); // time of the append
            body.int64(); // first kept offset
          });
        });
        return { answers, clientSideThrottleTime: body.int32() };
      },
      parse: async (decoded) => decoded,
    },
    requestTimeout: timeoutMs + ANSWER_MARGIN_MS,
  };
}
