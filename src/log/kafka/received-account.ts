import { setTimeout as sleep } from 'node:timers/promises';
import type { ReceivedCount } from '../../core/nouns.ts';
import type { Account, ReceivedFilter } from '../contract.ts';
import { reasonOf, unavailable } from './errors.ts';
import { parseTallyLine, parseTallyValue, type TallyMark } from './received-tally.ts';
import type { KafkaLogger, KafkaSettings } from './settings.ts';
import { TopicFollower } from './topic-follower.ts';
import { fullName } from './topics.ts';

/** About 40 bytes each, beside the names; the oldest hours are left out beyond it. */
const LINES_MAX = 4_000_000;
/** How often, and after what time, an account is looked at again whose lines are being written. */
const CHANGING_ATTEMPTS = 50;
const CHANGING_PAUSE_MS = 100;

/** What stands in the accounts' topic (`received-tally.ts`), kept up to date from the first question on. */
export class ReceivedAccount {
  private readonly logger: KafkaLogger;
  private readonly follower: TopicFollower;
  /** Counts by hour, by the key of a line with nothing in the place of its hour. */
  private readonly lines = new Map<string, Map<number, number>>();
  private readonly marks = new Map<string, TallyMark>();
  private size = 0;

  constructor(settings: KafkaSettings, logger: KafkaLogger) {
    this.logger = logger;
    this.follower = new TopicFollower({
      settings,
      logger,
      topic: fullName(settings.topicPrefix, 'received'),
      from: 'first',
      onRecord: (key, value) => this.apply(key, value),
    });
  }

  async received(filter: ReceivedFilter): Promise<ReceivedCount[]> {
    await this.follower.caughtUp();
    return this.sums(filter);
  }

  /** Throws a retryable error when a gateway has not finished writing its account within some seconds. */
  async account(filter: ReceivedFilter): Promise<Account> {
    for (let attempt = 0; ; attempt++) {
      await this.follower.caughtUp();
      const upTo = new Map<string, number>();
      let waiting = 0;
      for (const [source, mark] of this.marks) {
        if (mark.upTo !== null) upTo.set(source, mark.upTo);
        waiting += mark.waiting;
      }
      if (upTo.size === this.marks.size) return { counts: this.sums(filter), upTo, waiting };
      if (attempt >= CHANGING_ATTEMPTS) {
        throw unavailable('a gateway has not finished writing its account');
      }
      await sleep(CHANGING_PAUSE_MS);
    }
  }

  close(): Promise<void> {
    return this.follower.close();
  }

  /** Over all gateways. */
  private sums(filter: ReceivedFilter): ReceivedCount[] {
    const { tenant, from = 0, to = Number.MAX_SAFE_INTEGER } = filter;
    const sums = new Map<string, ReceivedCount>();
    for (const [name, hours] of this.lines) {
      const line = parseTallyLine(name, 0);
      if (line === undefined || (tenant !== undefined && line.tenant !== tenant)) continue;
      const shared = name.slice(name.indexOf('/'));
      for (const [hour, count] of hours) {
        if (hour < from || hour >= to) continue;
        const key = `${hour}${shared}`;
        const sum = sums.get(key);
        if (sum === undefined) sums.set(key, { ...line, hour, count });
        else sum.count += count;
      }
    }
    return [...sums.values()];
  }

  private apply(key: string | null, text: string | null): void {
    if (key === null) return;
    try {
      const value = text === null ? undefined : parseTallyValue(text);
      const parts = key.split('/');
      const hour = Number(parts[3]);
      parts[3] = '';
      const name = parts.join('/');
      if (parts.length > 1 && typeof value !== 'object') this.set(name, hour, value);
      else if (typeof value === 'object') this.marks.set(key, value);
      else this.marks.delete(key);
    } catch (error) {
      this.logger.warn({ key, reason: reasonOf(error) }, 'a line of an account can not be read');
    }
  }

  private set(name: string, hour: number, count: number | undefined): void {
    const hours = this.lines.get(name) ?? new Map<number, number>();
    if (count === undefined) {
      if (hours.delete(hour)) this.size -= 1;
      return;
    }
    this.lines.set(name, hours);
    if (!hours.has(hour)) this.size += 1;
    hours.set(hour, count);
    if (this.size > LINES_MAX) this.forgetOldest();
  }

  private forgetOldest(): void {
    let oldest = Number.POSITIVE_INFINITY;
    for (const hours of this.lines.values()) {
      for (const hour of hours.keys()) oldest = Math.min(oldest, hour);
    }
    for (const [name, hours] of this.lines) {
      if (hours.delete(oldest)) this.size -= 1;
      if (hours.size === 0) this.lines.delete(name);
    }
    this.logger.warn(
      { hour: new Date(oldest).toISOString(), linesMax: LINES_MAX },
      'the accounts are larger than what is kept of them in memory; the oldest hour is left out',
    );
  }
}
