import type { LogConsumer } from '../log/contract.ts';
import type { Store } from '../store/contract.ts';
import { type RetryOptions, retrying } from './retry.ts';

/** Longest wait between two attempts to reach the log, ms: it is small beside what a rejoin takes. */
const LOG_RETRY_MS_MAX = 2_000;

/** What a worker needs of a store. */
export type PatientStore = Pick<
  Required<Store>,
  | 'readings'
  | 'rollups'
  | 'position'
  | 'sources'
  | 'notes'
  | 'writeNotes'
  | 'writeReadings'
  | 'writeDeadLetters'
  | 'markDeadLetters'
  | 'purgeDeadLetters'
  | 'writeRollups'
  | 'commit'
>;

export interface PatienceOptions {
  store: Store;
  consumer: LogConsumer;
  /** Ends the worker: only a few attempts are made from then on. */
  signal: AbortSignal;
  /** Waits after errors; attempts that are still made while stopping. */
  retry?: Partial<Pick<RetryOptions, 'firstMs' | 'longestMs' | 'attemptsAfterAbort'>> | undefined;
  onRetry(fields: { err: unknown; call: string; attempt: number; waitMs: number }): void;
}

/**
 * Store and log, whose calls are repeated while their errors may pass. Writes throw {@link Abandoned} in place
 * of another attempt once {@link abandon} was called.
 */
export class Patience {
  readonly store: PatientStore;
  /** Calls that failed and were made again. */
  retries = 0;
  private readonly options: PatienceOptions;
  /** Aborted when partitions are lost, and made anew. */
  private loss = new AbortController();

  constructor(options: PatienceOptions) {
    this.options = options;
    this.store = this.patient(options.store);
  }

  /** Partitions were lost: what is being written may be another worker's. */
  abandon(): void {
    this.loss.abort();
    this.loss = new AbortController();
  }

  bounds(): ReturnType<LogConsumer['bounds']> {
    return this.retry('log.bounds', () => this.options.consumer.bounds());
  }

  committed(group: string): ReturnType<LogConsumer['committed']> {
    return this.retry('log.committed', () => this.options.consumer.committed(group));
  }

  readonly commitLog: LogConsumer['commit'] = (group, partition, offset) =>
    this.retry(
      'log.commit',
      () => this.options.consumer.commit(group, partition, offset),
      this.loss.signal,
    );

  private patient(store: Store): PatientStore {
    const retry = <T>(name: string, call: () => Promise<T>) => this.retry(`store.${name}`, call);
    const write = <T>(name: string, call: () => Promise<T>) =>
      this.retry(`store.${name}`, call, this.loss.signal);
    return {
      readings: (query) => retry('readings', () => store.readings(query)),
      rollups: (query) => retry('rollups', () => store.rollups(query)),
      position: (group) => retry('position', () => store.position(group)),
      sources: (group) => retry('sources', async () => (await store.sources?.(group)) ?? new Map()),
      notes: (group) => retry('notes', () => store.notes(group)),
      writeNotes: (group, partition, notes) =>
        write('writeNotes', () => store.writeNotes(group, partition, notes)),
      writeReadings: (readings) => write('writeReadings', () => store.writeReadings(readings)),
      writeDeadLetters: (letters) =>
        write('writeDeadLetters', () => store.writeDeadLetters(letters)),
      markDeadLetters: (marks) => write('markDeadLetters', () => store.markDeadLetters(marks)),
      purgeDeadLetters: (purge) => write('purgeDeadLetters', () => store.purgeDeadLetters(purge)),
      writeRollups: (rows) => write('writeRollups', () => store.writeRollups(rows)),
      commit: (progress) => write('commit', () => store.commit(progress)),
    };
  }

  private retry<T>(name: string, call: () => Promise<T>, abandon?: AbortSignal): Promise<T> {
    const { retry = {}, signal } = this.options;
    return retrying(call, {
      firstMs: retry.firstMs ?? 100,
      longestMs: retry.longestMs ?? (name.startsWith('log.') ? LOG_RETRY_MS_MAX : 10_000),
      attemptsAfterAbort: retry.attemptsAfterAbort ?? 5,
      signal,
      ...(abandon === undefined ? {} : { abandon }),
      onRetry: (error, attempt, waitMs) => {
        this.retries += 1;
        this.options.onRetry({ err: error, call: name, attempt, waitMs });
      },
    });
  }
}
