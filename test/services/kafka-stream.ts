import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ReadingRecord } from '../../src/core/nouns.ts';
import type { LogAppender, LogConsumer } from '../../src/log/contract.ts';
import { message, range } from '../suites/log.ts';
import { type KafkaPlace, readTopic } from './kafka-env.ts';

/** Devices that publish all the time, each with its own count. */
export class DeviceStream {
  readonly devices: string[];
  private readonly appender: LogAppender;
  private readonly next = new Map<string, number>();
  private readonly timer: NodeJS.Timeout;
  /** Messages of all devices that were called back without an error. */
  acknowledged = 0;
  readonly errors: Error[] = [];

  /** `perTick` messages of each device every 10 ms. */
  constructor(appender: LogAppender, devices: number, perTick: number) {
    this.appender = appender;
    this.devices = range(0, devices).map((i) => `d${i}`);
    this.timer = setInterval(() => this.tick(perTick), 10);
  }

  get sent(): number {
    return [...this.next.values()].reduce((sum, count) => sum + count, 0);
  }

  /** Messages of each device. */
  counts(): Map<string, number> {
    return new Map(this.next);
  }

  /** Ends the publishing, whatever has become of it. */
  async close(): Promise<void> {
    clearInterval(this.timer);
  }

  /** Ends the publishing, and waits until everything is durable. */
  async stop(): Promise<void> {
    clearInterval(this.timer);
    await this.appender.flush();
    assert.deepEqual(this.errors, []);
    assert.equal(this.acknowledged, this.sent);
  }

  private tick(perTick: number): void {
    for (const device of this.devices) {
      for (let i = 0; i < perTick; i++) {
        const seq = this.next.get(device) ?? 0;
        this.next.set(device, seq + 1);
        this.appender.append(message(device, seq), (error) => {
          if (error === null) this.acknowledged += 1;
          else this.errors.push(error);
        });
      }
    }
  }
}

/** Each device's numbers in the order of its partition, read by a client that isn't ours. */
export async function seqsInKafka(
  place: KafkaPlace,
  topic = 'readings',
): Promise<Map<string, number[]>> {
  const found = new Map<string, number[]>();
  for (const { value } of await readTopic(place, topic)) {
    const { device, seq } = JSON.parse(value ?? '') as ReadingRecord;
    const its = found.get(device) ?? [];
    found.set(device, its);
    its.push(seq ?? -1);
  }
  return found;
}

/** Fails unless every device has 0, 1, 2, … once each and in this order. */
export function assertExact(found: Map<string, number[]>, counts: Map<string, number>): void {
  assert.deepEqual([...found.keys()].sort(), [...counts.keys()].sort());
  for (const [device, count] of counts) {
    const seqs = found.get(device) ?? [];
    const at = seqs.findIndex((seq, i) => seq !== i);
    assert.equal(at, -1, `${device} has ${seqs.slice(Math.max(0, at - 3), at + 3)} at place ${at}`);
    assert.equal(seqs.length, count, `${device} has ${seqs.length} of ${count}`);
  }
}

/**
 * Consumes all the time, and keeps each device's numbers as they come. Where it stands in a partition it
 * says itself, as those do who keep positions beside what they make of the records.
 */
export class Follower {
  readonly seqs = new Map<string, number[]>();
  private readonly positions = new Map<number, number>();
  private readonly ending = new AbortController();
  private readonly done: Promise<void>;

  constructor(consumer: LogConsumer, group: string) {
    this.done = this.run(consumer, group);
  }

  get count(): number {
    return [...this.seqs.values()].reduce((sum, { length }) => sum + length, 0);
  }

  async close(): Promise<void> {
    this.ending.abort();
    await this.done;
  }

  private async run(consumer: LogConsumer, group: string): Promise<void> {
    const batches = consumer.consume(group, {
      signal: this.ending.signal,
      onAssigned: async () => new Map(this.positions),
    });
    for await (const { partition, firstOffset, nextOffset, records } of batches) {
      assert.equal(firstOffset, this.positions.get(partition) ?? firstOffset);
      this.positions.set(partition, nextOffset);
      for (const record of records) {
        if (record.kind !== 'reading') continue;
        const its = this.seqs.get(record.device) ?? [];
        this.seqs.set(record.device, its);
        its.push(record.seq ?? -1);
      }
    }
  }
}

/** Resolves when the condition holds; fails after `ms`. */
export async function until(
  what: string,
  ms: number,
  condition: () => boolean | Promise<boolean>,
): Promise<void> {
  const end = performance.now() + ms;
  while (!(await condition())) {
    assert.ok(performance.now() < end, `not within ${ms} ms: ${what}`);
    await sleep(20);
  }
}
