import { compress, type WrittenCodec } from './codecs.ts';
import type { Shipment } from './producer.ts';
import { BATCH_OVERHEAD_BYTES, RecordWriter } from './record-batch.ts';
import { NUMBER, RECEIVED, type Route, type Router } from './routing.ts';
import { fullName, partitionNumber, type TopicName } from './topics.ts';

const NAMES = [RECEIVED, NUMBER];
const LOT_BYTES = 16_384;

interface Entry {
  line: string;
  number: number;
  route: Route;
  received: string;
}

/** Records of one partition that become one batch. */
export class Lot {
  readonly partitionNumber: number;
  readonly route: Route;
  readonly entries: Entry[] = [];
  private writer = new RecordWriter(LOT_BYTES);

  constructor(route: Route) {
    this.route = route;
    this.partitionNumber = partitionNumber(route.topic, route.partition);
  }

  add(entry: Entry): number {
    const before = this.writer.bytes;
    this.entries.push(entry);
    const texts = [entry.received, String(entry.number)];
    this.writer.add(entry.route.key, entry.line, entry.route.headers, NAMES, texts);
    return this.writer.bytes - before;
  }

  /** Compresses; to be called once. */
  shipment(prefix: string, codec: WrittenCodec): Shipment {
    const { topic, partition } = this.route;
    return {
      topic: fullName(prefix, topic as TopicName),
      partition,
      codec,
      records: compress(this.writer.records, codec),
      count: this.entries.length,
    };
  }

  /** Two lots with the same records in the same order; for lots of two or more. */
  halves(): [Lot, Lot] {
    const middle = this.entries.length >> 1;
    const halves: [Lot, Lot] = [new Lot(this.route), new Lot(this.route)];
    this.entries.forEach((entry, i) => {
      halves[i < middle ? 0 : 1].add(entry);
    });
    return halves;
  }
}

export function batchBytes(shipment: Shipment): number {
  return shipment.records.length + BATCH_OVERHEAD_BYTES;
}

/** What is sent in one go: consecutive records of the spool, sorted into the batches of partitions. */
export class Parcel {
  private readonly router: Router;
  readonly lots = new Map<number, Lot>();
  /** When the first record came, by the monotonic clock, ms. */
  since = performance.now();
  /** Offset of the spool behind the last record. */
  endOffset = 0;
  records = 0;
  /** Before compression. */
  bytes = 0;
  /** Least gateway time of a record, ms. */
  oldest = Number.POSITIVE_INFINITY;

  constructor(router: Router) {
    this.router = router;
  }

  add(line: string, number: number): void {
    const route = this.router.route(line);
    const key = partitionNumber(route.topic, route.partition);
    let lot = this.lots.get(key);
    if (lot === undefined) {
      lot = new Lot(route);
      this.lots.set(key, lot);
    }
    this.bytes += lot.add({ line, number, route, received: this.router.received });
    const received = Number(this.router.received);
    if (received < this.oldest) this.oldest = received;
    this.records += 1;
    this.endOffset = number + 1;
  }
}
