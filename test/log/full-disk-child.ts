/**
 * Fills a small file system with a log, in a process of its own: `node full-disk-child.ts <dir>`. Prints what
 * happened as one line of JSON.
 */
import { rmSync, statfsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { setTimeout as sleep } from 'node:timers/promises';
import { EmbeddedAppender } from '../../src/log/embedded/appender.ts';
import { EmbeddedConsumer } from '../../src/log/embedded/consumer.ts';
import { message, range, seqs, take } from '../suites/log.ts';
import { OPTIONS } from './embedded-log.ts';

const [root = ''] = process.argv.slice(2);
const dir = join(root, 'log');
const ballast = join(root, 'ballast');
const MESSAGES = 600;
/** Consumed, and so to be trimmed. */
const SKIPPED = 4;
const from = new Map([[0, SKIPPED]]);
const text = 'x'.repeat(8_000);

writeFileSync(ballast, Buffer.alloc(8 * 2 ** 20));
const fulls: string[] = [];
let onFull: () => void = () => {};
const full = new Promise<void>((resolve) => {
  onFull = resolve;
});
const failures: string[] = [];
const appender = await EmbeddedAppender.open(
  { dir, ...OPTIONS, compression: 'none', commitRecordsMax: 4, retainBytes: 0, retainForMs: 0 },
  {
    onFull: (isFull, reason) => {
      fulls.push(isFull ? `full ${reason}` : 'space');
      if (isFull) onFull();
    },
    onFailed: (error) => failures.push(error.message),
  },
);
const order: number[] = [];
const errors: string[] = [];
const append = (seq: number) =>
  new Promise<void>((resolve) => {
    appender.append(message('d1', seq, { text }), (error) => {
      if (error === null) order.push(seq);
      else errors.push(error.message);
      resolve();
    });
  });

// One batch that housekeeping could trim: its counts are folded, and its group gets behind it.
await Promise.all(range(0, SKIPPED).map(append));
const log = new DatabaseSync(join(dir, 'log.db'), { readOnly: true });
const folded = log.prepare("SELECT value FROM meta WHERE key = 'folded'");
while (folded.get()?.value === 0) await sleep(20);
log.close();
const consumer = new EmbeddedConsumer({ dir });
await consumer.commit('g', 0, SKIPPED);

const all = range(SKIPPED, MESSAGES).map(append);
await Promise.race([full, Promise.all(all)]);
// Housekeeping, which has batches to trim, meets the full disk as well.
const before = order.length;
await sleep(1_500);
const whileFull = {
  acknowledged: order.length - before,
  isFull: appender.full,
  readable: seqs(await take(consumer, 'g', before - SKIPPED, { from }), 'd1').length,
  commit: await consumer.commit('g', 0, before).then(
    () => 'kept',
    (error) => error.code,
  ),
  freeBytes: statfsSync(root).bavail * statfsSync(root).bsize,
};
rmSync(ballast);
await Promise.all(all);
const readings = seqs(await take(consumer, 'g', MESSAGES - SKIPPED, { from }), 'd1');
const received = await consumer.received({});
await consumer.close();
await appender.close();
console.log(
  JSON.stringify({ before, whileFull, fulls, failures, errors, order, readings, received }),
);
