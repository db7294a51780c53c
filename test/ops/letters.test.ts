import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { ManualClock } from '../../src/core/clock.ts';
import { SpillwayError } from '../../src/core/errors.ts';
import type { EventRecord, LetterReplay, LogRecord } from '../../src/core/nouns.ts';
import type { Examination, Examine } from '../../src/gateway/contract.ts';
import type { AppendRequest } from '../../src/log/contract.ts';
import { formatLetterId, parseLetterId, type Selection } from '../../src/ops/letters/letter.ts';
import { purgeLetters } from '../../src/ops/letters/purge.ts';
import {
  noCounts,
  type ReplayOptions,
  Replays,
  replayLetters,
} from '../../src/ops/letters/replay.ts';
import { findLetter, selectLetters } from '../../src/ops/letters/select.ts';
import { tryLetters } from '../../src/ops/letters/trial.ts';
import type { StoredDeadLetter } from '../../src/store/contract.ts';
import { MemoryStore } from '../reports/memory-store.ts';

const NOW = 1_800_000_000_000;
const ALL: Selection = { tenant: 'acme', from: 0, to: NOW + 1_000 };

/** Codes that the fixed type takes now; the rest is refused as before. */
const examine: Examine = (letter): Examination => {
  const { device, type, code, received: ts } = letter;
  const item = { device, type, typeVersion: 'cafecafe' };
  const taken = { ...item, ts, seq: undefined, values: { t: 1 } };
  const refusal = { ...item, refusal: { code, message: 'no' }, payload: Buffer.from('{}') };
  if (code === 'JSON_INVALID') return { unreadable: 'PAYLOAD_CUT' };
  if (code === 'VALUE_BOUNDS') return { items: [taken] };
  if (code === 'READINGS_TOO_MANY') return { items: [taken, refusal, taken] };
  return { items: [refusal] };
};

class Bench {
  readonly store = new MemoryStore();
  readonly clock = new ManualClock(NOW);
  readonly requests: AppendRequest[] = [];
  append = async (request: AppendRequest): Promise<void> => {
    this.requests.push(request);
  };

  add(count: number, code: string, more: Partial<StoredDeadLetter> = {}): void {
    for (let i = 0; i < count; i += 1) {
      this.store.addLetter('a', code, NOW - 1_000 + Math.floor(this.store.letters.length / 3));
      Object.assign(this.store.letters.at(-1) ?? {}, more);
    }
  }

  options(more: Partial<ReplayOptions> = {}): Omit<ReplayOptions, 'signal'> {
    return {
      ...{ store: this.store, selection: ALL, examine, append: (one) => this.append(one) },
      ...{ clock: this.clock, rate: 100_000, attemptsMax: 3 },
      ...more,
    };
  }

  async replay(more: Partial<ReplayOptions> = {}) {
    const counts = noCounts();
    const { signal } = new AbortController();
    await replayLetters({ ...this.options(), signal, ...more }, counts);
    return counts;
  }

  records(): LogRecord[] {
    return this.requests.flatMap(({ records }) => records.map((line) => JSON.parse(line)));
  }

  replays(): LetterReplay[] {
    return this.records()
      .filter((record): record is EventRecord => record.kind === 'event')
      .map(({ data }) => data as LetterReplay);
  }
}

