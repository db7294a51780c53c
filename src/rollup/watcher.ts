import type { LogRecord } from '../core/nouns.ts';

/** Who watches the devices of a worker's partitions. Called by the worker's loop, and does not throw. */
export interface Watcher {
  /** These are the worker's from now on; those of the lane of old readings are not named. */
  gained(partitions: Iterable<number>): void;
  /** These are not any more. */
  lost(partitions: Iterable<number>): void;
  /** A record, in its partition's order, and once unless the worker begins anew. */
  take(record: LogRecord): void;
  /** `now`: all records that the log got before have been taken; gateway time, ms. */
  look(now: number): void;
}
