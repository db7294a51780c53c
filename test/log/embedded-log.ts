import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import type { TestContext } from 'node:test';
import {
  type AppenderEvents,
  type AppenderOptions,
  EmbeddedAppender,
} from '../../src/log/embedded/appender.ts';
import { EmbeddedConsumer } from '../../src/log/embedded/consumer.ts';
import type { LogUnderTest } from '../suites/log.ts';

export const OPTIONS = {
  diskBytesMax: 1024 * 2 ** 20,
  retainForMs: 3_600_000,
  retainBytes: 2 ** 30,
  compression: 'zstd',
  commitRecordsMax: 4_000,
  commitBytesMax: 4 * 2 ** 20,
  commitIntervalMs: 10,
  pendingBytesMax: 32 * 2 ** 20,
} as const satisfies Omit<AppenderOptions, 'dir'>;

export interface EmbeddedLog extends LogUnderTest {
  dir: string;
  appender(options?: Partial<AppenderOptions>, events?: AppenderEvents): Promise<EmbeddedAppender>;
  consumer(): EmbeddedConsumer;
  /** Changes `log.db` behind the log's back. */
  edit<T>(change: (db: DatabaseSync) => T): T;
}

/** An embedded log in a directory of its own. */
export async function openEmbedded(
  t: TestContext,
  options: Partial<AppenderOptions> = {},
): Promise<EmbeddedLog> {
  const dir = mkdtempSync(join(tmpdir(), 'spillway-log-'));
  const open: { close(): Promise<void> }[] = [];
  t.after(async () => {
    for (const one of open) await one.close();
    rmSync(dir, { recursive: true, force: true });
  });
  return {
    dir,
    async appender(more = {}, events = {}) {
      const appender = await EmbeddedAppender.open(
        { dir, ...OPTIONS, ...options, ...more },
        events,
      );
      open.push(appender);
      return appender;
    },
    consumer() {
      const consumer = new EmbeddedConsumer({ dir });
      open.push(consumer);
      return consumer;
    },
    edit(change) {
      const db = new DatabaseSync(join(dir, 'log.db'));
      try {
        return change(db);
      } finally {
        db.close();
      }
    },
  };
}