describe('replay', () => {
  test('of a letter is its reading, counted as received now, and the event that closes it', async () => {
    const bench = new Bench();
    bench.add(1, 'VALUE_BOUNDS', { typeVersion: '0badbad0' });
    const counts = await bench.replay();
    const [letter] = bench.store.letters;
    assert.ok(letter !== undefined);
    assert.deepEqual(bench.requests.length, 1);
    const { partition, offset, received, code, type, typeVersion } = letter;
    assert.deepEqual(bench.records(), [
      {
        ...{ kind: 'reading', tenant: 'acme', device: 'a', type: 'probe', ts: received },
        ...{ received: NOW, values: { t: 1 }, attempt: 1 },
      },
      {
        ...{ kind: 'event', tenant: 'acme', device: 'a', received: NOW, event: 'letterReplayed' },
        data: { partition, offset, received, code, type, typeVersion, attempt: 1, taken: true },
      },
    ]);
    const hour = Math.floor(NOW / 3_600_000) * 3_600_000;
    assert.deepEqual(bench.requests[0]?.tallyKeys, [`${hour}/acme/a/reading/`, '']);
    assert.deepEqual(counts, { ...noCounts(), letters: 1, taken: 1, readings: 1 });
  });

  test('of a message of which a part is refused makes a letter of the part', async () => {
    const bench = new Bench();
    bench.add(1, 'READINGS_TOO_MANY', { attempt: 1 });
    const counts = await bench.replay();
    const kinds = bench.records().map((record) => record.kind);
    assert.deepEqual(kinds, ['reading', 'deadLetter', 'reading', 'event']);
    const letter = bench.records()[1];
    assert.ok(letter?.kind === 'deadLetter');
    assert.deepEqual(
      [letter.code, letter.attempt, letter.received, letter.payload, letter.typeVersion],
      ['READINGS_TOO_MANY', 2, NOW, 'e30=', 'cafecafe'],
    );
    assert.match(bench.requests[0]?.tallyKeys[1] ?? '', /deadLetter\/READINGS_TOO_MANY$/);
    assert.deepEqual([counts.readings, counts.newLetters, counts.taken], [2, 1, 1]);
  });

  test('of what is refused again counts the attempt alone, and ends after so many', async () => {
    const bench = new Bench();
    bench.add(1, 'VALUE_KIND');
    const [letter] = bench.store.letters;
    assert.ok(letter !== undefined);
    for (const attempt of [1, 2, 3]) {
      bench.requests.length = 0;
      assert.deepEqual((await bench.replay()).refused, { VALUE_KIND: 1 });
      const [mark] = bench.replays();
      assert.deepEqual([mark?.attempt, mark?.taken], [attempt, false]);
      assert.equal(bench.records().length, 1);
      letter.attempt = attempt;
    }
    bench.requests.length = 0;
    assert.deepEqual(await bench.replay(), { ...noCounts(), letters: 1, givenUp: 1 });
    assert.deepEqual(bench.requests, []);
  });

  test('sees each open letter once, oldest first, whatever came meanwhile', async () => {
    const bench = new Bench();
    bench.add(450, 'VALUE_BOUNDS');
    bench.add(5, 'VALUE_BOUNDS', { replayed: NOW });
    bench.add(20, 'JSON_INVALID');
    const counts = await bench.replay({
      append: async (request) => {
        bench.requests.push(request);
        // Letters that come while it runs, as its own failures do.
        bench.clock.advance(1);
        bench.store.addLetter('a', 'VALUE_BOUNDS', NOW + 100);
      },
    });
    assert.deepEqual([counts.letters, counts.taken], [470, 450]);
    assert.deepEqual(counts.unreadable, { PAYLOAD_CUT: 20 });
    const offsets = bench.replays().map(({ offset }) => offset);
    assert.deepEqual(
      offsets,
      Array.from({ length: 450 }, (_, i) => 10_000 + i),
    );
  });

  test('keeps to its rate', async () => {
    const bench = new Bench();
    bench.add(60, 'VALUE_BOUNDS');
    const sizes: number[] = [];
    const began = performance.now();
    await bench.replay({
      rate: 200,
      append: async ({ records }) => void sizes.push(records.length / 2),
    });
    // The last chunk of 20 is followed by no pause.
    assert.ok(performance.now() - began > 195, `${performance.now() - began} ms`);
    assert.deepEqual(sizes, [20, 20, 20]);
  });

  test('waits while the log has no room, and loses nothing', async () => {
    const bench = new Bench();
    bench.add(3, 'VALUE_BOUNDS');
    let refusals = 0;
    const counts = await bench.replay({
      append: async (request) => {
        refusals += 1;
        if (refusals < 3) throw new SpillwayError('LOG_SATURATED', 'no room');
        bench.requests.push(request);
      },
    });
    assert.deepEqual([counts.taken, bench.requests.length], [3, 1]);
  });

  test('one at a time for a tenant; it can be stopped, and tells how it failed', async () => {
    const bench = new Bench();
    bench.add(500, 'VALUE_BOUNDS');
    const replays = new Replays();
    const status = replays.start(bench.options({ rate: 10 }));
    assert.throws(() => replays.start(bench.options()), { code: 'REPLAY_RUNNING' });
    const other = replays.start(bench.options({ selection: { ...ALL, tenant: 'beta' } }));
    assert.deepEqual(
      replays.list('acme').map(({ id }) => id),
      [status.id],
    );
    replays.stop(status.id);
    await replays.close();
    assert.deepEqual([status.state, other.state], ['stopped', 'done']);
    const failing = new Error('the disk is gone');
    const failed = replays.start(bench.options({ append: () => Promise.reject(failing) }));
    while (failed.state === 'running') await new Promise((resolve) => setImmediate(resolve));
    assert.deepEqual([failed.state, failed.reason], ['failed', 'the disk is gone']);
    assert.equal(replays.get(failed.id), failed);
  });
});

