import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import type { EmbeddedAppender } from '../../src/log/embedded/appender.ts';
import { message, range } from '../suites/log.ts';
import { openEmbedded } from './embedded-log.ts';

const QUIET_MS = 2;

/** A log whose interval never ends and whose timers stand still, after a commit of ten messages. */
async function openBusy(t: TestContext) {
  const log = await openEmbedded(t);
  const commits: number[] = [];
  const appender = await log.appender(
    { commitIntervalMs: 3_600_000 },
    { onCommit: (_ms, records) => commits.push(records) },
  );
  t.mock.timers.enable({ apis: ['setTimeout'] });
  await append(appender, 0, 10);
  return { appender, commits };
}

async function append(appender: EmbeddedAppender, from: number, to: number): Promise<void> {
  await Promise.all(
    range(from, to).map(
      (seq) => new Promise<void>((resolve) => appender.append(message('d1', seq), () => resolve())),
    ),
  );
}

/** More of the event loop than a commit takes to begin. */
async function turns(): Promise<void> {
  for (let i = 0; i < 10; i++) await new Promise((resolve) => setImmediate(resolve));
}

test('a small commit waits while messages keep coming, and no longer', async (t) => {
  const { appender, commits } = await openBusy(t);
  const all = [append(appender, 10, 15)];
  await turns();
  all.push(append(appender, 15, 20));
  t.mock.timers.tick(QUIET_MS);
  await turns();
  assert.equal(appender.stats().pendingRecords, 10);
  t.mock.timers.tick(QUIET_MS);
  await Promise.all(all);
  assert.deepEqual(commits, [10, 10]);
});

test('a commit that is worth its cost does not wait', async (t) => {
  const { appender, commits } = await openBusy(t);
  const all = [append(appender, 10, 20)];
  await turns();
  all.push(append(appender, 20, 266));
  await Promise.all(all);
  assert.deepEqual(commits, [10, 256]);
});

test('after a commit of few messages nothing waits', async (t) => {
  const { appender, commits } = await openBusy(t);
  const few = append(appender, 10, 12);
  await turns();
  t.mock.timers.tick(QUIET_MS);
  await few;
  await append(appender, 12, 13);
  await append(appender, 13, 14);
  assert.deepEqual(commits, [10, 2, 1, 1]);
});

test('with an interval of 0 nothing waits', async (t) => {
  const log = await openEmbedded(t);
  const appender = await log.appender({ commitIntervalMs: 0 });
  t.mock.timers.enable({ apis: ['setTimeout'] });
  await append(appender, 0, 10);
  await append(appender, 10, 20);
});
