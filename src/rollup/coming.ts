import type { LogBatch } from '../log/contract.ts';

type Arrived = { result: IteratorResult<LogBatch> } | { error: unknown };

/** The next batch of the log, which is asked for before it is needed. */
export class Coming {
  arrived: Arrived | undefined;
  /** Resolves when it has arrived; never rejects, so that it may wait unattended. */
  settled: Promise<void>;
  private readonly batches: AsyncIterator<LogBatch>;

  constructor(batches: AsyncIterator<LogBatch>) {
    this.batches = batches;
    this.settled = this.next();
  }

  next(): Promise<void> {
    this.arrived = undefined;
    this.settled = this.batches.next().then(
      (result) => {
        this.arrived = { result };
      },
      (error: unknown) => {
        this.arrived = { error };
      },
    );
    return this.settled;
  }

  /** Passes over the one that has arrived, if `isStale` says so. */
  drop(isStale: (batch: LogBatch) => boolean): void {
    const { arrived } = this;
    if (arrived === undefined || 'error' in arrived || arrived.result.done === true) return;
    if (isStale(arrived.result.value)) void this.next();
  }
}

/** Lets messages, sockets and timers have their turn. */
export function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
