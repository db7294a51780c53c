import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { loadConfig } from '../../src/config/load.ts';
import { openStore, ROLLUP_GROUP } from '../../src/engines.ts';
import { openKafka, SKIP } from './kafka-env.ts';

/** Kafka closes connections that are idle for longer, ms; a thread that only waits for that is not gone before. */
const PATIENCE_MS = 30_000;

test('a rollup thread whose worker failed ends, with its connections', {
  skip: SKIP,
}, async (t) => {
  const { settings } = await openKafka(t);
  const dir = mkdtempSync(join(tmpdir(), 'spillway-'));
  t.after(() => rmSync(dir, { recursive: true }));
  const { config } = loadConfig({
    env: {
      SPILLWAY_DATA_DIR: dir,
      SPILLWAY_LOG_ENGINE: 'kafka',
      SPILLWAY_LOG_KAFKA_BROKERS: JSON.stringify(settings.brokers),
      SPILLWAY_LOG_KAFKA_TOPIC_PREFIX: settings.topicPrefix,
    },
  });
  // Of another log.
  const store = await openStore(config, { readOnly: false });
  await store.commit({ group: ROLLUP_GROUP, partition: 0, nextOffset: 1_000, ledger: [] });
  await store.close();

  const url = new URL('../../src/rollup-thread.ts', import.meta.url);
  const worker = new Worker(url, { workerData: { config } });
  t.after(() => worker.terminate());
  const failures: unknown[] = [];
  worker.on('message', ({ kind, code }) => kind === 'failed' && failures.push(code));
  await once(worker, 'exit', { signal: AbortSignal.timeout(PATIENCE_MS) });
  assert.deepEqual(failures, ['LOG_CORRUPT']);
});
