import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import type { Profiler } from 'node:inspector';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { evenLoad, openPath } from './distributed-path.ts';
import { load } from './processes.ts';
import { type StageRules, sharesOf } from './stages.ts';

/** Where the time of the threads goes, from V8's profiles of a run of its own: profiling costs time. */

interface ProfiledThread {
  /** As `threads.ts` calls it. */
  stage: string;
  /** Only this thread has run this file. */
  file: RegExp;
  rules: StageRules;
}

const THREADS: readonly ProfiledThread[] = [
  {
    stage: 'log writer',
    file: /src\/log\/embedded\/writer-thread\.ts$/,
    rules: [
      ['compress', /^node:zlib/],
      ['SQLite', /^node:sqlite/],
    ],
  },
  {
    stage: 'forwarder',
    file: /src\/forwarder-thread\.ts$/,
    rules: [
      ['compress', /^node:zlib|log\/kafka\/codecs/],
      ['read the spool', /src\/log\/embedded\//],
      ['build batches', /src\/log\/kafka\/(parcel|routing|record-batch|crc32c|shipping)/],
      ['send', /src\/log\/kafka\/|kafkajs|^node:(net|internal\/stream)/],
    ],
  },
  {
    stage: 'rollup and store',
    file: /src\/rollup-thread\.ts$/,
    rules: [
      ['decode records', /src\/log\/kafka\/(decode|record-batch|codecs|crc32c)/],
      ['fetch', /src\/log\/kafka\/|kafkajs/],
      ['write over HTTP', /store\/influxdb\/(connection|line-writer)|influxdb-client|^node:_?http/],
      ['write lines', /src\/store\/influxdb\//],
      ['rollup', /src\/rollup\//],
    ],
  },
];

/** Thread → stage → share of the thread's time. */
export type Shares = Record<string, Record<string, number>>;

export async function profileThreads(options: {
  devices: number;
  rate: number;
  seconds: number;
}): Promise<Shares> {
  const dir = mkdtempSync(join(tmpdir(), 'spillway-profiles-'));
  try {
    const path = await openPath(options.devices, {
      NODE_OPTIONS: `--cpu-prof --cpu-prof-interval=500 --cpu-prof-dir=${dir}`,
    });
    try {
      await load(evenLoad(path, options.rate, options.seconds));
      await path.drained();
    } finally {
      await path.close();
    }
    const shares: Shares = {};
    for (const name of readdirSync(dir)) {
      const profile = JSON.parse(readFileSync(join(dir, name), 'utf8')) as Profiler.Profile;
      const thread = THREADS.find(({ file }) =>
        profile.nodes.some(({ callFrame }) => file.test(callFrame.url)),
      );
      if (thread === undefined) continue;
      shares[thread.stage] = Object.fromEntries(sharesOf(profile, thread.rules));
    }
    return shares;
  } finally {
    rmSync(dir, { recursive: true });
  }
}
