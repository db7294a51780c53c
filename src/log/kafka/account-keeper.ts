import { SpillwayError } from '../../core/errors.ts';
import type { LogConsumer } from '../contract.ts';
import type { Producer } from './producer.ts';
import type { TallyWriter } from './received-tally.ts';

/** The consumer group of the spool whose offset says how far the account has been written. */
export const ACCOUNT_GROUP = 'forwarder-account';

export interface AccountKeeperOptions {
  writer: TallyWriter;
  producer: Producer;
  spool: Pick<LogConsumer, 'commit' | 'bounds'>;
  /** Least time between two writes, ms. */
  intervalMs: number;
  /** What is written and what is not, at the start. */
  from: AccountStart;
}

export interface AccountStart {
  /** Everything in the spool before this offset is in the account in Kafka. */
  written: number;
  /** Least gateway time of what has been forwarded behind it, ms; undefined: nothing. */
  oldest: number | undefined;
}

/** Many devices make a long account: it is written as seldom as keeps its cost below a tenth of the records'. */
const MS_PER_LINE = 1.5;
const LAG_MAX_MS = 60_000;

/** When the gateway's account is written to Kafka: some time after something has come. The forwarder has the loop. */
export class AccountKeeper {
  private readonly options: AccountKeeperOptions;
  /** Everything in the spool before this offset is in the account in Kafka. */
  written: number;
  private oldest: number | undefined;
  private begunAt = Number.NEGATIVE_INFINITY;
  private pauseMs = 0;
  private isUrgent = false;

  constructor(options: AccountKeeperOptions) {
    this.options = options;
    this.written = options.from.written;
    this.oldest = options.from.oldest;
  }

  /** Records have come to Kafka, the oldest one with this gateway time. */
  came(received: number): void {
    this.oldest = Math.min(this.oldest ?? received, received);
  }

  /** Somebody waits for the account: no pause before the next write. */
  urge(): void {
    this.isUrgent = true;
  }

  /** How long until a write is due, ms; undefined while nothing is to be written. */
  dueMs(): number | undefined {
    if (this.oldest === undefined) return undefined;
    return this.isUrgent ? 0 : this.begunAt + this.pauseMs - performance.now();
  }

  /** Writes the account of everything before `forwarded`, which is in Kafka, and behind which nothing is sent. */
  async write(partition: number, forwarded: number): Promise<void> {
    const { writer, producer, spool, intervalMs } = this.options;
    const oldest = this.oldest ?? 0;
    this.oldest = undefined;
    this.isUrgent = false;
    this.begunAt = performance.now();
    const end = (await spool.bounds()).get(partition)?.end ?? forwarded;
    const waiting = Math.max(0, end - forwarded);
    const lines = await writer.write(producer, { oldest, upTo: forwarded, waiting });
    this.pauseMs = Math.max(intervalMs, Math.min(lines * MS_PER_LINE, LAG_MAX_MS));
    this.written = forwarded;
    try {
      await spool.commit(ACCOUNT_GROUP, partition, forwarded);
    } catch (error) {
      // A full disk: more is looked through at the next start.
      if (!(error instanceof SpillwayError && error.retryable)) throw error;
    }
  }
}
