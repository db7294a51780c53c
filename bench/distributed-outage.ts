import { setTimeout as sleep } from 'node:timers/promises';
import { type DistributedPath, evenLoad, watchBacklog } from './distributed-path.ts';
import { load } from './processes.ts';

export interface OutageFigures {
  /** From Kafka's return until the backlog was what it had been before the outage. */
  catchUpSeconds: number;
  backlogBefore: number;
  backlogMax: number;
  /** Acknowledged in the slowest and the median second from the outage's beginning to the end. */
  acknowledgedLeast: number;
  acknowledgedMedian: number;
  sent: number;
}

const BEFORE_SECONDS = 15;
const AFTER_SECONDS = 75;
const LOOK_MS = 500;
const SETTLE_SECONDS = 5;

/** Kafka is paused, its connections stay; devices go on at `rate` all the time. */
export async function measureOutage(
  path: DistributedPath,
  kafkaPid: number,
  { rate, seconds }: { rate: number; seconds: number },
): Promise<OutageFigures> {
  const total = BEFORE_SECONDS + seconds + AFTER_SECONDS;
  const resume = () => process.kill(kafkaPid, 'SIGCONT');
  const running = load(evenLoad(path, rate, total));
  const backlog = watchBacklog(path, LOOK_MS);
  await sleep(BEFORE_SECONDS * 1_000);
  process.once('exit', resume);
  process.kill(kafkaPid, 'SIGSTOP');
  const pausedAt = (backlog.samples.at(-1)?.at ?? 0) + LOOK_MS / 1_000;
  try {
    await sleep(seconds * 1_000);
  } finally {
    resume();
    process.removeListener('exit', resume);
  }
  const resumedAt = backlog.samples.at(-1)?.at ?? 0;
  const result = await running;
  await backlog.stop();
  await path.drained();
  const before = backlog.samples
    .filter(({ at }) => at > SETTLE_SECONDS && at < pausedAt)
    .map((sample) => sample.backlog);
  const backlogBefore = Math.max(...before, rate);
  const after = backlog.samples.filter(({ at }) => at > resumedAt);
  const gone = after.find((sample) => sample.backlog <= backlogBefore);
  const acknowledged = result.perSecond.slice(BEFORE_SECONDS).sort((a, b) => a - b);
  return {
    catchUpSeconds: gone === undefined ? Number.POSITIVE_INFINITY : gone.at - resumedAt,
    backlogBefore,
    backlogMax: Math.max(...backlog.samples.map((sample) => sample.backlog)),
    acknowledgedLeast: acknowledged[0] ?? 0,
    acknowledgedMedian: acknowledged[acknowledged.length >> 1] ?? 0,
    sent: result.sent,
  };
}
