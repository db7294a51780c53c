import kafkajs, { type PartitionMetadata } from 'kafkajs';
import type { LogRecord } from '../../core/nouns.ts';
import { encodeHeaders, encodeText, type RecordHeaders } from './record-batch.ts';
import type { LogTopic } from './topics.ts';

/** Version of the value's form; `docs/kafka.md` documents it. */
const SCHEMA_VERSION = '1';
const CODEC = 'json';

/** Headers whose values differ from record to record; the encoded names are what readers look for. */
export const RECEIVED = encodeText('received');
export const NUMBER = encodeText('number');
export const SOURCE = encodeText('source');

/** Where the records of one device and kind go, and what they have in common. */
export interface Route {
  topic: LogTopic;
  partition: number;
  key: Buffer;
  headers: RecordHeaders;
}

const ROUTES_MAX = 50_000;
const READING = '{"kind":"reading",';
const TS = ',"ts":';
const RECEIVED_FIELD = ',"received":';

const choose = kafkajs.Partitioners.DefaultPartitioner();

/** The partition that the Java clients choose for a key (murmur2), so that others find a device too. */
export function partitionOf(key: string | Buffer, partitions: number): number {
  const partitionMetadata = Array.from({ length: partitions }, (_, partitionId) => ({
    partitionId,
    leader: 0,
  })) as PartitionMetadata[];
  return choose({ topic: '', partitionMetadata, message: { key, value: null } });
}

/** Finds a record's route by its text. 0.2 µs of CPU for a reading of a known device. */
export class Router {
  private readonly source: string;
  private readonly partitions: (topic: LogTopic) => number;
  private readonly routes = new Map<string, Route>();
  /** `received` of the record that was routed last, as it stands in its text. */
  received = '';

  constructor(source: string, partitions: (topic: LogTopic) => number) {
    this.source = source;
    this.partitions = partitions;
  }

  /** Throws SyntaxError when the line is no record. */
  route(line: string): Route {
    // `log/record.ts` writes a reading's fields in this order, and names need no escaping.
    if (line.startsWith(READING)) {
      const prefixEnd = line.indexOf(TS, READING.length);
      const receivedAt = line.indexOf(RECEIVED_FIELD, prefixEnd) + RECEIVED_FIELD.length;
      const receivedEnd = line.indexOf(',', receivedAt);
      if (prefixEnd > 0 && receivedAt > prefixEnd + TS.length && receivedEnd < receivedAt + 20) {
        this.received = line.slice(receivedAt, receivedEnd);
        const prefix = line.slice(0, prefixEnd);
        return this.routes.get(prefix) ?? this.learn(prefix, JSON.parse(line) as LogRecord);
      }
    }
    const record = JSON.parse(line) as LogRecord;
    this.received = String(record.received);
    const type = 'type' in record ? record.type : '';
    const topic = topicOf(record);
    const name = `${topic}/${record.kind}/${record.tenant}/${record.device}/${type}`;
    return this.routes.get(name) ?? this.learn(name, record);
  }

  private learn(name: string, record: LogRecord): Route {
    const topic = topicOf(record);
    const key = `${record.tenant}/${record.device}`;
    const fixed: [string, string][] = [
      ['tenant', record.tenant],
      ...('type' in record ? [['type', record.type] as [string, string]] : []),
      ['schema', SCHEMA_VERSION],
      ['codec', CODEC],
      ['source', this.source],
    ];
    const route: Route = {
      topic,
      partition: partitionOf(key, this.partitions(topic)),
      key: Buffer.from(key),
      headers: { fixed: encodeHeaders(fixed), fixedCount: fixed.length },
    };
    if (this.routes.size >= ROUTES_MAX) this.routes.clear();
    this.routes.set(name, route);
    return route;
  }
}

function topicOf(record: LogRecord): LogTopic {
  if (record.kind === 'reading') return record.lane === 'backfill' ? 'backfill' : 'readings';
  return record.kind === 'event' ? 'presence' : 'dead-letters';
}
