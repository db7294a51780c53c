import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { promisify } from 'node:util';

/** A client of Kafka that is not ours: librdkafka's command line, a package of Debian. */
const PROGRAM = ['/usr/bin/kcat', '/usr/local/bin/kcat'].find((path) => existsSync(path));

export const NO_KCAT = PROGRAM === undefined ? 'kcat is not installed' : false;

export interface KcatRecord {
  topic: string;
  partition: number;
  offset: number;
  /** The record's time, ms. */
  ts: number;
  key: string;
  headers: Record<string, string>;
  payload: string;
}

interface Envelope extends Omit<KcatRecord, 'headers'> {
  /** Names and values in turn. */
  headers?: string[];
}

/** Everything that stands in a topic now, in the order of each partition. */
export async function readTopicByKcat(brokers: string[], topic: string): Promise<KcatRecord[]> {
  const { stdout } = await promisify(execFile)(
    PROGRAM ?? 'kcat',
    ['-C', '-b', brokers.join(), '-t', topic, '-o', 'beginning', '-e', '-q', '-J'],
    { maxBuffer: 256 * 2 ** 20, timeout: 60_000 },
  );
  return stdout
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => {
      const { headers = [], ...record } = JSON.parse(line) as Envelope;
      const pairs = headers.flatMap((name, i) => (i % 2 === 0 ? [[name, headers[i + 1]]] : []));
      return { ...record, headers: Object.fromEntries(pairs) as Record<string, string> };
    });
}
