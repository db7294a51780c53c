import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { describe, type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { LogBatch, LogConsumer } from '../../src/log/contract.ts';
import { appended, message, messageOf, range } from '../suites/log.ts';
import { LIMITS, SKIP } from './kafka-env.ts';
import { openKafkaLog } from './kafka-log.ts';
import type { MemberEvent, MemberOptions } from './kafka-member-child.ts';
import { assertExact, DeviceStream, until } from './kafka-stream.ts';

/** The least that brokers allow by default. */
const SESSION = { sessionTimeoutMs: 6_000, heartbeatMs: 500, rebalanceTimeoutMs: 10_000 };

/** What members keep together, as they would in a store. */
class Books {
  readonly positions = new Map<number, number>();
  readonly seqs = new Map<string, number[]>();
  /** Who has got batches of a partition and not given it up. */
  readonly active = new Map<number, string>();
  readonly events: string[] = [];
}

/** A member that takes its time for each batch, and checks what it is told. */
class Member {
  readonly name: string;
  readonly owned = new Set<number>();
  batches = 0;
  private readonly books: Books;
  private readonly ending = new AbortController();
  private working: Promise<void> = Promise.resolve();
  private readonly done: Promise<void>;

  constructor(name: string, consumer: LogConsumer, books: Books) {
    this.name = name;
    this.books = books;
    this.done = this.run(consumer);
  }

  async close(): Promise<void> {
    this.ending.abort();
    await this.done;
    for (const [partition, name] of this.books.active) {
      if (name === this.name) this.books.active.delete(partition);
    }
  }

  private async run(consumer: LogConsumer): Promise<void> {
    const batches = consumer.consume('g', {
      signal: this.ending.signal,
      recordsMax: 500,
      onRevoking: async (partitions) => {
        this.note('revoking', partitions);
        for (const partition of partitions) assert.ok(this.owned.has(partition));
        await this.working;
        await sleep(30);
        for (const partition of partitions) this.books.active.delete(partition);
      },
      onRevoked: (partitions) => {
        this.note('revoked', partitions);
        for (const partition of partitions) {
          assert.ok(this.owned.delete(partition), 'only what was assigned is revoked');
        }
      },
      onAssigned: async (partitions) => {
        this.note('assigned', partitions);
        await sleep(20);
        for (const partition of partitions) {
          assert.ok(!this.owned.has(partition), 'nothing is assigned twice');
          this.owned.add(partition);
        }
        return new Map(this.books.positions);
      },
    });
    for await (const batch of batches) {
      this.working = this.work(batch);
      await this.working;
      await consumer.commit('g', batch.partition, batch.nextOffset);
    }
  }

  private async work({ partition, firstOffset, nextOffset, records }: LogBatch): Promise<void> {
    const { active, positions, seqs } = this.books;
    assert.ok(this.owned.has(partition), `${this.name} has partition ${partition}`);
    assert.equal(
      active.get(partition) ?? this.name,
      this.name,
      `partition ${partition} has one owner`,
    );
    active.set(partition, this.name);
    this.batches += 1;
    await sleep(2);
    assert.equal(firstOffset, positions.get(partition) ?? firstOffset);
    positions.set(partition, nextOffset);
    for (const record of records) {
      if (record.kind !== 'reading') continue;
      const its = seqs.get(record.device) ?? [];
      seqs.set(record.device, its);
      its.push(record.seq ?? -1);
    }
  }

  private note(what: string, partitions: readonly number[]): void {
    assert.ok(partitions.length > 0);
    this.books.events.push(`${this.name} ${what} ${[...partitions].sort((a, b) => a - b)}`);
  }
}

describe('consumer groups', { skip: SKIP, concurrency: true }, () => {
  test('members that come and go under load: each record once, in order, and one owner at a time', async (t) => {
    const log = await openKafkaLog(t);
    const { place } = log;
    const appender = await log.spool.appender();
    const forwarder = log.forwarder();
    const books = new Books();
    const member = (name: string) => place.own(new Member(name, place.consumer(), books));
    const stream = place.own(new DeviceStream(appender, 30, 1));
    const one = member('one');
    await until('the first one works', 20_000, () => one.batches > 10);
    assert.equal(one.owned.size, 12);
    const two = member('two');
    await until('the second one works', 20_000, () => two.batches > 10);
    // Partitions with the same number hold the same devices, and go together.
    const numbers = (its: Iterable<number>) =>
      new Set([...its].map((partition) => partition % 1_024));
    assert.deepEqual(numbers([...one.owned, ...two.owned]), new Set([0, 1, 2]));
    assert.equal(one.owned.size + two.owned.size, 12);
    assert.equal(numbers(one.owned).size + numbers(two.owned).size, 3);
    const three = member('three');
    await until('the third one works', 20_000, () => three.batches > 10);
    await two.close();
    await until('the others have it all', 20_000, () => one.owned.size + three.owned.size === 12);
    await sleep(300);
    await stream.stop();
    assert.equal(await forwarder.drained(), true);
    const count = () => [...books.seqs.values()].reduce((sum, { length }) => sum + length, 0);
    await until('all is consumed', 20_000, () => count() >= stream.sent);
    assertExact(books.seqs, stream.counts());
    const committed = await place.consumer().committed('g');
    await until('what was done is committed', 5_000, async () => {
      const now = await place.consumer().committed('g');
      return [...books.positions].every(([partition, next]) => now.get(partition) === next);
    });
    assert.ok(committed.size > 0);
    // Whoever had something is asked to finish before it is taken away.
    for (const name of ['one', 'two']) {
      const its = books.events.filter((event) => event.startsWith(name));
      assert.match(its[0] ?? '', / assigned /);
      assert.match(its[1] ?? '', / revoking /);
    }
  });

  test('a member that takes longer for a batch than a session keeps its place', async (t) => {
    const log = await openKafkaLog(t);
    const appender = await log.spool.appender();
    log.forwarder();
    const consumer = log.place.consumer(SESSION);
    const seen: (number | undefined)[] = [];
    const revoked: number[] = [];
    const ending = new AbortController();
    for (const seq of range(0, 10)) await appended(appender, message('d1', seq));
    const batches = consumer.consume('g', {
      signal: ending.signal,
      onRevoked: (partitions) => void revoked.push(...partitions),
    });
    for await (const { records, partition, nextOffset } of batches) {
      for (const record of records) if (record.kind === 'reading') seen.push(record.seq);
      if (seen.length < 20) {
        await sleep(8_000);
        await appended(appender, messageOf('d1', 10, 10));
      }
      await consumer.commit('g', partition, nextOffset);
      if (seen.length >= 20) ending.abort();
    }
    assert.deepEqual(seen, range(0, 20));
    assert.deepEqual(revoked, []);
    assert.equal([...(await consumer.committed('g')).values()][0], 20);
    assert.deepEqual(
      log.place.logger.lines.filter(
        ({ level, message }) => level === 'warn' && /group/.test(message),
      ),
      [],
    );
  });

  test('a process that stops without a word is replaced, and has no say when it goes on', async (t) => {
    const log = await openKafkaLog(t);
    const { place } = log;
    const appender = await log.spool.appender();
    const forwarder = log.forwarder();
    for (const i of range(0, 30)) await appended(appender, message(`d${i}`, 0));
    await forwarder.drained();
    const child = startMember(t, {
      brokers: place.settings.brokers,
      topicPrefix: place.settings.topicPrefix,
      limits: { ...LIMITS, ...SESSION },
    });
    await until('the process has it all', 20_000, () => child.last('next').size === 3);
    const consumer = place.consumer(SESSION);
    const books = new Books();
    const member = place.own(new Member('one', consumer, books));
    await until('each has a part', 20_000, () => member.owned.size > 0 && member.owned.size < 12);
    await until('the process knows', 20_000, () => child.count('revoked') > 0);
    child.process.kill('SIGSTOP');
    const stopped = performance.now();
    await until('the member has it all', 20_000, () => member.owned.size === 12);
    t.diagnostic(`replaced after ${Math.round(performance.now() - stopped)} ms`);
    const before = child.events.length;
    for (const i of range(0, 30)) await appended(appender, message(`d${i}`, 1));
    await forwarder.drained();
    await until('the member has the new ones', 20_000, () => {
      const seqs = [...books.seqs.values()].flat();
      return seqs.filter((seq) => seq === 1).length === 30;
    });
    child.process.kill('SIGCONT');
    await until('the process has heard of it', 20_000, () => child.events.length > before);
    assert.equal(child.events[before]?.what, 'revoked', 'the first thing that it hears');
    await until('it is back', 30_000, () => member.owned.size < 12);
    // What it says of partitions that it has lost counts for nothing; what it had committed stays.
    for (const [partition, next] of await consumer.committed('g')) {
      assert.ok(next <= (books.positions.get(partition) ?? next));
    }
    child.process.kill('SIGKILL');
    await until('the member has it all again', 20_000, () => member.owned.size === 12);
  });
});

function startMember(t: TestContext, options: MemberOptions) {
  const child: ChildProcess = spawn(
    process.execPath,
    [new URL('./kafka-member-child.ts', import.meta.url).pathname, JSON.stringify(options)],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  t.after(async () => {
    if (child.exitCode === null && child.signalCode === null) {
      child.kill('SIGKILL');
      await once(child, 'exit');
    }
  });
  const events: MemberEvent[] = [];
  assert.ok(child.stdout !== null);
  createInterface(child.stdout).on('line', (line) => events.push(JSON.parse(line) as MemberEvent));
  return {
    process: child,
    events,
    count: (what: MemberEvent['what']) => events.filter((event) => event.what === what).length,
    last: (what: MemberEvent['what']) =>
      new Set(
        events.filter((event) => event.what === what).flatMap(({ partitions }) => partitions),
      ),
  };
}
