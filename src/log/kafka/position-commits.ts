import { setImmediate as turn } from 'node:timers/promises';
import type { Placement } from './wire.ts';

interface Waiting extends Placement {
  offset: number;
  waiters: { resolve: (isDone: boolean) => void; reject: (error: unknown) => void }[];
}

/** Sends the positions; resolves with the keys of those that were committed. */
type Send = (
  positions: ReadonlyMap<string, Placement & { offset: number }>,
) => Promise<ReadonlySet<string>>;

/**
 * Gathers commits into one request at a time: a flush commits each of its partitions by itself. What
 * waits is bounded by the number of partitions.
 */
export class PositionCommits {
  private readonly send: Send;
  private waiting = new Map<string, Waiting>();
  private isSending = false;

  constructor(send: Send) {
    this.send = send;
  }

  /** Resolves with what `send` says of the partition; rejects as it does. */
  commit({ topic, partition }: Placement, offset: number): Promise<boolean> {
    return new Promise((resolve, reject) => {
      const key = `${topic}/${partition}`;
      const one = this.waiting.get(key) ?? { topic, partition, offset, waiters: [] };
      one.offset = Math.max(one.offset, offset);
      one.waiters.push({ resolve, reject });
      this.waiting.set(key, one);
      if (!this.isSending) void this.run();
    });
  }

  private async run(): Promise<void> {
    this.isSending = true;
    while (this.waiting.size > 0) {
      await turn();
      const going = this.waiting;
      this.waiting = new Map();
      try {
        const done = await this.send(going);
        for (const [key, { waiters }] of going) {
          for (const { resolve } of waiters) resolve(done.has(key));
        }
      } catch (error) {
        for (const { waiters } of going.values()) {
          for (const { reject } of waiters) reject(error);
        }
      }
    }
    this.isSending = false;
  }
}
