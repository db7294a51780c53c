import type { ConsumeOptions } from '../log/contract.ts';

/** What the log asks for; the worker's loop answers between two of its steps. */
export type AssignmentRequest =
  | { kind: 'revoking'; done(): void; failed(error: unknown): void }
  | {
      kind: 'assigned';
      /** Without those that were revoked again meanwhile. */
      partitions: Set<number>;
      done(offsets: ReadonlyMap<number, number> | undefined): void;
      failed(error: unknown): void;
    };

type Callbacks = Required<Pick<ConsumeOptions, 'onRevoking' | 'onRevoked' | 'onAssigned'>>;

/**
 * The log's side of who has which partitions. A loss takes effect at once, through `onLost`; all else
 * waits for the loop, so that nothing changes under a step that waits for the store.
 */
export class Assignment {
  /** The members of a group share the partitions of this log. */
  isShared = false;
  private readonly requests: AssignmentRequest[] = [];
  private readonly onLost: (partitions: readonly number[]) => void;
  private ring: () => void = () => {};
  private hasEnded = false;

  constructor(onLost: (partitions: readonly number[]) => void) {
    this.onLost = onLost;
  }

  readonly callbacks: Callbacks = {
    onRevoking: () =>
      new Promise((done, failed) => this.ask({ kind: 'revoking', done: () => done(), failed })),
    onRevoked: (partitions) => {
      for (const request of this.requests) {
        if (request.kind !== 'assigned') continue;
        for (const partition of partitions) request.partitions.delete(partition);
      }
      this.onLost(partitions);
      this.ring();
    },
    onAssigned: (partitions) => {
      this.isShared = true;
      return new Promise((done, failed) =>
        this.ask({ kind: 'assigned', partitions: new Set(partitions), done, failed }),
      );
    },
  };

  private ask(request: AssignmentRequest): void {
    this.requests.push(request);
    if (this.hasEnded) this.end();
    this.ring();
  }

  /** The request that is longest here; it stays until {@link answered}. */
  pending(): AssignmentRequest | undefined {
    return this.requests[0];
  }

  hasNews(): boolean {
    return this.requests.length > 0;
  }

  answered(): void {
    this.requests.shift();
  }

  /** Calls `wake` at the next thing that happens. */
  onNews(wake: () => void): void {
    this.ring = wake;
  }

  /** Answers what is left, when the worker has ended. */
  end(): void {
    this.hasEnded = true;
    for (const request of this.requests.splice(0)) {
      if (request.kind === 'revoking') request.done();
      else request.done(undefined);
    }
  }
}
