import type { DeadLetterRecord, LogRecord } from '../../core/nouns.ts';
import { encodeRecord } from '../record.ts';
import type { WrittenCodec } from './codecs.ts';
import { PROTOCOL } from './errors.ts';
import { batchBytes, Lot, type Parcel } from './parcel.ts';
import type { Producer, Shipment } from './producer.ts';
import { Router } from './routing.ts';
import type { KafkaLogger } from './settings.ts';
import type { LogTopic } from './topics.ts';

export interface ShippingOptions {
  producer: Producer;
  prefix: string;
  codec: WrittenCodec;
  /** Largest batch that the broker takes of a topic, compressed. */
  batchBytesMax(topic: LogTopic): number;
  partitions(topic: LogTopic): number;
  /** The spool's name in `source` headers. */
  source: string;
  /** Code and advice of dead letters for records that Kafka refuses. */
  refusal: { code: string; message: string };
  /** Original bytes that such a dead letter keeps. */
  deadLetterPayloadBytesMax: number;
  logger: KafkaLogger;
}

interface Refused {
  line: string;
  number: number;
  bytes: number;
  bytesMax: number;
  kafkaCode: number;
}

/**
 * Brings parcels to Kafka. A batch that is too large, by the topic's limit or by Kafka's answer, is
 * halved until it fits; a record that doesn't fit alone becomes a dead letter, and the rest goes on.
 */
export class Shipping {
  private readonly options: ShippingOptions;
  private readonly letterRouter: Router;
  /** Counted since the start; bytes as sent. */
  packedBytes = 0;
  refused = 0;

  constructor(options: ShippingOptions) {
    this.options = options;
    // A source of their own: they come after records with larger numbers of the same spool, and readers
    // take a number that is not larger than the last one of its source for a retransmission.
    this.letterRouter = new Router(`${options.source}.refused`, options.partitions);
  }

  /** Resolves when every record, or its dead letter, is in Kafka. Rejects with LOG_CLOSED. */
  async ship(parcel: Parcel): Promise<void> {
    const refused = await this.shipLots([...parcel.lots.values()]);
    if (refused.length === 0) return;
    this.refused += refused.length;
    refused.sort((a, b) => a.number - b.number);
    const letters = new Map<number, Lot>();
    for (const one of refused) {
      const line = encodeRecord(this.deadLetter(one));
      const route = this.letterRouter.route(line);
      const lot = letters.get(route.partition) ?? new Lot(route);
      letters.set(route.partition, lot);
      lot.add({ line, number: one.number, route, received: this.letterRouter.received });
    }
    this.options.logger.warn(
      { records: refused.length, kafkaCode: refused[0]?.kafkaCode },
      'Kafka refused records; they are dead letters now',
    );
    const lost = await this.shipLots([...letters.values()]);
    if (lost.length > 0) {
      // They are bounded and plain, so the topic must have been set up to take nothing.
      this.options.logger.warn(
        { records: lost.length, kafkaCode: lost[0]?.kafkaCode },
        'Kafka refused dead letters; they are only counted',
      );
    }
  }

  private async shipLots(lots: Lot[]): Promise<Refused[]> {
    const refused: Refused[] = [];
    const queues = new Map(lots.map((lot) => [lot.partitionNumber, [lot]]));
    while (queues.size > 0) {
      const going: { lot: Lot; shipment: Shipment }[] = [];
      for (const [key, queue] of queues) {
        const next = this.nextThatFits(queue, refused);
        if (next === undefined) queues.delete(key);
        else going.push(next);
      }
      if (going.length === 0) continue;
      const outcomes = await this.options.producer.send(going.map(({ shipment }) => shipment));
      going.forEach(({ lot, shipment }, i) => {
        const outcome = outcomes[i];
        if (outcome !== undefined && 'refusedWith' in outcome) {
          this.split(lot, queues.get(lot.partitionNumber) ?? [], refused, {
            bytes: batchBytes(shipment),
            kafkaCode: outcome.refusedWith,
          });
        } else this.packedBytes += batchBytes(shipment);
        if (queues.get(lot.partitionNumber)?.length === 0) queues.delete(lot.partitionNumber);
      });
    }
    return refused;
  }

  /** Takes from the front of a partition's queue what may be sent; halves what is too large. */
  private nextThatFits(
    queue: Lot[],
    refused: Refused[],
  ): { lot: Lot; shipment: Shipment } | undefined {
    for (let lot = queue.shift(); lot !== undefined; lot = queue.shift()) {
      const shipment = lot.shipment(this.options.prefix, this.options.codec);
      const bytes = batchBytes(shipment);
      if (bytes <= this.options.batchBytesMax(lot.route.topic)) return { lot, shipment };
      this.split(lot, queue, refused, { bytes, kafkaCode: PROTOCOL.MESSAGE_TOO_LARGE });
    }
    return undefined;
  }

  private split(
    lot: Lot,
    queue: Lot[],
    refused: Refused[],
    why: { bytes: number; kafkaCode: number },
  ): void {
    const [only, ...others] = lot.entries;
    if (only === undefined) return;
    if (others.length > 0) queue.unshift(...lot.halves());
    else {
      const bytesMax = this.options.batchBytesMax(lot.route.topic);
      refused.push({ line: only.line, number: only.number, bytesMax, ...why });
    }
  }

  private deadLetter(one: Refused): DeadLetterRecord {
    const record = JSON.parse(one.line) as LogRecord;
    const payload = Buffer.from(one.line);
    return {
      kind: 'deadLetter',
      tenant: record.tenant,
      device: record.device,
      type: 'type' in record ? record.type : '',
      received: record.received,
      ...this.options.refusal,
      expected: `a batch of at most ${one.bytesMax} bytes`,
      actual: `${one.bytes} bytes, code ${one.kafkaCode} of Kafka`,
      topic: '',
      payload: payload.subarray(0, this.options.deadLetterPayloadBytesMax).toString('base64'),
      payloadBytes: payload.length,
    };
  }
}
