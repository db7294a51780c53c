import type { LogRecord } from '../../src/core/nouns.ts';
import type { ConsumeOptions, LogBatch, LogConsumer } from '../../src/log/contract.ts';

/** A partition from its assignment until it is taken away. */
interface Held {
  number: number;
  /** Next offset; undefined until the member has told where it begins. */
  next: number | undefined;
}

/** A member of the group: one `consume` call. */
class Member {
  readonly options: ConsumeOptions;
  readonly held = new Map<number, Held>();
  isHeldBack = false;
  hasLeft = false;
  failure: unknown;
  wake: () => void = () => {};

  constructor(options: ConsumeOptions) {
    this.options = options;
  }
}

/** How long members are waited for before partitions change hands, in turns of the event loop. */
export interface Patience {
  turns: number;
}

/**
 * A log in memory whose partitions are shared among the members of one group, as Kafka's are. Partition
 * numbers are `topic * 1024 + n`; those with one `n` go together.
 */
export class GroupLog {
  private readonly partitions = new Map<number, LogBatch[]>();
  private readonly ends = new Map<number, number>();
  private readonly members: Member[] = [];
  private readonly numbers: readonly number[];
  readonly commits = new Map<number, number>();
  /** Batches that were yielded. */
  yielded = 0;
  /** Members that there have ever been. */
  joins = 0;

  /** `numbers`: all partitions. */
  constructor(numbers: readonly number[]) {
    this.numbers = numbers;
    for (const number of numbers) {
      this.partitions.set(number, []);
      this.ends.set(number, 0);
    }
  }

  append(partition: number, records: readonly LogRecord[], appendedAt: number): void {
    const firstOffset = this.ends.get(partition) ?? 0;
    const nextOffset = firstOffset + records.length;
    this.ends.set(partition, nextOffset);
    this.partitions.get(partition)?.push({
      partition,
      firstOffset,
      nextOffset,
      records: records.map((record) => structuredClone(record)),
      appendedAt,
    });
    for (const member of this.members) member.wake();
  }

  end(partition: number): number {
    return this.ends.get(partition) ?? 0;
  }

  get size(): number {
    return this.members.length;
  }

  /** Deals the groups of partitions out anew, `choice(n)` to the member of that place. */
  async rebalance(choice: (n: number) => number, patience: Patience): Promise<void> {
    const before = [...this.members];
    for (const member of before) member.isHeldBack = true;
    const given = before.map(async ({ held, options }) => {
      if (held.size > 0) await options.onRevoking?.([...held.keys()]);
    });
    await within(
      Promise.all(given.map((one) => one.catch(() => {}))).then(() => {}),
      patience.turns,
    );
    const members = [...this.members];
    const wanted = new Map<Member, number[]>(members.map((member) => [member, []]));
    for (const number of this.numbers) {
      const member = members[choice(number % 1024) % members.length];
      if (member !== undefined) wanted.get(member)?.push(number);
    }
    for (const [member, numbers] of wanted) {
      const lost = [...member.held.keys()].filter((number) => !numbers.includes(number));
      this.revoke(member, lost);
    }
    for (const [member, numbers] of wanted) {
      const gained = numbers
        .filter((number) => !member.held.has(number))
        .map((number): Held => ({ number, next: undefined }));
      for (const held of gained) member.held.set(held.number, held);
      member.isHeldBack = false;
      member.wake();
      if (gained.length > 0) void this.begin(member, gained);
    }
  }

  /** The member of that place has not been heard of for too long; until a rebalance nobody has what it had. */
  lapse(place: number): void {
    const member = this.members[place % Math.max(1, this.members.length)];
    if (member !== undefined) this.revoke(member, [...member.held.keys()]);
  }

  private revoke(member: Member, lost: readonly number[]): void {
    for (const number of lost) member.held.delete(number);
    if (lost.length > 0) member.options.onRevoked?.(lost);
  }

  private async begin(member: Member, gained: Held[]): Promise<void> {
    try {
      const offsets = await member.options.onAssigned?.(gained.map(({ number }) => number));
      for (const held of gained) {
        held.next = offsets?.get(held.number) ?? this.commits.get(held.number) ?? 0;
      }
    } catch (error) {
      member.failure = error;
    }
    member.wake();
  }

  /** The reading end of one process. */
  consumer(): LogConsumer {
    const consume = (_: string, options: ConsumeOptions) => this.consume(options);
    return {
      consume,
      commit: async (_, partition, offset) => {
        this.commits.set(partition, Math.max(offset, this.commits.get(partition) ?? 0));
      },
      committed: async () => new Map(this.commits),
      bounds: async () =>
        new Map([...this.ends].map(([number, end]) => [number, { first: 0, end }])),
      received: async () => [],
      close: async () => {},
    };
  }

  private async *consume(options: ConsumeOptions): AsyncGenerator<LogBatch> {
    const member = new Member(options);
    this.members.push(member);
    this.joins += 1;
    options.signal.addEventListener('abort', () => member.wake());
    try {
      while (!options.signal.aborted) {
        if (member.failure !== undefined) throw member.failure;
        const batch = member.isHeldBack ? undefined : this.takeNext(member);
        if (batch !== undefined) {
          this.yielded += 1;
          yield batch;
          continue;
        }
        await new Promise<void>((resolve) => {
          member.wake = resolve;
        });
      }
    } finally {
      // As of a process that is gone: nobody calls it back any more.
      this.members.splice(this.members.indexOf(member), 1);
    }
  }

  private takeNext(member: Member): LogBatch | undefined {
    for (const held of member.held.values()) {
      const { number, next } = held;
      if (next === undefined) continue;
      const batch = this.partitions.get(number)?.find((one) => one.nextOffset > next);
      if (batch === undefined) continue;
      held.next = batch.nextOffset;
      // The next turn is another partition's.
      member.held.delete(number);
      member.held.set(number, held);
      return structuredClone(batch);
    }
    return undefined;
  }
}

async function within(promise: Promise<void>, turns: number): Promise<void> {
  let isDone = false;
  void promise.then(() => {
    isDone = true;
  });
  for (let turn = 0; turn < turns && !isDone; turn += 1) {
    await new Promise((resolve) => setImmediate(resolve));
  }
}