test('a trial says what a replay would do, and writes nothing', async () => {
  const bench = new Bench();
  bench.add(2, 'VALUE_BOUNDS');
  bench.add(1, 'READINGS_TOO_MANY');
  bench.add(3, 'VALUE_KIND');
  bench.add(1, 'VALUE_KIND', { attempt: 3 });
  bench.add(1, 'JSON_INVALID');
  const trial = await tryLetters({
    ...{ store: bench.store, selection: ALL, examine, attemptsMax: 3, detailsMax: 3 },
    signal: new AbortController().signal,
  });
  const { details, ...counts } = trial;
  assert.deepEqual(counts, {
    ...{ letters: 8, taken: 3, readings: 4, givenUp: 1 },
    ...{ refused: { VALUE_KIND: 3 }, unreadable: { PAYLOAD_CUT: 1 } },
  });
  assert.deepEqual(
    details.map(({ outcome, readings }) => [outcome, readings.length]),
    [
      ['taken', 1],
      ['taken', 1],
      ['taken', 3],
    ],
  );
});

describe('selection', () => {
  test('by id finds these alone', async () => {
    const bench = new Bench();
    bench.add(10, 'VALUE_BOUNDS');
    const { letters: all } = bench.store;
    const wanted = [all[1], all[2], all[7]].flatMap((one) => one ?? []);
    const found: StoredDeadLetter[] = [];
    const selection = {
      ...ALL,
      letters: [...wanted, { ...ALL, received: 1, partition: 0, offset: 5 }],
    };
    for await (const page of selectLetters(bench.store, selection)) found.push(...page);
    assert.deepEqual(found, wanted);
    assert.ok(all[4] !== undefined);
    assert.equal(await findLetter(bench.store, 'acme', all[4]), all[4]);
    assert.equal(await findLetter(bench.store, 'beta', all[4]), undefined);
  });

  test('ids are texts and back', () => {
    const id = { received: NOW, partition: 1_025, offset: 9_007_199_254_740_991 };
    assert.deepEqual(parseLetterId(formatLetterId(id)), id);
    for (const text of ['', '1-2', '1-2-3-4', '-1-2-3', 'a-b-c', '1-2-3 ']) {
      assert.equal(parseLetterId(text), undefined, text);
    }
  });
});

describe('purge', () => {
  test('is one event for each device, about what is there now', async () => {
    const bench = new Bench();
    bench.add(3, 'VALUE_BOUNDS');
    bench.store.addLetter('b', 'VALUE_BOUNDS', NOW);
    bench.store.addLetter('c', 'VALUE_KIND', NOW);
    const { store, clock, append } = bench.options();
    const selection = { ...ALL, to: NOW + 60_000, code: 'VALUE_BOUNDS' };
    const purged = await purgeLetters({ store: bench.store, clock, append, selection });
    assert.ok(store !== undefined);
    assert.deepEqual(purged, { letters: 4, devices: 2 });
    const data = { from: 0, to: NOW + 1, code: 'VALUE_BOUNDS' };
    const event = { kind: 'event', tenant: 'acme', received: NOW, event: 'lettersPurged', data };
    assert.deepEqual(bench.records(), [
      { ...event, device: 'a' },
      { ...event, device: 'b' },
    ]);
  });

  test('of letters by id names their places', async () => {
    const bench = new Bench();
    bench.add(3, 'VALUE_BOUNDS');
    const letters = bench.store.letters.slice(1);
    const { clock, append } = bench.options();
    const purged = await purgeLetters({
      ...{ store: bench.store, clock, append, selection: { ...ALL, letters } },
    });
    assert.deepEqual(purged, { letters: 2, devices: 1 });
    const [event] = bench.records();
    assert.deepEqual(event?.kind === 'event' && event.data, {
      ...{ from: 0, to: NOW + 1 },
      letters: [
        [0, 10_001],
        [0, 10_002],
      ],
    });
  });
});
